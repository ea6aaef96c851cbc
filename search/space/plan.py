"""Settings that all trials of a search share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from condense.config.models import TaskConfig
from search.space.model import Racing, Robust, Space


@dataclass(frozen=True)
class Keeping:
    """How the states of trials are kept that are too large for the ledger (`search.engine.state_files`)."""

    search: str  # its id
    storage: str | None = None  # a folder, or an address that fsspec knows; None: the disk of each node
    every: float | None = None  # minutes; None: by what it costs


@dataclass(frozen=True)
class Plan:
    """Settings that all trials of a search share."""

    tasks: list[dict[str, Any]]  # condense.config.models.TaskConfig as JSON; where there are folds, each task's folds
    seeds: list[int]
    report_steps: list[int]
    robust: Robust
    cpus: float | None  # cores per trial, if the user set them
    racing: Racing | None = None
    secondary: tuple[str, ...] = ()  # objectives besides the score
    folds: int = 1  # of each of the user's tasks
    keeping: Keeping | None = None  # None: all states go through the ledger

    @property
    def steps(self) -> int:
        """Steps of a replica."""
        return self.report_steps[-1]

    @property
    def judged(self) -> list[str]:
        """Each task's metric."""
        return [task.get("metric", "accuracy") for task in self.tasks]

    @property
    def whole_tasks(self) -> list[dict[str, Any]]:
        """The user's tasks, on their datasets' own splits."""
        return self.tasks if self.folds == 1 else [{**task, "fold": None} for task in self.tasks[:: self.folds]]

    @property
    def places(self) -> list[str]:
        """How metrics name each task: `task_1`, `fold_0` or `task_1/fold_0`; empty where there is a single one."""
        several, places = len(self.tasks) > self.folds, []
        for i in range(len(self.tasks)):
            task, fold = divmod(i, self.folds)
            parts = [f"task_{task}"] if several else []
            parts += [f"fold_{fold}"] if self.folds > 1 else []
            places.append("/".join(parts))
        return places


def with_tasks(space: Space, tasks: Sequence[Mapping[str, Any]]) -> Space:
    """`space` over other tasks, as JSON: its folds, so that what counts replicas counts them."""
    return space.model_copy(update={"tasks": [TaskConfig.model_validate(task) for task in tasks]})


def sampler_notes(space: Space) -> list[str]:
    """Lines on what the sampler is, and what it cannot do."""
    name, alone = space.sampler_name, [name for name, dimension in space.search.items() if dimension.when is not None]
    notes = [f"`sampler: auto` is {name} in this space"] if space.sampler.name == "auto" else []
    if alone and name in ("gp", "cmaes", "nsga2"):
        notes.append(f"{name} draws {', '.join(alone)} at random: only tpe models a hyperparameter with `when`")
    return notes


def cost_of_folds(space: Space, folds: int) -> str:
    """A line on what folds cost."""
    most = space.trials * len(space.tasks) * folds * space.seeds * space.steps
    return f"{folds} folds: up to {most:,} replica-steps of trials, {folds} times those of a single split"
