"""Beginning with what an earlier search has found."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from search_process import SearchProcess, table
from small_search import NO_CONFIRMATION

from condense.system.errors import UserError
from search.api import _recorded
from search.ledger.imports import import_trials, imported_trials
from search.ledger.ledger import NOT_FINITE, Ledger
from search.space.model import Space
from search.tracking.store import connect
from search.tuning.journal import open_study
from search.tuning.searcher import SpaceSearcher
from search.tuning.warm_start import earlier_settings, importable, recorded, with_first_settings

LAMBDA: dict[str, Any] = {"low": 0.01, "high": 100, "log": True}
SPACE = Space.model_validate({"name": "new", "tasks": [{"dpc": 5}], "trials": 12, "search": {"lambda_cross": LAMBDA}})


def earlier(folder: Path, lambdas: list[float]) -> Path:
    """A search whose trials score the better, the larger their lambda; also lambda_joint varied, which SPACE has not."""
    space = Space.model_validate(
        {"name": "old", "tasks": [{"dpc": 1}], "search": {"lambda_cross": LAMBDA, "lambda_joint": LAMBDA}}
    )
    ledger = Ledger.open(folder, space.model_dump(mode="json"), resume=False)
    for number, value in enumerate(lambdas):
        params = {"lambda_cross": value, "lambda_joint": 2.0}
        config = space.hyperparameters(params).model_dump(mode="json")
        ledger.new_trial(number, None, params, config, [0])
        ledger.save(number, 60, {"score": value, "score_mean": value, "score_std": 0.0}, None, b"state")
        ledger.finish(number, "completed", value)
    ledger.close()
    return folder


def test_the_best_come_first_and_each_once(tmp_path: Path) -> None:
    folder = earlier(tmp_path / "old", [1.0, 5.0, 3.0, 5.0, 200.0, 0.5, 0.2, 4.0])
    assert [s["lambda_cross"] for s in earlier_settings(folder, SPACE)] == [5.0, 4.0, 3.0, 1.0, 0.5]


def test_the_recommendation_comes_before_them(tmp_path: Path) -> None:
    folder = earlier(tmp_path / "old", [1.0, 5.0])
    # Of the whole setting: what that search had not searched itself may be searched now.
    (folder / "best.yaml").write_text(yaml.safe_dump({"hyperparameters": {"lambda_cross": 0.7, "lambda_joint": 3.0}}))
    assert [s["lambda_cross"] for s in earlier_settings(folder, SPACE)] == [0.7, 5.0, 1.0]


def test_nothing_to_start_from_is_an_error(tmp_path: Path) -> None:
    assert recorded(tmp_path) is None
    with pytest.raises(UserError, match="holds no search"):
        earlier_settings(tmp_path, SPACE)
    (tmp_path / "search.json").write_text("x{")
    with pytest.raises(UserError, match=r"search\.json is damaged"):
        earlier_settings(tmp_path, SPACE)
    with pytest.raises(UserError, match="no trial of that search has a score yet"):
        earlier_settings(earlier(tmp_path / "begun", []), SPACE)
    default = SPACE.default_trials()[1].hyperparameters.lambda_cross  # is run in any case
    found = earlier_settings(earlier(tmp_path / "with_default", [1.0, default]), SPACE)
    assert [s["lambda_cross"] for s in found] == [1.0]
    with pytest.raises(UserError, match="none of its 1 trials is within the ranges"):
        earlier_settings(earlier(tmp_path / "old", [200.0]), SPACE)


def test_they_are_trials_after_the_defaults_and_leave_room_for_others() -> None:
    space = with_first_settings(SPACE, [{"lambda_cross": 0.7}], "--warm-start old")
    assert [t.name for t in space.first_trials()] == ["paper_default", "default", "warm_start_0"]
    assert space.first_trials()[2].hyperparameters.lambda_cross == 0.7
    with pytest.raises(UserError, match=r"^--warm-start old: `trials` must be > 2 defaults"):
        with_first_settings(
            SPACE.model_copy(update={"trials": 4}), [{"lambda_cross": 0.1 * i} for i in range(1, 4)], "--warm-start old"
        )
    with pytest.raises(UserError, match=r"warm_start\.0\.lambda_cross` must be in the range"):
        with_first_settings(SPACE, [{"lambda_cross": 1e6}], "--warm-start old")


@pytest.mark.faults
def test_a_search_goes_on_from_the_trials_of_another(
    whole_search: tuple[Path, SearchProcess],
    start: Callable[..., SearchProcess],
    write_space: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """Of the same tasks, steps and seeds: none of them is run again, and each is in the record, the model and MLflow."""
    other, _ = whole_search
    output, uri = tmp_path / "out", f"sqlite:///{tmp_path}/mlflow.db"
    space = write_space(
        tmp_path, name="second", confirmation=NO_CONFIRMATION, sampler={"name": "gp", "startup_trials": 3}
    )
    arguments = ("--space", space, "--output", output, "--tracking-uri", uri, "--warm-start", other)
    search = start(*arguments, "--trials", 4)
    assert search.finish() == 0, search.said()
    before = {row["lambda_cross"]: row for row in table(other)}
    rows = table(output)
    taken = [row for row in rows[2:] if row["lambda_cross"] in before]
    assert f"{len(taken)} trials of {other} are observations" in search.out.read_text()
    assert len(taken) >= 4 and len(rows) == len(taken) + 4
    assert [row["name"] for row in rows[:3]] == ["paper_default", "default", ""]
    for row in taken:
        assert {**row, "number": 0} == {**before[row["lambda_cross"]], "number": 0}
    client = connect(uri)
    (experiment,) = (e for e in client.search_experiments() if e.name == "condensation")
    runs = client.search_runs([experiment.experiment_id], "tags.trial_number LIKE '%'")
    assert len(runs) == len(rows)


def test_a_resumed_search_keeps_to_what_it_began_with(
    tmp_path: Path, write_space: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever has become of the other, and whether the command line names it again or not."""
    from search.driver import Request

    space, output = str(write_space(tmp_path, trials=9)), tmp_path / "out"
    known = [{"lambda_cross": 0.5, "frequency_scale": 1.0, "learning_rate_vision": 2.0}]
    begun = with_first_settings(Request.of(space, overrides=[], output=output).space, known, "--warm-start old")
    Ledger.open(output, begun.model_dump(mode="json"), resume=False).close()
    for warm_start in (None, tmp_path / "gone"):
        caplog.clear()
        request = Request.of(space, overrides=[], output=output, resume=True, warm_start=warm_start)
        assert request.space.warm_start == known
        assert ("--warm-start is left out" in caplog.text) == (warm_start is not None)


