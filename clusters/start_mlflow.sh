#!/bin/bash
# Starts the MLflow tracking server on a cluster's head, unless it is running. It listens on loopback only: the search's
# driver on the same host writes to it, and a browser reaches it through SSH (docs/cluster.md). Each folder has one server,
# even if hosts share it (two Slurm jobs): SQLite on a network file system does not support two.
set -euo pipefail
port=${CONDENSE_MLFLOW_PORT:-5000}
folder=${CONDENSE_MLFLOW_FOLDER:-$HOME/mlflow}
programs=${CONDENSE_ENVIRONMENT:-$HOME/condense-env}/bin

healthy() {  # whatever proxies are set; and anything may answer on this port, and to /health
    "$programs/python" -c "import re, urllib.request as u
answer = u.build_opener(u.ProxyHandler({})).open('http://127.0.0.1:$port/version', timeout=5).read(100)
raise SystemExit(not re.fullmatch(rb'\d+(\.\w+)+', answer.strip()))" 2>/dev/null
}

taken() { (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; }

if healthy; then exit 0; fi
mkdir -p "$folder"
exec 9>"$folder/lock"
flock 9  # two simultaneous starts would both find no server
if healthy; then exit 0; fi
exec 8>>"$folder/serving"  # the server holds it for as long as it runs
# This host's server may be about to end, or slow to answer.
if ! flock --nonblock 8 && { [ "$(cat "$folder/serving")" != "$HOSTNAME" ] || ! flock --timeout 60 8; }; then
    if healthy; then exit 0; fi
    echo "$(cat "$folder/serving") has an MLflow server on $folder already: wait for it to end, or set" \
        "CONDENSE_MLFLOW_FOLDER to another folder" >&2
    exit 1
fi
if taken; then
    echo "port $port of $HOSTNAME is taken by something that is not MLflow: end it, or set CONDENSE_MLFLOW_PORT to another port" >&2
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
kill "$(cat "$folder/pid")" 2>/dev/null || true
exit 1
