"""Settings that all trials of a search share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from search.space.model import Racing, Robust


@dataclass(frozen=True)
class Plan:
    """Settings that all trials of a search share."""

    tasks: list[dict[str, Any]]  # condense.config.models.TaskConfig as JSON
    seeds: list[int]
    report_steps: list[int]
    robust: Robust
    cpus: float | None  # cores per trial, if the user set them
    racing: Racing | None = None
    secondary: tuple[str, ...] = ()  # objectives besides the score

    @property
    def steps(self) -> int:
        """Steps of a replica."""
        return self.report_steps[-1]

    @property
    def judged(self) -> list[str]:
        """Each task's metric."""
        return [task.get("metric", "accuracy") for task in self.tasks]