def test_two_beginnings_are_one_too_many(tmp_path: Path, write_space: Callable[..., Path]) -> None:
    from search.driver import Request

    own = [{"lambda_cross": 0.5, "frequency_scale": 1.0, "learning_rate_vision": 2.0}]
    space = str(write_space(tmp_path, trials=9, warm_start=own))
    with pytest.raises(UserError, match="the space has a `warm_start`"):
        Request.of(space, overrides=[], warm_start=earlier(tmp_path / "old", [1.0]))


def same_search(folder: Path, **changes: Any) -> tuple[Path, Space]:
    """A search of 8 trials, of which one has diverged and one is unfinished; and a space of the same tasks, steps and seeds."""
    keys = {
        "name": "old",
        "tasks": [{}],
        "trials": 8,
        "scheduler": "none",
        "search": {"lambda_cross": LAMBDA, "alpha": {"low": 0, "high": 1}},
    }
    space = Space.model_validate(keys)
    with closing(Ledger.open(folder, space.model_dump(mode="json"), resume=False)) as ledger:
        searcher = SpaceSearcher(space, ledger)
        for number in range(8):
            config: Any = searcher.suggest(f"t{number}")
            if number == 3:
                ledger.finish(3, "failed", None, f"loss {NOT_FINITE}")
            result = {"step": space.steps, "score": config["lambda_cross"] / 100, "score_mean": 0.1, "score_std": 0.0}
            if number != 7:
                ledger.save(number, space.steps, result, None, b"")
                searcher.on_trial_complete(f"t{number}", result)
        (folder / "data.json").write_text("{}")
    return folder, Space.model_validate(
        {**keys, "name": "new", "trials": 5, "sampler": {"startup_trials": 2}, **changes}
    )


