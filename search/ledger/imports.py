"""Trials that another search has run, taken over as this one's own: their folders are copied, under new numbers."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.ledger.atomic_files import read_json, write_json
from search.ledger.data_identity import FILE as DATA
from search.ledger.ledger import Ledger

KEPT = ("result.json", "progress.jsonl", "fault.json")
RECORD = "imported"  # key of search.json: {from, trials}


@dataclass(frozen=True)
class Imported:
    """A trial that is taken over."""

    number: int  # in the other search
    as_number: int
    name: str | None
    params: dict[str, Any]  # what this search searches


@dataclass(frozen=True)
class Imports:
    """What a search takes over from the one in `source`."""

    source: Path
    trials: Sequence[Imported]
    added: int  # of these, those that this search would not have run by itself


def import_trials(ledger: Ledger, imports: Imports) -> None:
    """Copies them into the ledger of a search that begins, and what is known of the data that they had, which its own must be.

    After a kill, those that are missing are run.
    """
    ledger.search[RECORD] = {"from": str(imports.source), "trials": imports.added}
    write_json(ledger.output / "search.json", ledger.search)
    shutil.copyfile(imports.source / DATA, ledger.output / DATA)
    other = Ledger(imports.source)
    for trial in imports.trials:
        folder = ledger.folder(trial.as_number)
        unfinished = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        for name in KEPT:
            if (file := other.folder(trial.number) / name).exists():
                shutil.copyfile(file, unfinished / name)
        entry = read_json(other.folder(trial.number) / "trial.json") or {}
        entry |= {"number": trial.as_number, "name": trial.name, "params": trial.params}
        (unfinished / "trial.json").write_text(json.dumps(entry))
        os.replace(unfinished, folder)


def imported_trials(output: Path) -> int:
    """How many trials a search has taken over, besides those that it would have run."""
    return int(((read_json(output / "search.json") or {}).get(RECORD) or {}).get("trials", 0))
