"""What is quadratic in the items: the same in blocks of any size as by plain loops, and never whole."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from condense.config.models import Hyperparameters
from condense.embeddings.embeddings import Embedded
from condense.embeddings.task import Task
from condense.evaluation import replica_scores, retrieval_metric, row_blocks
from condense.evaluation.diagnostics import class_recall
from condense.evaluation.replica_scores import validate_items
from condense.evaluation.retrieval import retrieval_recall, train_projection_sets, train_projections
from condense.evaluation.retrieval_metric import distinct_items, full_projections, mean_recall, retrieval_scores
from condense.method.condensation import Condensation

DIM = 4


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    x = torch.tensor(np.random.default_rng(seed).normal(size=shape), dtype=torch.float32)
    return torch.nn.functional.normalize(x, dim=-1)


class Largest(TorchDispatchMode):
    """The most numbers that a single tensor had while it was on."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for each in found if isinstance(found, (tuple, list)) else (found,):
            if isinstance(each, torch.Tensor) and each.untyped_storage().nbytes() > 0:
                self.numbers = max(self.numbers, each.untyped_storage().nbytes() // each.element_size())
        return found


@contextlib.contextmanager
def in_blocks_of(numbers: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_blocks, "BLOCK", numbers)
        yield


@given(rows=st.integers(0, 200), columns=st.integers(0, 50), block=st.integers(1, 500))
def test_blocks_hold_every_row_once_and_no_more_numbers_than_allowed(rows: int, columns: int, block: int) -> None:
    with in_blocks_of(block):
        slices = list(row_blocks.row_blocks(rows, columns))
    assert [i for part in slices for i in range(part.start, part.stop)] == list(range(rows))
    assert all((part.stop - part.start) * columns <= block or part.stop - part.start == 1 for part in slices)


@given(seed=st.integers(0, 2**31), clips=st.integers(1, 9), captions=st.integers(1, 4), block=st.integers(1, 200))
@settings(max_examples=40, deadline=None)
def test_recalls_in_blocks_are_those_of_the_whole(seed: int, clips: int, captions: int, block: int) -> None:
    n = clips * captions
    of_row = torch.tensor(np.random.default_rng(seed).permutation(np.repeat(np.arange(clips), captions)))
    a, b = unit(clips, DIM, seed=seed)[of_row], unit(n, DIM, seed=seed + 1)
    labels = of_row % 3
    sets = unit(3, n, DIM, seed=seed + 2), unit(3, n, DIM, seed=seed + 3), labels

    def figures() -> list[Any]:
        items = distinct_items(a), distinct_items(b)
        recalls = retrieval_recall(a, b, (1, 5), labels=labels)
        return [*(x.tolist() for x in items), mean_recall(a, b, *items), recalls, class_recall(*sets).tolist()]

    whole = figures()
    with in_blocks_of(block):
        parts = figures()
    assert parts[:2] == whole[:2]
    assert parts[2] == pytest.approx(whole[2], abs=1e-6)
    assert parts[3] == pytest.approx(whole[3], abs=1e-6)
    assert parts[4] == pytest.approx(whole[4], abs=1e-6)


@pytest.mark.parametrize("num_classes", [1, 3])
def test_no_matrix_of_all_pairs_is_held(num_classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """2,000 items: all pairs are 4 million numbers; those of a batch of 512 are 262,144, and nothing else is larger."""
    for name in ("train_projections", "train_projection_sets"):
        short = functools.partial(getattr(retrieval_metric, name), steps=2)
        monkeypatch.setattr(retrieval_metric, name, short)
    labels = torch.arange(2000) % num_classes
    data = Embedded({"vision": unit(2000, DIM, seed=1), "audio": unit(2000, DIM, seed=2)}, labels)
    with in_blocks_of(100_000), Largest() as seen:
        retrieval_scores([data], data, num_classes, teachers=full_projections(data, num_classes))
        class_recall(data.embeddings["vision"][None], data.embeddings["audio"][None], labels)
    assert seen.numbers == 512**2


def test_a_teacher_that_answers_for_a_batch_teaches_as_its_whole_matrix() -> None:
    a, b, logits = unit(40, DIM, seed=1), unit(40, DIM, seed=2), 5 * unit(40, 40, seed=3)
    options = {"steps": 20, "batch_size": 7, "learning_rate": 0.05}
    whole = train_projections(a, b, similarity=logits, **options)
    asked: list[int] = []

    def of(chosen: torch.Tensor) -> torch.Tensor:
        asked.append(len(chosen))
        return logits[chosen][:, chosen][None]

    parts = train_projection_sets(a[None], b[None], similarity=of, **options)
    torch.testing.assert_close(parts.a[0], whole.a)
    torch.testing.assert_close(parts.b[0], whole.b)
    assert set(asked) == {7}


@pytest.mark.parametrize("metric", ["accuracy", "retrieval"])
def test_validation_that_runs_out_of_memory_judges_fewer_replicas_at_a_time(
    metric: str, small_task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = small_task()
    replicas = [Condensation(task, 1, "random", Hyperparameters(), seed, 5) for seed in range(5)]
    for replica in replicas:
        replica.metric = metric
    expected = validate_items(replicas)
    name = "train_probes" if metric == "accuracy" else "judged_retrieval"
    own, sizes = getattr(replica_scores, name), []

    def short(sets: Any, *given: Any, **options: Any) -> Any:
        sizes.append(len(sets))
        if len(sets) > 2:
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
            )
        return own(sets, *given, **options)

    monkeypatch.setattr(replica_scores, name, short)
    found = validate_items(replicas)
    assert sizes == [5, 2, 3, 1, 2]
    assert [each.score for each in found] == pytest.approx([each.score for each in expected], abs=1e-6)
    for each, other in zip(found, expected, strict=True):
        assert each.values is not None and other.values is not None
        torch.testing.assert_close(each.values, other.values)


def test_one_replica_too_many_and_other_errors_are_raised(
    small_task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    replicas = [Condensation(small_task(), 1, "random", Hyperparameters(), 0, 5)]
    for error in (MemoryError(), ValueError("a bug")):

        def fails(*_: Any, error: Exception = error, **__: Any) -> None:
            raise error

        monkeypatch.setattr(replica_scores, "train_probes", fails)
        with pytest.raises(type(error)):
            validate_items(replicas * 2)
