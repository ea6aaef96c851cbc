"""What each loss term is worth: the recommended setting re-run with each term alone and with each term removed."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from condense.config.models import Hyperparameters
from search.analysis.scores import mean_and_std
from search.analysis.statistics import paired_difference

DIVERGED = "diverged"  # replaces the mean in a table

TERMS = ("uni", "cross", "joint")
FULL = " + ".join(TERMS)


def ablations(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """terms -> all hyperparameters, for all three terms, two, and one. A term alone has a weight of at least 1, that of the
    uni-modal term: with a recommended weight of 0.05 it would hardly move the items in the same number of steps.
    """
    recommended = Hyperparameters.model_validate(config)
    settings = {}
    for kept in (TERMS, ("uni", "cross"), ("uni", "joint"), ("cross", "joint"), ("uni",), ("cross",), ("joint",)):
        weights = {}
        for term in TERMS:
            own = getattr(recommended, f"lambda_{term}")
            weights[f"lambda_{term}"] = 0.0 if term not in kept else max(own, 1.0) if len(kept) == 1 else own
        settings[" + ".join(kept)] = recommended.model_copy(update=weights).model_dump(mode="json")
    return settings


def ablation_table(
    validation: Mapping[str, Sequence[float]], test: Mapping[str, Sequence[float]]
) -> list[dict[str, Any]]:
    """A row per set of terms: {terms, validation, test, difference}. `difference`: to all terms, on validation, paired by seed.

    `validation`, `test`: terms -> values by seed.
    """
    rows = []
    for terms, values in validation.items():
        row: dict[str, Any] = {"terms": terms, "validation": _spread(values), "test": _spread(test[terms])}
        row["difference"] = None if terms == FULL else paired_difference(values, validation[FULL]).as_json()
        rows.append(row)
    return rows


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """ablation.csv: for spreadsheets and papers."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["terms", "validation_mean", "validation_std", "test_mean", "test_std", "difference", "low", "high"]
        )
        for row in rows:
            apart = row["difference"] or {"mean": "", "ci95": ["", ""]}
            known = [row[split][key] for split in ("validation", "test") for key in ("mean", "std")]
            writer.writerow([row["terms"], *known, apart["mean"], *apart["ci95"]])


def lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table as text. `rows`: as in report.json, with None for values that are not finite."""
    width = max(len(row["terms"]) for row in rows)
    told = [f"{'terms':<{width}}  validation        test              difference to all terms"]
    for row in rows:
        known = [row[split] for split in ("validation", "test")]
        spread = [DIVERGED if _lost(of) else f"{of['mean']:.3f} ± {of['std']:.3f}" for of in known]
        apart = row["difference"]
        difference = ""
        if apart is not None and not _lost(apart):
            difference = f"{apart['mean']:+.3f} [{apart['ci95'][0]:+.3f}, {apart['ci95'][1]:+.3f}]"
        told.append(f"{row['terms']:<{width}}  {spread[0]:<16}  {spread[1]:<16}  {difference}".rstrip())
    return told


def _lost(entry: Mapping[str, Any]) -> bool:
    """Whether a loss was not finite; there is no mean then."""
    return entry["mean"] is None or not math.isfinite(entry["mean"])


def _spread(values: Sequence[float]) -> dict[str, Any]:
    mean, std = mean_and_std(values)
    return {"mean": mean, "std": std, "n": len(values)}
