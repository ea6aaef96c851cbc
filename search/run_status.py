"""How far a search is, from its output folder: `search.status("results/mine")`, while it runs or after."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from search.analysis.ranking import best_trial
from search.ledger.atomic_files import read_json
from search.ledger.ledger import Ledger
from search.ledger.run_folder import check_search, is_in_use
from search.space.model import Space
from search.space.recorded import completed

State = Literal["running", "stopped", "complete"]


@dataclass(frozen=True)
class Status:
    """Of one search, at the moment it was asked for."""

    folder: Path
    name: str
    state: State  # stopped: no process works on it, and `search.resume` goes on
    planned: int  # trials
    completed: int
    pruned: int  # stopped early
    failed: int
    unfinished: int  # begun: being run, or to be gone on with
    best_trial: int | None  # the completed trial with the best score, the paper's default aside
    best_score: float | None
    seconds: float  # that its processes worked on trials, up to the last report

    @property
    def ended(self) -> int:
        """Trials that have come to their end, one way or another."""
        return self.completed + self.pruned + self.failed

    def __str__(self) -> str:
        parts = [f"trials {self.ended}/{self.planned}", f"{self.unfinished} begun", f"{self.pruned} stopped early"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        if self.best_score is not None:
            parts.append(f"best {self.best_score:.3f} (trial {self.best_trial})")
        minutes, seconds = divmod(round(self.seconds), 60)
        return f"{self.name}: {self.state} after {minutes}:{seconds:02d}; {', '.join(parts)}"


def is_complete(folder: Path, ended: int, planned: int) -> bool:
    """Whether there is a report of all the trials that have ended, and either there were to be no more, or something else than
    their number has ended the search."""
    known = read_json(folder / "report.json")
    if known is None:
        return False
    early = (known.get("ended") or {}).get("why", "trials") != "trials"
    return sum((known.get("trials") or {}).values()) == ended and (early or ended >= planned)


def status(folder: str | Path) -> Status:
    """How far the search in `folder` is. Disturbs nothing: it only reads.

    Raises:
        UserError: there is no search.
    """
    path = Path(folder).absolute()
    check_search(path)
    ledger = Ledger(path)
    space = Space.model_validate(completed(ledger.search["space"]))
    records = ledger.trials()
    counts = Counter(record.status for record in records)
    best = best_trial(records)
    ended = len(records) - counts["unfinished"]
    if is_in_use(path):
        state: State = "running"
    else:
        state = "complete" if is_complete(path, ended, space.trials) else "stopped"
    return Status(
        folder=path,
        name=space.name,
        state=state,
        planned=space.trials,
        completed=counts["completed"],
        pruned=counts["pruned"],
        failed=counts["failed"],
        unfinished=counts["unfinished"],
        best_trial=None if best is None else best.number,
        best_score=None if best is None else best.score,
        seconds=ledger.worked_seconds(),
    )
