#!/usr/bin/env bash
# One run on several nodes: sbatch --nodes=8 examples/slurm/train_nodes.sh model=hecnn_r50 dataset=cifar100
# Preempted, or at the end of its time, it writes last.ckpt, is queued again and continues.
#SBATCH --job-name=hyplearn
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@180
set -u

# The same directory for all nodes and all starts of this job.
run="${HYPLEARN_OUTPUT:-outputs/nodes/$SLURM_JOB_ID}"
begin=("output_dir=$run")
if [ -f "$run/checkpoints/last.ckpt" ]; then
    begin=("resume=$run")
fi
srun python train.py trainer=nodes trainer.num_nodes="$SLURM_NNODES" "${begin[@]}" "$@"
status=$?

# 143: stopped by SIGTERM, with a checkpoint. A preempted job is queued again by SLURM itself.
if [ "$status" -eq 143 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
