#!/bin/bash
# A search on a Slurm cluster: Ray on the nodes of one job, MLflow and the search on the first. Needs a home folder that all
# nodes share, and python3 (3.11 or newer). Edit the #SBATCH lines; then, from the folder above this one:
#
#   sbatch clusters/slurm.sh --space quickstart
#
# What is behind the script's name goes to search/run.py; the results are in results/NAME. A job that ran out of time
# goes on with the same command and --resume. The MLflow UI, meanwhile: ssh -N -L 5000:127.0.0.1:5000 FIRST_NODE
# Two jobs at a time need an MLflow each: CONDENSE_MLFLOW_FOLDER=~/mlflow-2 sbatch clusters/slurm.sh ...
#SBATCH --job-name=condense
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=1
#SBATCH --time=04:00:00
#SBATCH --signal=B:INT@120
#SBATCH --output=condense-%j.log
# --exclusive: Ray takes all of a node, and its ports. --signal: two minutes before the end the search is interrupted as by
# Ctrl-C, so that it closes its MLflow runs.
set -euo pipefail
set -m # else what is started with & would be deaf to that interruption
cd "${SLURM_SUBMIT_DIR:-.}"
test -f clusters/set_up.sh || { echo "run sbatch from the folder that cluster.yaml is in" >&2; exit 1; }
programs=${CONDENSE_ENVIRONMENT:-$HOME/condense-env}/bin
port=${CONDENSE_RAY_PORT:-6379}
mlflow=${CONDENSE_MLFLOW_FOLDER:-$HOME/mlflow}

bash clusters/set_up.sh # once, for all nodes: they share the home folder
bash clusters/start_mlflow.sh
trap 'kill $(jobs -p) $(cat "$mlflow/pid") 2>/dev/null || true' EXIT
export MLFLOW_TRACKING_URI=http://127.0.0.1:${CONDENSE_MLFLOW_PORT:-5000}

# Slurm runs this script on the first node of the job; the address is that of the network which the nodes share.
# (`sed` reads to the end: who closes a pipe early has `pipefail` end the script.)
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
address=$(hostname --ip-address | tr ' ' '\n' | grep -F . | sed -n 1p):$port

# The options are those of cluster.yaml, which says why. --temp-dir: /tmp/ray may be another user's. --block: Ray ends with
# Slurm's step, and that with the job. --cpu-bind: Ray itself says which processes share the cores.
export RAY_AUTH_MODE=disabled RAY_health_check_timeout_ms=5000 RAY_health_check_failure_threshold=4
unset OMP_NUM_THREADS
srun --nodes=1 --ntasks=1 --nodelist="$head" --cpu-bind=none \
    "$programs/ray" start --head --node-ip-address="${address%:*}" --port="$port" --dashboard-host=127.0.0.1 \
    --temp-dir="/tmp/ray-$SLURM_JOB_ID" --block &
until "$programs/ray" health-check --address "$address" >/dev/null 2>&1; do
    kill -0 $! # its step has failed: so has the job
    sleep 1
done
workers=$((SLURM_JOB_NUM_NODES - 1))
if [ "$workers" -gt 0 ]; then
    srun --nodes="$workers" --ntasks="$workers" --exclude="$head" --cpu-bind=none \
        "$programs/ray" start --address="$address" --block &
fi

export CONDENSE_NODES=$SLURM_JOB_NUM_NODES # so many the search waits for
"$programs/python" search/run.py --address "$address" "$@" &
search=$!
trap 'kill -INT "$search"' INT
status=0
wait "$search" || status=$?
while kill -0 "$search" 2>/dev/null; do wait "$search" || status=$?; done # a signal ends a `wait` before its time
exit "$status"
