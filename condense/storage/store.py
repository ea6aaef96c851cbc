"""A cache of tensors that are expensive to compute, addressed by their inputs.

An entry is one safetensors file, named by the hash of its key. It is written under another name and moved into place,
carries a checksum, and is made by one process at a time. A damaged entry is made again, never used.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from condense.storage.cache_folder import default_folder
from condense.storage.tensor_files import tensors_of, write_tensors
from condense.system.errors import is_full_disk

log = logging.getLogger(__name__)
Fetch = Callable[[str, str], bytes | None]  # kind, file name -> the file's content, or None


def hash_of(key: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON-able mapping, whatever the order of its keys; the first 32 hex digits."""
    text = json.dumps(key, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class Store:
    """Tensors on disk by content address; safe for several processes on one file system."""

    def __init__(self, folder: Path | None = None, fetch: Fetch | None = None) -> None:
        """`fetch`: tried for a missing entry before it is made; its result is checked like any file."""
        self.folder = default_folder() if folder is None else folder
        self.fetch = fetch

    def path(self, kind: str, key: Mapping[str, Any]) -> Path:
        return self.folder / kind / f"{hash_of(key)}.safetensors"

    def get(self, kind: str, key: Mapping[str, Any]) -> dict[str, Tensor] | None:
        """The tensors stored under `key`; None if they are missing or damaged."""
        path = self.path(kind, key)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError, ValueError) as error:
            log.warning("%s is damaged (%s): making it again", path, error)
            return None
        if metadata.get("checksum") != checksum(tensors):
            log.warning("%s is damaged (wrong checksum): making it again", path)
            return None
        return tensors

    def put(self, kind: str, key: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        path = self.path(kind, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        metadata = {"checksum": checksum(whole), "key": json.dumps(key, sort_keys=True)}
        with replacing(path) as temporary:
            write_tensors(temporary, whole, metadata)

    def get_or_make(
        self, kind: str, key: Mapping[str, Any], make: Callable[[], Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """The stored tensors; if they are missing or damaged, the result of `make()`, which is stored.

        If several processes ask at once, one makes the entry and the others wait and read it. Raises OSError if there is no
        space for the made tensors; fetched ones are then used without being stored, since another copy exists.
        """
        found = self.get(kind, key)
        parts = self.parts(kind, key).folder
        if found is not None and not parts.exists():
            return found
        with self._alone(self.path(kind, key)):
            found = found or self.get(kind, key) or self._fetched(kind, key)
            if found is None:
                self.put(kind, key, make())
                found = self.get(kind, key)
            if found is not None:
                shutil.rmtree(parts, ignore_errors=True)
        if found is None:
            raise RuntimeError(f"{self.path(kind, key)} cannot be read back after it was written")
        return found

    def parts(self, kind: str, key: Mapping[str, Any]) -> Store:
        """A store where `make` may keep partial results in case it is killed; deleted once the entry exists."""
        return Store(self.path(kind, key).with_suffix(".parts"))

    def keys(self, kind: str) -> list[dict[str, Any]]:
        """The keys of all entries of a kind, including damaged ones whose key is readable."""
        found = []
        for path in sorted((self.folder / kind).glob("*.safetensors")):
            with contextlib.suppress(SafetensorError, OSError, KeyError, ValueError), safe_open(path, "pt") as file:
                found.append(json.loads((file.metadata() or {})["key"]))
        return found

    def _fetched(self, kind: str, key: Mapping[str, Any]) -> dict[str, Tensor] | None:
        path = self.path(kind, key)
        content = None if self.fetch is None else self.fetch(kind, path.name)
        if content is None:
            return None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                temporary.write_bytes(content)
        except OSError as error:
            if not is_full_disk(error):
                raise
            log.warning("no space is left on the disk of %s: continuing with the copy in memory", self.folder)
            return _checked(content)
        return self.get(kind, key)

    @contextlib.contextmanager
    def _alone(self, path: Path) -> Iterator[None]:
        """Locks out other processes; without a lock if the disk is too full for one, since nothing can be stored then anyway."""
        with contextlib.ExitStack() as held:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                file = held.enter_context(open(path.with_suffix(".lock"), "w"))
            except OSError as error:
                if not is_full_disk(error):
                    raise
            else:
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _checked(content: bytes) -> dict[str, Tensor] | None:
    """The tensors of an entry's file; None if it is damaged."""
    try:
        tensors, metadata = tensors_of(content)
    except (SafetensorError, ValueError):
        return None
    return tensors if metadata.get("checksum") == checksum(tensors) else None


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path and moves it to `path` at the end, durably. A full disk raises OSError for `path`."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        if not is_full_disk(error):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
