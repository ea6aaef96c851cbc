"""Worst class and retrieval of replicas, held against a probe and recalls of one replica at a time."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from condense.config.models import Hyperparameters
from condense.embeddings.embeddings import Embedded
from condense.embeddings.task import Task
from condense.evaluation.linear_probe import accuracy, train_probes
from condense.evaluation.retrieval_metric import retrieval_scores
from condense.evaluation.secondary_scores import SECONDARY, full_secondary, secondary_scores
from condense.method.condensation import Condensation


@pytest.fixture(scope="module")
def task(small_task: Callable[..., Task]) -> Task:
    return small_task()


def replicas(task: Task) -> list[Condensation]:
    return [
        Condensation(task, dpc, "random", Hyperparameters(num_frequencies=8, frequency_pool=8), seed, 2)
        for dpc, seed in ((1, 0), (2, 1), (1, 2))
    ]


def alone(replica: Condensation) -> Embedded:
    encoder = replica.task.encoder
    return Embedded({m: encoder.embed(m, x) for m, x in replica.inputs.items()}, replica.labels)


def test_the_worst_class(task: Task) -> None:
    def worst(own: Embedded) -> float:
        probe = train_probes(own.features[None], own.labels[None], None, task.dataset.num_classes, (0,))
        return float(accuracy(probe, task.validation.features, task.validation.labels).per_class[0, 0].min())

    made = replicas(task)
    for replica, found in zip(made, secondary_scores(made, "worst_class"), strict=True):
        assert found == pytest.approx(worst(alone(replica)), abs=0.02)
    assert full_secondary(task, "worst_class") == pytest.approx(worst(task.condense), abs=0.02)


def test_retrieval(task: Task) -> None:
    made = replicas(task)
    for replica, found in zip(made, secondary_scores(made, "retrieval"), strict=True):
        (expected,) = retrieval_scores([alone(replica)], task.validation, task.dataset.num_classes, final=False)
        assert found == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("name", SECONDARY)
def test_one_that_is_not_finite_disturbs_nobody(task: Task, name: str) -> None:
    made = replicas(task)
    before = secondary_scores(made, name)
    with torch.no_grad():
        made[1].inputs["vision"].fill_(math.nan)
    after = secondary_scores(made, name)
    assert math.isnan(after[1])
    assert [after[0], after[2]] == pytest.approx([before[0], before[2]], abs=0.02)
