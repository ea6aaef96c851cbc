"""Proposes trials: Optuna through Ray's OptunaSearch, with corrected bookkeeping.

A trial is identified by its number, the same in Optuna, the ledger and `config["number"]`; Tune's own trial ids are new in
every run. The ledger is the source of truth, the study (`optuna.journal`) is the sampler's memory. On opening, the study is
brought in line with the ledger; then unfinished trials are handed out again, and the sampler proposes new ones.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import cloudpickle
import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState, create_trial
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from condense.config.models import Hyperparameters
from search.ledger.ledger import Ledger, TrialRecord
from search.ledger.requests import STOPPED, is_to_stop
from search.space.model import Space, replica_seeds
from search.tuning.journal import STUDY, journal_in, mend_journal, open_study, set_aside
from search.tuning.sampler import always_searched, build_sampler, distributions, first_generation, seed_of

ATTEMPTS, ASKED_AGAIN = 10_000, 10  # at a proposal within `constraints`, and of these by the sampler
DEFINITION = "definition"  # attribute of a study: what its trials were proposed from
LOST_PROCESSES = 3  # how often a trial whose process died is handed out again, beyond what Tune retries by itself


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
        self._definition = space
        self._ledger = ledger
        self._study: optuna.Study | None = self._begin()
        self.begins_anew = self._is_of_another_space()
        if self.begins_anew:  # Optuna's studies keep to their ranges and objectives
            set_aside(ledger.output)
            self._study = self._begin()
        if DEFINITION not in self._study.user_attrs:
            self._study.set_user_attr(DEFINITION, _definition(space))
        self._first = space.first_trials()
        self._numbers: dict[str, int] = {}  # Tune's trial id -> number
        self._running: set[str] = set()  # Tune's ids of the trials that are handed out
        self._unfinished: deque[int] = deque()  # trials to hand out again
        self._lost: Counter[int] = Counter()  # number -> how often its process died for good
        self._is_over = is_over
        self._reconcile()

    def _begin(self) -> optuna.Study:
        """Opens the study, or begins it."""
        several = len(self._definition.objectives) > 1
        super().__init__(
            space=self._distributions,
            metric=list(self._definition.objectives) if several else "score",
            mode=["max"] * len(self._definition.objectives) if several else "max",
            sampler=build_sampler(self._definition, 0),
            study_name=STUDY,
            storage=journal_in(self._ledger.output),
        )
        assert isinstance(self._ot_study, optuna.Study)
        return self._ot_study

    def _is_of_another_space(self) -> bool:
        """Whether the study began with other ranges, constraints or objectives."""
        known = self.study.user_attrs.get(DEFINITION)
        if known is not None:
            return bool(known != _definition(self._definition))
        other = (  # of an earlier version
            self._distributions.get(name) != own
            for trial in self._trials()
            for name, own in trial.distributions.items()
        )
        return len(self.study.directions) != len(self._definition.objectives) or any(other)

    def observations(self) -> tuple[int, int]:
        """How many ended trials the sampler knows, and how many there are."""
        known = sum(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in self._trials())
        ended = sum(record.status in ("completed", "pruned") for record in self._ledger.trials())
        return known, ended

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
                self._complete(self._frozen(number), record)
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

    def _complete(self, frozen: FrozenTrial, record: TrialRecord | None) -> None:
        """Gives a trial that goes on its values, of which a killed driver may have stored some."""
        if record is None or frozen.state.is_finished():
            return
        setting = Hyperparameters.model_validate(record.config)
        params = self._definition.params_of(setting)  # those of its record may be of other ranges
        if frozen.params != params and self._definition.contains(setting):
            self._store(frozen, params)

    def _add(self, name: str | None, hyperparameters: Hyperparameters) -> None:
        """Adds a known setting as the study's next trial; as a placeholder if it could not have been proposed."""
        attributes: dict[str, Any] = {"name": name}
        if not self._definition.contains(hyperparameters):
            self.study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={**attributes, "outside": True}))
            return
        params = self._definition.params_of(hyperparameters)
        self.study.add_trial(
            create_trial(
                state=TrialState.RUNNING,
                params=params,
                distributions={name: self._distributions[name] for name in params},
                user_attrs=attributes,
                system_attrs=first_generation(self._definition),
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
            searched = self._definition.searched(known.params)
            if set(searched) == known.params.keys() >= always_searched(self._definition).keys():
                return {name: known.params[name] for name in searched}
            self.study._thread_local.cached_all_trials = None  # as `ask` does: a sampler must see the latest results
            trial = optuna.trial.Trial(self.study, known._trial_id)
        frozen = self._frozen(number)
        values = self._drawn(trial, frozen)
        self._store(frozen, values)
        return values

    def _drawn(self, trial: optuna.trial.Trial, frozen: FrozenTrial) -> dict[str, Any]:
        """Values for a trial, within `constraints`: the sampler is asked again where it proposes others, then they are drawn at
        random."""
        sampler, together = self.study.sampler, trial.relative_params
        at_random = optuna.samplers.RandomSampler(seed=seed_of(self._definition.seed, frozen.number, 1))
        for attempt in range(ATTEMPTS):
            if attempt == ASKED_AGAIN:
                sampler, together = at_random, {}
            elif attempt and attempt < ASKED_AGAIN:
                space = sampler.infer_relative_search_space(self.study, frozen)
                together = sampler.sample_relative(self.study, frozen, space)
            values = self._values(sampler, frozen, together)
            if self._definition.admits(values):
                return values
        raise RuntimeError(
            f"no setting within `constraints` after {ATTEMPTS} attempts"
        )  # refused by `check_constraints`

    def _values(self, sampler: BaseSampler, frozen: FrozenTrial, together: Mapping[str, Any]) -> dict[str, Any]:
        """Of all that is searched: what the sampler proposed `together`, and one by one the others; first what all trials
        have, which decides on the rest."""
        values: dict[str, Any] = {}
        dimensions = self._definition.search
        for name in sorted(dimensions, key=lambda name: dimensions[name].when is not None):
            distribution = self._distributions[name]
            if not dimensions[name].is_searched(values):
                continue
            if distribution.single():  # samplers need not support these
                values[name] = dimensions[name].centre()
            elif name in together:
                values[name] = together[name]
            else:
                values[name] = sampler.sample_independent(self.study, frozen, name, distribution)
            if dimensions[name].step is not None:
                values[name] = type(values[name])(
                    dimensions[name].nearest(values[name])
                )  # 0.3, not 0.30000000000000004
        return {name: values[name] for name in dimensions if name in values}

    def _store(self, frozen: FrozenTrial, values: dict[str, Any]) -> None:
        for name, value in values.items():
            distribution = self._distributions[name]
            internal = distribution.to_internal_repr(value)
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
        elif is_to_stop(self._ledger.output, record.number):
            finish(record.number, "pruned", score, STOPPED, steps)
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
        elif record.status == "pruned" and len(self._definition.objectives) == 1:  # of several, Optuna prunes none
            self.study.tell(record.number, state=TrialState.PRUNED)
        else:
            self.study.tell(record.number, state=TrialState.FAIL)


def _definition(space: Space) -> dict[str, Any]:
    return space.model_dump(mode="json", include={"search", "constraints", "objectives"})
