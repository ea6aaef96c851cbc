"""A search interrupted anywhere goes on as if it had not been: proposals, states, early stops."""

from __future__ import annotations

import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from condense.config.models import Hyperparameters
from search.ledger.ledger import Ledger
from search.space.files import load_space
from search.space.model import Space
from search.tuning.early_stopping import build_scheduler, prefill
from search.tuning.journal import open_study
from search.tuning.searcher import SpaceSearcher

SAMPLERS = ("tpe", "gp", "cmaes", "nsga2", "random", "qmc")
STEPS = (20, 40, 60)


class KilledError(Exception):
    """Stands for SIGKILL: nothing that comes after it is written."""


def make_space(sampler: str = "tpe", trials: int = 12, *overrides: str) -> Space:
    searched = "{lambda_cross: {low: 0.1, high: 100, log: true}, optimizer: {choices: [sgd, adam]}, "
    searched += "num_frequencies: {low: 64, high: 512, log: true}}"
    own = [
        f"search={searched}",
        "fixed.lambda_joint=0.03",  # as in the default, which is then of the space
        f"trials={trials}",
        "seeds=2",
        f"sampler={{name: {sampler}, startup_trials: 4}}",
    ]
    return load_space("quickstart", [*own, *overrides])


def open_search(space: Space, output: Path) -> tuple[Ledger, SpaceSearcher]:
    ledger = Ledger.open(output, space.model_dump(mode="json"), resume=(output / "search.json").exists())
    try:
        return ledger, SpaceSearcher(space, ledger)
    except BaseException:
        ledger.close()
        raise


def score_of(config: dict[str, Any], step: int) -> float:
    """Trial 5 fails (after a good start, or it might be stopped), 6 is NaN; the best is at lambda_cross 3, with adam."""
    if config["number"] in (5, 6):
        return 1.0 if config["number"] == 5 else math.nan
    distance = abs(math.log10(config["lambda_cross"] / 3)) + abs(math.log2(config["num_frequencies"] / 200)) / 10
    return step / 100 - distance + (0.2 if config["optimizer"] == "adam" else 0)


def work(searcher: SpaceSearcher, ledger: Ledger, scheduler: Any, trial_id: str) -> bool:
    """What Tune does with one trial after the other; False when the search has ended."""
    config = searcher.suggest(trial_id)
    if isinstance(config, str):
        return False
    number = config["number"]
    trial: Any = type("Trial", (), {"trial_id": trial_id})()
    scheduler.on_trial_add(None, trial)
    loaded = ledger.load(number)
    result: dict[str, Any] = {}
    for step in STEPS:
        if number == 5 and step == 40:
            ledger.set_fault(number, "as planned")
            searcher.on_trial_complete(trial_id, error=True)
            return True
        if loaded is None or step > loaded[0]:
            ledger.save(number, step, {"score": score_of(config, step), "step": step}, None, b"state")
        result = {"step": step, "score": score_of(config, step)}
        if scheduler.on_trial_result(None, trial, result) == "STOP":
            break
        searcher.on_trial_result(trial_id, result)
    scheduler.on_trial_complete(None, trial, result)
    searcher.on_trial_complete(trial_id, result)
    return True


def run(space: Space, output: Path, most: int = 1000, name: str = "t") -> None:
    ledger, searcher = open_search(space, output)
    try:
        scheduler = build_scheduler(space)
        prefill(scheduler, ledger.history(), space.steps)
        for i in range(most):
            if not work(searcher, ledger, scheduler, f"{name}{i}"):
                break
    finally:
        ledger.close()


def table(output: Path) -> list[tuple[Any, ...]]:
    records = Ledger(output).trials()
    return [(r.number, r.name, r.status, r.steps, r.score, r.error, r.params, r.config, r.seeds) for r in records]


def study_table(output: Path) -> list[tuple[Any, ...]]:
    return [(t.number, t.state, t.values, t.params, t.intermediate_values) for t in open_study(output).trials]


@pytest.fixture
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # these tests are not about power cuts


