"""Ray for a search: started on this machine for the search alone, or an existing cluster."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shlex
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

from condense.system.errors import UserError
from search.cluster.nodes import bootstrap_file

log = logging.getLogger(__name__)
SECONDS_FOR_RAY = 10  # a cluster's head must accept a connection within these
STARTS_OF_RAY = 3  # tries
LONGEST_TMPDIR = 43  # bytes
PROXIES, LOOPBACK = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), ("127.0.0.1", "localhost", "::1")


def prepare_environment() -> None:
    """Sets the variables that Ray, Tune and MLflow read at import; a user's own settings win."""
    defaults = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_AUTO_CONNECT": "0",  # a call after the end would start another Ray, and wait for it
        "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints a table at every verbosity
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # an engine reserves no GPU in Ray but is pinned to one
        "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # a trial's; `SearchCallback` shows the first of each kind
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the ledger is the record
        "TUNE_GLOBAL_CHECKPOINT_S": "600",  # Tune's snapshots are not used
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # `SearchCallback` prints them, and what happens next
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # No keepalive pings (RAY_grpc_client_keepalive_time_ms): Ray's servers close connections that ping during a long call.
    }
    for key, value in defaults.items():
        os.environ.setdefault(key, value)
    if any(os.environ.get(name) or os.environ.get(name.lower()) for name in PROXIES):
        known = (os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "").split(",")
        own = ",".join(dict.fromkeys([*filter(None, known), *LOOPBACK]))  # a server on this machine is not behind one
        os.environ.update({"no_proxy": own, "NO_PROXY": own})


def check_address(address: str, said: str | None = None) -> None:
    """Raises UserError unless `address` is `auto` or a server that accepts connections: Ray itself would wait forever.

    `said`: where the address is from, if not from `--address`.
    """
    said = said or f"--address {address}"
    if address == "auto":
        return
    if _connected():
        raise UserError(f"{said}: this process is connected to a Ray cluster already: leave the address out")
    if address == "local":
        return
    if address.startswith("ray://"):
        raise UserError(
            f"{said}: must not be a Ray client: the driver writes the search's record, so it must run on "
            "the cluster: `ray submit cluster.yaml search/run.py`"
        )
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 65536):
        raise UserError(f"{said}: must be `auto`, `local` or HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_FOR_RAY).close()
    except OSError as error:
        raise UserError(f"{said}: nothing answers there ({error})") from None


@dataclass(frozen=True)
class RaySession:
    """Where a search runs."""

    local: bool  # on this machine alone, to which nothing will be added
    joined: bool = False  # this process had been connected before, and stays so


@contextlib.contextmanager
def ray_session(address: str | None) -> Iterator[RaySession]:
    """Joins the Ray that this process is connected to; connects to a cluster (on a head automatically); or starts a local Ray
    for this search alone. Disconnects from or stops at the end what it connected to or started."""
    if _connected():
        import ray

        alone = len(ray.nodes()) == 1 and not bootstrap_file().exists()
        yield RaySession(local=alone, joined=True)
        return
    said, named = None, os.environ.get("RAY_ADDRESS")  # Ray takes it for `auto`
    if address in (None, "auto") and named:
        said, address = f"RAY_ADDRESS={named} in the environment", named
    elif address is None and bootstrap_file().exists():
        address = "auto"
    local = address in (None, "local")
    if local:
        _shorten_temporary_folder()
    # Ray listens on all of this machine's addresses and runs code for whoever connects. Hence a token, which only the
    # processes of this search know. Ray reads both variables at import.
    if local and os.environ.setdefault("RAY_AUTH_MODE", "token") == "token":
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    options: dict[str, Any] = {}
    if local:
        options = {"include_dashboard": False, "object_store_memory": 300_000_000, "runtime_env": interpreter()}
    if not local:
        check_address(str(address), said)
    for more in reversed(range(STARTS_OF_RAY)):
        try:
            ray.init(address="local" if local else address, log_to_driver=False, logging_level=logging.ERROR, **options)
            break
        except (ConnectionError, ValueError, RuntimeError) as error:
            if local:
                raise
            text = " ".join(str(error).split())
            raise UserError(f"{said or f'--address {address}'}: no Ray cluster answers there ({text})") from None
        except Exception as error:  # what Ray raises after 30 s, on a busy machine
            if not more or "timed out during startup" not in str(error):
                raise
            log.warning("Ray did not start within 30 s (is this machine busy?): trying again")
            ray.shutdown()
    try:
        with interrupted_by_sigterm():
            yield RaySession(local)
    finally:
        ray.shutdown()


def interpreter() -> dict[str, str]:
    """What Ray's processes need to know of this one's Python. Ray gives its path to a shell without quotes: where it has a blank,
    no process with an environment of its own would start, and a search would wait for ever."""
    quoted = shlex.quote(sys.executable)
    return {"py_executable": quoted} if quoted != sys.executable else {}


def _shorten_temporary_folder() -> None:
    """Ray's sockets are in $TMPDIR, and a socket's path may have 107 bytes. Where it would have more, Ray gets /tmp."""
    given = os.environ.get("TMPDIR", "")
    if "RAY_TMPDIR" not in os.environ and len(os.fsencode(given)) > LONGEST_TMPDIR:
        if not os.access("/tmp", os.W_OK):
            raise UserError(
                f"TMPDIR={given}: is too long for Ray, whose sockets are in it: set RAY_TMPDIR to a folder of at most "
                f"{LONGEST_TMPDIR} bytes"
            )
        os.environ["RAY_TMPDIR"] = "/tmp"


def _connected() -> bool:
    """Whether this process has started Ray, or joined a cluster, before the search began."""
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


@contextlib.contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """SIGTERM is as Ctrl-C, also where a shell has SIGINT ignored, as in what a script starts with `&`. Ray has put a handler of
    its own there, which exits at once, and says nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_: int, frame: FrameType | None) -> None:
        handler = signal.getsignal(signal.SIGINT)  # Tune's while trials run
        if not callable(handler):
            raise KeyboardInterrupt
        handler(signal.SIGINT, frame)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
