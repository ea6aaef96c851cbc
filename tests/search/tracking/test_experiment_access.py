"""An experiment that cannot be written, or whose files cannot, is told before any work."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from local_server import serving
from mlflow import MlflowClient

from condense.system.errors import UserError
from search.tracking.store import check_tracking

EXPERIMENT = {
    "experiment_id": "7",
    "name": "lambda",
    "artifact_location": "mlflow-artifacts:/7",
    "lifecycle_stage": "active",
}


@pytest.fixture
def read_only() -> Iterator[str]:
    """The address of an MLflow server whose user may read, but not write."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self, status: int, content: dict[str, Any]) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self.answer(200, {"experiment": EXPERIMENT})

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            if self.path.endswith("set-experiment-tag"):
                self.answer(403, {"error_code": "PERMISSION_DENIED", "message": "Permission denied"})
            else:
                self.answer(200, {"experiments": [EXPERIMENT]})

        def log_message(self, *args: Any) -> None:
            pass

    with serving(Handler) as address:
        yield address


def test_who_may_only_read_is_told(read_only: str) -> None:
    check_tracking(read_only)
    with pytest.raises(UserError, match=r"'lambda' may be read but not written by this user; ask for EDIT"):
        check_tracking(read_only, "lambda")


def test_a_folder_of_artifacts_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    check_tracking(uri, "new")
    client = MlflowClient(uri)
    client.create_experiment("bad", artifact_location=(tmp_path / "file" / "of nobody").as_uri())
    client.create_experiment("good", artifact_location=str(tmp_path / "deep" / "er"))
    with pytest.raises(
        UserError, match=r"artifacts of the experiment 'bad' go to .*file/of nobody, which cannot be written"
    ):
        check_tracking(uri, "bad")
    check_tracking(uri, "good")
    assert not (tmp_path / "deep").exists()
