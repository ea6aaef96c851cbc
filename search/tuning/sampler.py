"""Optuna's samplers, as a space asks for them.

Samplers are stateless: each new number gets one built from the space's seed and the number. So with one trial at a
time, an interrupted search proposes the same as an uninterrupted one. With several at a time the order in which
trials end affects the sampler, interrupted or not: then only the numbers, the settings handed out before the
interruption, and each trial's own result are the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from search.space.model import Space, is_integer
from search.tuning.window import Windowed


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """The space's `search` in Optuna's terms."""
    result: dict[str, BaseDistribution] = {}
    for name, dimension in space.search.items():
        if dimension.choices is not None:
            result[name] = CategoricalDistribution(dimension.choices)
        else:
            assert dimension.low is not None and dimension.high is not None
            low, high, step = dimension.low, dimension.high, dimension.step
            if is_integer(name):
                result[name] = IntDistribution(int(low), int(high), log=dimension.log, step=int(step or 1))
            else:
                result[name] = FloatDistribution(low, high, log=dimension.log, step=step)
    return result


def always_searched(space: Space) -> dict[str, BaseDistribution]:
    """The same of those without a `when`: what samplers propose together."""
    return {name: own for name, own in distributions(space).items() if space.search[name].when is None}


class _GP(optuna.samplers.GPSampler):
    """A TPE sampler that does not mistake values a killed driver left in this trial for those of another running trial."""

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        for key in trial.system_attrs:
            study._storage.set_trial_system_attr(trial._trial_id, key, "")
        return super().sample_relative(study, trial, search_space)


def _proposed_together(space: Mapping[str, BaseDistribution]) -> dict[str, BaseDistribution]:
    """In the order of Optuna, which derives the same from the trials that have ended: of a space with `when`, first more."""
    return {name: own for name, own in sorted(space.items()) if not own.single()}


class _NSGA2(optuna.samplers.NSGAIISampler):
    """Sorts parents by number. In Optuna, the trial that opens a generation sees them in another order than later ones, so a
    trial proposed twice (because of a kill) would get other values."""

    def __init__(self, space: Mapping[str, BaseDistribution], **options: Any) -> None:
        """`space`: what all trials have."""
        super().__init__(**options)
        self._space = _proposed_together(space)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._space

    def select_parent(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        return sorted(super().select_parent(study, generation), key=lambda parent: parent.number)


class _CMAES(optuna.samplers.CmaEsSampler):
    """Of the numbers that all trials have."""

    def __init__(self, space: Mapping[str, BaseDistribution], **options: Any) -> None:
        super().__init__(**options)
        numbers = {name: own for name, own in space.items() if not isinstance(own, CategoricalDistribution)}
        self._space = _proposed_together(numbers)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._space


class _SobolPoint(optuna.samplers.QMCSampler):
    """One point of a scrambled Sobol sequence. Optuna counts the points in the study: a kill would skip some."""

    def __init__(self, space: dict[str, BaseDistribution], point: int, seed: int) -> None:
        """All points of a sequence share its `seed`; `point` counts from 0."""
        super().__init__(scramble=True, seed=seed)
        self._space = {name: distribution for name, distribution in space.items() if not distribution.single()}
        self._point = max(0, point)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._space

    def _find_sample_id(self, study: optuna.Study, search_space: dict[str, BaseDistribution]) -> int:
        return self._point


def build_sampler(space: Space, number: int) -> BaseSampler:
    """The sampler for trial `number`; depends on the space and the number only."""
    seed = seed_of(space.seed, number)
    startup = space.sampler.startup_trials
    with warnings.catch_warnings():
        # "experimental" says that Optuna may change the argument; the version is pinned.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match space.sampler_name:
            case "tpe":
                jointly = space.sampler.multivariate
                tpe = optuna.samplers.TPESampler(
                    n_startup_trials=startup,
                    multivariate=jointly,
                    constant_liar=True,
                    seed=seed,
                )
                tpe._warn_independent_sampling = (
                    False  # of hyperparameters with `when`; as an argument it is deprecated
                )
                return Windowed(tpe, always_searched(space), jointly)
            case "gp":
                gp = _GP(n_startup_trials=startup, seed=seed, warn_independent_sampling=False)
                return Windowed(gp, always_searched(space))
            case "cmaes":
                return _CMAES(
                    always_searched(space),
                    n_startup_trials=startup,
                    seed=seed,
                    warn_independent_sampling=False,
                    # ASHA stops most trials: without them a generation would take the whole search.
                    consider_pruned_trials=space.scheduler.name != "none",
                )
            case "nsga2":
                return _NSGA2(always_searched(space), population_size=startup, seed=seed)
            case "qmc":
                return _SobolPoint(distributions(space), number - len(space.first_trials()), seed_of(space.seed))
            case "random":
                return optuna.samplers.RandomSampler(seed=seed)


def first_generation(space: Space) -> dict[str, Any]:
    """What marks a trial as one that NSGA-II may breed from: it takes only those of a generation."""
    return {_NSGA2._get_generation_key(): 0} if space.sampler_name == "nsga2" else {}


def seed_of(*entropy: int) -> int:
    """A seed that depends on all of these."""
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])
