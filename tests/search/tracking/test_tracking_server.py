"""Tracking against a server of its own, which is killed in the middle."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests
from test_tracker import Seen, report_at

from condense.system.errors import UserError
from search.tracking.store import check_tracking
from search.tracking.tracker import MlflowTracker

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"


def serve(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """An MLflow server in a process group of its own, whose id is its process's."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "kept")]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with open(folder / "server.log", "ab") as output:
        return subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
        )


def wait_for(uri: str) -> None:
    for _ in range(600):
        try:
            if requests.get(f"{uri}/health", timeout=1).ok:
                return
        except requests.RequestException:
            pass
        time.sleep(0.1)
    raise TimeoutError(uri)


@pytest.mark.slow
def test_a_server_killed_in_the_middle_costs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    uri, trials, steps = f"http://127.0.0.1:{port}", range(8), range(10, 610, 10)
    server = serve(tmp_path, port)
    took: list[float] = []

    def timed(call: Callable[..., None], *args: Any) -> None:
        begin = time.monotonic()
        call(*args)
        took.append(time.monotonic() - begin)

    try:
        wait_for(uri)
        check_tracking(uri, "killed")  # a new one: where its files will go is tried, and left as it was
        assert [file for file in (tmp_path / "kept").rglob("*") if file.is_file()] == []
        (tmp_path / "kept").rename(tmp_path / "away")
        (tmp_path / "kept").write_text("no folder")
        with pytest.raises(UserError, match=r"go to mlflow-artifacts:/0, .* \(too many 500 .*; the server's log may"):
            check_tracking(uri, "killed")
        (tmp_path / "kept").unlink()
        tracker = MlflowTracker(uri, "killed", uuid.uuid4().hex, "a search")
        tracker.start({}, {})
        for number in trials[:4]:
            timed(tracker.trial_started, number, {"lr": number}, {}, {"lr": number})
        for step in steps:
            if step == 200:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()
                for number in trials[4:]:
                    timed(tracker.trial_started, number, {"lr": number}, {}, {"lr": number})
            if step == 400:
                server = serve(tmp_path, port)
            for number in trials:
                if number < 4 or step > 200:
                    timed(tracker.trial_reported, number, step, *report_at(step))
            time.sleep(0.05)
        for number in trials:
            timed(tracker.trial_finished, number, "completed", {}, None, {"previews/x.bin": bytes(100_000)})
        assert tracker.finish("completed", timeout=120)

        seen = Seen(tracker)
        assert len(seen.trials) == len(trials)
        for number in trials:
            first = 1 if number < 4 else 201
            assert seen.points(number, "loss") == [(step, 1 / step) for step in range(first, steps[-1] + 1)]
            assert seen.points(number, "score") == [(step, step / 100) for step in steps if step >= first]
            assert seen.trials[number].info.status == "FINISHED"
            assert seen.trials[number].data.params == {"lr": str(number)}
            assert seen.artifact(number, "previews/x.bin", tmp_path) == bytes(100_000)
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
    print(f"{len(took)} calls, the longest {max(took) * 1000:.1f} ms")
    assert sorted(took)[int(len(took) * 0.99)] < 0.25  # a busy machine's; a request to the server would wait for 10 s
    assert max(took) < 2  # a full garbage collection of a busy machine; waiting for the server would take longer
    assert len([line for line in caplog.messages if "does not answer" in line]) == 1
    assert len([line for line in caplog.messages if "answers again" in line]) == 1
