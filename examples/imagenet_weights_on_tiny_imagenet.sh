#!/usr/bin/env bash
# SWA from ImageNet weights on Tiny ImageNet, with its control: the result in the README.
#
#   examples/imagenet_weights_on_tiny_imagenet.sh WEIGHTS TINY_IMAGENET RUNS [SEEDS]
#
# WEIGHTS is a checkpoint of timm's tf_efficientnet_lite0 with its ImageNet classifier;
# TINY_IMAGENET has train/ and val/, or train.tar and val.tar, with one folder per WordNet id. For
# each seed (default: 0 1 2) the script runs five cycles of one epoch and averages them, runs one
# cycle of five epochs from the same start, scores all of these and the ensemble on the same images,
# and scores the averages of the first and of the last 1 to 5 captures. Finally it measures BatchNorm
# in every way. If it is interrupted, the same command resumes it.
set -euo pipefail

usage='usage: examples/imagenet_weights_on_tiny_imagenet.sh WEIGHTS TINY_IMAGENET RUNS [SEEDS]'
weights=${1:?$usage}
data=${2:?$usage}
runs=${3:?$usage}
seeds=${4:-0 1 2}
common=(timm/tf_efficientnet_lite0 --checkpoint "$weights" --data "$data" --image-size 96
    --batch-size 128 --epochs 5 --lr-max 0.02 --lr-min 0.0002 --resume-if-exists)
mkdir -p "$runs"

swa=()
for seed in $seeds; do
    run=$runs/swa-$seed
    control=$runs/sgd-$seed
    swa-tools finetune "${common[@]}" --seed "$seed" --then-average -o "$run"
    swa-tools finetune "${common[@]}" --seed "$seed" --cycle-epochs 5 -o "$control"
    swa-tools evaluate "$run/start.safetensors" "$run" "$run/swa.safetensors" \
        "$control/checkpoints/cycle-001.safetensors" --data "$data" --ensemble
    swa-tools sweep "$run" --data "$data"
    swa+=("$run")
done
python "$(dirname "$0")/bn_ablation.py" "${swa[@]}" --data "$data"
