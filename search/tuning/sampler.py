"""Proposes trials: Optuna through Ray's OptunaSearch, with corrected bookkeeping.

A trial is identified by its number, the same in Optuna, the ledger and `config["number"]`; Tune's own trial ids are new in
every run. The ledger is the source of truth, the study (`optuna.journal`) is the sampler's memory. On opening, the study is
brought in line with the ledger; then unfinished trials are handed out again, and the sampler proposes new ones.

Samplers are stateless: each new number gets one built from the space's seed and the number. So with one trial at a
time, an interrupted search proposes the same as an uninterrupted one. With several at a time the order in which
trials end affects the sampler, interrupted or not: then only the numbers, the settings handed out before the
interruption, and each trial's own result are the same.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import cloudpickle
import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState, create_trial
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from condense.config.models import Hyperparameters
from search.ledger.ledger import Ledger, TrialRecord
from search.space.model import Space, is_integer, replica_seeds
from search.tuning.journal import journal_in, mend_journal
from search.tuning.window import Windowed

STUDY = "search"
LOST_PROCESSES = 3  # how often a trial whose process died is handed out again, beyond what Tune retries by itself


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """The space's `search` in Optuna's terms."""
    result: dict[str, BaseDistribution] = {}
    for name, dimension in space.search.items():
        if dimension.choices is not None:
            result[name] = CategoricalDistribution(dimension.choices)
        else:
            assert dimension.low is not None and dimension.high is not None
            if is_integer(name):
                result[name] = IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
            else:
                result[name] = FloatDistribution(dimension.low, dimension.high, log=dimension.log)
    return result


class _GP(optuna.samplers.GPSampler):
    """A TPE sampler that does not mistake values a killed driver left in this trial for those of another running trial."""

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        for key in trial.system_attrs:
            study._storage.set_trial_system_attr(trial._trial_id, key, "")
        return super().sample_relative(study, trial, search_space)


class _NSGA2(optuna.samplers.NSGAIISampler):
    """Sorts parents by number. In Optuna, the trial that opens a generation sees them in another order than later ones, so a
    trial proposed twice (because of a kill) would get other values."""

    def select_parent(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        return sorted(super().select_parent(study, generation), key=lambda parent: parent.number)


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
    seed = _seed(space.seed, number)
    startup = space.sampler.startup_trials
    with warnings.catch_warnings():
        # "experimental" says that Optuna may change the argument; the version is pinned.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match space.sampler.name:
            case "tpe":
                jointly = space.sampler.multivariate
                tpe = optuna.samplers.TPESampler(
                    n_startup_trials=startup, multivariate=jointly, constant_liar=True, seed=seed
                )
                return Windowed(tpe, distributions(space), jointly)
            case "gp":
                gp = _GP(n_startup_trials=startup, seed=seed, warn_independent_sampling=False)
                return Windowed(gp, distributions(space))
            case "cmaes":
                return optuna.samplers.CmaEsSampler(
                    n_startup_trials=startup,
                    seed=seed,
                    warn_independent_sampling=False,
                    # ASHA stops most trials: without them a generation would take the whole search.
                    consider_pruned_trials=space.scheduler.name != "none",
                )
            case "nsga2":
                return _NSGA2(population_size=startup, seed=seed)
            case "qmc":
                return _SobolPoint(distributions(space), number - len(space.first_trials()), _seed(space.seed))
            case "random":
                return optuna.samplers.RandomSampler(seed=seed)


def open_study(output: Path) -> optuna.Study:
    """A search's study for reading, for example with `optuna.importance`.

    Trials run outside the space's ranges (`paper_default`) are placeholders in it, with state FAIL, which every sampler
    ignores: without the searched parameters they would end the samplers' common search space. Their scores are in
    the ledger.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.load_study(study_name=STUDY, storage=journal_in(output))


