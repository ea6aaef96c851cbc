"""A search as a Ray job (`ray job submit`): what it leaves is not in the job's folder, which Ray deletes."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from ray.cluster_utils import Cluster
from safetensors.torch import save_file
from search_process import RUN, results
from small_search import NO_CONFIRMATION, ONE_AT_A_TIME, SMALL, small_tensors

from condense.system.errors import UserError
from search.command import parse
from search.output_folder import placed


@pytest.fixture
def job_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "session" / "runtime_resources" / "working_dir_files" / "_ray_pkg_1" / "below"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", "/home/me")
    return folder


def test_relative_folders_of_a_job_are_in_the_home(job_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert placed(Path("results/a")) == Path("/home/me/results/a")
    assert placed(Path("/data/a")) == Path("/data/a")
    found = parse(["--output", "a", "--warm-start", "/b"])
    assert (found.output, found.warm_start) == (Path("/home/me/a"), Path("/b"))
    monkeypatch.chdir(job_folder.parents[2])
    assert placed(Path("results/a")) == Path("results/a")


def test_without_a_home_they_must_be_absolute(
    job_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def without() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", without)
    with pytest.raises(UserError, match="results/a: must be absolute, since Ray deletes"):
        placed(Path("results/a"))
    with pytest.raises(SystemExit) as ended:
        parse(["--output", "results/a"])
    assert ended.value.code == 2 and "results/a: must be absolute" in capsys.readouterr().err


@pytest.mark.faults
@pytest.mark.slow
def test_a_search_as_a_job_that_is_stopped_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the project is sent but the script: nodes have it."""
    home, sent = tmp_path / "home", tmp_path / "sent"
    home.mkdir()
    sent.mkdir()
    monkeypatch.setenv("HOME", str(home))  # which the cluster's processes inherit
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / "cache"))
    shutil.copy(RUN, sent)
    save_file(small_tensors(), tmp_path / "data.safetensors")
    (task,) = SMALL["tasks"]
    data = {"name": "tensors", "path": str(tmp_path / "data.safetensors")}
    space = {**SMALL, **ONE_AT_A_TIME, "tasks": [{**task, "dataset": data}], "confirmation": NO_CONFIRMATION}
    (sent / "small.yaml").write_text(yaml.safe_dump(space))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    output = home / "results" / "small"

    def job(action: str, *arguments: str) -> str:
        command = [str(Path(sys.executable).parent / "ray"), "job", action, "--address", f"http://127.0.0.1:{port}"]
        done = subprocess.run([*command, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=250)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    search = ("--working-dir", str(sent), "--", sys.executable, "run.py", "--space", "small.yaml")
    cluster = Cluster()
    try:
        cluster.add_node(num_cpus=2, include_dashboard=True, dashboard_port=port)
        job("submit", "--no-wait", "--submission-id", "first", *search)
        deadline = time.monotonic() + 200
        while not (before := results(output)):
            assert time.monotonic() < deadline, job("logs", "first")
            time.sleep(0.1)
        job("stop", "first")
        said = job("submit", *search, "--resume")
    finally:
        cluster.shutdown()
    assert f"into {output}" in said
    assert before.items() <= results(output).items() and 1 <= len(before) < len(results(output)) == 10
    assert (output / "report.html").exists() and (home / "results" / "mlflow.db").exists()
