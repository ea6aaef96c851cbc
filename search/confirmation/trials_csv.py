"""trials.csv: a row per trial, for spreadsheets and pandas."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from search.analysis.failure_signatures import trial_signatures
from search.ledger.ledger import TrialRecord

METRICS = ("accuracy", "log_loss", "retrieval")  # `TaskConfig.metric`


def trial_rows(trials: Iterable[TrialRecord]) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns, and a row per trial: number, name, status, score and its parts, steps, seconds, parameters, accuracy (or
    another metric) per seed, signatures of failure (comma-separated), hosts, error."""
    trials = list(trials)
    attributes = ["number", "name", "status", "score", "steps", "seconds", "nodes", "error"]
    columns = ["number", "name", "status", "score", "score_mean", "score_std", "seeds", "steps", "seconds"]
    params = list(dict.fromkeys(name for trial in trials for name in trial.params))
    judged = tuple(f"{metric}/" for metric in METRICS)
    scores = list(dict.fromkeys(key for trial in trials for key in trial.metrics if key.startswith(judged)))
    columns += [*params, *scores, "signatures", "nodes", "error"]
    rows = []
    for trial in trials:
        known = {key: getattr(trial, key) for key in attributes}
        known["signatures"] = ",".join(trial_signatures(trial) or ())
        row = {**trial.metrics, **trial.params, **known}
        rows.append({column: row[column] for column in columns if column in row})
    return columns, rows


def write_trials_csv(path: Path, trials: Iterable[TrialRecord]) -> None:
    """`trial_rows` as a file, replaced in one step."""
    columns, rows = trial_rows(trials)
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    os.replace(temporary, path)
