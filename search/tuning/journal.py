"""The file in which Optuna keeps a search's study."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

STUDY = "search"


def journal_in(output: Path) -> JournalStorage:
    """The storage of the search in `output`, to be opened with `optuna.load_study`."""
    return JournalStorage(JournalFileBackend(str(output / "optuna.journal")))


def open_study(output: Path) -> optuna.Study:
    """A search's study for reading, for example with `optuna.importance`.

    Trials run outside the space's ranges (`paper_default`) are placeholders in it, with state FAIL, which every sampler
    ignores: without the searched parameters they would end the samplers' common search space. Their scores are in
    the ledger.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.load_study(study_name=STUDY, storage=journal_in(output))


def set_aside(output: Path) -> None:
    """Keeps a study that the search no longer goes by, as `optuna.journal.1` or the next number."""
    path = output / "optuna.journal"
    number = next(n for n in itertools.count(1) if not path.with_name(f"{path.name}.{n}").exists())
    path.rename(path.with_name(f"{path.name}.{number}"))


def mend_journal(output: Path) -> None:
    """Removes what a killed driver leaves: a stale lock, and a torn line, after which Optuna stops reading.

    Only for the process that owns the folder.
    """
    path = output / "optuna.journal"
    for leftover in path.parent.glob(f"{path.name}.lock*"):
        leftover.unlink()
    if not path.exists():
        return
    sound = 0
    with path.open("r+b") as file:
        for line in file:
            try:
                json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n"):
                break
            sound += len(line)
        file.truncate(sound)
