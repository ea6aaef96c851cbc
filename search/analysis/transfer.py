"""Whether the best setting for one task is good on another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from search.analysis.metrics import replica_values
from search.analysis.ranking import contenders
from search.analysis.scores import per_task
from search.ledger.ledger import TrialRecord
from search.space.plan import Plan


def transfer(
    records: Sequence[TrialRecord],
    plan: Plan,
    names: Sequence[str],
    evaluate: Callable[[Mapping[str, dict[str, Any]]], dict[str, list[float]]],
) -> dict[str, Any] | None:
    """Whether the best setting for one task is good on another, by real runs on fresh seeds. None for a single task; folds are
    not tasks.

    `share[i][j]`: mean share on task j of the trial that was best for task i alone. `evaluate`: label -> setting gives label
    -> shares, task-major.
    """
    known = contenders(records)
    tasks = len(plan.tasks) // plan.folds
    if tasks < 2 or not known:
        return None

    def on_task(record: TrialRecord, task: int) -> float:
        return fmean(per_task(replica_values(record.metrics, plan), tasks)[task])

    best = [max(known, key=lambda r, task=task: on_task(r, task)) for task in range(tasks)]  # type: ignore[misc]
    results = evaluate({f"trial {r.number}": r.config for r in best})
    return {
        "tasks": list(names),
        "settings": [{"task": name, "trial": r.number} for name, r in zip(names, best, strict=True)],
        "share": [list(map(fmean, per_task(results[f"trial {r.number}"], tasks))) for r in best],
    }


def task_names(tasks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Readable, distinct names. `tasks`: as from `EngineActor.describe`, with `dpc` and `encoder`."""
    names = [f"{task['dataset']}, {task['dpc']} per class" for task in tasks]
    if len(set(names)) < len(names):
        names = [f"{name}, {task['encoder']}" for name, task in zip(names, tasks, strict=True)]
    if len(set(names)) < len(names):
        names = [f"{name} ({i})" for i, name in enumerate(names)]
    return names
