"""What a majority's answer hides: on test, an accuracy stands beside its mean over classes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from small_problem import make_dataset

from condense.data.dataset import MemorySplit
from search.analysis.paired import Items, Outcome
from search.confirmation.held_out import HeldOut
from search.engine.split_items import describe_items
from search.report.confirmed import on_test
from search.space.model import Robust


def described(labels: list[int] | None, count: int) -> dict[str, Any]:
    return {"count": count, "groups": None, "data": "some", "of_groups": None, "labels": labels}


def held_out(*of: tuple[list[int] | None, int], metric: str = "accuracy") -> HeldOut:
    tasks = [{"full_score": 0.5, "metric": metric}] * len(of)
    return HeldOut.of([described(*own) for own in of], tasks, Robust(), shares=False)


def test_it_is_scikit_learns_mean_over_classes() -> None:
    generator = np.random.default_rng(0)
    labels = [7] * 90 + [2] * 9 + [4]  # numbers of classes that are not all there
    answers = generator.choice([7, 2, 4], size=(3, 100))
    hits = answers == np.asarray(labels)
    expected = np.mean([balanced_accuracy_score(labels, own) for own in answers])
    found = held_out((labels, 100)).balanced(Outcome(hits.mean(axis=1).tolist(), [hits]))
    assert found == pytest.approx(expected)
    with_another = held_out((labels, 100), (None, 4)).balanced(
        Outcome([*hits.mean(axis=1).tolist(), *[0.25] * 3], [hits, np.eye(4, dtype=bool)[:3]])
    )
    assert with_another == pytest.approx((expected + 0.25) / 2)


def test_only_of_an_accuracy_whose_items_are_known() -> None:
    outcome = Outcome([0.5], [np.array([[True, False]])])
    assert held_out((None, 2)).balanced(outcome) is None
    assert held_out(([0, 1], 2), metric="retrieval").balanced(outcome) is None
    assert held_out(([0, 1], 2)).balanced(Outcome([0.5])) is None
    assert HeldOut([Items(2)], Robust()).balanced(outcome) is None


def test_labels_are_told_where_classes_differ_in_size() -> None:
    dataset = make_dataset()
    assert describe_items(dataset, "validation")["labels"] is None
    labels = torch.zeros_like(dataset.validation.labels)
    labels[0] = 1
    unlike = replace(dataset, validation=MemorySplit({}, labels))
    assert describe_items(unlike, "validation")["labels"] == labels.tolist()


def test_every_method_on_test_has_it() -> None:
    setting = {"test": [0.75], "test_hits": ["8A=="], "hyperparameters": {}}  # 0b11110000: the first four are right
    methods = {name: [{"scores": [0.75], "hits": ["8A=="]}] for name in ("random", "full_data")}
    results = {
        "recommended": setting,
        "paper_default": setting,
        "mmd": {**setting, "hyperparameters": {"discrepancy": "mmd"}},
    }
    found = on_test(results, methods, held_out(([0, 0, 0, 0, 1], 5)))
    assert {name: own["balanced"] for name, own in found.items()} == dict.fromkeys(found, 0.5)
    assert "balanced" not in on_test(results, methods, held_out((None, 5)))["recommended"]
