"""The file in which Optuna keeps a search's study."""

from __future__ import annotations

import json
from pathlib import Path

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend


def journal_in(output: Path) -> JournalStorage:
    """The storage of the search in `output`, to be opened with `optuna.load_study`."""
    return JournalStorage(JournalFileBackend(str(output / "optuna.journal")))


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
