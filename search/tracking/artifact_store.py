"""Where MLflow keeps files, its artifacts: whether they can be written there, and what is told if they cannot."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from condense.system.errors import UserError
from search.tracking.answers import causes, masked, reason

logger = logging.getLogger(__name__)

PROBE = ".writable"
SECONDS_TO_ANSWER = 30.0
ELSEWHERE = "a server with `--serve-artifacts` takes them itself, or choose another --experiment"
NOT_TRIED = ("dbfs", "databricks", "models", "runs")  # which an address alone does not lead to
FORBIDDEN = re.compile(r"\b40[13]\b|AccessDenied|Forbidden|ermission")
RETRY = 60.0  # seconds after which a store that took nothing is tried again


def check_artifacts(location: str, experiment: str, uri: str, is_own: bool = True) -> None:
    """Raises UserError unless files of an experiment, which go to `location`, can be written from here, as far as that can be
    seen: a folder is looked at; in any other store a file is written, and deleted again.

    `uri`: of the tracking store. `is_own`: False: `location` is that of another experiment, since this one is new: that files are
    not allowed there says nothing.
    """
    said = f"tracking URI {masked(uri)}: artifacts of the experiment {experiment!r} go to"
    if (folder := _folder(location)) is not None:
        if not _writable(folder):
            raise UserError(f"{said} {folder}, which cannot be written here; {ELSEWHERE}")
        return
    scheme = urlsplit(location).scheme
    if not scheme or scheme in NOT_TRIED or (trouble := _tried(location, uri)) is None:
        return
    if is_own or not FORBIDDEN.search(trouble):
        advice = "the server's log may say why" if scheme == "mlflow-artifacts" else ELSEWHERE
        raise UserError(f"{said} {masked(location)}, which does not take them from here ({trouble}); {advice}")


def _folder(location: str) -> Path | None:
    """A folder of this machine."""
    if location.startswith("file:"):
        return Path(unquote(urlsplit(location).path))
    return Path(location) if location.startswith("/") else None


def _writable(folder: Path) -> bool:
    """Whether files can be made in a folder, or in the first above it that exists, where it would be made."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def _tried(location: str, uri: str) -> str | None:
    """Why a file cannot be written to a store; None if it was."""
    trouble: list[str | None] = [f"no answer in {SECONDS_TO_ANSWER:.0f} s"]

    def attempt() -> None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        try:
            store = get_artifact_repository(location, tracking_uri=uri)
            with tempfile.TemporaryDirectory(prefix="mlflow-artifact-") as folder:
                file = Path(folder) / PROBE
                file.touch()
                store.log_artifact(str(file))
        except Exception as error:  # each store has errors of its own
            trouble[0] = reason(list(causes(error))[-1])
            return
        trouble[0] = None
        with contextlib.suppress(Exception):  # who may write need not be allowed to delete
            store.delete_artifacts(PROBE)

    thread = threading.Thread(target=attempt, name="mlflow-artifacts", daemon=True)
    thread.start()
    thread.join(SECONDS_TO_ANSWER)
    return trouble[0]


class Untaken:
    """What is told of files that the store does not take: the first one, then how many, since the others would fare alike."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.count = 0  # in a row
        self._clock, self._failed = clock, -RETRY

    def attempts(self, usual: int) -> int:
        return 1 if self.count else usual

    @property
    def waits(self) -> bool:
        """Whether the store has failed so lately that a further file is not worth an attempt."""
        return self.count > 0 and self._clock() - self._failed < RETRY

    def add(self, path: str, run: str, why: str) -> None:
        """A file was not taken after attempts."""
        self._failed = self._clock()
        if self.count == 0:
            logger.warning(
                "MLflow did not take artifact %r of %r, dropped: %s. Its store is tried again once a minute; what else it does "
                "not take is counted. The search's folder has report, best.yaml and synthetic items, too",
                path,
                run,
                why,
            )
        self.count += 1

    def skip(self) -> None:
        """A file was dropped without an attempt."""
        self.count += 1

    def taken(self) -> None:
        """A file was taken."""
        if self.count:
            logger.warning("MLflow takes artifacts again; %d were dropped", self.count)
        self.count = 0

    def end(self) -> None:
        if self.count > 1:
            logger.warning("MLflow did not take the last %d artifacts", self.count)
