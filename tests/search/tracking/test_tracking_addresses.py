"""Where MLflow is said to be: what cannot be used is one line, and what answers is known for what it is."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from local_server import serving
from mlflow import MlflowClient
from mlflow.entities import Metric

from condense.system.errors import UserError
from search.tracking.answers import masked, verdict
from search.tracking.store import absolute_uri, check_tracking, database_path, default_tracking_uri


@contextlib.contextmanager
def answering(status: int) -> Iterator[str]:
    """The address of a server on this machine that has this status for everybody."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_error(status)

        def log_message(self, *args: Any) -> None:
            pass

    with serving(Handler) as address:
        yield address


@pytest.mark.parametrize(
    ("uri", "rule"),
    [
        ("http://me:secret@127.0.0.1:9", "no MLflow server answers there (Connection refused)"),
        ("http://", "must name a host"),
        ("http://127.0.0.1:port", "not an address"),
        ("ftp://somewhere", "unknown scheme 'ftp'"),
        ("results/mlruns", "no longer writes to plain folders"),
        ("file:///tmp/mlruns", "no longer writes to plain folders"),
        ("sqlite://", "a database in memory is lost at the end"),
        ("sqlite:///{tmp}/file/mlflow.db", "cannot be made (File exists)"),
        ("sqlite:///{tmp}/file", "cannot be written (file is not a database)"),
        ("sqlite:////proc/mlflow.db", "cannot be written (No such file or directory)"),
        ("postgresql://me:secret@127.0.0.1:9/db", "no database answers at 127.0.0.1:9 (Connection refused)"),
    ],
)
def test_an_unusable_uri_is_one_clear_line(
    uri: str, rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    (tmp_path / "file").write_text("not a database, but long enough to have the header of one" * 20)
    with pytest.raises(UserError) as raised:
        check_tracking(uri.format(tmp=tmp_path))
    message = str(raised.value)
    assert rule in message
    assert masked(uri.format(tmp=tmp_path)) in message
    assert "\n" not in message
    assert "secret" not in message


def test_something_else_at_the_address_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(404) as uri, pytest.raises(UserError, match="what answers there is not an MLflow server"):
        check_tracking(uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with closing(socket.create_server(("127.0.0.1", 0))) as silent, pytest.raises(UserError, match="no answer in 1 s"):
        check_tracking(f"http://127.0.0.1:{silent.getsockname()[1]}")


@pytest.mark.parametrize(("status", "expected"), [(503, "away"), (429, "away"), (502, "away"), (500, "unclear")])
def test_a_server_that_has_too_much_to_do_is_away(status: int, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    with answering(status) as uri, pytest.raises(Exception) as raised:
        MlflowClient(uri).log_batch("run", metrics=[Metric("loss", 1.0, 0, 0)])
    assert verdict(raised.value) == expected


def test_default_uri_is_a_database_beside_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert default_tracking_uri(Path("results/one")) == f"sqlite:///{tmp_path}/results/mlflow.db"
    odd = tmp_path / "100% a?b #1 é"
    assert database_path(default_tracking_uri(odd / "one")) == odd / "mlflow.db"
    assert absolute_uri("sqlite:///mine.db") == f"sqlite:///{tmp_path}/mine.db"
    assert absolute_uri("https://host/x") == "https://host/x"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert default_tracking_uri(Path("results/one")) == "http://host:5000"
