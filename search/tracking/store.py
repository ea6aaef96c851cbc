"""MLflow's tracking store: default, check before any work, connection, and readable errors."""

from __future__ import annotations

import fcntl
import logging
import os
import shlex
import socket
import sqlite3
import time
import warnings
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from condense.system.errors import UserError
from search.cluster.nodes import head_tracking_uri
from search.tracking.answers import REQUEST_SECONDS, masked, reason
from search.tracking.artifact_store import check_artifacts

if TYPE_CHECKING:  # importing mlflow costs more than a second: only functions do it
    from mlflow import MlflowClient

DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
CONNECT_SECONDS = 10
REFUSALS = ("UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "PERMISSION_DENIED")
TAG = "condense_search"  # of experiments with searches; setting it shows that they can be written
HALF_MADE = "_alembic_tmp_"  # tables that MLflow makes on the way


def default_tracking_uri(output: Path) -> str:
    """MLFLOW_TRACKING_URI; or the server on this cluster's head; or a database beside the output folder, shared by all
    searches there."""
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        return absolute_uri(uri)
    if uri := head_tracking_uri():
        return uri
    return f"sqlite:///{_quoted(output.absolute().parent)}/mlflow.db"


def _quoted(path: Path) -> str:
    """Quotes a path: SQLAlchemy unquotes the path of a database and reads options after a ?."""
    return str(path).replace("%", "%25").replace("?", "%3F")


def absolute_uri(uri: str) -> str:
    """`uri` with a relative path of a database or a folder made absolute: Tune changes the directory per trial."""
    if uri.startswith("sqlite:///") and (path := uri.removeprefix("sqlite:///")) and not path.startswith(("/", ":")):
        return f"sqlite:///{_quoted(Path.cwd())}/{path}"
    if "://" not in uri and not uri.startswith(("databricks", "file:")):
        return str(Path(uri).absolute())
    return uri


def check_tracking(uri: str, experiment: str | None = None) -> None:
    """Opens the tracking store once, before any work; a new database gets its tables here.

    Raises UserError, in one line without credentials, if the URI is invalid, nothing answers within 10 s, the store is not
    writable, or the `experiment` that is to be logged to was deleted in it.
    """
    shown, uri = f"tracking URI {masked(uri)}", absolute_uri(uri)
    scheme = uri.partition("://")[0].partition("+")[0] if "://" in uri else uri.partition(":")[0]
    try:
        host, port = urlsplit(uri).hostname, urlsplit(uri).port
    except ValueError as error:
        raise UserError(f"{shown}: not an address ({error})") from error
    if scheme == "sqlite":
        _check_sqlite(uri, shown)
    elif scheme in ("http", "https"):
        if not host:
            raise UserError(f"{shown}: an http address must name a host, as in http://127.0.0.1:5000")
    elif scheme in DATABASE_PORTS:
        _check_port(host or "localhost", port or DATABASE_PORTS[scheme], shown)
    elif "://" not in uri or scheme == "file":
        if scheme != "databricks" and os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() not in ("true", "1"):
            raise UserError(
                f"{shown}: MLflow no longer writes to plain folders; use a database, as in "
                "sqlite:////home/me/results/mlflow.db, or a server, as in http://127.0.0.1:5000"
            )
    elif scheme != "databricks":
        raise UserError(f"{shown}: unknown scheme {scheme!r}; it must be one of sqlite, http, https, postgresql, mysql")
    for attempt in range(4):
        try:
            client = connect(uri)
            client.search_experiments(max_results=1)
            if experiment is not None:
                _check_experiment(client, experiment, uri)
            return
        except UserError:
            raise
        except Exception as error:
            # If two searches create the tables of one database at the same time, the later one soon finds them.
            if scheme != "sqlite" or attempt == 3:
                raise UserError(f"{shown}: {_refusal(error, scheme)}") from error
            time.sleep(1.5)


def active_experiment(client: MlflowClient, name: str, uri: str) -> str | None:
    """The id of an experiment; None if there is none. Raises UserError for a deleted one: MLflow keeps its name."""
    found = client.get_experiment_by_name(name)
    if found is None or found.lifecycle_stage == "active":
        return None if found is None else str(found.experiment_id)
    command = f"MLFLOW_TRACKING_URI={shlex.quote(masked(uri))} mlflow experiments restore -x {found.experiment_id}"
    raise UserError(
        f"tracking URI {masked(uri)}: the experiment {name!r} was deleted; restore it with `{command}`, or begin a search with "
        "another --experiment"
    )


def _check_experiment(client: MlflowClient, name: str, uri: str) -> None:
    """Raises UserError unless runs can be written to an experiment, and files beside them as far as can be seen from here."""
    number = active_experiment(client, name, uri)
    if number is not None:
        try:
            client.set_experiment_tag(number, TAG, "1")
        except Exception as error:
            if getattr(error, "error_code", "") in REFUSALS:
                raise UserError(
                    f"tracking URI {masked(uri)}: the experiment {name!r} may be read but not written by this user; "
                    "ask for EDIT, or choose another --experiment"
                ) from error
    if (location := _location(client, number, uri)) is not None:
        check_artifacts(location, name, uri, is_own=number is not None)


def _location(client: MlflowClient, number: str | None, uri: str) -> str | None:
    """Where files of an experiment go, of a new one without `number`; None if that cannot be known."""
    if number is None and uri.startswith("sqlite"):
        path = database_path(uri)
        return None if path is None else str(path.parent)
    try:  # a server's first experiment shows where those of others go
        return str(client.get_experiment(number or "0").artifact_location)
    except Exception:  # deleted, or not for this user
        return None


def _refusal(error: Exception, scheme: str) -> str:
    code = getattr(error, "error_code", "")
    if code in REFUSALS:
        return "the server refuses access; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    if scheme in ("http", "https"):
        if code in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE"):
            return f"no MLflow server answers there ({reason(error)})"
        return f"what answers there is not an MLflow server ({reason(error)})"
    return reason(error)


def database_path(uri: str) -> Path | None:
    """The file of a sqlite URI; None for a database in memory."""
    from sqlalchemy.engine import make_url

    database = make_url(uri).database
    return Path(database) if database and database != ":memory:" else None


def _check_sqlite(uri: str, shown: str) -> None:
    # MLflow itself would retry for 100 seconds.
    path = database_path(uri)
    if path is None:
        raise UserError(
            f"{shown}: a database in memory is lost at the end; name a file, as in sqlite:////home/me/mlflow.db"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{shown}: the folder {path.parent} cannot be made ({error.strerror})") from error
    try:
        if not path.exists() or not path.stat().st_size:
            _make_sqlite(path)
        with closing(sqlite3.connect(path, timeout=CONNECT_SECONDS, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            database.execute("ROLLBACK")
        if any(name.startswith(HALF_MADE) for name in tables) or (
            "experiments" in tables and "alembic_version" not in tables
        ):
            raise UserError(
                f"{shown}: the start that was to make the database {path} did not come to its end: delete it, unless another "
                "search or server is starting with it now"
            )
    except (sqlite3.Error, OSError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{shown}: the database {path} cannot be written ({why})") from error


def _make_sqlite(path: Path) -> None:
    """A new database with MLflow's tables, at once in its place: of several processes that come first, one makes it."""
    with open(path.with_name(f".{path.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists() and path.stat().st_size:
            return
        new = path.with_name(f".{path.name}.new")
        new.unlink(missing_ok=True)
        connect(f"sqlite:///{_quoted(new)}").search_experiments(max_results=1)
        os.replace(new, path)


def _check_port(host: str, port: int, shown: str) -> None:
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise UserError(f"{shown}: no database answers at {host}:{port} ({error.strerror or error})") from error


def connect(uri: str) -> MlflowClient:
    """A client that fails fast: one attempt per request, a short timeout, no telemetry, no prints."""
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"  # MLflow's own retries block for minutes
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(REQUEST_SECONDS))
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # MLflow's own use of SQLAlchemy 2.1
        from mlflow import MlflowClient

        # It logs each busy database with a traceback; this module reports it in one line.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        return MlflowClient(uri)
