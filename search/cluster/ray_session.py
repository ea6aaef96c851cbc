"""Ray for a search: one that is started for it on this machine, or a cluster's that is there."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
from collections.abc import Iterator
from typing import Any

from condense.system.errors import UserError
from search.cluster.nodes import bootstrap_file

log = logging.getLogger(__name__)
SECONDS_FOR_RAY = 10  # how long a cluster's head may take to accept a connection
STARTS_OF_RAY = 3  # tries


def prepare_environment() -> None:
    """What Ray, Tune and MLflow read when they are imported; a user's own settings win."""
    defaults = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints a table at every verbosity
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # an engine takes no GPU from Ray's count but is pinned to one
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the ledger is the record
        "TUNE_GLOBAL_CHECKPOINT_S": "600",  # Tune's snapshots are not used
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # `SearchCallback` does, and says what happens next
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # No keepalive pings (RAY_grpc_client_keepalive_time_ms): Ray's servers hang up on who pings during a long call.
    }
    for key, value in defaults.items():
        os.environ.setdefault(key, value)


def check_address(address: str) -> None:
    """Raises UserError unless `address` is `auto`, or of a server that takes a connection: Ray itself would wait for ever."""
    if address == "auto":
        return
    if address.startswith("ray://"):
        raise UserError(
            f"--address {address}: must not be a Ray client: the driver writes the search's record, so it must run on "
            "the cluster: `ray submit cluster.yaml search/run.py`"
        )
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 65536):
        raise UserError(f"--address {address}: must be `auto`, `local` or HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_FOR_RAY).close()
    except OSError as error:
        raise UserError(f"--address {address}: nothing answers there ({error})") from None


@contextlib.contextmanager
def ray_session(address: str | None) -> Iterator[bool]:
    """Connects to a cluster (on its head by itself), or starts Ray here, for this search alone, and ends it afterwards.
    Yields whether it is a local one."""
    if address is None and (bootstrap_file().exists() or os.environ.get("RAY_ADDRESS")):
        address = "auto"
    local = address in (None, "local")
    # Ray listens on all of this machine's addresses, and runs the code of whoever reaches it: so with a token, which
    # nobody knows but the processes of this search. Ray reads both when it is imported.
    if local and os.environ.setdefault("RAY_AUTH_MODE", "token") == "token":
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    options: dict[str, Any] = {"include_dashboard": False, "object_store_memory": 300_000_000} if local else {}
    if not local:
        check_address(str(address))
    for more in reversed(range(STARTS_OF_RAY)):
        try:
            ray.init(address="local" if local else address, log_to_driver=False, logging_level=logging.ERROR, **options)
            break
        except (ConnectionError, ValueError, RuntimeError) as error:
            if local:
                raise
            text = " ".join(str(error).split())
            raise UserError(f"--address {address}: no Ray cluster answers there ({text})") from None
        except Exception as error:  # what Ray raises when its own patience of 30 s is over: this machine is busy
            if not more or "timed out during startup" not in str(error):
                raise
            log.warning("Ray did not start within 30 s (is this machine busy?): trying again")
            ray.shutdown()
    # Ray has put a handler of its own there, which exits at once, and says nothing.
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    try:
        yield local
    finally:
        ray.shutdown()
