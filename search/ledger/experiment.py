"""The MLflow experiment that a search logs to: named once, kept in search.json as `experiment`."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from condense.system.errors import UserError
from search.ledger.atomic_files import read_json, write_json
from search.ledger.ledger import Ledger

DEFAULT = "condensation"  # also of searches that earlier versions began
MOST_BYTES = 250  # as UTF-8; MLflow's databases have 256


def check_name(name: str) -> None:
    """Raises UserError for a name that MLflow, or whoever reads its list of experiments, cannot do with."""
    shown = f"--experiment {name!r:.80}"
    if not name.strip():
        raise UserError(f"{shown}: must not be empty or blank")
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name):
        raise UserError(f"{shown}: must not have control characters or line breaks")
    if (size := len(name.encode())) > MOST_BYTES:
        raise UserError(f"{shown}: must have at most {MOST_BYTES} bytes, but has {size}")


def recorded_experiment(output: Path) -> str:
    """That of the search in `output`."""
    return str((read_json(output / "search.json") or {}).get("experiment", DEFAULT))


def check_experiment(output: Path, asked: str | None, resume: bool) -> None:
    """Raises UserError if a search that goes on is to log elsewhere than it began to."""
    if resume and asked is not None and asked != (known := recorded_experiment(output)):
        raise UserError(
            f"{output}: this search logs to the MLflow experiment {known!r}: leave --experiment {asked!r} out, or begin another "
            "search with another --output"
        )


def record_experiment(ledger: Ledger, asked: str | None, resume: bool) -> str:
    """Records the experiment of a search that begins; returns that of either."""
    name = recorded_experiment(ledger.output) if resume else asked or DEFAULT
    if ledger.search.get("experiment") != name:
        ledger.search["experiment"] = name
        write_json(ledger.output / "search.json", ledger.search)
    return name
