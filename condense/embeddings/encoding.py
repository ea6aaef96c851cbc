"""One pass of a split through an encoder, however many items it has.

The split is cut into batches. A long pass keeps what it has about once a minute, in a shard beside the entry of the store
that all of it becomes: one that was killed goes on there. The same batches go through the encoder whether or not there was
a break, so on one device the result has the same bits. Others than this process may do some of the batches.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from condense.data.dataset import Split
from condense.data.decoding import CHUNK, cut, decoded, workers_for
from condense.embeddings.input_figures import PREFIX, figures
from condense.encoders.protocol import Encoder
from condense.storage.store import Store
from condense.system.device_memory import budget, is_out_of_memory, measured
from condense.system.precision import full_float32
from condense.system.progress import Progress

LARGEST_BATCH = 256  # items: more of them are not faster
SHARD_SECONDS = 60.0  # what a kill may cost, and a batch
PATIENCE = 10.0  # seconds that the end of a pass waits for batches which others have, before it does them itself
PROBE = {"cpu": 2, "cuda": 8}  # items that memory is measured on
OnPass = Callable[["Pass | None"], None]
THIS_PROCESS = ""  # as the worker that takes a batch


def encode(
    encoder: Encoder,
    split: Split,
    device: torch.device,
    parts: Store | None = None,
    key: Mapping[str, Any] | None = None,
    *,
    name: str = "items",
    quiet: float = math.inf,
    batch: int | None = None,
    on_pass: OnPass | None = None,
    with_figures: bool = False,
) -> dict[str, Tensor]:
    """modality -> (n, D) float32 on the CPU, of unit norm; zeros for what an item lacks, which no encoder sees.
    `with_figures`: also figures/modality -> (n, 3), zeros likewise (`condense.embeddings.input_figures.figures`).

    `parts`: where shards are kept, of what `key` says; None: nowhere. `name`: what progress calls the split; `quiet`:
    seconds before there is any. `batch`: items; by default as many as the device has memory for. `on_pass` gets the pass as
    it begins, and None when it has ended: another thread may then take batches of it.

    Raises UserError if an item cannot be read, FloatingPointError if its embedding is not finite; shards are kept.
    """
    batch = batch or _batch_of(parts) or fitting_batch(encoder, split, device)
    with Pass(len(split), batch, parts, key, name, quiet) as work:
        if on_pass is not None:
            on_pass(work)
        try:
            with full_float32():
                embed_batches(encoder, split, device, batch, work.take, work.put)
        finally:
            if on_pass is not None:
                on_pass(None)
    return {name: x for name, x in work.result.items() if with_figures or not name.startswith(PREFIX)}


class Pass:
    """Which batches are still to be done, and the embeddings of the others. Its methods may be called by any thread.

    As a context manager it shows progress, and keeps what is done when an error ends it.
    """

    def __init__(
        self, count: int, batch: int, parts: Store | None, key: Mapping[str, Any] | None, name: str, quiet: float
    ) -> None:
        """See `encode`. What shards there are is read."""
        self.count, self.batch, self.parts, self.key = count, batch, parts, key
        self.result: dict[str, Tensor] = {}
        self.have = 0  # items that are done
        self.missing = {items.start: items for items in cut(range(count), batch)}
        self.unsaved: list[range] = []
        if parts is not None:
            self._read(parts)
        self.waiting = deque(self.missing.values())
        self.taken: dict[int, tuple[range, str]] = {}  # what is being done, and by which worker
        self.changed = threading.Condition()
        self.saved = time.monotonic()

        def told(have: int, rate: float, left: str) -> str:
            pace = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
            return (
                f"encoding {name}: {have:,} of {count:,} ({100 * have / max(1, count):.1f} %), {pace} items/s, {left}"
            )

        self.progress = Progress(count, told, self.have, quiet)

    def take(self, worker: str = THIS_PROCESS) -> range | None:
        """The next batch for `worker`; None if there is none left.

        At the end this process waits a little for what others have taken, and then does it as well: they may be gone.
        """
        with self.changed:
            if worker == THIS_PROCESS and not self._left():
                self.changed.wait_for(lambda: not self._elsewhere(), PATIENCE)
                self.waiting.extend(self._elsewhere())
            if not self._left():
                return None
            items = self.waiting.popleft()
            self.taken[items.start] = items, worker
            return items

    def put(self, items: range, embedded: Mapping[str, Tensor]) -> None:
        """Hands in a batch: modality -> (len(items), D). One that is there already is ignored."""
        with self.changed:
            self.taken.pop(items.start, None)
            if items.start not in self.missing:
                return
            self._copy(torch.arange(items.start, items.stop), embedded)
            del self.missing[items.start]
            self.unsaved.append(items)
            if self.missing and time.monotonic() - self.saved >= SHARD_SECONDS:
                self._save()
            self.progress.show(self.have)
            self.changed.notify_all()

    def __enter__(self) -> Pass:
        self.progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self.changed:
            if error is None:
                self.progress.end(self.have)
            elif self.unsaved:
                self._save()
            self.progress.__exit__(kind, error, trace)

    def _left(self) -> bool:
        """Whether a batch waits; those that somebody has handed in meanwhile do not."""
        while self.waiting and self.waiting[0].start not in self.missing:
            self.waiting.popleft()
        return bool(self.waiting)

    def _elsewhere(self) -> list[range]:
        return [items for items, worker in self.taken.values() if worker != THIS_PROCESS]

    def _copy(self, rows: Tensor, embedded: Mapping[str, Tensor]) -> None:
        for name, x in embedded.items():
            if name not in self.result:
                self.result[name] = torch.zeros(self.count, *x.shape[1:])
            self.result[name][rows] = x
        self.have += len(rows)

    def _save(self) -> None:
        """Keeps what has come since the last time as a shard. The batch is in its key because last bits depend on it."""
        if self.parts is not None:
            rows = torch.cat([torch.arange(items.start, items.stop) for items in self.unsaved])
            key = {"of": self.key, "batch": self.batch, "first": int(rows[0])}
            self.parts.put("shard", key, {"item": rows, **{name: x[rows] for name, x in self.result.items()}})
        self.unsaved, self.saved = [], time.monotonic()

    def _read(self, parts: Store) -> None:
        for key in parts.keys("shard"):
            found = parts.get("shard", key) if key["batch"] == self.batch else None
            if found is not None:
                rows = found.pop("item")
                self._copy(rows, found)
                for first in rows[rows % self.batch == 0].tolist():
                    self.missing.pop(first, None)


def embed_batches(
    encoder: Encoder,
    split: Split,
    device: torch.device,
    batch: int,
    take: Callable[[], range | None],
    put: Callable[[range, dict[str, Tensor]], None],
) -> int:
    """Embeds the batches of at most `batch` items that `take` gives out, until there are none, and hands them to `put`.

    Decoding runs ahead of the encoder. Returns the number of items. Raises what `encode` does.
    """
    workers = workers_for(split)
    size = min(CHUNK, batch) if workers else batch
    taken: deque[range] = deque()
    count = 0

    def chunks() -> Any:
        while (items := take()) is not None:
            taken.append(items)
            yield from cut(items, size)

    stream = decoded(split, chunks(), workers, device)
    embedder = Embedder(encoder, split.present, device, batch)
    for first in stream:
        items = taken.popleft()
        loaded = [first, *(next(stream) for _ in cut(items, size)[1:])]
        put(items, embedder(loaded, items))
        count += len(items)
    return count


class Embedder:
    """An encoder with the batch that its device has memory for: when that proves too large, it is halved for good."""

    def __init__(self, encoder: Encoder, present: Mapping[str, Tensor], device: torch.device, batch: int) -> None:
        """`present`: as in `Split`."""
        self.encoder, self.present, self.device, self.batch = encoder, present, device, batch

    @torch.no_grad()
    def __call__(self, chunks: Sequence[Mapping[str, Tensor]], items: range) -> dict[str, Tensor]:
        """modality -> (n_i, *shape), which are `items` in order, to modality -> (n, D) float32 on the CPU.

        Raises FloatingPointError if an embedding is not finite.
        """
        while True:
            try:
                found: dict[str, Tensor] = {}
                for name in chunks[0]:
                    found[name], found[PREFIX + name] = self._embed(name, [chunk[name] for chunk in chunks], items)
                return found
            except Exception as error:
                if self.batch == 1 or not is_out_of_memory(error):
                    raise
            # Here the frames that the exception held are gone, and with them what they had allocated.
            self.batch = (self.batch + 1) // 2
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _embed(self, name: str, chunks: list[Tensor], items: range) -> tuple[Tensor, Tensor]:
        inputs = torch.cat([chunk.to(self.device, non_blocking=True) for chunk in chunks])
        result = torch.zeros(len(items), self.encoder.dim)
        rows = torch.arange(len(items))
        if name in self.present:
            rows = rows[self.present[name][items.start : items.stop]]
            if len(rows) < len(items):
                inputs = inputs[rows.to(self.device)]
        known = torch.zeros(len(items), 3)
        if len(rows):
            known[rows] = figures(inputs)
        for at in range(0, len(rows), self.batch):
            embedded = self.encoder.embed(name, inputs[at : at + self.batch]).float()
            if not embedded.isfinite().all():
                bad = items.start + int(rows[at + int((~embedded.isfinite().all(1)).nonzero()[0])])
                raise FloatingPointError(f"the {name} embedding of item {bad} is not finite")
            result[rows[at : at + self.batch]] = embedded.cpu()
        return result, known


def fitting_batch(encoder: Encoder, split: Split, device: torch.device) -> int:
    """The largest batch that the device has memory for, as a power of two, so that it seldom depends on what else the
    memory holds. A split of a single batch is not worth measuring."""
    batch = LARGEST_BATCH
    if len(split) <= batch:
        return batch
    try:
        size = item_bytes(encoder, split, device)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return PROBE[device.type] // 2  # and `Embedder` finds out whether that fits
    memory = budget(device)
    while batch > 1 and batch * size > memory:
        batch //= 2
    return batch


def item_bytes(encoder: Encoder, split: Split, device: torch.device) -> float:
    """What the encoder takes for an item, of the modality that takes most, estimated from the first ones that have it.

    A CPU's are measured as for a backward pass, which keeps more.
    """
    most = 0.0
    for name in split.load(range(1)):
        has = split.present.get(name, torch.ones(len(split), dtype=torch.bool))
        chosen = has.nonzero()[: PROBE[device.type], 0]
        if len(chosen):
            inputs = split.load(chosen)[name].to(device)
            with measured(device) as peak, torch.set_grad_enabled(device.type != "cuda"):
                encoder.embed(name, inputs.detach().requires_grad_(device.type != "cuda"))
            most = max(most, (peak.bytes + inputs.nbytes) / len(inputs))
    return most


def _batch_of(parts: Store | None) -> int | None:
    """That of the shards that are there: where another batch fits now, they are not lost."""
    kept = [] if parts is None else parts.keys("shard")
    return int(kept[0]["batch"]) if kept else None
