"""The MLflow experiment of a search: named once, kept for as long as the search goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from search_process import SearchProcess
from small_search import NO_CONFIRMATION

import search
from condense.system.errors import UserError
from search.command import main
from search.ledger.experiment import check_experiment, check_name, record_experiment, recorded_experiment
from search.ledger.ledger import Ledger
from search.space.files import load_space
from search.tracking.store import active_experiment, check_tracking, connect


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("", "must not be empty or blank"),
        (" \t", "must not be empty or blank"),
        ("a\nb", "control characters"),
        ("a\x1b[31m", "control characters"),
        ("a\u2028b", "control characters or line breaks"),
        ("ä" * 126, "at most 250 bytes, but has 252"),
    ],
)
def test_a_name_that_will_not_do(
    tmp_path: Path, write_space: Callable[..., Path], capsys: pytest.CaptureFixture[str], name: str, rule: str
) -> None:
    """Also where nothing is run; and from Python."""
    arguments = ["--space", str(write_space(tmp_path)), "--output", str(tmp_path / "out"), "--experiment", name]
    for more in ([], ["--dry-run"]):
        assert main([*arguments, *more]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("error: --experiment ") and rule in err and err.count("\n") == 1, err
    with pytest.raises(search.UserError, match="--experiment"):
        search.run(write_space(tmp_path), output=tmp_path / "out", experiment=name)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["condensation", "team a/λ 2", " - ", "x" * 250, "ä" * 125])
def test_a_name_that_will(name: str) -> None:
    check_name(name)


def test_it_is_recorded_once(
    tmp_path: Path, write_space: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_space(tmp_path)
    space = load_space(str(path)).model_dump(mode="json")
    output = tmp_path / "out"
    for asked in ("mistaken", "mine"):  # before the first trial a search may still be begun otherwise
        with closing(Ledger.open(output, space, resume=False)) as ledger:
            assert record_experiment(ledger, asked, resume=False) == asked
    ledger.new_trial(0, "paper_default", {}, {}, [0])
    with closing(Ledger.open(output, space, resume=True)) as ledger:
        assert record_experiment(ledger, None, resume=True) == "mine" == recorded_experiment(output)
    check_experiment(output, "mine", resume=True)
    check_experiment(output, "other", resume=False)  # who does not resume hears of the folder first
    with pytest.raises(UserError, match="logs to the MLflow experiment 'mine'"):
        check_experiment(output, "other", resume=True)
    arguments = ["--space", str(path), "--output", str(output), "--resume", "--experiment", "other"]
    for more in ([], ["--dry-run"]):
        assert main([*arguments, *more]) == 2
        assert "'mine': leave --experiment 'other' out" in capsys.readouterr().err
    assert json.loads((output / "search.json").read_text())["experiment"] == "mine"


def test_an_earlier_version_s_search_goes_on_where_it_logged(tmp_path: Path, write_space: Callable[..., Path]) -> None:
    space = load_space(str(write_space(tmp_path))).model_dump(mode="json")
    with closing(Ledger.open(tmp_path / "out", space, resume=False)) as ledger:
        ledger.new_trial(0, "paper_default", {}, {}, [0])
        assert "experiment" not in ledger.search
        assert record_experiment(ledger, None, resume=True) == "condensation"
    with pytest.raises(UserError, match="'condensation'"):
        check_experiment(tmp_path / "out", "other", resume=True)


def test_a_deleted_experiment_is_told_before_any_work(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'a folder'}/mlflow.db"
    check_tracking(uri, "mine")
    client = connect(uri)
    assert active_experiment(client, "mine", uri) is None
    made = client.create_experiment("mine")
    assert active_experiment(client, "mine", uri) == made
    check_tracking(uri, "mine")
    client.delete_experiment(made)
    check_tracking(uri)
    with pytest.raises(UserError, match="experiment 'mine' was deleted") as caught:
        check_tracking(uri, "mine")
    assert f"`MLFLOW_TRACKING_URI='{uri}' mlflow experiments restore -x {made}`" in str(caught.value)
    client.restore_experiment(made)
    check_tracking(uri, "mine")


@pytest.mark.faults
def test_a_search_logs_there_and_is_given_more_trials_there(
    tmp_path: Path, start: Callable[..., SearchProcess], write_space: Callable[..., Path]
) -> None:
    arguments = ("--space", write_space(tmp_path, trials=3, confirmation=NO_CONFIRMATION), "--output", tmp_path / "out")
    first = start(*arguments, "--experiment", "team a")
    assert first.finish() == 0, first.said()
    more = start(*arguments, "--resume", "--trials", 4)
    assert more.finish() == 0, more.said()
    client = connect(f"sqlite:///{tmp_path}/mlflow.db")
    found = client.get_experiment_by_name("team a")
    assert found is not None and client.get_experiment_by_name("condensation") is None
    numbers = [run.data.tags.get("trial_number") for run in client.search_runs([found.experiment_id])]
    assert sorted(map(str, numbers)) == ["0", "1", "2", "3", "None"]
