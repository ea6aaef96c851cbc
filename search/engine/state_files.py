"""States of trials that are too large for the ledger: files that the engine writes by itself, on its node's disk or in `storage`.

A report then has the file's address and checksum for a checkpoint, where there is one. Only engines import torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from condense.storage.cache_folder import default_folder
from condense.system.errors import UserError
from search.interruption import caused_by_full_disk
from search.space.plan import Keeping

log = logging.getLogger(__name__)

LARGE = 2**25  # bytes of a trial's state: from here on the engine writes it
SHARE = 0.01  # of the time that may go into writing, where the user says nothing
FIRST_RATE = 5e8  # bytes a second that are assumed before a file was written
KEPT = 3  # files of a tenant: the ledger may be two reports behind the engine
TRIAL = re.compile(r"trial-(\d+)\b")


class StateLost(Exception):
    """A file that a checkpoint names is not to be had from here, or is damaged: the trial must start again."""


class StateUnreachable(Exception):
    """What keeps the file that a checkpoint names does not answer: it may do so later."""


def folder_of(keeping: Keeping) -> str:
    """Where a search's files are, seen from this node."""
    root = str(default_folder() / "checkpoints") if keeping.storage is None else keeping.storage.rstrip("/")
    return f"{root}/{keeping.search}"


