#!/bin/bash
# A search on a Slurm cluster: Ray on the nodes of one job, MLflow and the search on the first. Needs a home folder that all
# nodes share, and python3 (3.11 or newer). Edit the #SBATCH lines; then, from the folder above this one:
#
#   sbatch clusters/slurm.sh --space quickstart
#
# Arguments after the script's name go to search/run.py; the results are in results/NAME. To continue a job that ran out of
# time, use the same command and --resume. A job that Slurm itself begins again (after a lost node, a preemption, `scontrol
# requeue`) goes on where it was. The MLflow UI, meanwhile: ssh -N -L 5000:127.0.0.1:5000 FIRST_NODE
# Two simultaneous jobs need an MLflow each: CONDENSE_MLFLOW_FOLDER=~/mlflow-2 sbatch clusters/slurm.sh ...
#SBATCH --job-name=condense
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=1
#SBATCH --time=04:00:00
#SBATCH --signal=B:INT@120
#SBATCH --output=condense-%j.log
#SBATCH --open-mode=append
# --exclusive: Ray uses a whole node and its ports. --signal: interrupts the search two minutes before the end, like Ctrl-C,
# so that it closes its MLflow runs.
set -euo pipefail
set -m # otherwise processes started with & would ignore that interrupt
cd "${SLURM_SUBMIT_DIR:-.}"
test -f clusters/set_up.sh || { echo "run sbatch from the folder that cluster.yaml is in" >&2; exit 1; }
programs=${CONDENSE_ENVIRONMENT:-$HOME/condense-env}/bin
port=${CONDENSE_RAY_PORT:-6379}
mlflow=${CONDENSE_MLFLOW_FOLDER:-$HOME/mlflow}

bash clusters/set_up.sh # once, for all nodes: they share the home folder
bash clusters/start_mlflow.sh
trap 'kill $(jobs -p) $(cat "$mlflow/pid") 2>/dev/null || true' EXIT
export MLFLOW_TRACKING_URI=http://127.0.0.1:${CONDENSE_MLFLOW_PORT:-5000}

# Slurm runs this script on the first node of the job; the address is in the network that the nodes share.
# (`sed` reads to the end: closing the pipe early would make `pipefail` end the script.)
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
address=$(hostname --ip-address | tr ' ' '\n' | grep -F . | sed -n 1p):$port

# The options are those of cluster.yaml, which says why. --temp-dir: /tmp/ray may be another user's. --block: Ray ends with
# Slurm's step, which ends with the job. --cpu-bind=none: Ray itself assigns the cores.
export RAY_AUTH_MODE=disabled RAY_health_check_timeout_ms=5000 RAY_health_check_failure_threshold=4
unset OMP_NUM_THREADS
srun --nodes=1 --ntasks=1 --nodelist="$head" --cpu-bind=none \
    "$programs/ray" start --head --node-ip-address="${address%:*}" --port="$port" --dashboard-host=127.0.0.1 \
    --temp-dir="/tmp/ray-$SLURM_JOB_ID" --block &
until "$programs/ray" health-check --address "$address" >/dev/null 2>&1; do
    kill -0 $! # its step has failed, and so has the job
    sleep 1
done
workers=$((SLURM_JOB_NUM_NODES - 1))
if [ "$workers" -gt 0 ]; then
    srun --nodes="$workers" --ntasks="$workers" --exclude="$head" --cpu-bind=none \
        "$programs/ray" start --address="$address" --block &
fi

export CONDENSE_NODES=$SLURM_JOB_NUM_NODES # the search waits for so many nodes
"$programs/python" search/run.py --address "$address" "$@" ${SLURM_RESTART_COUNT:+--auto-resume} &
search=$!
trap 'kill -INT "$search"' INT
status=0
wait "$search" || status=$?
while kill -0 "$search" 2>/dev/null; do wait "$search" || status=$?; done # a signal ends `wait` early
exit "$status"
