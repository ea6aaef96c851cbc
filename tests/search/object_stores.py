"""Servers on loopback that speak the protocols of S3 and Google Cloud Storage, for the real s3fs and gcsfs."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from unittest import mock

import fsspec

BUCKET = "states"


@dataclass
class ObjectStore:
    address: str  # of a bucket that there is
    stop: Callable[[], None]


@contextlib.contextmanager
def object_store(protocol: str) -> Iterator[ObjectStore]:
    """With one bucket, `BUCKET`. The environment names the server, to this process and those that it starts."""
    with {"s3": _s3, "gs": _gs}[protocol]() as store:
        fsspec.get_filesystem_class(protocol).clear_instance_cache()  # they remember servers
        yield store
    fsspec.get_filesystem_class(protocol).clear_instance_cache()


@contextlib.contextmanager
def _s3() -> Iterator[ObjectStore]:
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    named = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "MLFLOW_S3_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",  # else one that was stopped is tried again for 10 s
    }
    with mock.patch.dict(os.environ, named), contextlib.ExitStack() as stack:
        stopped = stack.enter_context(_once(server.stop))
        _call(f"{named['AWS_ENDPOINT_URL']}/moto-api/reset", "POST", b"{}")  # servers of a process share what they hold
        _call(f"{named['AWS_ENDPOINT_URL']}/{BUCKET}", "PUT")
        yield ObjectStore(f"s3://{BUCKET}", stopped)


@contextlib.contextmanager
def _gs() -> Iterator[ObjectStore]:
    from gcp_storage_emulator.server import create_server

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = create_server("127.0.0.1", port, in_memory=True)
    server.start()
    address = f"http://127.0.0.1:{port}"
    named = {
        "STORAGE_EMULATOR_HOST": address,
        "NO_GCE_CHECK": "true",  # else credentials are asked for of machines that there are not
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }
    with mock.patch.dict(os.environ, named), contextlib.ExitStack() as stack:
        stopped = stack.enter_context(_once(server.stop))
        _call(f"{address}/storage/v1/b?project=any", "POST", json.dumps({"name": BUCKET}).encode())
        yield ObjectStore(f"gs://{BUCKET}", stopped)


@contextlib.contextmanager
def _once(stop: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """`stop`, called at the end unless it was before."""
    calls = [stop]

    def stopped() -> None:
        while calls:
            calls.pop()()

    try:
        yield stopped
    finally:
        stopped()


def _call(address: str, method: str, content: bytes | None = None) -> None:
    headers = {} if content is None else {"Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(address, content, headers, method=method)).close()
