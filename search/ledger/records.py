"""What the ledger knows of a trial."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

NOT_FINITE = "loss was not finite"  # in the error of a trial that diverged
Status = Literal["unfinished", "completed", "pruned", "failed"]


@dataclass(frozen=True)
class Report:
    """One report of a trial."""

    step: int
    time: float  # unix time at which it was saved
    seconds: float  # the trial's own clock, as reported in metrics["seconds"]
    metrics: dict[str, float]
    curve: dict[str, list[float]] | None = None  # finer than the reports: {"step": [...], "loss": [...], ...}
    node: str = ""  # host name of the node that took these steps
    kept: bool = True  # with a checkpoint; else a trial that starts again makes it once more


@dataclass(frozen=True)
class TrialRecord:
    """Everything known about a trial."""

    number: int
    name: str | None  # only default trials have one
    params: dict[str, Any]  # the searched hyperparameters
    config: dict[str, Any]  # all hyperparameters
    seeds: list[int]
    created: float
    status: Status = "unfinished"
    steps: int = 0  # done
    score: float | None = None  # None if it failed, or has not reported
    error: str | None = None
    finished: float | None = None
    reports: tuple[Report, ...] = ()

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of its last report."""
        return self.reports[-1].metrics if self.reports else {}

    @property
    def diverged(self) -> bool:
        """Whether it failed because its loss was not finite."""
        return self.status == "failed" and NOT_FINITE in (self.error or "")

    @property
    def seconds(self) -> float:
        """Seconds on the trial's own clock at its last report."""
        return self.reports[-1].seconds if self.reports else 0.0

    @property
    def nodes(self) -> str:
        """Host names of the nodes it ran on, in order."""
        return " ".join(dict.fromkeys(report.node for report in self.reports if report.node))


@dataclass(frozen=True)
class PastReport:
    """A report of an ended trial, to replay to a new scheduler."""

    number: int
    report: Report
    ended: Status | None  # how the trial ended, at its last report; None before
