"""A search space: which hyperparameters vary, on which tasks, and how the search spends its trials.

Read from a YAML by `search/space/files.py`. Knows nothing of Ray, Optuna or MLflow.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from condense.config.modalities import RATE
from condense.config.models import Hyperparameters, Strict, TaskConfig, is_hyperparameter
from condense.config.published import PAPER_DEFAULT
from search.space.constraints import allowed, check_constraints
from search.space.dimension import Dimension as Dimension
from search.space.dimension import check_conditions, check_dimension, check_value
from search.space.dimension import is_integer as is_integer
from search.space.resources import Resources as Resources
from search.space.validation import Validation

# Seeds of one search lie in its own block of this many: the trials' in the first half, the confirmation's in the
# second. So they are disjoint by construction, within a search and between searches with other seeds.
SEED_BLOCK = 10_000
# Hyperparameters of the characteristic function: without effect if the uni-modal term is fixed to MMD.
CF_ONLY = ("frequency_scale", "num_frequencies", "frequency_pool", "frequency_sampling", "alpha", "beta")


# `sampler: auto` takes gp up to here: a Gaussian process is cubic in trials, and learns little in many dimensions.
GP_TRIALS, GP_RANGES = 200, 10
OURS = Hyperparameters()
LONGEST_NAME = (
    200  # bytes of a search's name, a folder; a file system takes 255, some of them for what stands beside it
)


class Robust(Strict):
    """How the replicas' scores (shares of full-data accuracy) become one. Formulas: `search/analysis/scores.py`."""

    rule: Literal["mean_std", "mean", "worst_case", "cvar"] = Field(
        "mean_std",
        description="`mean_std`: mean - k * std over seeds; `mean`; `worst_case`: the lowest replica (task x seed); "
        "`cvar`: the mean of the lowest `fraction` of the replicas",
    )
    k: float = Field(1.0, ge=0, description="weight of the spread over seeds in `mean_std`")
    fraction: float = Field(0.25, gt=0, le=1, description="of the replicas, for `cvar`")


class Racing(Strict):
    """A trial starts with few seeds; while it keeps up with the best one, it gets more (`search/tuning/racing.py`)."""

    start: int = Field(1, ge=1, description="seeds that every trial gets")
    growth: float = Field(2.0, gt=1, description="a trial that goes on has so many times more seeds, up to `seeds`")
    tolerance: float = Field(
        0.0, ge=0, description="standard errors that a trial may be behind the best one, seed by seed, and go on"
    )


SamplerName = Literal["tpe", "gp", "cmaes", "nsga2", "random", "qmc"]


class Sampler(Strict):
    """Optuna's sampler."""

    name: Literal["tpe", "gp", "cmaes", "nsga2", "random", "qmc", "auto"] = Field(
        "tpe",
        description="which sampler proposes; `auto`: `gp` in a search of up to 200 trials of up to 10 ranges, without `choices`, "
        "`when` and `constraints`; else `tpe`",
    )
    startup_trials: int = Field(
        8, ge=2, description="random trials before tpe, gp and cmaes use their model; population size of nsga2"
    )
    multivariate: bool = Field(True, description="tpe: model the hyperparameters jointly, not one by one")


class Scheduler(Strict):
    """Which trials are stopped early."""

    name: Literal["asha", "hyperband", "median", "none"] = Field(
        "asha",
        description="`asha`: asynchronous successive halving; `hyperband`: several of these side by side, with ever later first "
        "rungs; `median`: whose best score is below the median of the others' running means; `none`",
    )
    grace_steps: int | None = Field(None, ge=1, description="no trial is stopped before; default: report_every")
    reduction_factor: float = Field(
        3.0, gt=1, description="asha, hyperband: of the trials at a rung, one in this many goes on"
    )


class Budget(Strict):
    """What ends a search before all of its `trials`; what they have found by then is confirmed."""

    hours: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="from the start of the command to its end, confirmation and report included; a resumed search has as many "
        "again. --time HOURS sets it",
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="no more trials after so many in a row that were not better than the best one by more than the standard "
        "error of its score",
    )


