#!/usr/bin/env bash
# flaxmobile on a SLURM cluster, one task for each GPU; JAX finds the tasks by SLURM's own variables.
#
#   sbatch --nodes=2 --gpus-per-node=8 --ntasks-per-node=8 scripts/slurm.sh \
#     train imagenet_mobilenetv3_large --data-dir /shared/tfds --run-dir /shared/runs/v3_large
#
# What is given to sbatch goes before what is written below. The run's folder has to be on storage that all nodes share;
# `flaxmobile` on the PATH of the nodes, or FLAXMOBILE=/path/to/it. Two minutes before the time is up every task gets
# SIGTERM and saves a checkpoint; then, and when a node was lost, the job is queued again and goes on with --resume.
#
#SBATCH --job-name=flaxmobile
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

if (($# == 0)); then
  sed -n '2,/^set/s/^#\( \|$\)//p' "$0"
  exit 2
fi

arguments=("$@")
if ((${SLURM_RESTART_COUNT:-0} > 0)); then
  arguments=()
  for argument in "$@"; do
    [[ $argument == --overwrite ]] || arguments+=("$argument")
  done
  arguments+=(--resume)
fi

status=0
srun --kill-on-bad-exit=0 "${FLAXMOBILE:-flaxmobile}" "${arguments[@]}" || status=$?
if ((status == 143 || status == 75)); then # SIGTERM, with a checkpoint saved; a task that was lost
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
