"""clusters/slurm.sh, run as Slurm runs it, with stand-ins for Slurm's programs, for MLflow and for the search: Ray is real."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "clusters" / "slurm.sh"
START_MLFLOW = ROOT / "clusters" / "start_mlflow.sh"
# A step is a process here; that of the workers is one more host on this machine. Without the dashboard it takes 10 s less.
SRUN = """#!/bin/bash
echo "srun $*" >> "$HOME/srun.log"
while [[ $1 == --* ]]; do shift; done
case $* in
    *--head*) exec "$@" --num-cpus=1 --include-dashboard=false ;;
    *) exec "$@" --num-cpus=1 --node-ip-address=127.0.0.3 ;;
esac
"""
SCONTROL = """#!/bin/bash
[ "$*" = "show hostnames node[1-2]" ] && printf 'node1\\nnode2\\n'
"""
MLFLOW = """#!/bin/bash
while [ $# -gt 0 ]; do if [ "$1" = --port ]; then port=$2; fi; shift; done
mkdir -p "$HOME/site" && echo 3.17.2 > "$HOME/site/version"
exec {python} -m http.server --bind 127.0.0.1 --directory "$HOME/site" "$port"
"""
PYTHON = """#!/bin/bash
if [ "$1" = search/run.py ]; then exec {python} "$HOME/stand_in.py" "$@"; fi
exec {python} "$@"
"""
SEARCH = """
import os, sys, time, ray
from search.cluster.nodes import awaited_nodes, wait_for_nodes
address = sys.argv[sys.argv.index("--address") + 1]
ray.init(address=address, log_to_driver=False, logging_level=40)
print("NODES", wait_for_nodes(ray.nodes, awaited_nodes(address), print), len(ray.nodes()), flush=True)
print("ARGUMENTS", *sys.argv[1:], os.environ["MLFLOW_TRACKING_URI"], flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    print("INTERRUPTED", flush=True)
    sys.exit(130)
"""


def free_port() -> int:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        return int(server.getsockname()[1])


def write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def job(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a job of two nodes, on which the pinned packages are installed already."""
    environment, slurm = tmp_path / "env", tmp_path / "slurm"
    (environment / "bin").mkdir(parents=True)
    slurm.mkdir()
    write_program(slurm / "srun", SRUN)
    write_program(slurm / "scontrol", SCONTROL)
    write_program(slurm / "hostname", "#!/bin/bash\n[ $1 = --ip-address ] && echo ::1 127.0.0.2\n")
    write_program(environment / "bin" / "python", PYTHON.format(python=sys.executable))
    write_program(environment / "bin" / "mlflow", MLFLOW.format(python=sys.executable))
    (environment / "bin" / "ray").symlink_to(Path(sys.executable).parent / "ray")
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + (ROOT / "constraints.txt").read_bytes())
    (environment / ".condense").write_text(f"{wanted.hexdigest()} {ROOT}\n")
    (tmp_path / "stand_in.py").write_text(SEARCH)
    job_id = f"test{os.getpid()}"
    yield {
        **{key: value for key, value in os.environ.items() if not key.startswith("RAY_")},
        "PATH": f"{slurm}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "RAY_USAGE_STATS_ENABLED": "0",
        "CONDENSE_ENVIRONMENT": str(environment),
        "CONDENSE_RAY_PORT": str(free_port()),
        "CONDENSE_MLFLOW_PORT": str(free_port()),
        "SLURM_JOB_ID": job_id,
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
    }
    shutil.rmtree(Path(tempfile.gettempdir()) / f"ray-{job_id}", ignore_errors=True)


@pytest.mark.faults
def test_two_nodes_one_search_and_nothing_left(job: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "job.log"
    with log.open("w") as output:
        script = subprocess.Popen(
            ["bash", str(SCRIPT), "--space", "mine.yaml"],
            cwd=tmp_path,
            env=job,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            # Slurm starts a job with it; where these tests run in the background it is ignored, which a shell inherits.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    started: list[psutil.Process] = []
    try:
        ends = time.monotonic() + 120
        while "ARGUMENTS" not in log.read_text():
            assert script.poll() is None and time.monotonic() < ends, log.read_text()
            time.sleep(0.1)
        started = psutil.Process(script.pid).children(recursive=True)
        with (tmp_path / "mlflow" / "serving").open() as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the server holds it
        script.send_signal(signal.SIGINT)  # what --signal=B:INT@120 has Slurm send to the script alone
        assert script.wait(60) == 130, log.read_text()
        left = psutil.wait_procs(started, timeout=20)[1]
        assert [process.cmdline() for process in left] == []
        assert not psutil.pid_exists(int((tmp_path / "mlflow" / "pid").read_text()))
    finally:
        with contextlib.suppress(OSError, psutil.NoSuchProcess):
            started.append(psutil.Process(int((tmp_path / "mlflow" / "pid").read_text())))
        for process in [*started, *psutil.Process().children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        script.wait()
    said = log.read_text()
    assert "NODES 2 2" in said and "INTERRUPTED" in said
    uri = f"http://127.0.0.1:{job['CONDENSE_MLFLOW_PORT']}"
    assert f"--address 127.0.0.2:{job['CONDENSE_RAY_PORT']} --space mine.yaml {uri}" in said
    head, workers = (tmp_path / "srun.log").read_text().splitlines()
    assert head.startswith("srun --nodes=1 --ntasks=1 --nodelist=node1 ")
    assert workers.startswith("srun --nodes=1 --ntasks=1 --exclude=node1 ")


def test_a_folder_that_another_host_serves_is_left_alone(job: dict[str, str], tmp_path: Path) -> None:
    """Two servers on one SQLite file, on a network file system, would ruin it."""
    folder = tmp_path / "mlflow"
    folder.mkdir()
    with (folder / "serving").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("node7\n")
        file.flush()
        done = subprocess.run(["bash", str(START_MLFLOW)], env=job, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr.startswith(f"node7 has an MLflow server on {folder} already: "), (
        done.stderr
    )
    assert not (folder / "mlflow.db").exists() and not (folder / "pid").exists()


def test_it_is_sound_bash_and_asks_slurm_for_one_task_per_node() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", *map(str, (ROOT / "clusters").glob("*.sh"))], check=True)
    # A program that stops reading early has `pipefail` end the script, now and then (status 141).
    assert not re.search(r"\| *(head\b|grep -\w*[mq])", SCRIPT.read_text())
    asked = [line.split()[1] for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH ")]
    assert "--ntasks-per-node=1" in asked and "--exclusive" in asked and "--signal=B:INT@120" in asked
    text = SCRIPT.read_text()
    assert "ray stop" not in text and "0.0.0.0" not in text  # the first would end what else runs on a node
