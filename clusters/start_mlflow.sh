#!/bin/bash
# Starts the MLflow tracking server of a cluster's head, unless it runs. It listens on loopback only: the search's driver,
# on the same host, is the only one to write to it, and a browser reaches it through SSH (docs/cluster.md). Its folder has one
# server, also where hosts share it (two Slurm jobs): SQLite on a network file system does not bear two.
set -euo pipefail
port=${CONDENSE_MLFLOW_PORT:-5000}
folder=${CONDENSE_MLFLOW_FOLDER:-$HOME/mlflow}
programs=${CONDENSE_ENVIRONMENT:-$HOME/condense-env}/bin

healthy() {
    "$programs/python" -c "import urllib.request as u; u.urlopen('http://127.0.0.1:$port/health', timeout=5)" 2>/dev/null
}

if healthy; then exit 0; fi
mkdir -p "$folder"
exec 9>"$folder/lock"
flock 9  # two that start at once would both find none
if healthy; then exit 0; fi
exec 8>>"$folder/serving"  # the server holds it for as long as it runs
# That of this host may be about to end, or slow to answer.
if ! flock --nonblock 8 && { [ "$(cat "$folder/serving")" != "$HOSTNAME" ] || ! flock --timeout 60 8; }; then
    if healthy; then exit 0; fi
    echo "$(cat "$folder/serving") has an MLflow server on $folder already: wait for it to end, or set" \
        "CONDENSE_MLFLOW_FOLDER to another folder" >&2
    exit 1
fi
echo "$HOSTNAME" >"$folder/serving"
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true  # the first saves eight processes
setsid nohup "$programs/mlflow" server --host 127.0.0.1 --port "$port" --workers 1 \
    --backend-store-uri "sqlite:///$folder/mlflow.db" --artifacts-destination "$folder/artifacts" \
    >>"$folder/server.log" 2>&1 </dev/null 9>&- &
echo $! >"$folder/pid"
for _ in $(seq 120); do
    if healthy; then exit 0; fi
    kill -0 "$(cat "$folder/pid")" 2>/dev/null || break
    sleep 1
done
echo "the MLflow server did not start; the last lines of $folder/server.log:" >&2
tail -5 "$folder/server.log" >&2
exit 1
