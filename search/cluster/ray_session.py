"""Ray for a search: started on this machine for the search alone, or an existing cluster."""

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
SECONDS_FOR_RAY = 10  # a cluster's head must accept a connection within these
STARTS_OF_RAY = 3  # tries


def prepare_environment() -> None:
    """Sets the variables that Ray, Tune and MLflow read at import; a user's own settings win."""
    defaults = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints a table at every verbosity
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # an engine reserves no GPU in Ray but is pinned to one
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the ledger is the record
        "TUNE_GLOBAL_CHECKPOINT_S": "600",  # Tune's snapshots are not used
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # `SearchCallback` prints them, and what happens next
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # No keepalive pings (RAY_grpc_client_keepalive_time_ms): Ray's servers close connections that ping during a long call.
    }
    for key, value in defaults.items():
        os.environ.setdefault(key, value)


def check_address(address: str) -> None:
    """Raises UserError unless `address` is `auto` or a server that accepts connections: Ray itself would wait forever."""
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
    """Connects to a cluster (on a head automatically), or starts a local Ray for this search alone; disconnects or stops it
    at the end. Yields whether Ray is local."""
    if address is None and (bootstrap_file().exists() or os.environ.get("RAY_ADDRESS")):
        address = "auto"
    local = address in (None, "local")
    # Ray listens on all of this machine's addresses and runs code for whoever connects. Hence a token, which only the
    # processes of this search know. Ray reads both variables at import.
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
        except Exception as error:  # what Ray raises after 30 s, on a busy machine
            if not more or "timed out during startup" not in str(error):
                raise
            log.warning("Ray did not start within 30 s (is this machine busy?): trying again")
            ray.shutdown()
    # Replaces Ray's own handler, which exits at once without a message.
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    try:
        yield local
    finally:
        ray.shutdown()
