#!/usr/bin/env bash
# Fine-tune on several machines under Slurm, in jobs that may be shorter than the run.
#
#   sbatch -d singleton examples/slurm.sh IMAGENET RUN [further options of finetune]
#
# Submit it as many times as the run needs jobs: with `-d singleton` they run one after another, and
# each resumes where the previous one stopped. A job that finds the run complete ends at once.
#
#SBATCH --job-name=swa
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=04:00:00
# Two minutes before the time is up: stop, and save a point to resume from.
#SBATCH --signal=USR1@120
set -euo pipefail

data=${1:?usage: sbatch -d singleton examples/slurm.sh IMAGENET RUN [options of finetune]}
run=${2:?usage: sbatch -d singleton examples/slurm.sh IMAGENET RUN [options of finetune]}
shift 2
head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# torchrun passes these signals on to its processes. Without the option, SIGUSR1 kills torchrun and
# leaves them behind. If it is too old to have the option (torch 2.6), leave it out and write TERM@120
# above.
srun torchrun \
    --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node gpu --max-restarts 2 \
    --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$head_node:29500" \
    --signals-to-handle SIGTERM,SIGINT,SIGUSR1 \
    -m swa_tools finetune torchvision/resnet50:IMAGENET1K_V1 --data "$data" -o "$run" \
    --resume-if-exists "$@"
