"""What is the same for all trials of a search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from search.space.model import Racing, Robust


@dataclass(frozen=True)
class Plan:
    """What is the same for all trials of a search."""

    tasks: list[dict[str, Any]]  # condense.config.models.TaskConfig as JSON
    seeds: list[int]
    report_steps: list[int]
    robust: Robust
    cpus: float | None  # what a trial has been granted, if the user has said how much
    racing: Racing | None = None
    secondary: tuple[str, ...] = ()  # objectives beside the score

    @property
    def steps(self) -> int:
        """Of a replica."""
        return self.report_steps[-1]

    @property
    def judged(self) -> list[str]:
        """Each task's metric."""
        return [task.get("metric", "accuracy") for task in self.tasks]
