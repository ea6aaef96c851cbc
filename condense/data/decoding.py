"""Decodes a split's items ahead of their use, in worker processes, so that disks, cores and the device work at the same
time.

The processes are torch's `DataLoader`'s. They are forked from a server without CUDA and Ray threads, which
imports torch once for all of them. They end with this process, however it ends.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import pickle
import shutil
import threading
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from condense.data.dataset import Split
from condense.data.manifest import ManifestSplit
from condense.system.errors import UserError
from condense.system.process import cores, prepare_process

log = logging.getLogger(__name__)
VARIABLE = "CONDENSE_WORKERS"
MOST_WORKERS = 8
CHUNK = 32  # items that a worker decodes at a time
AHEAD = 2  # chunks that each worker decodes ahead
WORTHWHILE = 4096  # items: with fewer, threads finish before processes have started
SHARED_MEMORY = Path("/dev/shm")


def worker_count() -> int:
    """`$CONDENSE_WORKERS`, or one less than the cores of this process, at most 8; 0 instead of 1, since threads do better then.
    Raises UserError if the variable is not a whole number."""
    chosen = os.environ.get(VARIABLE, "").strip()
    if not chosen:
        return min(MOST_WORKERS, cores() - 1) if cores() > 2 else 0
    if not (chosen.isascii() and chosen.isdecimal()):
        raise UserError(f"${VARIABLE}: must be a whole number of processes (0: none), but got {chosen!r}")
    return int(chosen)


def workers_for(split: Split) -> int:
    """The number of processes to decode `split` with; 0: none.

    Only files are decoded. Inputs that a user's own encoder file defines cannot be sent to another process.
    """
    count = worker_count()
    if count == 0 or len(split) < WORTHWHILE or not isinstance(split, ManifestSplit):
        return 0
    try:
        pickle.dumps(split)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        log.info("decoding in this process: %s", error)
        return 0
    return count


def cut(items: range, size: int) -> list[range]:
    """`items` in parts of `size`; the last may be smaller."""
    return [items[first : first + size] for first in range(0, len(items), size)]


def decoded(
    split: Split, chunks: Iterable[range], workers: int, device: torch.device | None = None
) -> Iterator[dict[str, Tensor]]:
    """`split.load(chunk)` of all chunks in order, by so many processes; 0: in this process, on demand.

    `chunks` are taken only when a process can start on them. Tensors for a GPU (`device`) are in pinned memory.
    If a process dies (out of memory, a decoder that crashes on a damaged file), this process decodes the rest. Raises
    whatever `load` raises.
    """
    left = iter(chunks)
    if workers:
        begun: deque[range] = deque()  # given to a process, not returned yet

        def begin() -> Iterator[range]:
            for chunk in left:
                begun.append(chunk)
                yield chunk

        try:
            for items in _loaded(split, begin(), workers, device):
                begun.popleft()
                yield items
        except _WorkerDied as error:
            log.warning("continuing to decode without worker processes: %s", error)
        for chunk in begun:
            yield split.load(chunk)
    for chunk in left:
        yield split.load(chunk)


class _WorkerDied(Exception):
    pass


class _Loading(Dataset):
    """What a worker runs. Returns a UserError as a value: raised, its message would include a traceback."""

    def __init__(self, split: Split, as_arrays: bool) -> None:
        self.split, self.as_arrays = split, as_arrays

    def __getitem__(self, chunk: range) -> Mapping[str, Tensor | np.ndarray] | UserError:
        try:
            items = self.split.load(chunk)
        except UserError as error:
            return error
        return {name: tensor.numpy() for name, tensor in items.items()} if self.as_arrays else items


def _loaded(
    split: Split, chunks: Iterable[range], workers: int, device: torch.device | None
) -> Iterator[dict[str, Tensor]]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "condense.data.manifest", __name__])
    with warnings.catch_warnings():  # more processes than cores are the user's choice
        warnings.simplefilter("ignore")
        loader = DataLoader(
            _Loading(split, as_arrays=not _fits_shared_memory(split, workers)),
            sampler=chunks,
            batch_size=None,
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=device is not None and device.type == "cuda",
            worker_init_fn=_begin,
            multiprocessing_context=context,
            prefetch_factor=AHEAD,
        )
    iterator = iter(loader)
    while True:
        try:
            items = next(iterator)
        except StopIteration:
            return
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise _WorkerDied(" ".join(str(error).split())) from None
        if isinstance(items, UserError):
            raise items
        yield {name: torch.from_numpy(x) if isinstance(x, np.ndarray) else x for name, x in items.items()}


def _as_it_is(items: object) -> object:
    return items


def _fits_shared_memory(split: Split, workers: int) -> bool:
    """Whether the chunks decoded ahead fit into shared memory: a container may have only 64 MB, and a write beyond that
    crashes. If not, they are sent through pipes, which costs a copy."""
    if not isinstance(split, ManifestSplit):
        return False
    size = 4 * CHUNK * sum(math.prod(spec.shape) for spec in split.specs.values())
    try:
        return (workers * AHEAD + 2) * size < shutil.disk_usage(SHARED_MEMORY).free / 2
    except OSError:
        return False


def _begin(worker: int) -> None:
    """Ends a worker whose parent was killed: a process forked from a server is not notified, so it checks."""
    prepare_process()  # sounds are large buffers, too
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent").start()
