"""A pass in batches: what a break costs, that nobody can tell from the result that there was one, and who else may help."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from condense.data.dataset import MemorySplit, Split
from condense.data.decoding import cut
from condense.embeddings import encoding
from condense.embeddings.encoding import LARGEST_BATCH, Pass, embed_batches, encode, fitting_batch, item_bytes
from condense.inputs.spec import ArraySpec
from condense.storage.store import Store

CPU = torch.device("cpu")
KEY = {"dataset": "d", "encoder": "e"}
MODALITIES = ("vision", "audio")


class Projection:
    """A random projection onto the sphere; counts what it was given, and fails where it is told to."""

    dim, fingerprint, output_scale = 5, "projection", dict.fromkeys(MODALITIES, 1.0)

    def __init__(self, stop_at: float = math.inf, most: float = math.inf) -> None:
        generator = torch.Generator().manual_seed(0)
        self.matrix = {m: torch.randn(7, 5, generator=generator) for m in MODALITIES}
        self.specs: Mapping[str, Any] = {m: ArraySpec(m, (7,), -9.0, 9.0) for m in MODALITIES}
        self.items, self.stop_at, self.most = dict.fromkeys(MODALITIES, 0), stop_at, most

    def embed(self, modality: str, inputs: Tensor) -> Tensor:
        assert len(inputs)
        if len(inputs) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if self.items["vision"] >= self.stop_at:
            raise KeyboardInterrupt
        self.items[modality] += len(inputs)
        return torch.nn.functional.normalize(inputs @ self.matrix[modality], dim=1)


def make_split(count: int = 50, missing: bool = False) -> MemorySplit:
    """With `missing`, the first 8 items have no sound, nor has every third later; item 10 has nothing to be seen."""
    generator = torch.Generator().manual_seed(1)
    inputs = {m: torch.randn(count, 7, generator=generator) for m in MODALITIES}
    present = {}
    if missing:
        there = torch.arange(count)
        present = {"vision": there != 10, "audio": (there >= 8) & (there % 3 != 0)}
        for m, has in present.items():
            inputs[m][~has] = math.nan
    return MemorySplit(inputs, torch.zeros(count, dtype=torch.int64), present)


def embed_plainly(encoder: Projection, split: Split, batch: int) -> dict[str, Tensor]:
    """What the cache held before there were shards."""
    parts: dict[str, list[Tensor]] = {m: [] for m in MODALITIES}
    for items in cut(range(len(split)), batch):
        for name, inputs in split.load(items).items():
            has = split.present.get(name, torch.ones(len(split), dtype=torch.bool))[items.start : items.stop]
            embedded = torch.zeros(len(items), encoder.dim)
            if has.any():
                embedded[has] = encoder.embed(name, inputs[has])
            parts[name].append(embedded)
    return {name: torch.cat(of) for name, of in parts.items()}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is 4 items, and each a shard; nobody is waited for."""
    monkeypatch.setattr(encoding, "LARGEST_BATCH", 4)
    monkeypatch.setattr(encoding, "SHARD_SECONDS", 0.0)
    monkeypatch.setattr(encoding, "PATIENCE", 0.0)


def run(encoder: Projection, parts: Store, split: Split | None = None) -> dict[str, Tensor]:
    return encode(encoder, split or make_split(), CPU, parts, KEY)


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """`found` may have figures of the inputs as well (`condense/embeddings/input_figures.py`)."""
    embedded = {name: x for name, x in found.items() if not name.startswith("figures/")}
    torch.testing.assert_close(embedded, dict(expected), rtol=0, atol=0)


def shards(store: Store) -> list[Path]:
    return sorted((store.folder / "shard").glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns)


