#!/usr/bin/env bash
# One session of at most 8 minutes on a machine with a GPU and without a network: sets itself up, runs the tests that need CUDA, then
# throughput.py and imagebind_gpu.py, and leaves one JSON with all figures. What fails is in it, too, and stops nothing else.
#
#   bash benchmarks/gpu_session.sh --wheels FOLDER [--json FILE] [--smoke]
#
# Beforehand, in the repository, on a machine with a network and the same Python and platform:
#
#   pip download -d FOLDER -c constraints.txt setuptools wheel ".[test,imagebind]"
#   pip download -d FOLDER -c constraints.txt --no-deps imagebind-packaged
#
# --wheels FOLDER   makes an environment from these files; without it, --python PYTHON has all that is needed (default: python3)
# --json FILE       gpu_session.json
# --smoke           all of this on a CPU, in about 2 minutes, over small towers: its figures say nothing
set -uo pipefail
cd "$(dirname "$0")/.."

wheels="" python=python3 json=gpu_session.json smoke=""
while [ $# -gt 0 ]; do
    case "$1" in
        --wheels | --python | --json)
            [ $# -ge 2 ] || { echo "error: $1 needs a value" >&2; exit 2; }
            declare "${1#--}=$2"
            shift 2 ;;
        --smoke) smoke=1; shift ;;
        *) echo "error: unknown option $1 (see the head of $0)" >&2; exit 2 ;;
    esac
done
[ -z "$wheels" ] || [ -d "$wheels" ] || { echo "error: --wheels $wheels: is no folder" >&2; exit 2; }

LIMIT=480
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CONDENSE_CACHE=$work/cache
SECONDS=0

# part NAME MOST COMMAND...: runs it for at most MOST seconds, and no longer than what is left; keeps its status and output.
part() {
    local name=$1 most=$2 left=$((LIMIT - SECONDS - 5)) began=$SECONDS
    shift 2
    [ "$most" -lt "$left" ] || most=$left
    echo "== $name (at most $most s)"
    if [ "$most" -gt 0 ]; then
        timeout --kill-after=5 "$most" "$@" >"$work/$name.log" 2>&1
        echo $? >"$work/$name.status"
    else
        echo "no time left" >"$work/$name.log"
        echo 124 >"$work/$name.status"
    fi
    echo $((SECONDS - began)) >"$work/$name.seconds"
    tail -n 12 "$work/$name.log"
}

set_up() {
    "$python" -m venv "$work/venv" || return
    "$work/venv/bin/python" - >"$work/needed.txt" <<'PYTHON' || return
import tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
extras = project["optional-dependencies"]
print(*project["dependencies"], *extras["test"], *extras["imagebind"], sep="\n")
PYTHON
    local pip=("$work/venv/bin/python" -m pip install --quiet --no-compile --no-index --find-links "$wheels"
        --constraint constraints.txt)
    "${pip[@]}" --requirement "$work/needed.txt" && "${pip[@]}" --no-deps imagebind-packaged
}

if [ -n "$wheels" ]; then
    export -f set_up
    export wheels python work
    part set_up 240 bash -c set_up
    python=$work/venv/bin/python
fi

tests=(tests/condense/engine/test_engine_cuda.py)
rates=(--only rates --seconds 3 --naive-seconds 5 --rounds 1)
towers=(--size huge --seconds 6 --rounds 2)
if [ -n "$smoke" ]; then
    tests+=(tests/condense/engine/test_class_blocks.py)
    rates=(--only rates --seconds 0.3 --naive-seconds 0.3 --rounds 1 --concurrent 2)
    towers=(--size small --trials 2 --dpc 1 --real 2 --seconds 0.1 --rounds 1)
fi
part tests 120 "$python" -m pytest -q -p no:cacheprovider --junit-xml "$work/tests.xml" "${tests[@]}"
part imagebind 200 "$python" benchmarks/imagebind_gpu.py "${towers[@]}" --json "$work/imagebind.json"
part throughput 240 "$python" benchmarks/throughput.py "${rates[@]}" --json "$work/throughput.json"

"$python" - "$work" "$json" "$SECONDS" "${smoke:-0}" <<'PYTHON' || exit 1
import json
import sys
from pathlib import Path
from xml.etree import ElementTree

work, target, seconds, smoke = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4] == "1"
found = {"seconds": seconds, "smoke": smoke, "parts": {}}
for status in sorted(work.glob("*.status")):
    name = status.stem
    part = {"status": int(status.read_text()), "seconds": int((work / f"{name}.seconds").read_text())}
    figures = work / f"{name}.json"
    if figures.is_file():
        part["figures"] = json.loads(figures.read_text())
    if part["status"] != 0:
        part["output"] = (work / f"{name}.log").read_text(errors="replace")[-4000:]
    found["parts"][name] = part
if (work / "tests.xml").is_file():
    suite = ElementTree.parse(work / "tests.xml").getroot().find("testsuite").attrib
    found["parts"]["tests"]["counts"] = {key: int(suite[key]) for key in ("tests", "failures", "errors", "skipped")}
target.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
bad = [name for name, part in found["parts"].items() if part["status"] != 0]
print(f"{target}: {', '.join(found['parts'])} in {seconds:.0f} s" + (f"; failed: {', '.join(bad)}" if bad else ""))
sys.exit(bool(bad))
PYTHON
