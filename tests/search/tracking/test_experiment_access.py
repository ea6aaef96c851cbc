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


class Server(BaseHTTPRequestHandler):
    """Of MLflow, for a user who may read, but not write: an experiment `lambda`, and others that there are not."""

    may_tag = False

    def answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        if "experiment_name=" in self.path and "experiment_name=lambda" not in self.path:
            self.answer(404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "No such experiment"})
        else:
            self.answer(200, {"experiment": EXPERIMENT})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("set-experiment-tag") and not self.may_tag:
            self.answer(403, {"error_code": "PERMISSION_DENIED", "message": "Permission denied"})
        else:
            self.answer(200, {"experiments": [EXPERIMENT]})

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer(403, {"error_code": "PERMISSION_DENIED", "message": "Permission denied"})

    def log_message(self, *args: Any) -> None:
        pass


class Tagging(Server):
    may_tag = True


@pytest.fixture
def read_only() -> Iterator[str]:
    with serving(Server) as address:
        yield address


def test_where_files_of_another_experiment_are_refused_those_of_a_new_one_may_be_taken() -> None:
    """As by MLflow's basic-auth: who makes an experiment may write to it, but not to the first one, where files are tried."""
    with serving(Tagging) as address:
        check_tracking(address, "new")
        with pytest.raises(
            UserError, match=r"'lambda' go to mlflow-artifacts:/7, which does not take them from here \(403"
        ):
            check_tracking(address, "lambda")


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
