"""What a search's trials say, beside the recommendation: importance, transfer between tasks, how the race went."""

from __future__ import annotations

import logging
import math
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from search.choosing import score_of
from search.ledger import TrialRecord
from search.robust import per_seed_means, per_task
from search.space import Space
from search.surface import seeds_of
from search.trainable import Plan, replica_values

log = logging.getLogger(__name__)


def importances(output: Path) -> dict[str, dict[str, float]]:
    """How much each hyperparameter matters among completed trials, by evaluator; {} for one with too few of them.

    `ped_anova` (Watanabe et al. 2023): for being among the best trials; `fanova` (Hutter et al. 2014): share of the
    score's variance over the whole space.
    """
    import optuna

    from search.sampling import open_study

    found: dict[str, dict[str, float]] = {}
    study = open_study(output)
    target = _loss if len(study.directions) > 1 else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, evaluator in (
            ("ped_anova", optuna.importance.PedAnovaImportanceEvaluator()),
            ("fanova", optuna.importance.FanovaImportanceEvaluator(seed=0)),
        ):
            try:
                values = optuna.importance.get_param_importances(study, evaluator=evaluator, target=target)
            except (ValueError, RuntimeError) as error:
                log.info("no importance by %s: %s", name, error)
                values = {}
            found[name] = {key: float(value) for key, value in values.items() if math.isfinite(value)}
    return found


def _loss(trial: Any) -> float:
    """The first objective, the score; negative, because PED-ANOVA takes low values of a given target for good ones."""
    return -float(trial.values[0])


def pareto(space: Space, records: Sequence[TrialRecord]) -> dict[str, Any] | None:
    """The completed trials' objectives, and which of them no other trial beats in all. None for a single objective."""
    if len(space.objectives) < 2:
        return None
    known = []
    for r in records:
        if r.status == "completed" and r.name != "paper_default":
            values = [score_of(r), *(r.metrics.get(f"objective/{name}", math.nan) for name in space.objectives[1:])]
            if all(map(math.isfinite, values)):
                known.append((r.number, values))

    def beaten(values: Sequence[float]) -> bool:
        return any(
            all(a >= b for a, b in zip(other, values, strict=True)) and list(other) != list(values)
            for _, other in known
        )

    trials = [{"number": number, "values": values, "front": not beaten(values)} for number, values in known]
    return {"objectives": list(space.objectives), "trials": trials}


def contenders(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Completed trials with the most seeds, in the search's own scaling."""
    completed = [r for r in records if r.status == "completed" and r.name != "paper_default" and r.reports]
    most = max(map(seeds_of, completed), default=0)
    return [r for r in completed if seeds_of(r) == most]


def best_by_single_seed(records: Sequence[TrialRecord], plan: Plan) -> list[TrialRecord]:
    """What one would have chosen with one run per setting: for each seed that all completed trials have (where they race,
    mostly the first alone), the trial with the highest mean over tasks."""
    known = [r for r in records if r.status == "completed" and r.name != "paper_default" and r.reports]
    by_seed = [per_seed_means(replica_values(r.metrics, plan), len(plan.tasks)) for r in known]
    return [known[max(range(len(known)), key=of.__getitem__)] for of in zip(*by_seed, strict=False)]


def transfer(
    records: Sequence[TrialRecord],
    plan: Plan,
    names: Sequence[str],
    evaluate: Callable[[Mapping[str, dict[str, Any]]], dict[str, list[float]]],
) -> dict[str, Any] | None:
    """Whether what is best for one task holds on another, by real runs on fresh seeds. None for a single task.

    `share[i][j]`: mean share on task j of the trial that was best for task i alone. `evaluate`: label -> setting gives label
    -> shares, task-major.
    """
    known = contenders(records)
    if len(plan.tasks) < 2 or not known:
        return None

    def on_task(record: TrialRecord, task: int) -> float:
        return fmean(per_task(replica_values(record.metrics, plan), len(plan.tasks))[task])

    best = [max(known, key=lambda r, task=task: on_task(r, task)) for task in range(len(plan.tasks))]  # type: ignore[misc]
    results = evaluate({f"trial {r.number}": r.config for r in best})
    return {
        "tasks": list(names),
        "settings": [{"task": name, "trial": r.number} for name, r in zip(names, best, strict=True)],
        "share": [list(map(fmean, per_task(results[f"trial {r.number}"], len(plan.tasks)))) for r in best],
    }


def race(space: Space, records: Sequence[TrialRecord]) -> dict[str, Any] | None:
    """How many trials ended with how many seeds, and the replica-steps that this took against all seeds for each."""
    if space.racing is None:
        return None
    ended = [r for r in records if r.reports]
    seeds = Counter(map(seeds_of, ended))
    tasks = len(space.tasks)
    full = sum(min(r.steps, space.steps) * tasks * space.seeds for r in ended)
    return {
        "seeds": {str(n): seeds[n] for n in sorted(seeds)},
        "replica_steps": replica_steps(space, ended),
        "full": full,
    }


def replica_steps(space: Space, records: Sequence[TrialRecord]) -> int:
    """Optimiser steps of all replicas of all trials."""
    return sum(
        round(r.metrics.get("replica_steps", r.steps * len(space.tasks) * len(r.seeds))) for r in records if r.reports
    )


def task_names(tasks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Readable, and different from each other; `tasks` as `EngineActor.describe`, with `dpc` and `encoder`."""
    names = [f"{task['dataset']}, {task['dpc']} per class" for task in tasks]
    if len(set(names)) < len(names):
        names = [f"{name}, {task['encoder']}" for name, task in zip(names, tasks, strict=True)]
    if len(set(names)) < len(names):
        names = [f"{name} ({i})" for i, name in enumerate(names)]
    return names


def best_trial(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The trial with the best robust score, in the search's own scaling: the luckiest one."""
    return max(contenders(records), key=score_of, default=None)
