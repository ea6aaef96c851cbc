"""A search that goes on with other ranges, constraints, samplers or objectives: what its sampler then knows."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from condense.system.errors import UserError
from search.analysis.ranking import best_trials
from search.analysis.surrogate import of_space, scored
from search.driver import Request
from search.ledger.ledger import Ledger
from search.space.files import load_space
from search.space.model import Space
from search.tuning.journal import open_study
from search.tuning.searcher import SpaceSearcher
from search.tuning.warm_start import still_possible

SEARCH = "search={lambda_cross: {low: 0.01, high: 10, log: true}, learning_rate: {low: 0.03, high: 3, log: true}}"


def make(*changes: str, trials: int = 14) -> Space:
    return load_space(
        "quickstart", [SEARCH, f"trials={trials}", "sampler.startup_trials=4", "scheduler=none", *changes]
    )


def run(space: Space, output: Path, most: int = 1000) -> SpaceSearcher:
    """The better, the smaller lambda_cross."""
    resume = (output / "search.json").exists()
    with closing(Ledger.open(output, space.model_dump(mode="json"), resume=resume)) as ledger:
        searcher = SpaceSearcher(space, ledger)
        for i in range(most):
            config = searcher.suggest(f"t{i}")
            if not isinstance(config, dict):
                break
            score = 1 - config["lambda_cross"] / 20
            metrics = {"step": space.steps, "score": score, "score_mean": score, "score_std": 0.01}
            metrics |= {f"objective/{name}": score / 2 for name in space.objectives[1:]}
            ledger.save(config["number"], space.steps, metrics, None, b"")
            searcher.on_trial_complete(f"t{i}", metrics)
        return searcher


@pytest.fixture
def ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A search of 14 trials."""
    monkeypatch.setattr("os.fsync", lambda _: None)
    run(make(), tmp_path)
    return tmp_path


def test_trials_inside_remain_observations_and_others_stay_in_the_record(ended: Path) -> None:
    narrow = make("search.lambda_cross.low=0.5", "search.learning_rate.high=1", "sampler.name=gp", trials=18)
    before = Ledger(ended).trials()
    searcher = run(narrow, ended)
    records, trials = Ledger(ended).trials(), open_study(ended).trials
    assert records[:14] == before and len(records) == 18
    inside = [r.number for r in before[1:] if r.params["lambda_cross"] >= 0.5 and r.params["learning_rate"] <= 1]
    assert 1 <= len(inside) < 12
    known = [t.number for t in trials if t.state == TrialState.COMPLETE]
    assert known == [*inside, 14, 15, 16, 17] and searcher.begins_anew
    assert all(trials[n].value == before[n].score and trials[n].params == before[n].params for n in inside)
    assert all(narrow.admits(r.params) for r in records[14:])
    best = best_trials(of_space(narrow, records), 3)
    assert all(r.number in known or r.name == "default" for r in best)  # though what lies outside scored better
    assert (ended / "optuna.journal.1").exists()
    assert not run(narrow, ended, 0).begins_anew  # once is enough


def test_a_hyperparameter_more_or_less(ended: Path) -> None:
    """Of one that was not searched, trials have the default; where that is in the new range, they count."""
    more = make("search.alpha={low: 0, high: 1}", "constraints=[lambda_cross < 8]", trials=15)
    run(more, ended)
    records, trials = Ledger(ended).trials(), open_study(ended).trials
    assert {t.params["alpha"] for t in trials[2:14] if t.params} == {0.5} and len(trials[14].params) == 3
    assert "alpha" not in records[3].params and of_space(more, records)[3].params["alpha"] == 0.5
    assert all("alpha" in t.params for t in scored(of_space(more, records)))
    less = make("search={lambda_cross: {low: 0.01, high: 10, log: true}}", trials=16)
    run(less, ended)
    known = [t.number for t in open_study(ended).trials if t.state == TrialState.COMPLETE]
    assert set(known) <= {1, 15} and 15 in known  # all others have another learning rate


def test_an_unfinished_trial_keeps_its_setting(ended: Path) -> None:
    """Whatever is searched by now, and however often the search is opened before it goes on."""
    with closing(Ledger.open(ended, make(trials=15).model_dump(mode="json"), resume=True)) as ledger:
        config: Any = SpaceSearcher(make(trials=15), ledger).suggest("t")
        assert config["number"] == 14
    for changes in (["search={lambda_cross: {low: 0.01, high: 10, log: true}}"], ["search.alpha={low: 0.4, high: 1}"]):
        own = make(*changes, trials=15)
        for _ in range(3):
            with closing(Ledger.open(ended, own.model_dump(mode="json"), resume=True)) as ledger:
                searcher = SpaceSearcher(own, ledger)
                again: Any = searcher.suggest("t")
                assert {**again, "number": 14} == config
    assert open_study(ended).trials[14].params.keys() == {"lambda_cross", "learning_rate", "alpha"}


def test_other_objectives(ended: Path) -> None:
    """Trials that were not judged by the new one cannot be observations; back to one, all are."""
    run(make("objectives=[score, worst_class]", "sampler.name=nsga2", trials=16), ended)
    trials = open_study(ended).trials
    assert [t.number for t in trials if t.state == TrialState.COMPLETE] == [14, 15]
    assert len(trials[15].values) == 2
    run(make(trials=16), ended)
    assert sum(t.state == TrialState.COMPLETE for t in open_study(ended).trials) == 15  # all but the paper's default


def test_a_study_of_an_earlier_version_is_known_by_its_ranges(ended: Path) -> None:
    journal = ended / "optuna.journal"
    lines = [line for line in journal.read_text().splitlines(keepends=True) if '"definition"' not in line]
    assert len(lines) == len(journal.read_text().splitlines()) - 1
    journal.write_text("".join(lines))
    assert not run(make(), ended, 0).begins_anew
    journal.write_text("".join(lines))
    assert run(make("search.lambda_cross.high=9"), ended, 0).begins_anew


def test_a_sampler_alone_needs_no_new_study(ended: Path) -> None:
    assert not run(make("sampler.name=random", "scheduler=median", trials=15), ended).begins_anew


def test_what_cannot_change_names_the_warm_start(ended: Path) -> None:
    for change, key in (
        ("steps=90", "steps"),
        ("seeds=7", "seeds"),
        ("seed=9", "seed"),
        ("tasks.0.dpc=3", "tasks.0.dpc"),
    ):
        with pytest.raises(UserError, match=f"holds another search: `{key}` is .*--output OTHER --warm-start {ended}"):
            Ledger.open(ended, make(change).model_dump(mode="json"), resume=True)


def test_settings_of_a_warm_start_that_no_longer_fit_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings: list[dict[str, Any]] = [{"lambda_cross": x, "learning_rate": 0.1} for x in (0.02, 2.0)]
    assert still_possible(settings, make("search.lambda_cross.low=1")) == settings[1:]
    space = make().model_copy(update={"warm_start": settings})
    Ledger.open(tmp_path / "out", space.model_dump(mode="json"), resume=False).close()
    changed = [SEARCH, "search.lambda_cross.low=1", "trials=9"]
    request = Request.of("quickstart", overrides=changed, output=tmp_path / "out", resume=True)
    assert request.space.warm_start == settings[1:]
