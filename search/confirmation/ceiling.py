"""Which setting is better where all are right: by log-loss, which still tells settings apart whose accuracy is 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from search.analysis.saturation import CEILING


def log_losses(
    runs: Mapping[str, Mapping[int, Mapping[str, Any]]], seeds: Sequence[int], judged: Sequence[str]
) -> dict[str, float]:
    """label -> mean log-loss score over tasks and over those of `seeds` that all settings have been run on.

    Empty unless every task is judged by accuracy, and every setting is at the ceiling in every task; and where a run does not
    say its log-loss, as those of earlier versions. `runs`: label -> seed -> {accuracies, log_loss}, a value per task each.
    `judged`: each task's metric.
    """
    common = [seed for seed in seeds if all(seed in own for own in runs.values())]
    if not common or any(metric != "accuracy" for metric in judged):
        return {}
    found = {}
    for label, of_seed in runs.items():
        known = [of_seed[seed] for seed in common]
        accuracies = zip(*(run["accuracies"] for run in known), strict=True)
        values = [value for run in known for value in run.get("log_loss") or [None]]
        if None in values or any(fmean(of_task) < CEILING for of_task in accuracies):
            return {}
        found[label] = fmean(values)
    return found
