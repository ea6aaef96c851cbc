"""Folds in an engine: each as if it were alone, encoders shared where they are the same, and what their items are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from small_search import ENCODER, small_tensors
from test_tenants import H, advance

from condense.config.models import Fold
from condense.storage.store import Store
from search.engine.tenants import Tenants

GROUPS = 10


@pytest.fixture
def tasks(tmp_path: Path) -> list[dict[str, Any]]:
    """Three folds of ten groups: those of the test split are others."""
    tensors = small_tensors()
    tensors["train/group"] = torch.arange(len(tensors["train/label"])) // 3 % GROUPS
    tensors["test/group"] = GROUPS + torch.arange(len(tensors["test/label"])) % 4
    safetensors.torch.save_file(tensors, tmp_path / "data.safetensors")
    task = {"dataset": {"name": "tensors", "path": str(tmp_path / "data.safetensors")}, "encoder": ENCODER, "dpc": 1}
    return [{**task, "fold": {"index": index, "of": 3, "by": "group"}} for index in range(3)]


@pytest.fixture
def tenants(tmp_path: Path) -> Tenants:
    return Tenants(torch.device("cpu"), Store(tmp_path / "store"))


def scores(tenants: Tenants, tasks: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    """Validation and test of two seeds on each task, after four steps."""
    tenants.join("t", tasks, H, [0, 1], 4, None, None)
    found = advance(tenants, {"t": 4})["t"].reports[0]["accuracies"]
    test = tenants.finals("t")["scores"]
    tenants.leave("t")
    return found, test


def test_a_fold_has_the_same_result_beside_others_and_alone(tenants: Tenants, tasks: list[dict[str, Any]]) -> None:
    together, on_test = scores(tenants, tasks)
    alone = [scores(tenants, [task]) for task in tasks]
    assert together == pytest.approx([value for own, _ in alone for value in own])
    assert on_test == pytest.approx([value for _, own in alone for value in own])
    assert len(set(together)) > 2  # they are not the same data


def test_an_encoder_that_learns_nothing_is_shared(tenants: Tenants, tasks: list[dict[str, Any]]) -> None:
    trained = {"name": "tiny", "epochs": 1, "width": 4, "dim": 8, "image_size": 8}
    for task, count in ((tasks, 1), ([{**task, "encoder": trained} for task in tasks], 3)):
        tenants.join("t", task, H, [0], 4, None, None)
        assert len({id(replica.task.encoder) for replica in tenants.tenants["t"].replicas}) == count


def test_their_items_are_disjoint_on_validation_and_the_same_on_test(
    tenants: Tenants, tasks: list[dict[str, Any]]
) -> None:
    validation, test = ([tenants.items(task, split) for task in tasks] for split in ("validation", "test"))
    assert sum(own["count"] for own in validation) == 120 and {own["count"] for own in test} == {60}
    groups = [set(own["groups"]) for own in validation]
    assert sum(map(len, groups)) == len(set.union(*groups)) == GROUPS
    assert {own["of_groups"] for own in validation} == {GROUPS} and {own["of_groups"] for own in test} == {None}
    assert len({own["data"] for own in validation}) == 3 and len({own["data"] for own in test}) == 1
    whole = {**tasks[0], "fold": None}
    assert tenants.items(whole, "test")["data"] == test[0]["data"]
    assert tenants.items(whole, "validation")["of_groups"] is None
    divided = tenants.items({**whole, "fold": Fold(index=0, of=3).model_dump()}, "validation")
    assert divided["groups"] is None and divided["count"] == 40  # groups are in several of them
