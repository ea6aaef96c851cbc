"""An accuracy is told beside what always giving the same answer gets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from condense.data.dataset import Dataset, MemorySplit
from condense.evaluation.base_rate import absent_classes, balanced_accuracy, base_rate, no_better
from condense.inputs.spec import ArraySpec


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=60))
def test_balanced_accuracy_by_plain_loops(items: list[tuple[int, bool]]) -> None:
    labels, right = torch.tensor([y for y, _ in items]), torch.tensor([own for _, own in items])
    of_class = [np.mean([own for y, own in items if y == c]) for c in {y for y, _ in items}]
    assert balanced_accuracy(right, labels) == pytest.approx(np.mean(of_class))


def test_the_base_rate_is_of_the_largest_class() -> None:
    rate = base_rate(torch.tensor([0] * 3 + [1] * 1000), ["rare", "usual"])
    assert (rate.answer, rate.share, rate.balanced) == ("usual", 1000 / 1003, False)
    assert base_rate(torch.arange(30) % 3, list("abc")).balanced
    assert not base_rate(torch.tensor([0, 0]), ["a", "b"]).balanced  # an absent class counts


def test_full_data_at_the_base_rate_is_told() -> None:
    labels = torch.tensor([0] * 3 + [1] * 97)
    (told,) = no_better("items.csv", "validation", 0.97, labels, ["rare", "usual"])
    assert "accuracy on validation, 0.970, is no better than always answering 'usual' (0.970)" in told
    assert no_better("items.csv", "validation", 0.98, labels, ["rare", "usual"]) == []


def test_absent_classes_are_told() -> None:
    def split(labels: list[int]) -> MemorySplit:
        return MemorySplit({"depth": torch.zeros(len(labels), 1)}, torch.tensor(labels))

    spec = {"depth": ArraySpec("depth", (1,), 0.0, 1.0)}
    whole, partly = split([0, 1, 2]), split([1, 1])
    told = absent_classes(Dataset("d", spec, ("a", "b", "c"), whole, whole, partly, "f"))
    assert told == ["d: test has no item of 2 of 3 classes ('a', 'c'): no score there says anything of these"]
    assert absent_classes(Dataset("d", spec, ("a", "b", "c"), whole, whole, whole, "f")) == []
