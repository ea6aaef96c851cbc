"""What a search is told of a task: its data before anything is computed of them, and all of it once they are embedded."""

from __future__ import annotations

from typing import Any

import torch

from condense.config.models import TaskConfig
from condense.data.dataset import Dataset
from condense.embeddings.task import Task
from condense.evaluation.base_rate import balanced_accuracy, base_rate
from condense.evaluation.replica_scores import probe_hits
from condense.evaluation.task_warnings import task_warnings
from condense.inputs.formation import items_in_each


def identity(dataset: Dataset) -> dict[str, Any]:
    """See `EngineActor.identify`."""
    return {"name": dataset.name, "fingerprint": dataset.fingerprint, "content": dict(dataset.content)}


def description(config: TaskConfig, task: Task, full_score: float) -> dict[str, Any]:
    """See `EngineActor.describe`."""
    task.dataset.check_class_sizes(config.dpc)
    return {
        "dataset": task.dataset.name,
        "encoder": config.encoder.name,
        "dpc": config.dpc,
        "modalities": list(task.modalities),
        "class_names": list(task.dataset.class_names),
        "limits": {
            "smallest_class": int(torch.bincount(task.dataset.condense.labels).min()),
            "items_in_each": {f: items_in_each(task.dataset.specs, f) for f in range(1, 5)},  # by `formation`
        },
        "items": {"condense": len(task.condense.labels), "validation": len(task.validation.labels)},
        "metric": config.metric,
        "full_score": full_score,
        **_base_rate(config, task),
        "warnings": task_warnings(task, config.metric, full_score),
        "fingerprints": task.fingerprints,
        "device": str(task.device),
    }


def _base_rate(config: TaskConfig, task: Task) -> dict[str, Any]:
    """Of an accuracy where the classes of validation are unbalanced; else nothing."""
    rate = base_rate(task.validation.labels, task.dataset.class_names)
    if config.metric != "accuracy" or rate.balanced:
        return {}
    right = probe_hits(task.condense, task.validation, task.dataset.num_classes)
    return {
        "base_rate": [rate.answer, rate.share],
        "full_balanced": balanced_accuracy(right, task.validation.labels),
    }
