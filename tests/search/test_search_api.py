"""Searches from Python, as a notebook has them: in a thread, where Ray runs already, and looked at afterwards."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from small_search import NO_CONFIRMATION

import condense
import search


def test_importing_it_is_light_and_all_names_are_there() -> None:
    program = """
import sys, search
assert not {"torch", "ray", "optuna", "mlflow"} & set(sys.modules)
for _ in range(2):  # importing a module gives a package an attribute of its name: none may hide a function
    for name in search.__all__:
        value = getattr(search, name)
        assert callable(value), (name, value)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    assert set(search.__all__) <= set(dir(search))


def test_the_script_is_not_for_importing() -> None:
    program = """
import search
try:
    import search.run
except ImportError as error:
    assert "call `search.run(...)`" in str(error)
assert callable(search.run)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.slow
def test_where_ray_runs_already(write_space: Callable[..., Path], tmp_path: Path) -> None:
    """It joins that Ray, leaves nothing of its own in it, and a second search of the process goes on with the first."""
    space = yaml.safe_load(write_space(tmp_path, confirmation=NO_CONFIRMATION, trials=4).read_text())
    ray.shutdown()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        context = ray.get_runtime_context().get_node_id()
        with pytest.raises(search.UserError, match="leave the address out"):
            search.run(space, output=tmp_path / "none", address="127.0.0.1:6379")
        assert not (tmp_path / "none" / "report.json").exists()
        said: list[str] = []
        results = search.run(space, output=tmp_path / "out", say=said.append)
        assert len(results.trials) == 4
        assert said and all(isinstance(line, str) for line in said)
        assert ray.get_runtime_context().get_node_id() == context
        deadline = time.monotonic() + 30  # an engine ends a moment after its pool
        while alive := [a for a in ray._private.state.actors().values() if a["State"] != "DEAD"]:
            assert time.monotonic() < deadline, alive
            time.sleep(0.1)
        more = search.resume(tmp_path / "out", trials=6, say=said.append)
        assert len(more.trials) == 6
        assert more.trials.loc[:3, "score"].tolist() == results.trials.score.tolist()
        assert search.status(tmp_path / "out").state == "complete"
        again = condense.run(condense.load_task(space["tasks"][0]), more.hyperparameters, steps=6)
        assert again.share is not None and again.share > 0.5
    finally:
        ray.shutdown()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"space": "quickstrat"}, "did you mean `quickstart`"),
        ({"overrides": {"stepz": 1}}, "unknown key `stepz`"),
        ({"overrides": ["steps"]}, "must be key=value"),
        ({"trials": 0}, "trials"),
    ],
)
def test_a_mistake_is_one_line_before_any_work(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(search.UserError, match=message) as caught:
        search.run(**{"output": tmp_path / "out", **arguments})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_search(tmp_path: Path) -> None:
    for ask in (search.load, search.status, search.resume, search.ablate):
        with pytest.raises(search.UserError, match="holds no search"):
            ask(tmp_path)
    (tmp_path / "search.json").write_text("{}")
    with pytest.raises(search.UserError, match="is damaged"):
        search.status(tmp_path)


def test_a_search_that_was_stopped(write_space: Callable[..., Path], tmp_path: Path) -> None:
    from search.ledger.ledger import Ledger

    space = search.load_space(str(write_space(tmp_path)))
    ledger = Ledger.open(tmp_path / "out", space.model_dump(mode="json"), resume=False)
    ledger.new_trial(0, None, {"lambda_cross": 1.0}, space.hyperparameters({"lambda_cross": 1.0}).model_dump(), [0, 1])
    assert search.status(tmp_path / "out").state == "running"
    ledger.close()
    status = search.status(tmp_path / "out")
    assert (status.state, status.ended, status.unfinished, status.best_score) == ("stopped", 0, 1, None)
    with pytest.raises(search.UserError, match="not complete"):
        search.load(tmp_path / "out")


def test_one_search_at_a_time(write_space: Callable[..., Path], tmp_path: Path) -> None:
    from search import api

    with api._one_at_a_time, pytest.raises(search.UserError, match="one at a time"):
        search.run(write_space(tmp_path), output=tmp_path / "out")
