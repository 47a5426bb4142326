#!/usr/bin/env bash
# A batch job of Slurm that trains on several machines with eight GPUs each; the options of a training follow its name.
# Submit it in the repository root, in the environment of the project. Not run on a cluster; written from the
# documentation of Slurm and accelerate. Change the resources below to those of your cluster.
#
#   sbatch configs/accelerate/slurm.sh config=configs/training/MRI/stage1/mri_titok_tokenizer_adapt.yaml \
#       training.global_batch_size=128 experiment.output_dir=mri_titok_tokenizer_stage1_output
#
# Two minutes before the time limit, and when the job is preempted, each process gets SIGTERM: the training finishes its
# step, writes a checkpoint and exits. The job then goes back to the queue, and the same command resumes it.
#SBATCH --job-name=titok_mri
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm_%j.log
set -euo pipefail

export GPUS_PER_NODE=8 # as above
export MAIN_PORT=29500 # a free port of the first machine
read -r MAIN_IP < <(scontrol show hostnames "$SLURM_JOB_NODELIST") # the first machine
export MAIN_IP
# The launcher waits so many seconds after SIGTERM before it kills the training; its default is 30.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=110

status=0
# shellcheck disable=SC2016 # SLURM_NODEID differs between machines, so each task reads it itself
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" bash -c 'exec accelerate launch \
    --config_file configs/accelerate/several_nodes.yaml \
    --num_machines "$SLURM_NNODES" --num_processes "$((SLURM_NNODES * GPUS_PER_NODE))" \
    --machine_rank "$SLURM_NODEID" --main_process_ip "$MAIN_IP" --main_process_port "$MAIN_PORT" \
    scripts/train_mri_titok.py "$@"' train "$@" || status=$?

# --requeue covers preemption and failed machines, not the time limit. The launcher always ends with
# status 1, so the remaining time is used to find out why it ended.
if [[ $status -ne 0 && $((${SLURM_JOB_END_TIME:-9999999999} - $(date +%s))) -lt 180 ]]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
