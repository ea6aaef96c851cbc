"""Beginning with what an earlier search has found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from search_process import SearchProcess, report, table
from small_search import NO_CONFIRMATION

from condense.system.errors import UserError
from search.ledger.ledger import Ledger
from search.space.model import Space
from search.tracking.store import connect
from search.tuning.warm_start import earlier_settings, recorded, with_first_settings

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


@pytest.mark.slow
def test_a_search_begins_with_another(
    whole_search: tuple[Path, SearchProcess],
    start: Callable[..., SearchProcess],
    write_space: Callable[..., Path],
    tmp_path: Path,
) -> None:

    other, _ = whole_search
    space = write_space(tmp_path, trials=9, name="second", confirmation=NO_CONFIRMATION)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    search = start("--space", space, "--output", tmp_path / "out", "--tracking-uri", uri, "--warm-start", other)
    assert search.finish() == 0, search.said()
    rows = table(tmp_path / "out")
    assert [row["name"] for row in rows][:3] == ["paper_default", "default", "warm_start_0"]
    first = report(other)["recommended"]
    assert first
    if report(other)["verdict"][
        "keep_default"
    ]:  # a published setting, which lies outside of the ranges or is run anyway
        scored = [
            row
            for row in table(other)
            if row["status"] == "completed" and row["name"] not in ("default", "paper_default")
        ]
        best = max(scored, key=lambda row: float(row["score"]))
        first = {name: float(best[name]) for name in first}
    assert {name: rows[2][name] for name in first} == pytest.approx(first)
    known = recorded(tmp_path / "out")
    assert known is not None and 1 <= len(known) <= 5
    client = connect(f"sqlite:///{tmp_path}/mlflow.db")
    (experiment,) = (e for e in client.search_experiments() if e.name == "condensation")
    flagged = [r for r in client.search_runs([experiment.experiment_id]) if "warm_start" in r.data.tags]
    assert len(flagged) == len(known)


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
