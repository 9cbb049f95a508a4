#!/bin/bash
# One run over several machines of a Slurm cluster: sbatch recipes/slurm/train.sh recipes/olmoe-1b-7b-condenser.yaml runs/olmoe
# ENGINE is one of ddp, fsdp2, fsdp2_offload, zero2, zero3, zero3_offload, ep. The last argument may be --resume. MASTER_ADDR is
# the first machine's address, where its name in Slurm is none.
#SBATCH --job-name=condenser
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=12:00:00
#SBATCH --signal=TERM@300
set -euo pipefail

recipe=${1:?a recipe}
folder=${2:?a folder for the run}
shift 2
engine=${ENGINE:-fsdp2}
gpus=${SLURM_GPUS_ON_NODE:-8}
nodes=${SLURM_JOB_NUM_NODES:-1}
nodelist=${SLURM_JOB_NODELIST:-localhost}
first=$(command -v scontrol > /dev/null && scontrol show hostnames "$nodelist" | head -n 1 || echo localhost)
config=$(python -c "from expert_condenser.training.engines import config_file; print(config_file('$engine'))")
if [ "$engine" = ep ]; then
    export EXPERT_CONDENSER_ENGINE=ep
fi
launcher=
if [[ $engine == zero* ]]; then
    launcher="--deepspeed_multinode_launcher standard" # srun starts a launcher on every machine, not DeepSpeed
fi

# Slurm sends TERM five minutes before the end: the run ends, and with --resume goes on from its newest checkpoint.
srun --kill-on-bad-exit=1 bash -c "accelerate launch --config_file '$config' \
    --num_machines $nodes --num_processes $((nodes * gpus)) --machine_rank \$SLURM_NODEID \
    --main_process_ip ${MASTER_ADDR:-$first} --main_process_port ${PORT:-29500} --rdzv_backend static $launcher \
    --module expert_condenser.cli train --config '$recipe' --output_dir '$folder' $*"