# The same as without shards -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("count", [12, 256, 300, 1100])
def test_the_result_has_the_bits_of_a_plain_loop(tmp_path: Path, count: int, missing: bool) -> None:
    split = make_split(count, missing)
    assert_same(run(Projection(), Store(tmp_path), split), embed_plainly(Projection(), split, 256))
    assert not shards(Store(tmp_path))  # a pass that is over in less than a minute
    assert not encode(Projection(), split, CPU, batch=7)["audio"][:8].any() or not missing


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("stop_at", [7, 21, 44])
def test_a_pass_goes_on_where_it_was_broken_off(tmp_path: Path, small: None, stop_at: int, missing: bool) -> None:
    split = make_split(missing=missing)
    expected, store = embed_plainly(Projection(), split, 4), Store(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(Projection(stop_at), store, split)
    kept = len(shards(store))
    assert 0 < kept <= 12
    encoder = Projection()
    found = run(encoder, store, split)
    assert_same(found, expected)
    there = split.present.get("vision", torch.ones(50, dtype=torch.bool))
    assert encoder.items["vision"] == int(there[4 * kept :].sum())  # none of what was kept, nothing but what is there


def test_a_damaged_shard_is_made_again_and_no_other(tmp_path: Path, small: None) -> None:
    store = Store(tmp_path)
    whole = run(Projection(), store)
    content = bytearray(shards(store)[5].read_bytes())
    content[-1] ^= 1
    shards(store)[5].write_bytes(content)
    shards(store)[7].write_bytes(b"torn")
    encoder = Projection()
    assert_same(run(encoder, store), whole)
    assert encoder.items["vision"] == 4 + 4 + 2  # the last batch was in no shard: it made the whole


def test_shards_decide_the_batch(tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Projection(stop_at=21), Store(tmp_path))
    monkeypatch.setattr(encoding, "LARGEST_BATCH", 8)  # as if there were more memory now
    encoder = Projection()
    assert_same(run(encoder, Store(tmp_path)), embed_plainly(Projection(), make_split(), 4))
    assert encoder.items["vision"] < 40


def test_shards_go_as_soon_as_there_is_the_entry(tmp_path: Path, small: None) -> None:
    store = Store(tmp_path)
    parts = store.parts("embeddings", KEY)

    def broken() -> dict[str, Tensor]:
        return run(Projection(stop_at=23), parts)

    with pytest.raises(KeyboardInterrupt):
        store.get_or_make("embeddings", KEY, broken)
    assert len(shards(parts)) > 3
    made = store.get_or_make("embeddings", KEY, lambda: run(Projection(), parts))
    assert not parts.folder.exists()
    parts.put("shard", KEY, made)  # as if it had been killed before it could tidy up
    assert_same(store.get_or_make("embeddings", KEY, broken), made)
    assert not parts.folder.exists()
    assert {path.suffix for path in store.path("embeddings", KEY).parent.iterdir()} == {".safetensors", ".lock"}


# Others that help -----------------------------------------------------------------------------------------------------


def make_pass(parts: Store | None = None) -> Pass:
    return Pass(50, 4, parts, KEY, "items", math.inf)


@settings(max_examples=30)
@given(st.lists(st.sampled_from(["", "a", "b", "a dies"]), max_size=40))
def test_each_batch_gets_done_whoever_takes_it(order: list[str]) -> None:
    """`a` and `b` hand in what they take one turn later, or never, if `a` dies; here, it goes on to the end."""
    split, work = make_split(), make_pass()
    whole, held, alive = embed_plainly(Projection(), split, 4), {"a": [], "b": []}, True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "PATIENCE", 0.0)
        for who in order:
            alive = alive and who != "a dies"
            if who in ("a dies", "") or (who == "a" and not alive):
                continue
            for items in held[who]:
                work.put(items, {m: x[items.start : items.stop] for m, x in whole.items()})
            taken = work.take(who)
            held[who] = [taken] if taken else []
        with work:
            embed_batches(Projection(), split, CPU, 4, work.take, work.put)
        assert not work.missing and work.have == 50
        assert_same(work.result, whole)
        for items in [*held["a"], *held["b"]]:  # who comes too late changes nothing
            work.put(items, {m: x[items.start : items.stop] + 1 for m, x in whole.items()})
        assert work.take("a") is None
        assert_same(work.result, whole)


def test_what_another_has_done_is_kept_and_not_done_here(tmp_path: Path, small: None) -> None:
    split, store = make_split(), Store(tmp_path)
    work, there, here = make_pass(store), Projection(), Projection()
    assert embed_batches(there, split, CPU, 4, lambda: None if there.items["vision"] else work.take("a"), work.put) == 4
    again = make_pass(store)
    assert again.have == 4
    embed_batches(here, split, CPU, 4, again.take, again.put)
    assert here.items["vision"] == 46
    assert_same(again.result, embed_plainly(Projection(), split, 4))


def test_the_end_waits_for_what_others_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "PATIENCE", 60.0)
    split, work, here = make_split(), make_pass(), Projection()
    whole = embed_plainly(Projection(), split, 4)
    items = work.take("a")
    assert items is not None
    timer = threading.Timer(0.2, work.put, (items, {m: x[:4] for m, x in whole.items()}))
    timer.start()
    embed_batches(here, split, CPU, 4, work.take, work.put)
    timer.join()
    assert_same(work.result, whole)
    assert here.items["vision"] == 46


# What may go wrong on the device --------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("most", [1, 3, 100])
def test_a_batch_that_is_too_large_is_halved(most: int, missing: bool) -> None:
    split = make_split(missing=missing)
    found = encode(Projection(most=most), split, CPU, batch=16)
    torch.testing.assert_close(found, embed_plainly(Projection(), split, 16))
    with pytest.raises(torch.OutOfMemoryError):
        encode(Projection(most=0), split, CPU, batch=16)


def test_an_item_that_is_not_finite_is_named(tmp_path: Path, small: None) -> None:
    split = make_split(missing=True)
    split.inputs["audio"][41] = math.nan
    with pytest.raises(FloatingPointError, match="the audio embedding of item 41 is not finite"):
        run(Projection(), Store(tmp_path), split)
    assert len(shards(Store(tmp_path))) == 10


@given(st.floats(1, 1e12), st.integers(0, 1 << 40))
def test_a_batch_is_the_largest_that_fits(size: float, memory: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "item_bytes", lambda *_: size)
        patch.setattr(encoding, "budget", lambda _: memory)
        batch = fitting_batch(Projection(), make_split(300), CPU)
        assert (
            fitting_batch(Projection(), make_split(256), CPU) == LARGEST_BATCH
        )  # whoever has few items has none to lose
    assert batch == 1 or batch * size <= memory
    assert batch == LARGEST_BATCH or 2 * batch * size > memory
    assert LARGEST_BATCH % batch == 0


def test_memory_is_that_of_the_largest_modality(small_task: Any) -> None:
    task = small_task()
    least = max(4 * math.prod(spec.shape) for spec in task.dataset.specs.values())
    assert least < item_bytes(task.encoder, task.dataset.condense, CPU) < 1e8
    encoder = Projection()
    assert item_bytes(encoder, make_split(missing=True), CPU) > 0
    assert encoder.items == {"vision": 2, "audio": 2}  # of the first that have it
    assert fitting_batch(Projection(most=1), make_split(300), CPU) == 1
