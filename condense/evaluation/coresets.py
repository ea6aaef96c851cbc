"""Coresets: chosen real items, the baselines at an equal budget of `dpc` items per class.

Other ways to match distributions are settings of the same objective: `condense/config/published.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from condense.embeddings.embeddings import Embedded
from condense.embeddings.task import Task
from condense.evaluation.base_rate import base_rate
from condense.evaluation.replica_scores import Judged, judge
from condense.method.initialization import choose_items

SELECTIONS = ("random", "herding", "k_center", "k_means")


def select(task: Task, method: str, dpc: int, seed: int) -> Embedded:
    """The embeddings of `dpc` real items per class chosen by `method`, completed as `initial_inputs` does."""
    generator = torch.Generator().manual_seed(seed)
    chosen, sources = choose_items(method, task.condense, task.dataset.num_classes, dpc, generator)
    rows = {m: sources.get(m, chosen).to(task.device) for m in task.modalities}
    embeddings = {m: task.condense.embeddings[m][row] for m, row in rows.items()}
    return Embedded(embeddings, task.condense.labels[chosen.to(task.device)])


def selection_scores(
    task: Task, held_out: Embedded, dpc: int, seeds: Sequence[int], metric: str = "accuracy"
) -> dict[str, list[float]]:
    """Accuracy (or another metric) on `held_out` per method: `random` once per seed; the other selections and the
    full data once."""
    judged = judged_selections(task, held_out, dpc, seeds, metric)
    return {method: [one.score for one in own] for method, own in judged.items()}


def judged_selections(
    task: Task, held_out: Embedded, dpc: int, seeds: Sequence[int], metric: str = "accuracy"
) -> dict[str, list[Judged]]:
    """`selection_scores`, with the items' values."""
    classes = task.dataset.num_classes
    result = {
        method: [
            judge(select(task, method, dpc, seed), held_out, classes, metric)
            for seed in (seeds if method == "random" else seeds[:1])
        ]
        for method in SELECTIONS
    }
    return {**result, "full_data": [judge(task.condense, held_out, classes, metric)]}


def judged_baselines(
    task: Task, held_out: Embedded, dpc: int, seeds: Sequence[int], metric: str = "accuracy"
) -> dict[str, list[Judged]]:
    """`judged_selections`, and where the classes of `held_out` are unbalanced and the metric is accuracy `majority`: always
    answering with the condense split's most frequent class."""
    judged = judged_selections(task, held_out, dpc, seeds, metric)
    names = task.dataset.class_names
    if metric == "accuracy" and not base_rate(held_out.labels, names).balanced:
        answer = int(torch.bincount(task.condense.labels, minlength=len(names)).argmax())
        right = (held_out.labels == answer).cpu()
        judged["majority"] = [Judged(right.float().mean().item(), right)]
    return judged
