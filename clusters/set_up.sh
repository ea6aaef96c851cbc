#!/bin/bash
# Sets up a host of a cluster: an environment with the pinned packages and this project, first in the PATH of a login.
# May be run any number of times.
set -euo pipefail
project=$(cd "$(dirname "$0")/.." && pwd)
environment=${CONDENSE_ENVIRONMENT:-$HOME/condense-env}
cd "$project"

test -x "$environment/bin/python" || python3 -m venv "$environment"
line="export PATH=$environment/bin:\$PATH"
grep -qxF "$line" ~/.bashrc 2>/dev/null || echo "$line" >> ~/.bashrc

# What is installed belongs to these two files: when they have not changed, nothing is to be done.
wanted=$(cat pyproject.toml constraints.txt | sha256sum | cut -d' ' -f1)
if [ "$(cat "$environment/.condense" 2>/dev/null)" != "$wanted $project" ]; then
    pip="$environment/bin/python -m pip install --quiet --constraint constraints.txt"
    $pip torch  # first and by itself: nothing that depends on it has a say in which torch that is
    $pip --editable ".[imagebind]"
    $pip --no-deps imagebind-packaged
    echo "$wanted $project" > "$environment/.condense"
fi
