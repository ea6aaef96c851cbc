"""What a user should know of a task before its data are condensed, a line each."""

from __future__ import annotations

from condense.data.dataset import Dataset
from condense.embeddings.input_figures import modality_warnings
from condense.embeddings.task import Task
from condense.evaluation.base_rate import absent_classes, no_better
from condense.evaluation.retrieval import alignment_warnings


def task_warnings(task: Task, metric: str, full_score: float) -> list[str]:
    """All of a task. `full_score`: the full data's on validation."""
    found = dataset_warnings(task.dataset) + embedding_warnings(task)
    if metric == "accuracy":
        names = task.dataset.class_names
        found += no_better(task.dataset.name, "validation", full_score, task.validation.labels, names)
    return found


def dataset_warnings(dataset: Dataset) -> list[str]:
    """What is known once the data are read: of their splits, texts and modalities."""
    return [*(dataset.source or dataset).warnings, *absent_classes(dataset), *_idle_terms(dataset)]


def _idle_terms(dataset: Dataset) -> list[str]:
    """Both terms are means over pairs of modalities (`condense/method/objective.py`)."""
    if len(dataset.modalities) > 1:
        return []
    return [
        f"{dataset.name}: has one modality, {dataset.modalities[0]}: the cross-modal and the joint-modal term are 0, so that "
        "`lambda_cross` and `lambda_joint` have no effect"
    ]


def embedding_warnings(task: Task) -> list[str]:
    """What is known once they are embedded: modalities that say nothing, and those that are not aligned."""
    known = task.condense
    found = modality_warnings(
        task.dataset.name, task.dataset.specs, task.dataset.condense, known.embeddings, known.figures
    )
    return found + alignment_warnings(task.validation)
