"""trials.csv: a row per trial, for spreadsheets and pandas."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from pathlib import Path

from search.analysis.failure_signatures import trial_signatures
from search.ledger.ledger import TrialRecord

METRICS = ("accuracy", "retrieval")  # `TaskConfig.metric`


def write_trials_csv(path: Path, trials: Iterable[TrialRecord]) -> None:
    """A row per trial: number, name, status, score and its parts, steps, seconds, parameters, accuracy (or another metric) per
    seed, signatures of failure (comma-separated), hosts, error."""
    trials = list(trials)
    attributes = ["number", "name", "status", "score", "steps", "seconds", "nodes", "error"]
    columns = ["number", "name", "status", "score", "score_mean", "score_std", "seeds", "steps", "seconds"]
    params = list(dict.fromkeys(name for trial in trials for name in trial.params))
    judged = tuple(f"{metric}/" for metric in METRICS)
    scores = list(dict.fromkeys(key for trial in trials for key in trial.metrics if key.startswith(judged)))
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(
            file, [*columns, *params, *scores, "signatures", "nodes", "error"], extrasaction="ignore"
        )
        writer.writeheader()
        for trial in trials:
            shown = ",".join(trial_signatures(trial) or ())
            known = {key: getattr(trial, key) for key in attributes}
            writer.writerow({**trial.metrics, **trial.params, "signatures": shown, **known})
    os.replace(temporary, path)
