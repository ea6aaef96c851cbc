#!/bin/bash
# Sets up a host of a cluster: an environment with the pinned packages and this project, first in PATH at login.
# Can be run repeatedly.
set -euo pipefail
project=$(cd "$(dirname "$0")/.." && pwd)
environment=${CONDENSE_ENVIRONMENT:-$HOME/condense-env}
cd "$project"

test -x "$environment/bin/python" || python3 -m venv "$environment"
line="export PATH=$environment/bin:\$PATH"
grep -qxF "$line" ~/.bashrc 2>/dev/null || echo "$line" >> ~/.bashrc

# These two files determine the packages: if they have not changed, there is nothing to do.
wanted=$(cat pyproject.toml constraints.txt | sha256sum | cut -d' ' -f1)
if [ "$(cat "$environment/.condense" 2>/dev/null)" != "$wanted $project" ]; then
    pip="$environment/bin/python -m pip install --quiet --constraint constraints.txt"
    $pip torch  # first and alone, so that no dependent package selects its version
    $pip --editable ".[imagebind]"
    $pip --no-deps imagebind-packaged
    echo "$wanted $project" > "$environment/.condense"
fi
