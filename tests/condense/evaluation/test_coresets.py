"""The baseline that needs no item: always the most frequent class."""

from __future__ import annotations

import torch
from small_problem import make_task

from condense.embeddings.embeddings import Embedded
from condense.evaluation.coresets import judged_baselines


def test_the_majority_is_a_baseline_where_classes_are_unbalanced() -> None:
    task = make_task()
    whole = task.validation
    assert "majority" not in judged_baselines(task, whole, 1, [0])
    kept = torch.cat([(whole.labels == 0).nonzero()[:, 0], (whole.labels == 1).nonzero()[:3, 0]])
    few = Embedded({m: x[kept] for m, x in whole.embeddings.items()}, whole.labels[kept])
    (always,) = judged_baselines(task, few, 1, [0])["majority"]
    assert abs(always.score - 12 / 15) < 1e-6
    assert always.values is not None
    assert always.values.tolist() == [True] * 12 + [False] * 3
    assert "majority" not in judged_baselines(task, few, 1, [0], "retrieval")
