#!/usr/bin/env bash
# Compare constant and cyclic learning rates from one starting point (section 4.3, Figure 6).
#
#   examples/schedules.sh OUT                           the demo's digits: minutes on a CPU
#   PRESET=paper examples/schedules.sh OUT DATA MODEL   the paper's rates and epochs
#
# Further words are options of every run. The result is OUT/report/index.html, where the lines of the
# comparison are running averages. If it is interrupted, the same command resumes it.
#
# The paper begins at epoch 125 of a budget of 150 epochs on CIFAR-100. It does not say how long its
# runs continue; EPOCHS sets that here. It finds that larger rates need more epochs and end lower,
# that small constant rates hardly explore, and that cyclic rates converge faster than constant ones.
set -euo pipefail

out=${1:?usage: [PRESET=paper] examples/schedules.sh OUT [DATA MODEL] [options]}
mkdir -p "$out"

case ${PRESET:-demo} in
demo)
    shift
    if [ ! -e "$out/demo/start/resume.pt" ]; then
        swa-tools demo -o "$out/demo" --force
    fi
    data=$out/demo/images
    start=$out/demo/start
    common=(--batch-size 20 --min-crop-area 0.25 --workers 0 --log-every 1)
    epochs=${EPOCHS:-10}
    cycle_epochs=2
    pairs=(1e-1:1e-3 5e-2:5e-4 1e-2:1e-4)
    rates=(1e-1 5e-2 1e-2 1e-3)
    ;;
paper)
    data=${2:?with PRESET=paper: examples/schedules.sh OUT DATA MODEL [options]}
    model=${3:?with PRESET=paper: examples/schedules.sh OUT DATA MODEL [options]}
    shift 3
    start=$out/start
    common=(--batch-size 128 --weight-decay 3e-4)
    epochs=${EPOCHS:-100}
    cycle_epochs=5
    pairs=(1e-1:1e-3 5e-2:5e-4 1e-2:1e-4 5e-3:5e-5)
    rates=(1e-1 5e-2 1e-2 1e-3)
    swa-tools finetune "$model" --no-pretrained --new-head --data "$data" -o "$start" \
        --schedule anneal --lr-max 0.1 --budget-epochs 150 --epochs 125 --resume-if-exists \
        "${common[@]}" "$@"
    ;;
*)
    echo "PRESET is demo or paper, not ${PRESET}" >&2
    exit 2
    ;;
esac

# Each run continues from the same weights and optimizer state, and scores its running average at
# every capture.
phase() {
    swa-tools finetune --from "$start" --data "$data" --epochs "$epochs" --swa-online \
        --swa-every 1 --resume-if-exists "$@"
}

runs=()
for pair in "${pairs[@]}"; do
    run=$out/sawtooth-${pair%:*}
    phase -o "$run" --schedule sawtooth --lr-max "${pair%:*}" --lr-min "${pair#*:}" \
        --cycle-epochs "$cycle_epochs" "${common[@]}" "$@"
    runs+=("$run")
done
for rate in "${rates[@]}"; do
    run=$out/constant-$rate
    phase -o "$run" --schedule constant --lr-max "$rate" "${common[@]}" "$@"
    runs+=("$run")
done

swa-tools report "${runs[@]}" -o "$out/report" --force