class StateFiles:
    """The files of one tenant."""

    def __init__(self, keeping: Keeping, tenant: str, size: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`size`: bytes of its state."""
        self.folder, self.search = f"{folder_of(keeping)}/{tenant.replace(' ', '-')}", keeping.search
        self.every = None if keeping.every is None else 60 * keeping.every
        self.cost = size / FIRST_RATE  # seconds that a file takes
        self.clock = clock
        self._since = clock()  # of the last file, or of the tenant's start
        self._written: list[str] = []
        self._own = uuid.uuid4().hex[:8]  # a tenant that joins again has other files than it had before
        self._closed = False

    def close(self) -> None:
        """The tenant has left: what is being written is deleted when it is done. Called from any thread."""
        self._closed = True

    @property
    def is_due(self) -> bool:
        """Whether it is time for a file: never while doing the steps again would take no longer than writing it."""
        passed = self.clock() - self._since
        return passed > self.cost and passed >= (self.cost / SHARE if self.every is None else self.every)

    def write(self, step: int, states: Sequence[dict[str, Any]], began: float) -> bytes | None:
        """Writes `states` at `step`, and deletes what is no longer needed. `began`: when the device was kept from its work.

        Returns the checkpoint that names the file; None if it cannot be written: one that is missing costs steps, not the trial.
        None, too, once the tenant has left.
        """
        path, checkpoint = f"{self.folder}/{step}-{self._own}.pt", None
        try:
            if not self._closed:
                checkpoint = write_states(path, states)
                self._written.append(path)
            if checkpoint is not None and self._closed:  # nobody hears of it
                _remove(self._written.pop())
                checkpoint = None
            while len(self._written) > KEPT:
                _remove(self._written.pop(0))
        except Exception as error:
            log.warning("%s: a checkpoint could not be written: %s", path, error)
            checkpoint = None
        self._since = self.clock()
        self.cost = self._since - began
        return checkpoint


def _remove(url: str) -> None:
    system, path = url_to_fs(url)
    system.rm(path)


class _Hashed:
    """A file that is written to, and the checksum of what was."""

    def __init__(self, file: Any) -> None:
        self.file, self.hash = file, hashlib.sha256()

    def write(self, content: Any) -> int:
        self.hash.update(content)
        return int(self.file.write(content))

    def flush(self) -> None:
        """The file does so when it is closed."""


def write_states(url: str, states: Sequence[dict[str, Any]]) -> bytes:
    """The checkpoint that names the new file."""
    import torch

    system, path = url_to_fs(url)
    _make_folder(system, path.rsplit("/", 1)[0])
    with system.open(path, "wb") as file:
        hashed = _Hashed(file)
        torch.save(list(states), hashed)  # type: ignore[arg-type]  # asks for no more than `write`
    return json.dumps({"url": url, "sha256": hashed.hash.hexdigest()}).encode()


def names_a_file(checkpoint: bytes) -> bool:
    return checkpoint.startswith(b"{")


def read_states(checkpoint: bytes) -> list[dict[str, Any]]:
    """The states in the file that `checkpoint` names. Raises StateLost, and StateUnreachable."""
    import torch

    named = json.loads(checkpoint)
    try:
        system, path = url_to_fs(named["url"])
        with _at_hand(system, path) as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != named["sha256"]:  # type: ignore[arg-type]
                raise StateLost(f"{named['url']}: is damaged")
            file.seek(0)
            states: list[dict[str, Any]] = torch.load(file, weights_only=True)
    except StateLost:
        raise
    except (FileNotFoundError, NotADirectoryError, ImportError) as error:
        raise StateLost(f"{named['url']}: {error}") from None
    except Exception as error:  # each store has errors of its own
        if caused_by_full_disk(error):  # of this node
            raise
        raise StateUnreachable(f"{named['url']}: {_told(error)}") from None
    return states


@contextlib.contextmanager
def _at_hand(system: AbstractFileSystem, path: str) -> Iterator[IO[bytes]]:
    """The file, on this machine: it is gone through twice, the second time not in order."""
    if isinstance(system, LocalFileSystem):
        try:
            file = open(path, "rb")  # noqa: SIM115  # its block may raise such an error, too
        except PermissionError as error:  # a node that others' files are not for: waiting would not help
            raise StateLost(f"{path}: {error.strerror}") from None
        with file:
            yield file
        return
    with tempfile.NamedTemporaryFile(dir=default_folder()) as copy:
        system.get_file(path, copy.name)
        yield copy


def discard_ended(keeping: Keeping, ended: Callable[[list[int]], Sequence[int]]) -> None:
    """Deletes the files of trials that have ended; `ended`: of these trials, those that have. Called where a trial starts."""
    folder = folder_of(keeping)
    with _without_harm(folder):
        system, path = _fresh(folder)
        found: dict[int, list[str]] = {}
        for each in system.ls(path, detail=False):
            if (trial := TRIAL.fullmatch(Path(each).name.split("-stage")[0])) is not None:
                found.setdefault(int(trial[1]), []).append(each)
        for number in ended(sorted(found)) if found else ():
            for each in found[number]:
                system.rm(each, recursive=True)


def discard(keeping: Keeping) -> None:
    """Deletes all files of a search that can be seen from this node."""
    folder = folder_of(keeping)
    with _without_harm(folder):
        system, path = _fresh(folder)
        system.rm(path, recursive=True)


@contextlib.contextmanager
def _without_harm(folder: str) -> Iterator[None]:
    """Deleting what is not needed may fail, which costs room, not a trial."""
    try:
        yield
    except FileNotFoundError:
        pass  # there are none, or somebody else has deleted them
    except Exception as error:  # each store has errors of its own
        log.warning("%s: checkpoints that are not needed any more could not be deleted: %s", folder, _told(error))


def _fresh(url: str) -> tuple[AbstractFileSystem, str]:
    """The file system of an address and the path in it, without what is remembered of folders: other nodes write into them."""
    system, path = url_to_fs(url)
    system.invalidate_cache()
    return system, path


def _make_folder(system: AbstractFileSystem, path: str) -> None:
    """Object stores have no folders: what they would make is the bucket, which begins their paths and may be misspelt."""
    if path.startswith("/"):
        system.makedirs(path, exist_ok=True)


def _told(error: Exception) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__


def check_storage(storage: str | None) -> None:
    """Raises UserError if this machine cannot write to `storage`."""
    if storage is None:
        return
    if "://" not in storage and not storage.startswith("/"):
        raise UserError(f"storage {storage}: must be an absolute path, or an address such as s3://BUCKET/FOLDER")
    try:
        system, folder = url_to_fs(storage)
        _make_folder(system, folder)
        _try_out(system, f"{folder.rstrip('/')}/.writable")
    except ImportError as error:  # it says which package an address needs
        raise UserError(f"storage {storage}: {error}") from None
    except FileNotFoundError:
        raise UserError(
            f"storage {storage}: there is no bucket {folder.split('/')[0]}, or it is not shown to you"
        ) from None
    except Exception as error:  # each cloud has errors of its own
        raise UserError(f"storage {storage}: cannot be written to: {_told(error)}") from None


def _try_out(system: AbstractFileSystem, path: str) -> None:
    system.pipe_file(path, b"")
    system.rm_file(path)
