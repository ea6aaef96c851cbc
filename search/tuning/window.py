"""What a sampler sees of a long search: a sample of its trials, so that a proposal takes no longer late than early.

TPE weighs every trial at every proposal, and a Gaussian process is cubic in them. Both get by with the best trials, the latest
ones, and evenly many of those between (`benchmarks/LOG.md`).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Container, Mapping, Sequence
from typing import Any, cast

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study._multi_objective import _fast_non_domination_rank
from optuna.trial import FrozenTrial, TrialState

from search.space.model import Space

MOST = 500  # ended trials that a sampler sees
BEST = 25  # of these: as many as TPE itself takes for good ones
LATEST = 25  # and the latest; the others are spread evenly
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


def seen(trials: Sequence[FrozenTrial], most: int = MOST) -> list[FrozenTrial]:
    """Of a study's trials, by number, those that a sampler sees: all that run, and at most `most` that have ended with a value.

    All objectives are maximized. Trials stopped early count as `optuna.samplers.TPESampler` has it: behind all completed ones,
    the later they were stopped, the better. Up to `most`, all are seen.
    """
    ended = [t for t in trials if t.state in ENDED]
    if len(ended) <= most:
        return list(trials)
    best = {t.number for t in _best(ended, BEST)}
    latest = ended[-LATEST:]
    between = [t for t in ended[:-LATEST] if t.number not in best]
    room = most - len(best | {t.number for t in latest})
    spread = [between[len(between) * i // room] for i in range(room)] if between else []
    kept = best | {t.number for t in (*latest, *spread)}
    return [t for t in trials if t.number in kept or t.state == TrialState.RUNNING]


def _best(ended: Sequence[FrozenTrial], count: int) -> list[FrozenTrial]:
    completed = [t for t in ended if t.state == TrialState.COMPLETE]
    if completed and len(completed[0].values) > 1:
        ranks = _fast_non_domination_rank(-np.array([t.values for t in completed]), n_below=count)
        found = [completed[i] for i in np.argsort(ranks, kind="stable")[:count]]
    else:
        found = heapq.nsmallest(count, completed, key=lambda t: -cast(float, t.value))
    pruned = [t for t in ended if t.state == TrialState.PRUNED and t.intermediate_values]
    return found + heapq.nsmallest(count - len(found), pruned, key=_stopped)


def _stopped(trial: FrozenTrial) -> tuple[int, float]:
    step, value = max(trial.intermediate_values.items())
    return -step, math.inf if math.isnan(value) else -value


class _Sample:
    """A study that shows a sampler some of its trials."""

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        self._shown = seen(study._get_trials(deepcopy=False, use_cache=True))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        return [t for t in self._shown if states is None or t.state in states]


class Windowed(BaseSampler):
    """A sampler that sees a sample of the trials. For a single proposal: it looks at the study once.

    What trials have in common is known from the space, so it is not looked for in all of them at each proposal.
    """

    def __init__(self, sampler: BaseSampler, space: Mapping[str, BaseDistribution], relative: bool = True) -> None:
        """`relative`: whether the sampler proposes all hyperparameters together."""
        self.inner = sampler
        self._space = {name: own for name, own in sorted(space.items()) if not own.single()} if relative else {}
        self._sample: Any = None

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._space

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self.inner.sample_relative(self._of(study), trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self.inner.sample_independent(self._of(study), trial, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self.inner.before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self.inner.after_trial(study, trial, state, values)

    def _of(self, study: optuna.Study) -> optuna.Study:
        if self._sample is None:
            self._sample = _Sample(study)
        return cast(optuna.Study, self._sample)


def slow_sampler(space: Space) -> str | None:
    """A line on a sampler that holds up a search of so many trials; None for the others."""
    if space.sampler_name != "gp" or space.trials <= MOST:
        return None
    return (
        f"`sampler: {{name: gp}}` takes seconds for each of more than a few hundred trials, and looks at {MOST} of these "
        f"{space.trials:,} at most; `tpe` takes milliseconds"
    )