class SpaceSearcher(OptunaSearch):
    """Hands out a space's trials to Tune, and records their results in the ledger and in the study.

    What differs from OptunaSearch: stopped trials are PRUNED with their last value, errors and scores that are not
    finite are FAIL, every report and every end is recorded once, and all of it survives a kill at any moment. A trial
    whose process died continues under a new id: Tune retries it too, but not if the process died between two trials.
    Use with `TuneConfig(num_samples=-1, max_concurrent_trials=...)`, without metric and mode; it ends the search by
    itself.
    """

    def __init__(self, space: Space, ledger: Ledger, is_over: Callable[[], bool] | None = None) -> None:
        """`ledger` must have been opened by `Ledger.open`, which keeps other drivers out of its folder. `is_over`: whether no
        trial may begin any more, nor go on that lost its process."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        mend_journal(ledger.output)
        self._distributions = distributions(space)
        super().__init__(
            space=self._distributions,
            metric=list(space.objectives) if len(space.objectives) > 1 else "score",
            mode=["max"] * len(space.objectives) if len(space.objectives) > 1 else "max",
            sampler=build_sampler(space, 0),
            study_name=STUDY,
            storage=journal_in(ledger.output),
        )
        self._study: optuna.Study | None = self._ot_study
        self._definition = space
        self._ledger = ledger
        self._first = space.first_trials()
        self._numbers: dict[str, int] = {}  # Tune's trial id -> number
        self._running: set[str] = set()  # Tune's ids of the trials that are handed out
        self._unfinished: deque[int] = deque()  # trials to hand out again
        self._lost: Counter[int] = Counter()  # number -> how often its process died for good
        self._is_over = is_over
        self._reconcile()

    @property
    def study(self) -> optuna.Study:
        """The study; reopened in an unpickled copy."""
        if self._study is None:
            self._study = open_study(self._ledger.output)
        return self._study

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # FINISHED is a str
        """The next trial as a flat config: number, name and all hyperparameters. FINISHED if none is left; None while a running
        one may still have to be handed out again."""
        if self._is_over is not None and self._is_over():
            return str(Searcher.FINISHED)
        if self._unfinished:
            number = self._unfinished.popleft()
        elif (count := len(self._trials())) < self._definition.trials:
            number = count
        else:
            return None if self._running else str(Searcher.FINISHED)
        record = self._ledger.trial(number) or self._propose(number)
        self._numbers[trial_id] = number
        self._running.add(trial_id)
        frozen = self._frozen(number)
        if not frozen.state.is_finished():
            self.study._storage.set_trial_user_attr(frozen._trial_id, "ray_trial_id", trial_id)
        return {"number": number, "name": record.name, **record.config}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Records a report in the study."""
        self._report(self._numbers[trial_id], {int(result["step"]): float(result["score"])})

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Records how a trial ended, unless the trial did so itself (a loss that was not finite)."""
        number = self._numbers[trial_id]
        self._running.discard(trial_id)
        record = self._ledger.trial(number)
        assert record is not None
        if record.status == "unfinished":
            if result is None and not error:
                return  # removed from Tune's list before it ran: still to be done
            if error and self._ledger.fault(number) is None and self._lost[number] < LOST_PROCESSES:
                self._lost[number] += 1
                self._unfinished.append(number)
                return
            self._end(record, result or {}, error)
            record = self._ledger.trial(number)
            assert record is not None
        if result and "score" in result:
            self._report(number, {int(result["step"]): float(result["score"])})
        self._tell(record)

    @property
    def runs(self) -> bool:
        """Whether trials are handed out that have not come back."""
        return bool(self._running)

    def save(self, checkpoint_path: str) -> None:
        """Tune's snapshot, unused: a search is resumed from its ledger."""
        Path(checkpoint_path).write_bytes(cloudpickle.dumps(self))

    def restore(self, checkpoint_path: str) -> None:
        """Restores a snapshot."""
        self.__dict__.update(cloudpickle.loads(Path(checkpoint_path).read_bytes()).__dict__)

    def __getstate__(self) -> dict[str, Any]:
        return {
            **self.__dict__,
            "_study": None,
            "_ot_study": None,
            "_storage": None,
            "_sampler": None,
            "_is_over": None,
        }

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _frozen(self, number: int) -> FrozenTrial:
        """A trial as the study has it, without a look at the others."""
        storage = self.study._storage
        return storage.get_trial(storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number))

    def _reconcile(self) -> None:
        """Brings the study in line with the ledger, and lists the trials to hand out again."""
        records = {record.number: record for record in self._ledger.trials()}
        known = len(self._trials())
        for number in range(max([known, *(recorded + 1 for recorded in records)])):
            record = records.get(number)
            if number < known:
                frozen = self._frozen(number)
                if record is not None and not frozen.state.is_finished() and frozen.params != record.params:
                    self._store(frozen, record.params)
            elif record is not None:  # the journal lost its end
                self._add(record.name, Hyperparameters.model_validate(record.config))
            elif number < len(self._first):
                self._add(self._first[number].name, self._first[number].hyperparameters)
            else:  # in neither: proposed again
                self.study.add_trial(create_trial(state=TrialState.RUNNING))
            if record is None or record.status == "unfinished":
                self._unfinished.append(number)
            else:
                self._tell(record)

    def _add(self, name: str | None, hyperparameters: Hyperparameters) -> None:
        """Adds a known setting as the study's next trial; as a placeholder if it could not have been proposed."""
        attributes: dict[str, Any] = {"name": name}
        if not self._definition.contains(hyperparameters):
            self.study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={**attributes, "outside": True}))
            return
        # NSGA-II breeds only from trials of a generation; the others ignore the mark.
        generation = {_NSGA2._get_generation_key(): 0}
        self.study.add_trial(
            create_trial(
                state=TrialState.RUNNING,
                params=self._definition.params_of(hyperparameters),
                distributions=self._distributions,
                user_attrs=attributes,
                system_attrs=generation if self._definition.sampler.name == "nsga2" else {},
            )
        )

    def _propose(self, number: int) -> TrialRecord:
        """Trial `number`, which is not in the ledger yet: a first trial, or the sampler's proposal."""
        name = None
        if number < len(self._first):
            name, hyperparameters = self._first[number].name, self._first[number].hyperparameters
            params = self._definition.params_of(hyperparameters)
            if number == len(self._trials()):
                self._add(name, hyperparameters)
        else:
            params = self._ask(number)
            hyperparameters = self._definition.hyperparameters(params)
        config = hyperparameters.model_dump(mode="json")
        self._ledger.new_trial(number, name, params, config, replica_seeds(self._definition))
        record = self._ledger.trial(number)
        assert record is not None
        return record

    def _ask(self, number: int) -> dict[str, Any]:
        """The sampler's values for trial `number`, even if a killed driver had already asked for some.

        `Study.ask` stores value after value, and skips stored ones when asked again, which would shift the random
        numbers. So all values are drawn first, then stored.
        """
        self.study.sampler = build_sampler(self._definition, number)
        if number == len(self._trials()):
            trial = self.study.ask()
        else:
            known = self._frozen(number)
            if self._distributions.keys() <= known.params.keys():
                return {name: known.params[name] for name in self._distributions}
            self.study._thread_local.cached_all_trials = None  # as `ask` does: a sampler must see the latest results
            trial = optuna.trial.Trial(self.study, known._trial_id)
        frozen = self._frozen(number)
        values = {}
        for name, distribution in self._distributions.items():
            if distribution.single():  # samplers need not support these
                values[name] = self._definition.search[name].centre()
            elif name in trial.relative_params:
                values[name] = trial.relative_params[name]
            else:
                values[name] = self.study.sampler.sample_independent(self.study, frozen, name, distribution)
        self._store(frozen, values)
        return values

    def _store(self, frozen: FrozenTrial, values: dict[str, Any]) -> None:
        for name, distribution in self._distributions.items():
            internal = distribution.to_internal_repr(values[name])
            self.study._storage.set_trial_param(frozen._trial_id, name, internal, distribution)

    def _end(self, record: TrialRecord, result: dict[str, Any], error: bool) -> None:
        """Decides how a trial ended, and records it in the ledger."""
        last = record.reports[-1].metrics if record.reports else {}
        steps = max(int(result.get("step", 0)), record.steps)
        # If the scheduler stopped it at a report replayed after a resume, that report is not the trial's latest.
        told = last if int(result.get("step", 0)) < record.steps else result
        score = float(told.get("score", last.get("score", math.nan)))
        finish = self._ledger.finish
        if error:
            fault = self._ledger.fault(record.number)
            text = f"its process died {LOST_PROCESSES + 1} times" if fault is None else fault
            finish(record.number, "failed", None, text, steps)
        elif steps == 0:
            finish(record.number, "failed", None, "ended without a report", steps)
        elif not math.isfinite(score):
            finish(record.number, "failed", None, f"the score is {score} at step {steps}", steps)
        elif steps >= self._definition.steps:
            finish(record.number, "completed", score, None, steps)
        elif self._definition.scheduler.name == "none":
            finish(record.number, "failed", None, f"ended after {steps} of {self._definition.steps} steps", steps)
        else:
            finish(record.number, "pruned", score, None, steps)

    def _report(self, number: int, scores: dict[int, float]) -> None:
        """Records the finite ones of the scores by step, each once."""
        frozen = self._frozen(number)
        if not frozen.state.is_finished():
            for step, score in scores.items():
                if math.isfinite(score) and step not in frozen.intermediate_values:
                    self.study._storage.set_trial_intermediate_value(frozen._trial_id, step, score)

    def _tell(self, record: TrialRecord) -> None:
        if self._frozen(record.number).state.is_finished():
            return
        self._report(record.number, {past.step: past.metrics.get("score", math.nan) for past in record.reports})
        values = [record.score, *(record.metrics.get(f"objective/{name}") for name in self._definition.objectives[1:])]
        if record.status == "completed" and all(value is not None and math.isfinite(value) for value in values):
            self.study.tell(record.number, cast(list[float], values))
        elif record.status == "pruned":
            self.study.tell(record.number, state=TrialState.PRUNED)
        else:
            self.study.tell(record.number, state=TrialState.FAIL)


def _seed(*entropy: int) -> int:
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])