@pytest.fixture
def kill_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Lets the given number of further writes to disk happen, then every one raises."""
    left = [10**9]

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if left[0] <= 0:
                raise KilledError
            left[0] -= 1
            return original(*args, **kwargs)

        return call

    monkeypatch.setattr("search.ledger.ledger.write", counted(sys.modules["search.ledger.ledger"].write))
    monkeypatch.setattr(Ledger, "_append", counted(Ledger._append))
    backend = optuna.storages.journal.JournalFileBackend
    monkeypatch.setattr(backend, "append_logs", counted(backend.append_logs))
    return lambda writes: left.__setitem__(0, writes)


@pytest.mark.usefixtures("no_fsync")
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_killed_at_any_write_proposes_the_same_as_uninterrupted(
    tmp_path: Path, kill_after: Callable[[int], None], sampler: str
) -> None:
    space = make_space(sampler, 11 if sampler == "gp" else 14)
    run(space, tmp_path / "whole")
    lives = np.random.default_rng(0)
    for life in range(1000):
        kill_after(int(lives.integers(1, 40)))
        try:
            run(space, tmp_path / "killed", name=f"life{life}_")
            break
        except KilledError:
            pass
    kill_after(10**9)
    assert life > 5
    assert table(tmp_path / "killed") == table(tmp_path / "whole")
    assert study_table(tmp_path / "killed") == study_table(tmp_path / "whole")
    settings = [tuple(row[6].values()) for row in table(tmp_path / "whole")[2:]]
    assert sampler == "nsga2" or len(set(settings)) == len(settings)  # it may clone a parent


@pytest.mark.usefixtures("no_fsync")
def test_states_values_and_attributes_in_the_study(tmp_path: Path) -> None:
    run(make_space(), tmp_path / "s")
    records = Ledger(tmp_path / "s").trials()
    trials = open_study(tmp_path / "s").trials
    assert [t.number for t in trials] == [r.number for r in records] == list(range(12))
    assert {r.status for r in records} == {"completed", "pruned", "failed"}
    assert [r.name for r in records[:3]] == ["paper_default", "default", None]
    states = {"completed": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
    for record, trial in zip(records[1:], trials[1:], strict=True):
        scores = {report.step: report.metrics["score"] for report in record.reports}
        assert trial.state == states[record.status]
        assert trial.value == record.score
        assert trial.params == record.params
        assert trial.intermediate_values == {step: s for step, s in scores.items() if math.isfinite(s)}
        assert trial.user_attrs["ray_trial_id"] == f"t{trial.number}"
    assert (records[5].error, records[5].steps) == ("as planned", 20)
    assert records[6].error == "the score is nan at step 60"
    # The published default is no point of the space: it is run and recorded, and no sampler sees it.
    assert records[0].config["scaling"] == "paper"
    assert records[0].status == "completed"
    assert (trials[0].state, trials[0].params) == (TrialState.FAIL, {})
    assert trials[0].user_attrs == {"name": "paper_default", "outside": True}
    assert optuna.importance.get_param_importances(open_study(tmp_path / "s")).keys() == records[0].params.keys()


@pytest.mark.usefixtures("no_fsync")
def test_every_sampler_uses_what_it_was_told(tmp_path: Path) -> None:
    """Beyond its random start, a model-based sampler proposes near the best; none falls back to random."""
    random = None
    for sampler in ("random", "tpe", "cmaes", "nsga2"):
        run(make_space(sampler, 26, "scheduler=none"), tmp_path / sampler)
        records = Ledger(tmp_path / sampler).trials()[12:]
        distance = float(np.mean([abs(math.log10(record.params["lambda_cross"] / 3)) for record in records]))
        random = distance if random is None else random
        assert sampler == "random" or distance < random


@pytest.mark.usefixtures("no_fsync")
def test_journal_lost_or_torn_is_rebuilt_from_the_ledger(tmp_path: Path) -> None:
    space = make_space()
    run(space, tmp_path / "s", most=8)
    before, journal = study_table(tmp_path / "s"), tmp_path / "s" / "optuna.journal"
    content = journal.read_bytes()
    for kept in (0, 1, len(content) // 3, len(content) // 2, len(content) - 1):
        journal.write_bytes(content[:kept])
        (tmp_path / "s" / "optuna.journal.lock").symlink_to(journal)  # left by the kill; Optuna would wait for 30 s
        ledger, _ = open_search(space, tmp_path / "s")
        ledger.close()
        assert study_table(tmp_path / "s") == before
    run(space, tmp_path / "s")
    assert len(table(tmp_path / "s")) == 12


@pytest.mark.usefixtures("no_fsync")
def test_several_interrupted_trials_come_first_in_order_then_new_ones(tmp_path: Path) -> None:
    space = make_space(trials=6)
    ledger, searcher = open_search(space, tmp_path / "s")
    first = [searcher.suggest(f"a{i}") for i in range(4)]
    searcher.on_trial_complete("a1", {"step": 60, "score": 0.5})
    searcher.on_trial_complete("a2")  # taken off Tune's list before it ran
    ledger.close()
    ledger, searcher = open_search(space, tmp_path / "s")
    again = [searcher.suggest(f"b{i}") for i in range(6)]
    for i in range(5):
        searcher.on_trial_complete(f"b{i}", {"step": 60, "score": 0.5})
    assert searcher.suggest("b6") == "FINISHED"
    ledger.close()
    assert again[:3] == [first[0], first[2], first[3]]
    assert [config["number"] for config in again[3:5] if isinstance(config, dict)] == [4, 5]
    assert again[5] is None  # one of those that run might have to be handed out again
    assert isinstance(first[0], dict)
    assert first[0] == {"number": 0, "name": "paper_default", **space.default_trials()[0].hyperparameters.model_dump()}


@pytest.mark.usefixtures("no_fsync")
def test_a_trial_whose_process_dies_is_handed_out_again_a_few_times(tmp_path: Path) -> None:
    ledger, searcher = open_search(make_space(trials=3), tmp_path / "s")
    config = searcher.suggest("t0")
    for life in range(3):
        searcher.on_trial_complete(f"t{life}", error=True)
        assert searcher.suggest(f"t{life + 1}") == config
    searcher.on_trial_complete("t3", error=True)
    assert [(record.number, record.status) for record in ledger.trials()] == [(0, "failed")]
    assert ledger.trials()[0].error == "its process died 4 times"

    searcher.suggest("u0")
    ledger.set_fault(1, "ValueError: of the\ntrial's own")
    searcher.on_trial_complete("u0", error=True)
    ledger.close()
    assert ledger.trials()[1].error == "ValueError: of the trial's own"


@pytest.mark.usefixtures("no_fsync")
def test_default_outside_the_ranges_is_run_as_well(tmp_path: Path) -> None:
    space = make_space("tpe", 8, "search.lambda_cross.low=0.5")
    run(space, tmp_path / "s")
    records, trials = Ledger(tmp_path / "s").trials(), open_study(tmp_path / "s").trials
    assert records[1].params["lambda_cross"] == Hyperparameters().lambda_cross
    assert [trial.user_attrs.get("outside", False) for trial in trials] == [True, True] + [False] * 6


@pytest.mark.usefixtures("no_fsync")
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_single_choice_is_no_problem(tmp_path: Path, sampler: str) -> None:
    run(make_space(sampler, 8, "search.scaling.choices=[normalized]", "scheduler=none"), tmp_path / "s")
    records = Ledger(tmp_path / "s").trials()
    assert {record.config["scaling"] for record in records[1:]} == {"normalized"}
    assert len({record.params["lambda_cross"] for record in records[2:]}) > 1


@pytest.mark.usefixtures("no_fsync")
def test_ended_early_without_a_scheduler_is_a_failure(tmp_path: Path) -> None:
    ledger, searcher = open_search(make_space("tpe", 4, "scheduler=none"), tmp_path / "s")
    results: list[dict[str, Any]] = [{"step": 20, "score": 0.5}, {"training_iteration": 1}, {"step": 60, "score": 0.5}]
    for i, result in enumerate(results):
        searcher.suggest(f"t{i}")
        searcher.on_trial_complete(f"t{i}", result)
    searcher.suggest("t3")
    ledger.finish(3, "failed", None, "loss/cross is nan at step 7")  # by the trial itself
    searcher.on_trial_complete("t3", error=True)
    ledger.close()
    errors = ["ended after 20 of 60 steps", "ended without a report", None, "loss/cross is nan at step 7"]
    assert [record.error for record in ledger.trials()] == errors


@pytest.mark.usefixtures("no_fsync")
def test_searcher_can_be_pickled_and_goes_on(tmp_path: Path) -> None:
    ledger, searcher = open_search(make_space(trials=4), tmp_path / "s")
    searcher.suggest("t0")
    searcher.save(str(tmp_path / "searcher.pkl"))
    copy = cloudpickle.loads(cloudpickle.dumps(searcher))
    copy.restore(str(tmp_path / "searcher.pkl"))
    copy.on_trial_complete("t0", {"step": 60, "score": 0.5})
    config = copy.suggest("t1")
    ledger.close()
    assert (config["number"], Ledger(tmp_path / "s").trials()[0].status) == (1, "completed")


# With Tune itself


def trainable(config: dict[str, Any]) -> None:
    from ray import tune

    ledger = Ledger(Path(config["output"]))
    loaded = ledger.load(config["number"])
    for report in loaded[1] if loaded else []:
        tune.report(report.metrics)
    for step in STEPS:
        if loaded and step <= loaded[0]:
            continue
        if config["number"] == 5 and step == 40:
            ledger.set_fault(5, "as planned")
            raise RuntimeError("as planned")
        metrics = {"score": score_of(config, step), "step": step}
        ledger.save(config["number"], step, metrics, None, b"state")
        tune.report(metrics)


@pytest.fixture(scope="module")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    import ray

    with pytest.MonkeyPatch.context() as patch:
        for key, value in {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TMPDIR": "/tmp/ray_t",  # short: the paths of its sockets are limited
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(Path(__file__).parents[3]),
            "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
            "RAY_AIR_NEW_OUTPUT": "0",
            "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
        }.items():
            patch.setenv(key, value)
        ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
        cloudpickle.register_pickle_by_value(sys.modules[__name__])
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        yield ray
        ray.shutdown()


def tune_search(space: Space, output: Path, concurrent: int, samples: int | None = None) -> Any:
    from ray import tune

    ledger, searcher = open_search(space, output)
    scheduler = build_scheduler(space)
    prefill(scheduler, ledger.history(), space.steps)
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        param_space={"output": str(output)},
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=samples or -1,
            max_concurrent_trials=concurrent,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(name="tune", storage_path=str(output / "tune"), verbose=0),
    )
    tuner.fit()
    ledger.close()
    return scheduler


def rungs(scheduler: Any) -> list[tuple[float, list[float]]]:
    (bracket,) = scheduler._brackets
    return [(milestone, list(recorded.values())) for milestone, recorded in bracket._rungs]


def test_tune_interrupted_and_whole_give_the_same_table_and_rungs(ray_cluster: Any, tmp_path: Path) -> None:
    space = make_space("tpe", 10)
    whole = tune_search(space, tmp_path / "whole", concurrent=1)
    tune_search(space, tmp_path / "parts", concurrent=1, samples=6)
    resumed = tune_search(space, tmp_path / "parts", concurrent=1)
    assert table(tmp_path / "parts") == table(tmp_path / "whole")
    assert Counter(row[2] for row in table(tmp_path / "whole")).keys() == {"completed", "pruned", "failed"}
    assert study_table(tmp_path / "parts") == study_table(tmp_path / "whole")
    np.testing.assert_equal(rungs(resumed), rungs(whole))
    fresh = build_scheduler(space)
    prefill(fresh, Ledger(tmp_path / "whole").history(), space.steps)
    np.testing.assert_equal(rungs(fresh), rungs(whole))
    assert fresh._num_stopped == whole._num_stopped  # type: ignore[attr-defined]


@pytest.mark.slow
def test_tune_in_parallel_without_early_stops(ray_cluster: Any, tmp_path: Path) -> None:
    space = make_space("tpe", 8, "scheduler=none")
    tune_search(space, tmp_path / "s", concurrent=2)
    records = Ledger(tmp_path / "s").trials()
    assert [record.status for record in records] == ["completed"] * 5 + ["failed"] * 2 + ["completed"]
    states = [trial.state.name for trial in open_study(tmp_path / "s").trials]
    assert states == ["FAIL"] + ["COMPLETE"] * 4 + ["FAIL"] * 2 + ["COMPLETE"]
