"""Folds of a search: the settings of `validation`, and the tasks that they make of the user's.

A fold is a task (`condense.config.models.Fold`): a search runs the folds' tasks, and reports on the user's. Those of one task
stand side by side, in the order of the user's tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from condense.config.models import Fold
from condense.config.strict import Strict

FEWEST_GROUPS = 2  # that each fold holds out, where `by` is left out


class Validation(Strict):
    """How settings are validated."""

    folds: int = Field(
        3,
        ge=1,
        le=20,
        description="train and validation (also where that is a split of the data) are divided into so many parts, and each is "
        "held out once, with an encoder trained on the others: so many times the replicas of each seed. 1: the dataset's own "
        "split",
    )
    by: Literal["group", "class"] | None = Field(
        None,
        description="`group`: no group (speaker, patient) is divided; `class`: as many items of each label in each fold. Left "
        "out: `group` where there are at least 2 for each fold, else `class`",
    )


def folds_of(validation: Validation | None) -> int:
    """How many folds each task has; 1: none."""
    return 1 if validation is None else validation.folds


def fold_tasks(
    tasks: Sequence[Mapping[str, Any]], validation: Validation | None, groups: Sequence[int | None]
) -> list[dict[str, Any]]:
    """The folds of `tasks` (`condense.config.models.TaskConfig` as JSON), task by task; `tasks` themselves without folds.

    `groups`: how many each task's train and validation have; None: the data have none.
    """
    count = folds_of(validation)
    if validation is None or count == 1:
        return [dict(task) for task in tasks]
    made = []
    for task, known in zip(tasks, groups, strict=True):
        by = validation.by or ("group" if (known or 0) >= FEWEST_GROUPS * count else "class")
        folds = [Fold(index=index, of=count, by=by) for index in range(count)]
        made += [{**task, "fold": fold.model_dump(mode="json")} for fold in folds]
    return made


def told(tasks: Sequence[Mapping[str, Any]], described: Sequence[Mapping[str, Any]]) -> str:
    """A line on the folds `tasks`: how they are divided, and how many items each holds out."""
    parts = []
    for task, own in zip(tasks, described, strict=True):
        if task["fold"]["index"] == 0:
            parts.append(f"{task['fold']['of']} folds by {task['fold']['by']} of {own['items']['validation']:,}")
        else:
            parts[-1] += f", {own['items']['validation']:,}"
    return f"validation: {'; '.join(f'{part} items' for part in parts)}"
