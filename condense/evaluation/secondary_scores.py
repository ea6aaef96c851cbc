"""Secondary objectives of a search, besides the score: `worst_class`, `retrieval`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from condense.embeddings.embeddings import Embedded
from condense.embeddings.task import Task
from condense.evaluation.linear_probe import accuracy, pad, train_probes
from condense.evaluation.replica_scores import as_embedded, synthetic_features
from condense.evaluation.retrieval_metric import retrieval_scores
from condense.method.condensation import Condensation

SECONDARY = ("worst_class", "retrieval")


def secondary_scores(replicas: Sequence[Condensation], name: str) -> list[float]:
    """Of each replica's items, on validation, 0 .. 1: `worst_class`, the lowest accuracy of any class of a probe trained on
    them; `retrieval`, of partners after training on their pairs (`condense/evaluation/retrieval_metric.py`).

    NaN where an embedding is not finite. Replicas of a task are trained together. Raises KeyError for another name.
    """
    measure = _MEASURES[name]
    scores = [math.nan] * len(replicas)
    features = synthetic_features(replicas)
    by_task: dict[int, list[int]] = {}
    for i, replica in enumerate(replicas):
        if bool(features[i].isfinite().all()):
            by_task.setdefault(id(replica.task), []).append(i)
    for members in by_task.values():
        task = replicas[members[0]].task
        sets = [as_embedded(features[i], replicas[i]) for i in members]
        for i, value in zip(members, measure(sets, task), strict=True):
            scores[i] = value
    return scores


def full_secondary(task: Task, name: str) -> float:
    """The same for the whole condense split; secondary scores are shares of it."""
    return _MEASURES[name]([task.condense], task)[0]


def _worst_class(sets: Sequence[Embedded], task: Task) -> list[float]:
    x, y, w = pad([each.features for each in sets], [each.labels for each in sets])
    probes = train_probes(x, y, w, task.dataset.num_classes, (0,))
    of_class = accuracy(probes, task.validation.features, task.validation.labels).per_class.mean(1)  # (R, C)
    found: list[float] = torch.where(of_class.isnan(), torch.inf, of_class).amin(1).tolist()
    return found


def _retrieval(sets: Sequence[Embedded], task: Task) -> list[float]:
    return retrieval_scores(sets, task.validation, task.dataset.num_classes, final=False)


_MEASURES: dict[str, Callable[[Sequence[Embedded], Task], list[float]]] = {
    "worst_class": _worst_class,
    "retrieval": _retrieval,
}
