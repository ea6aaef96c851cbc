"""Digests of files' contents. A file that has not changed since it was read is not read again, as git's index does it.

Not changed means: the same absolute path, size, mtime and ctime, and an mtime that was older than the moment at which reading
began. A file that changes in the same tick of its file system's clock as it was read keeps its mtime ("racily clean"), so such a
digest is not trusted, and the file is read once more at the next start.

The digests of a folder's manifests are one entry of the store: it is replaced as a whole, so that several processes may write it,
and a damaged one is not used. Digests from before $CONDENSE_VERIFY (nanoseconds since the epoch, set by `--verify`) do not count.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from stat import S_ISREG

import numpy as np
import torch

from condense.storage.cache_folder import verified_since
from condense.storage.store import Store

log = logging.getLogger(__name__)
KIND, VERSION = "file_digests", 1
TICK, COARSE_TICK = 20_000_000, 2_000_000_000  # ns: a kernel's clock; of file systems whose mtimes are whole seconds
CHUNK = 512  # files looked at by a thread at a time
Stat = np.ndarray  # (n, 3) int64: size, mtime and ctime in ns


def digest_file(path: Path) -> str:
    """Size in bytes and sha256 of a file's content, read in parts of 1 MiB."""
    content, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            content.update(part)
            size += len(part)
    return f"{size}:{content.hexdigest()}"


def known_digest(path: Path) -> str:
    """`digest_file` of a large file, such as an encoder's weights: read only if it has changed."""
    return digest_files([str(path.absolute())], path.parent)[0]


def digest_files(
    paths: Sequence[str],  # absolute, each once
    book: Path,  # the folder whose files these are: their digests are kept together
    *,
    check: Callable[[int], None] = lambda _: None,  # called with the position of what is no file, or empty
    on_error: Callable[[int, OSError], Exception] = lambda _, error: (
        error
    ),  # what is raised for one that cannot be read
) -> list[str]:
    """`digest_file` of each; those that have changed, or are new, are read in parallel threads. All are looked at before one is
    read."""
    store, key = Store(), {"version": VERSION, "folder": str(book.absolute())}
    with ThreadPoolExecutor(min(32, 4 * (os.cpu_count() or 1))) as pool:  # disk-bound, and sha256 releases the GIL
        now = stat_files(paths, pool, check)
        known, before, digests = _read(store, key)
        place = _places(known, paths)
        old = before[place]
        same = (place >= 0) & (now == old[:, :3]).all(1) & trusted(now[:, 1], old[:, 3])
        result = digests[place]
        missing = np.flatnonzero(~same)
        if not len(missing):
            return _as_text(now, result)

        def read(i: int) -> tuple[int, bytes]:
            started = time.time_ns()
            try:
                size, _, content = digest_file(Path(paths[i])).partition(":")
            except OSError as error:
                raise on_error(i, error) from None
            now[i, 0] = int(size)
            return started, bytes.fromhex(content)

        found = list(pool.map(read, missing.tolist()))
    read_at = old[:, 3].copy()
    read_at[missing] = [started for started, _ in found]
    result[missing] = np.frombuffer(b"".join(content for _, content in found), dtype=np.uint8).reshape(-1, 32)
    _write(store, key, paths, np.column_stack([now, read_at]), result, (known, before, digests))
    return _as_text(now, result)


def stat_files(paths: Sequence[str], pool: ThreadPoolExecutor, check: Callable[[int], None]) -> Stat:
    """(n, 3): what tells whether a file has changed. Raises OSError or ValueError for what cannot be looked at."""

    def look(first: int) -> list[tuple[int, int, int]]:
        found = []
        for i in range(first, min(first + CHUNK, len(paths))):
            try:
                status = os.stat(paths[i])
            except (OSError, ValueError):  # the latter: a name with a NUL
                check(i)
                raise
            if not S_ISREG(status.st_mode) or not status.st_size:
                check(i)
            found.append((status.st_size, status.st_mtime_ns, status.st_ctime_ns))
        return found

    rows = [row for part in pool.map(look, range(0, len(paths), CHUNK)) for row in part]
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


def trusted(mtime: np.ndarray, read_at: np.ndarray) -> np.ndarray:
    """Whether what was read at `read_at` is what a file with this mtime holds, if nothing else about it has changed (ns)."""
    tick = np.where(mtime % 1_000_000_000 == 0, COARSE_TICK, TICK)
    return np.asarray((mtime + tick < read_at) & (read_at >= verified_since()))


def _as_text(now: Stat, digests: np.ndarray) -> list[str]:
    """As `digest_file` writes them."""
    whole = digests.tobytes().hex()
    return [f"{size}:{whole[64 * i : 64 * i + 64]}" for i, size in enumerate(now[:, 0].tolist())]


def _read(store: Store, key: dict[str, object]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Paths; (n, 4) int64: size, mtime, ctime and when it was read; (n, 32) uint8 sha256. All with a last row for no file."""
    found = store.get(KIND, key)
    stat, digest = np.full((1, 4), -1, dtype=np.int64), np.zeros((1, 32), dtype=np.uint8)
    if found is None:
        return [], stat, digest
    paths = os.fsdecode(found["paths"].numpy().tobytes()).split("\0")
    return paths, np.vstack([found["stat"].numpy(), stat]), np.vstack([found["sha256"].numpy(), digest])


def _places(known: Sequence[str], paths: Sequence[str]) -> np.ndarray:
    """(n,): where each of `paths` is in `known`; -1 where it is not."""
    if known[: len(paths)] == list(paths):  # the manifest of before
        return np.arange(len(paths))
    number = {path: i for i, path in enumerate(known)}
    return np.array([number.get(path, -1) for path in paths], dtype=np.int64)


def _write(
    store: Store,
    key: dict[str, object],
    paths: Sequence[str],
    stat: np.ndarray,
    digests: np.ndarray,
    before: tuple[Sequence[str], np.ndarray, np.ndarray],
) -> None:
    """Keeps what is known, and what was known of other files that are still there."""
    own = set(paths)
    kept = [i for i, path in enumerate(before[0]) if path not in own and os.path.exists(path)]
    names = [*paths, *(before[0][i] for i in kept)]
    content = {
        "paths": torch.frombuffer(bytearray(os.fsencode("\0".join(names))), dtype=torch.uint8),
        "stat": torch.from_numpy(np.vstack([stat, before[1][kept]])),
        "sha256": torch.from_numpy(np.vstack([digests, before[2][kept]])),
    }
    keep(store, KIND, key, content)


def keep(store: Store, kind: str, key: Mapping[str, object], content: Mapping[str, torch.Tensor]) -> None:
    """Keeps what was read of files. A cache that cannot be written is not needed: the next start reads them again."""
    try:
        store.put(kind, key, content)
    except OSError as error:
        log.warning("what was read of files cannot be kept: %s", error)
