"""clusters/slurm.sh as a job of a real Slurm, on three hosts that share a home folder: interrupted, continued, and requeued.

Needs Slurm and munge (Debian: slurm-wlm, munge), besides what hosts need. There are no GPUs, so that line is taken out.
"""

from __future__ import annotations

import csv
import logging
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hosts import Hosts, missing
from search_process import results

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]
ROOT = Path(__file__).resolve().parents[2]
NAMES = ["node1", "node2", "node3"]
NEEDED = ("munged", "mungekey", "sbatch", "scontrol", "slurmctld", "slurmd")
log = logging.getLogger(__name__)
# Daemons' own files are on each host's /tmp. Slurm keeps account of processes by control groups, which a new host lacks.
SLURM = """
ClusterName=lab
SlurmctldHost=node1
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=/root/slurm/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
StateSaveLocation=/tmp/slurmctld
SlurmdSpoolDir=/tmp/slurmd
SlurmctldPidFile=/tmp/slurmctld.pid
SlurmdPidFile=/tmp/slurmd.pid
SlurmctldLogFile=/tmp/slurmctld.log
SlurmdLogFile=/tmp/slurmd.log
SelectType=select/cons_tres
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
KillWait=30
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
GROUPS = """
mount -t tmpfs none /sys/fs/cgroup
for name in memory cpu cpuset cpuacct freezer devices; do
    mkdir /sys/fs/cgroup/$name
    mount -t cgroup -o $name none /sys/fs/cgroup/$name || rmdir /sys/fs/cgroup/$name
done
"""
MUNGE = """
mungekey --create --keyfile=/root/slurm/munge.key
munged --force --key-file=/root/slurm/munge.key --socket=/root/slurm/munge.socket --pid-file=/tmp/munged.pid \\
    --log-file=/tmp/munged.log --seed-file=/tmp/munged.seed
"""


def typed(hosts: Hosts, name: str, command: str) -> str:
    """`ran`, and told."""
    log.info("%s$ %s", name, command.strip().splitlines()[0])
    return ran(hosts, name, command)


def ran(hosts: Hosts, name: str, command: str) -> str:
    """A command in the shared project folder, which has to succeed; what it prints."""
    exports = "export SLURM_CONF=/root/slurm/slurm.conf; cd project"
    done = hosts.run(name, f"{exports}; {command}")
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    lacking = [name for name in NEEDED if shutil.which(name) is None]
    if reason := missing() or (f"needs {', '.join(lacking)} (Debian: slurm-wlm, munge)" if lacking else None):
        pytest.skip(f"NO SLURM IS TESTED HERE: {reason}")
    made = Hosts(tmp_path_factory.mktemp("slurm"), NAMES, network="10.80.0", one_home=True)
    try:
        home = made.home("node1")
        left_out = [".git", ".venv", "/results", "/data", "/towers", "/build", "__pycache__", "*.egg-info", ".*_cache"]
        excludes = [f"--exclude={name}" for name in left_out]
        subprocess.run(["rsync", "-a", *excludes, f"{ROOT}/", f"{home / 'project'}/"], check=True)
        script = home / "project" / "clusters" / "slurm.sh"
        text = script.read_text()
        script.write_text(text.replace("#SBATCH --gpus-per-node=1\n", ""))
        assert script.read_text() != text
        settings = home / "slurm"
        settings.mkdir(mode=0o700)
        nodes = "".join(f"NodeName={n} NodeAddr={made.address[n]} CPUs=2 RealMemory=2000\n" for n in NAMES)
        (settings / "slurm.conf").write_text(SLURM.replace("PartitionName", f"{nodes}PartitionName"))
        (settings / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        known = "".join(f"{made.address[n]} {n}\n" for n in NAMES)
        (settings / "hosts").write_text(f"127.0.0.1 localhost\n{known}")
        for name in NAMES:
            typed(made, name, f"mount --bind /root/slurm/hosts /etc/hosts; {GROUPS} bash clusters/set_up.sh")
        typed(made, "node1", MUNGE)
        for name in NAMES:
            daemons = f"slurmd -N {name} -f $SLURM_CONF"
            if name == "node1":
                daemons = f"mkdir /tmp/slurmctld; slurmctld -f $SLURM_CONF; {daemons}"
            typed(made, name, daemons)
        until(lambda: ran(made, "node1", "sinfo -h -t idle -o %D").strip() == "3", "three nodes are idle", 60)
        yield made
    finally:
        made.close()


def until(ready: Callable[[], object], why: str, limit: float = 600) -> None:
    log.info("waiting until %s", why)
    ends = time.monotonic() + limit
    while not ready():
        assert time.monotonic() < ends, why
        time.sleep(1)


def test_a_job_is_interrupted_goes_on_and_is_requeued(lab: Hosts) -> None:
    project = lab.home("node1") / "project"
    output = project / "results" / "cluster_check"

    def said(job: str) -> str:
        file = project / f"condense-{job}.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def submitted(*more: str) -> str:
        return typed(
            lab, "node1", f"sbatch --parsable clusters/slurm.sh --space cluster_check {' '.join(more)}"
        ).strip()

    def state(job: str) -> str:
        fields = dict(f.split("=", 1) for f in ran(lab, "node1", f"scontrol -o show job {job}").split() if "=" in f)
        return f"{fields['JobState']} {fields['ExitCode']} {fields['Restarts']}"

    def lives(job: str) -> bool:
        assert state(job).split()[0] in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING"), said(job)[-4000:]
        return True

    first = submitted()
    until(lambda: lives(first) and results(output), "a trial has ended")
    typed(lab, "node1", f"scancel --batch --signal=INT {first}")  # what --signal=B:INT@120 does before the end
    until(lambda: state(first).startswith("FAILED 130"), "the job has ended")
    assert "interrupted: continue with the same command and --resume" in said(first)

    second = submitted("--resume")
    known = len(results(output))
    until(lambda: lives(second) and len(results(output)) > known, "a further trial has ended")
    typed(lab, "node1", f"scontrol requeue {second}")
    before = results(output)
    assert 2 <= len(before) < 12
    # Slurm waits for two minutes with what is requeued.
    until(lambda: state(second).startswith("COMPLETED"), "the requeued job has ended")
    assert state(second) == "COMPLETED 0:0 1"
    assert "already holds" not in said(second) and "\nrecommended " in said(second)
    after = results(output)
    assert before.items() <= after.items() and len(after) == 12
    with (output / "trials.csv").open(newline="") as file:
        nodes = {name for row in csv.DictReader(file) for name in row["nodes"].split()}
    assert nodes == set(NAMES)
    until(lambda: not any("raylet" in lab.run(n, "ps -ef").stdout for n in NAMES), "no Ray is left", 60)