def test_which_trials_are_taken_over(tmp_path: Path) -> None:
    folder, space = same_search(tmp_path / "old")
    found = importable(folder, space)
    assert not isinstance(found, str), found
    assert [(t.number, t.as_number, t.name) for t in found.trials] == [
        (0, 0, "paper_default"), (1, 1, "default"), (2, 2, None), (3, 3, None), (4, 4, None), (5, 5, None), (6, 6, None),
    ]  # fmt: skip
    assert found.added == 5
    space = space.model_copy(update={"trials": space.trials + found.added})
    with closing(Ledger.open(tmp_path / "new", space.model_dump(mode="json"), resume=False)) as ledger:
        import_trials(ledger, found)
        before, after = Ledger(folder).trials()[:7], ledger.trials()
        assert [(r.status, r.score, r.params, r.reports) for r in after] == [
            (r.status, r.score, r.params, r.reports) for r in before
        ]
        searcher = SpaceSearcher(space, ledger)
        states = [trial.state.name for trial in open_study(ledger.output).trials]
        assert states == ["FAIL", "COMPLETE", "COMPLETE", "FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
        config: Any = searcher.suggest("next")
        assert config["number"] == 7
        assert imported_trials(ledger.output) == 5


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"steps": 90}, "has other `steps`"),
        ({"tasks": [{"dpc": 2}]}, "has other `tasks`"),
        ({"seed": 1}, "has other `seed`"),
        ({"robust": {"rule": "mean"}}, "has other `robust`"),
        ({"objectives": ["score", "worst_class"]}, "has other `objectives`"),
        ({"fixed": {"alpha": 0.25}, "search": {"lambda_cross": LAMBDA}}, "has no trial within the ranges"),
    ],
)
def test_why_they_are_not(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    assert importable(*same_search(tmp_path / "old", **changes)) == reason


def test_other_ranges_are_no_hindrance(tmp_path: Path) -> None:
    """Nor is another default: it is run, as a first trial of this search."""
    folder, space = same_search(
        tmp_path / "old", search={"lambda_cross": {**LAMBDA, "low": 0.02}, "alpha": {"low": 0, "high": 0.9}}
    )
    found = importable(folder, space)
    assert not isinstance(found, str), found
    records = {r.number: r for r in Ledger(folder).trials()}
    for trial in found.trials[1:]:
        assert trial.name == "default" or (space.admits(trial.params) and trial.params == records[trial.number].params)
    (folder / "data.json").unlink()
    assert importable(folder, space) == "does not say what its data held"


def test_a_request_counts_its_own_trials(tmp_path: Path) -> None:
    from search.request import Request

    folder, space = same_search(tmp_path / "old")
    keys, output = space.model_dump(mode="json"), tmp_path / "new"
    request = Request.of(keys, output=output, warm_start=folder)
    assert request.imports is not None and request.space.trials == 5 + 5 and request.space.warm_start == []
    assert request.note == f"5 trials of {folder} are observations: their tasks, steps and seeds are the same"
    with closing(Ledger.open(output, request.space.model_dump(mode="json"), resume=False)) as ledger:
        import_trials(ledger, request.imports)
    assert Request.of(keys, output=output, resume=True).space.trials == 10
    assert Request.of(keys, overrides=["trials=7"], output=output, resume=True).space.trials == 12
    assert _recorded(output, [], (), None, None).space.trials == 10
    other = Request.of({**keys, "steps": 90}, overrides=["trials=12"], output=tmp_path / "third", warm_start=folder)
    assert other.imports is None and 1 <= len(other.space.warm_start) <= 5 and other.space.trials == 12
    assert other.note == f"{folder} has other `steps`, so its {len(other.space.warm_start)} best settings are run again"
