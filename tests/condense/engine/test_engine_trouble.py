"""Twenty replicas in one engine that is short of memory, while some of them fail, stop, leave or come back: each must take
the path that it takes alone, and what happens to one is no matter to the others."""

from __future__ import annotations

import dataclasses
import gc
import math
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine import CAST, PAIR, STEPS, TRIPLE, assert_same_path, of_cast, path_alone, replica
from torch import Tensor

from condense.embeddings.task import Task
from condense.engine.engine import Engine, Need, _shape
from condense.engine.replica_batch import ReplicaBatch
from condense.evaluation.replica_scores import validate
from condense.method.condensation import Condensation
from condense.system import device_memory as memory

TWENTY: list[dict[str, Any]] = [
    *(member for member in CAST if "views" not in member),  # whose encoder sees other values than the items'
    *(
        {"modalities": PAIR, "dpc": 1 + i % 2, "seed": 10 + i, "learning_rate": 0.05 * (i + 1), "lambda_cross": 0.3 * i}
        for i in range(8)
    ),
    *({"modalities": TRIPLE, "dpc": 1, "seed": 20 + i, "learning_rate": 0.1, "momentum": 0.3 * i} for i in range(3)),
]


class Limited:
    """An encoder on a device without memory for more than `most` items at once, and that chokes on `poison`."""

    POISON = 0.123456789

    def __init__(self, encoder: Any, most: int, most_without: int = 10**9) -> None:
        """`most_without`: items at once where activations are not kept."""
        self.encoder, self.most, self.most_without = encoder, most, most_without
        self.batches: list[int] = []  # sizes of those that went through with their activations kept

    def __getattr__(self, name: str) -> Any:
        return getattr(self.encoder, name)

    def embed(self, modality: str, inputs: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            if len(inputs) > self.most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            self.batches.append(len(inputs))
        elif len(inputs) > self.most_without:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if bool((inputs.detach().flatten(1)[:, 0] == torch.tensor(self.POISON)).any()):
            raise RuntimeError("poisoned")
        embedded: Tensor = self.encoder.embed(modality, inputs)
        return embedded


def limited(task: Task, most: int) -> Task:
    return dataclasses.replace(task, encoder=Limited(task.encoder, most))


def of_twenty(i: int, tasks: dict[tuple[str, ...], Task]) -> Condensation:
    member = dict(TWENTY[i])
    return replica(tasks[member.pop("modalities")], total_steps=STEPS + i, **member)


@pytest.fixture(scope="module")
def alone(small_task) -> list[list[tuple[dict[str, Tensor], Tensor]]]:
    """Per replica and number of steps: its inputs, and the losses so far, in an engine of its own."""
    tasks = {m: small_task(m) for m in (PAIR, TRIPLE)}
    return [path_alone(of_twenty(i, tasks)) for i in range(len(TWENTY))]


@pytest.fixture(autouse=True, scope="module")
def _small_parts() -> Iterator[None]:
    """These replicas are so small that workers would not divide them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("condense.engine.engine.LEAST_PART", 10_000)
        yield


# What may happen to a replica between two steps. Most of the time nothing does.
happenings = st.lists(
    st.dictionaries(
        st.integers(0, len(TWENTY) - 1),
        st.sampled_from(["rests", "leaves", "comes back", "stops", "poisoned", "not a number"]),
        max_size=6,
    ),
    min_size=STEPS,
    max_size=STEPS + 2,
)


@given(
    schedule=happenings,
    most=st.integers(1, 40),
    budget=st.none() | st.integers(10_000, 2_000_000),
    workers=st.integers(1, 3),
)
@settings(max_examples=12)
def test_twenty_replicas_whatever_happens_to_some(small_task, alone, schedule, most, budget, workers):
    tasks = {m: limited(small_task(m), most) for m in (PAIR, TRIPLE)}
    engine = Engine(budget, workers)
    cast = {i: of_twenty(i, tasks) for i in range(len(TWENTY))}
    losses = {i: torch.empty(0, 4) for i in cast}
    expected_to_fail: set[int] = set()
    lost: set[int] = set()  # those that failed, or were not a number
    for events in schedule:
        resting = set()
        for i, event in events.items():
            if i not in cast or i in lost:
                continue
            match event:
                case "rests":
                    resting.add(i)
                case "stops":
                    engine.leave(cast.pop(i))
                case "leaves" | "comes back":
                    losses[i] = torch.cat([losses[i], engine.losses_of(cast[i])])
                    state = cast[i].state_dict()
                    engine.leave(cast[i])
                    cast[i] = of_twenty(i, tasks)
                    cast[i].load_state_dict(state)
                    if event == "leaves":
                        resting.add(i)
                case "poisoned":
                    next(iter(cast[i].inputs.values()))[0].flatten()[0] = Limited.POISON
                    expected_to_fail.add(i)
                case "not a number":
                    next(iter(cast[i].inputs.values()))[0].flatten()[0] = math.nan
                    lost.add(i)
        live = {i: r for i, r in cast.items() if i not in resting and r.step < STEPS and i not in lost}
        broken = [cast[i] for i in lost if i in cast and cast[i].divergence is None]
        failures = engine.step([*live.values(), *broken])
        failed = {i for i, r in cast.items() if any(f.replica is r for f in failures)}
        assert failed == expected_to_fail & set(live)
        assert all("poisoned" in str(f.error) for f in failures)
        for i in failed:
            engine.leave(cast.pop(i))
        for r in broken:
            engine.losses_of(r)
            assert r.divergence is not None
    for i, r in cast.items():
        if i not in lost | expected_to_fail:
            assert_same_path(r, torch.cat([losses[i], engine.losses_of(r)]), alone[i][r.step])
            assert r.divergence is None


# Out of memory --------------------------------------------------------------------------------------------------------


def cast_of(task: Task, count: int, dpc: int = 1) -> list[Condensation]:
    return [replica(task, dpc, seed=i, learning_rate=0.1) for i in range(count)]


def test_out_of_memory_halves_the_pack_and_is_remembered(small_task):
    task = limited(small_task(), 13)  # 4 replicas of 3 items
    cast, engine = cast_of(task, 16), Engine()
    engine.run(cast, 2)
    task.encoder.batches.clear()
    engine.run(cast, 1)
    assert set(task.encoder.batches) == {12}
    assert len(task.encoder.batches) == 4 * 2  # modalities
    plain = cast_of(small_task(), 16)
    Engine().run(plain, 3)
    for r, other in zip(cast, plain, strict=True):
        assert_same_path(r, torch.empty(0, 4), (other.inputs, torch.empty(0, 4)))


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_gradients_in_parts_are_those_of_all_at_once(small_task, at_once):
    """With formations and views, where an item is more than one for the encoder, and parts end inside of a replica."""
    cast = [of_cast(small_task, i) for i, member in enumerate(CAST) if member["modalities"] == PAIR]
    whole, in_parts = (ReplicaBatch(cast).gradients(most) for most in (None, at_once))
    for m, gradient in whole.gradients.items():
        torch.testing.assert_close(in_parts.gradients[m], gradient, rtol=1e-4, atol=1e-6 * gradient.abs().max().item())
    for (_, one), (_, other) in zip(whole.losses, in_parts.losses, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_replica_that_is_too_large_goes_through_in_parts(small_task):
    task = limited(small_task(), 4)
    (r,), engine = cast_of(task, 1, dpc=5), Engine()  # 15 items
    losses = engine.run([r], 4)[0]
    assert task.encoder.batches and set(task.encoder.batches) <= {2, 3, 4}  # at least half of what fits
    (plain,) = cast_of(small_task(), 1, dpc=5)
    assert_same_path(r, losses, (plain.inputs, Engine().run([plain], 4)[0]))


def test_replicas_that_are_too_large_do_not_slow_the_others_down(small_task):
    task = limited(small_task(), 6)
    large, small = cast_of(task, 3, dpc=5), cast_of(task, 4)  # of 15 and of 3 items
    engine = Engine()
    engine.run(large, 3)
    engine.run(small, 3)
    task.encoder.batches.clear()
    engine.run(small, 1)
    assert set(task.encoder.batches) <= {3, 6}  # not item by item
    for r, seed in zip(large, range(3), strict=True):
        plain = replica(small_task(), 5, seed=seed, learning_rate=0.1)
        Engine().run([plain], 3)
        assert_same_path(r, torch.empty(0, 4), (plain.inputs, torch.empty(0, 4)))


def test_no_memory_for_a_single_item_is_that_replicas_failure(small_task):
    starved, fine = limited(small_task(), 0), small_task()
    bad, good = cast_of(starved, 1)[0], cast_of(fine, 1)[0]
    (failure,) = Engine().step([bad, good])
    assert failure.replica is bad
    assert isinstance(failure.error, torch.OutOfMemoryError)
    assert good.step == 1


def test_validation_finds_out_what_fits(small_task, monkeypatch):
    monkeypatch.setattr("condense.evaluation.replica_scores.AT_ONCE", 32)
    task = dataclasses.replace(small_task(), encoder=Limited(small_task().encoder, 100, most_without=5))
    starved, fine = cast_of(task, 3, dpc=4), cast_of(small_task(), 3, dpc=4)  # 12 items each
    assert validate(starved) == pytest.approx(validate(fine), abs=1e-6)
    task.encoder.most_without = 0
    with pytest.raises(torch.OutOfMemoryError):
        validate(starved)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("another")])
def test_who_tries_again_has_the_memory_of_what_failed(small_task, monkeypatch, error):
    passes: list[tuple[weakref.ref[Tensor], weakref.ref[ReplicaBatch]]] = []
    alive: list[int] = []
    losses = ReplicaBatch._losses

    def fail_together(self: ReplicaBatch, cut: dict[str, Tensor], block: slice | None = None) -> Any:
        alive.append(sum(x() is not None or pack() is not None for x, pack in passes))
        passes.append((weakref.ref(next(iter(cut.values()))), weakref.ref(self)))
        if len(self.replicas) > 1:
            raise error.with_traceback(None)
        return losses(self, cut, block)

    cast, engine = cast_of(small_task(), 4), Engine(workers=1)
    engine._needs[_shape(cast[0])] = Need(0, 1)
    monkeypatch.setattr(ReplicaBatch, "_losses", fail_together)
    gc.disable()
    try:
        assert engine.step(cast) == []
    finally:
        gc.enable()
    assert [r.step for r in cast] == [1] * 4
    # The whole, a half, its quarters, the other half, its quarters: a quarter's pack is kept for the next step.
    assert alive == [0, 0, 0, 1, 2, 2, 3]


@pytest.mark.parametrize(
    ("error", "known"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_how_a_lack_of_memory_is_told(error, known):
    assert memory.is_out_of_memory(error) is known


def test_an_error_in_the_update_is_not_tried_again(small_task, monkeypatch):
    """By then some tensors have changed."""
    cast = cast_of(small_task(), 3)

    def fail(*_: Any) -> None:
        raise RuntimeError("torn")

    monkeypatch.setattr(ReplicaBatch, "_update", fail)
    failures = Engine().step(cast)
    assert [f.replica for f in failures] == cast


# The budget -----------------------------------------------------------------------------------------------------------


def sizes(engine: Engine, cast: Sequence[Condensation]) -> list[int]:
    engine.step(cast)
    return [len(part.replicas) for part in engine._parts_of(cast)]


def test_packs_fit_into_the_budget(small_task):
    cast = cast_of(small_task(), 12)
    one = Engine()
    one.step(cast)
    (need,) = one._needs.values()
    assert need.each > 1000
    assert sizes(Engine(need.fixed + 5 * need.each), cast) == [5, 5, 2]
    assert sizes(Engine(need.fixed + 12 * need.each), cast) == [12]
    assert sizes(Engine(1), cast) == [1] * 12


def test_workers_share_the_work(small_task):
    cast = cast_of(small_task(), 12)
    assert sizes(Engine(workers=2), cast) == [6, 6]
    assert sizes(Engine(workers=5), cast) == pytest.approx([2.4] * 5, abs=0.7)
    one = Engine(workers=1)
    assert sizes(one, cast) == [12]
    (need,) = one._needs.values()
    assert sizes(Engine(2 * (need.fixed + 4 * need.each), 2), cast) == [4, 2, 4, 2]  # two at a time fit


def test_one_that_has_the_device_to_itself_again_goes_through_whole(small_task):
    cast = cast_of(small_task(), 2)
    one = Engine(workers=1)
    one.step(cast)
    (need,) = one._needs.values()
    engine = Engine(int(1.5 * (need.fixed + need.each)), workers=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("condense.engine.engine.LEAST_PART", 1)
        engine.step(cast)
    shape = _shape(cast[0])
    assert engine._items_at_once(shape) is not None  # two parts side by side: neither fits
    engine.leave(cast[1])
    engine.step(cast[:1])
    assert engine._items_at_once(shape) is None


def test_workers_take_every_item_once_and_pass_errors_on():
    engine = Engine(workers=3)
    assert engine.each(lambda x: x * x, range(20)) == [x * x for x in range(20)]
    with pytest.raises(ZeroDivisionError):
        engine.each(lambda x: 1 / x, [1, 0, 2])


def test_memory_of_a_pass_is_linear_in_its_replicas(small_task):
    """So that one and two tell of many."""
    for modalities, dpc in ((PAIR, 1), (PAIR, 4), (TRIPLE, 2)):
        taken = []
        for count in (1, 2, 10):
            with memory.measured(torch.device("cpu")) as peak:
                ReplicaBatch(cast_of(small_task(modalities), count, dpc)).gradients()
            taken.append(peak.bytes)
        one, two, ten = taken
        assert one + 9 * (two - one) == pytest.approx(ten, rel=0.05)


def test_host_memory_minds_the_control_group(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 8000 kB\n")
    assert memory.host_memory(tmp_path) == 8000 * 1024
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("1000000\n")
    (group / "memory.stat").write_text("anon 1\ninactive_file 400000\n")
    assert memory.host_memory(tmp_path) == 8000 * 1024
    (group / "memory.max").write_text("2000000\n")
    assert memory.host_memory(tmp_path) == 2000000 - 600000
    assert memory.host_memory(tmp_path / "nothing") > 0


def test_the_budget_is_asked_for_anew_when_the_replicas_change(small_task, monkeypatch):
    cast = cast_of(small_task(), 6)
    engine = Engine()
    engine.step(cast)
    (need,) = engine._needs.values()
    monkeypatch.setattr("condense.engine.engine.LEAST_BUDGET", 1)
    monkeypatch.setattr(memory, "budget", lambda device: need.fixed + 2 * need.each)
    assert sizes(engine, cast[:5]) == [2, 2, 1]
    assert len(validate(cast)) == 6
