#!/usr/bin/env bash
# Train from scratch at a fixed learning rate and average late epochs (section 4.4, Figures 7, 9).
#
#   examples/fixed_learning_rate.sh OUT                            the demo's digits, on a CPU
#   PRESET=paper examples/fixed_learning_rate.sh OUT DATA MODEL    rate 0.05, 300 epochs, from 140
#   PRESET=appendix examples/fixed_learning_rate.sh OUT DATA MODEL     rate 0.1, from 200 (A.2)
#
# Further words are options of every run. The result is OUT/report/index.html. There the line of
# `late` is the running average, from the epoch at which `early` ended, next to conventional training
# with the same total number of epochs. If it is interrupted, the same command resumes it.
set -euo pipefail

out=${1:?usage: [PRESET=paper] examples/fixed_learning_rate.sh OUT [DATA MODEL] [options]}
mkdir -p "$out"

case ${PRESET:-demo} in
demo)
    shift
    if [ ! -e "$out/demo/start/resume.pt" ]; then
        swa-tools demo -o "$out/demo" --force
    fi
    data=$out/demo/images
    model=timm/test_resnet
    common=(--image-size 32 --batch-size 20 --min-crop-area 0.25 --workers 0 --log-every 1)
    rate=0.05
    epochs=64
    average_from=44
    ;;
paper | appendix)
    data=${2:?with PRESET: examples/fixed_learning_rate.sh OUT DATA MODEL [options]}
    model=${3:?with PRESET: examples/fixed_learning_rate.sh OUT DATA MODEL [options]}
    shift 3
    common=(--batch-size 128 --weight-decay 5e-4)
    epochs=300
    if [ "$PRESET" = paper ]; then
        rate=0.05
        average_from=140
    else
        rate=0.1
        average_from=200
    fi
    ;;
*)
    echo "PRESET is demo, paper or appendix, not ${PRESET}" >&2
    exit 2
    ;;
esac

train() {
    swa-tools finetune --data "$data" --resume-if-exists "$@"
}

# The fixed rate until averaging begins; only its end is kept.
train "$model" --no-pretrained --new-head -o "$out/early" --schedule constant --lr-max "$rate" \
    --epochs "$average_from" --keep-checkpoints 1 "${common[@]}" "$@"

# Continue at the same rate; every epoch's weights go into the average, which is scored each time.
train --from "$out/early" -o "$out/late" --schedule constant --lr-max "$rate" \
    --epochs "$((epochs - average_from))" --swa-online --swa-every 1 --keep-checkpoints 1 \
    "${common[@]}" "$@"

# Conventional training from scratch: the rate falls after half the epochs (A.1).
train "$model" --no-pretrained --new-head -o "$out/conventional" --schedule anneal \
    --lr-max "$rate" --epochs "$epochs" --validate-every 1epochs "${common[@]}" "$@"

swa-tools report "$out/late" "$out/early" "$out/conventional" -o "$out/report" --force