class Confirmation(Strict):
    """What is re-run on fresh seeds after the search."""

    top_k: int = Field(3, ge=1, description="how many of the best trials are confirmed, besides the defaults")
    seeds: int = Field(10, ge=2, le=SEED_BLOCK // 4, description="fresh seeds to choose on, and to report on, at most")
    budget: int | None = Field(
        None,
        ge=0,
        description="replica-steps that it may take (a little is always run); left out: what the trials took",
    )
    perturbations: int = Field(
        8, ge=0, description="real runs around a candidate, each with all hyperparameters moved at random; 0: none"
    )
    reported_perturbations: int = Field(
        16, ge=0, description="the same around what is recommended, with other moves and seeds, for the report; 0: none"
    )
    perturbed_decades: float = Field(
        0.3, gt=0, description="how far they are moved, up or down: decades, or this share of a range that is not log"
    )
    perturbed_seeds: int = Field(2, ge=1, description="seeds of each of these runs")
    tuned_rates: int = Field(
        12,
        ge=0,
        description="settings of the learning rates tried with the default lambdas and sigma, so that what the lambdas gain "
        "is told apart from what the learning rates gain; 0: none",
    )


@dataclass(frozen=True)
class DefaultTrial:
    """A setting that every search runs, for comparison."""

    name: str
    hyperparameters: Hyperparameters


class Space(Strict):
    """Everything that decides what a search runs; `search.json` records it."""

    name: str = Field(min_length=1, description="name of the search space")
    tasks: list[TaskConfig] = Field(min_length=1, description="what is condensed; replicas are tasks x seeds")
    fixed: dict[str, Any] = Field(
        default_factory=dict,
        description="hyperparameters held constant, besides the default values. lambda_uni belongs here, at 1: under "
        "SGD the common factor of the three lambdas is confounded with the learning rate, so that searching it too "
        "adds a direction in which nothing changes",
    )
    search: dict[str, Dimension] = Field(min_length=1, description="hyperparameters that vary")
    constraints: list[str] = Field(
        default_factory=list,
        description="what holds in every proposal: `[lambda_joint <= lambda_cross]`, with `<=`, `<`, `>` or `>=` between two "
        "hyperparameters of `search` or `fixed`, or one and a number. The defaults are run in any case",
    )
    steps: int = Field(60, ge=1, description="optimiser steps of a trial that is not stopped early")
    report_every: int = Field(20, ge=1, description="steps between two validations, each followed by a report")
    trials: int = Field(24, ge=3, description="how many trials, the default ones included")
    budget: Budget = Field(default=Budget(), description="what ends it before; `trials` is the most in any case")
    seeds: int = Field(3, ge=1, le=SEED_BLOCK // 2, description="paired seeds: replicas per task, equal for all trials")
    seed: int = Field(0, ge=0, le=100_000, description="seed of the sampler; the replicas' seeds derive from it")
    robust: Robust = Field(default=Robust(), description="how replicas become one score")
    validation: Validation | None = Field(
        None,
        description="several divisions of train and validation, so that settings are chosen on all of these items; replicas "
        "are then tasks x folds x seeds. Left out: each dataset's own split",
    )
    objectives: list[Literal["score", "worst_class", "retrieval"]] = Field(
        default=["score"],
        description="what is searched for: `score` alone, or with others, of which each trial gets the robust score too "
        "(of shares of what full data gives): the accuracy of the worst class, retrieval of partners. Then the report "
        "has a Pareto front; the recommendation goes by `score`",
    )
    racing: Racing | None = Field(None, description="seeds in stages, more for who keeps up; left out: all at once")
    warm_start: list[dict[str, Any]] = Field(
        default_factory=list,
        description="settings to run right after the defaults: values of `search` each. --warm-start OTHER fills it with "
        "the best of an earlier search",
    )
    sampler: Sampler = Field(default=Sampler(), description="who proposes")
    scheduler: Scheduler = Field(default=Scheduler(), description="who stops early")
    max_concurrent: int = Field(4, ge=1, description="trials at a time; with 1, a search is exactly repeatable")
    confirmation: Confirmation = Field(default=Confirmation(), description="the re-run on fresh seeds")
    resources: Resources = Field(default=Resources(), description="what a trial reserves")
    checkpoint_every: float | None = Field(
        None,
        ge=0,
        description="minutes between checkpoints of a trial whose state has 32 MiB or more; default: 1 % of the time",
    )
    storage: str | None = Field(
        None, description="where those are: an absolute folder, s3://, gs:// ...; default: each node's disk"
    )

    @field_validator("name")
    @classmethod
    def _is_a_folders_name(cls, value: str) -> str:
        if "/" in value or "\0" in value or value.strip() in ("", ".", ".."):
            raise ValueError("must be a name that a folder can have: results go to results/NAME")
        if len(value.encode()) > LONGEST_NAME:
            raise ValueError(f"must have at most {LONGEST_NAME} bytes: results go to results/NAME")
        return value

    @field_validator("scheduler", mode="before")
    @classmethod
    def _scheduler_by_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check(self) -> Space:
        for group, names in (("fixed", self.fixed), ("search", self.search)):
            for name in names:
                if not is_hyperparameter(name):
                    hint = nearest(name, Hyperparameters.model_fields)
                    raise ValueError(f"`{group}.{name}` is no hyperparameter{hint}")
        for name, value in self.fixed.items():
            if name in self.search and self.search[name].when is None:
                raise ValueError(f"`{name}` is in both `fixed` and `search`: it must be in one of them")
            check_value(f"fixed.{name}", name, value)
        for name, dimension in self.search.items():
            check_dimension(name, dimension)
            if name in CF_ONLY and self.fixed.get("discrepancy") == "mmd":
                raise ValueError(f"`search.{name}` has no effect with `fixed.discrepancy`: mmd")
        check_conditions(self.search)
        check_constraints(self.constraints, self.search, self.fixed)
        for i, setting in enumerate(self.warm_start):
            self.check_setting(f"warm_start.{i}", setting)
        if self.warm_start and self.trials <= len(self.first_trials()):
            count = len(self.warm_start)
            raise ValueError(f"`trials` must be > 2 defaults + {count} of `warm_start`, but got {self.trials}")
        if self.validation is not None and any(task.fold is not None for task in self.tasks):
            raise ValueError(
                "`validation` makes folds of all tasks: it must not be given together with a task's `fold`"
            )
        if self.racing is not None and self.robust.rule in ("worst_case", "cvar"):
            raise ValueError(f"`racing` goes by means over seeds: not with `robust.rule`: {self.robust.rule}")
        if self.racing is not None and self.racing.start >= self.seeds:
            raise ValueError(f"`racing.start` must be < seeds ({self.seeds}), but got {self.racing.start}")
        if self.objectives[:1] != ["score"] or len(set(self.objectives)) < len(self.objectives):
            raise ValueError(
                f"`objectives` must begin with score and differ from each other, but got {self.objectives}"
            )
        if len(self.objectives) > 1:
            if self.scheduler.name != "none" or self.racing is not None:
                raise ValueError("several `objectives` need `scheduler`: none and no `racing`: both go by a single one")
            if self.budget.patience is not None:
                raise ValueError("`budget.patience` goes by the score: not with several `objectives`")
            if self.sampler_name == "cmaes":
                raise ValueError("`sampler.name`: cmaes has a single objective; use tpe, gp, nsga2, random or qmc")
        if self.report_every > self.steps:
            raise ValueError(f"`report_every` must be <= steps ({self.steps}), but got {self.report_every}")
        if self.scheduler.name != "none" and self.grace_steps > self.steps:
            raise ValueError(f"`scheduler.grace_steps` must be <= steps ({self.steps}), but got {self.grace_steps}")
        return self

    def check_setting(self, key: str, setting: Mapping[str, Any]) -> None:
        """Raises ValueError for one that could not have been proposed."""
        for name in self.searched(setting):
            if name not in setting:
                raise ValueError(f"`{key}` must have all of `search`, but lacks `{name}`")
        for name, value in setting.items():
            if name not in self.searched(setting):
                raise ValueError(f"`{key}.{name}` is not searched{' there' if name in self.search else ''}")
            check_value(f"{key}.{name}", name, value)
            if not self.search[name].contains(value):
                raise ValueError(f"`{key}.{name}` must be in the range of `search.{name}`, but got {value!r}")
        if not self.admits(setting):
            raise ValueError(f"`{key}` must be within `constraints`, but got {dict(setting)}")

    @property
    def grace_steps(self) -> int:
        """Steps before which no trial is stopped."""
        return self.report_every if self.scheduler.grace_steps is None else self.scheduler.grace_steps

    @property
    def sampler_name(self) -> SamplerName:
        """The sampler; what `auto` stands for."""
        if self.sampler.name != "auto":
            return self.sampler.name
        plain = all(d.choices is None and d.when is None for d in self.search.values()) and not self.constraints
        return "gp" if plain and len(self.search) <= GP_RANGES and self.trials <= GP_TRIALS else "tpe"

    @property
    def report_steps(self) -> list[int]:
        """The steps after which a trial reports; the last is always `steps`."""
        return [*range(self.report_every, self.steps, self.report_every), self.steps]

    def hyperparameters(self, params: Mapping[str, Any]) -> Hyperparameters:
        """All hyperparameters of a trial: `fixed` plus the searched values `params` of one proposal."""
        return Hyperparameters.model_validate({**self.fixed, **params})

    def searched(self, values: Mapping[str, Any]) -> list[str]:
        """What is searched in a setting with these values of `search`: all but hyperparameters whose `when` is not met."""
        return [name for name, dimension in self.search.items() if dimension.is_searched(values)]

    def params_of(self, hyperparameters: Hyperparameters) -> dict[str, Any]:
        """The values of what is searched in a setting, in the order of `search`."""
        known = {name: getattr(hyperparameters, name, None) for name in self.search}
        return {name: known[name] for name in self.searched(known)}

    def admits(self, params: Mapping[str, Any]) -> bool:
        """Whether `params`, of `params_of`, could have been proposed: inside all ranges, and within `constraints`."""
        inside = all(self.search[name].contains(value) for name, value in params.items())
        return inside and self.keeps_constraints(params)

    def keeps_constraints(self, params: Mapping[str, Any]) -> bool:
        """Whether values of `search` are within `constraints`."""
        return not self.constraints or allowed(self.constraints, {**self.fixed, **params})

    def contains(self, hyperparameters: Hyperparameters) -> bool:
        """Whether a setting could have been proposed, and equals `fixed` and the defaults elsewhere."""
        return self.admits(self.params_of(hyperparameters)) and self.differs_in_searched_only(hyperparameters)

    def differs_in_searched_only(self, hyperparameters: Hyperparameters) -> bool:
        """Whether a setting equals this space in everything that is not searched; ranges do not count. False for `default` if
        the space fixes a published lambda, or sigma, at another value."""
        return self.hyperparameters(self.params_of(hyperparameters)) == hyperparameters

    def default_trials(self) -> list[DefaultTrial]:
        """The published setting in its own scaling; and this project's. Of a space with another scaling than that the published
        lambdas and sigma instead, with central learning rates."""
        # The precision of the CF estimate is a budget, not a setting: the same for all trials.
        budget = {k: self.fixed[k] for k in ("num_frequencies", "frequency_pool") if k in self.fixed}
        rate = PAPER_DEFAULT.learning_rate
        rates = {name: rate for name in self.search if name.startswith("learning_rate")}
        paper = Hyperparameters.model_validate({**PAPER_DEFAULT.model_dump(), **budget, **rates})
        names = ("lambda_uni", "lambda_cross", "lambda_joint", "frequency_scale")
        published = {name: getattr(PAPER_DEFAULT, name) for name in names}
        central = {name: _centre(name, dimension) for name, dimension in self.search.items()}
        own = self.fixed.get("scaling", OURS.scaling)
        if "scaling" in self.search:
            own = OURS.scaling if self.search["scaling"].contains(OURS.scaling) else "normalized"
        scaling = OURS.scaling if own == "paper" else own
        start = published
        if scaling == OURS.scaling:
            known = {name: _ours(name) for name in (*names, *self.search)}
            start = {k: v for k, v in known.items() if k in names or self.search[k].contains(v)}
        values = {**central, **start, "scaling": scaling}
        elsewhere = [name for name in self.search if name not in self.searched(values)]
        ours = self.hyperparameters({name: value for name, value in values.items() if name not in elsewhere})
        return [DefaultTrial("paper_default", paper), DefaultTrial("default", ours)]

    def first_trials(self) -> list[DefaultTrial]:
        """The trials before the first proposal: the defaults, then the settings of `warm_start`."""
        known = [DefaultTrial(f"warm_start_{i}", self.hyperparameters(s)) for i, s in enumerate(self.warm_start)]
        return [*self.default_trials(), *known]


def replica_seeds(space: Space) -> list[int]:
    """The paired seeds of every trial, (seeds,)."""
    return [space.seed * SEED_BLOCK + i for i in range(space.seeds)]


def fresh_seeds(space: Space) -> tuple[list[int], list[int]]:
    """Two lists of `confirmation.seeds` seeds that no trial has used: one to choose on, one to report the choice."""
    count = space.confirmation.seeds
    fresh = confirmation_seeds(space, 2 * count)
    return fresh[:count], fresh[count:]


def confirmation_seeds(space: Space, n: int) -> list[int]:
    """`n` seeds that no trial of the search has used, (n,); n <= 5000."""
    if n > SEED_BLOCK // 2:
        raise ValueError(f"n must be <= {SEED_BLOCK // 2}, but got {n}")
    return [space.seed * SEED_BLOCK + SEED_BLOCK // 2 + i for i in range(n)]


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean ...?`, or an empty text."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean `{close[0]}`?" if close else ""


def _ours(name: str) -> Any:
    """This project's value of a hyperparameter."""
    return OURS.learning_rate_of(name.removeprefix(RATE)) if name.startswith(RATE) else getattr(OURS, name)


def _centre(name: str, dimension: Dimension) -> Any:
    centre = dimension.centre()
    return round(centre) if is_integer(name) and dimension.choices is None else centre
