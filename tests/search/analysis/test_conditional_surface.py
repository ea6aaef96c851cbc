"""What is made of trials whose space has steps, conditions and constraints: the model, runs around a setting, importances."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from search.analysis.coordinates import UNSEARCHED, Coordinates
from search.analysis.failure_regions import region
from search.analysis.importance import importances
from search.analysis.robustness import plateau_setting, response_pairs, responses, robust_region, sensitivity
from search.analysis.surrogate import Scored, Surface
from search.confirmation.perturbation import can_move, searched_values
from search.report.parallel import parallel
from search.report.trials import Trial
from search.space.files import space_of
from search.tracking.shared_view import shared_view
from search.tuning.sampler import distributions

SPACE = space_of(
    {
        "name": "conditional",
        "tasks": [{"dpc": 1}],
        "search": {
            "lambda_cross": {"low": 0.01, "high": 10, "log": True},
            "lambda_joint": {"low": 0.01, "high": 10, "log": True},
            "optimizer": {"choices": ["sgd", "adam"]},
            "momentum": {"low": 0.0, "high": 0.9, "step": 0.1, "when": {"optimizer": "sgd"}},
            "views": {"low": 0, "high": 8, "step": 2},
        },
        "constraints": ["lambda_joint <= lambda_cross"],
    }
)


def score(params: dict[str, Any]) -> float:
    """The better, the larger lambda_joint; best with sgd, and there at a momentum of 0.3."""
    return 0.9 + 0.05 * np.log10(params["lambda_joint"]) - abs(params.get("momentum", 0.9) - 0.3) / 4


@pytest.fixture(scope="module")
def trials() -> list[dict[str, Any]]:
    coordinates, rng = Coordinates(SPACE), np.random.default_rng(0)
    points = np.hstack([rng.random((80, 4)), np.eye(2)[rng.integers(0, 2, 80)]])
    return [coordinates.params(p) for p in points if coordinates.is_proposable(p)]


@pytest.fixture(scope="module")
def surface(trials: list[dict[str, Any]]) -> Surface:
    return Surface(SPACE, [Scored(t, score(t), 0.002) for t in trials])


def test_points_and_settings_are_inverse(trials: list[dict[str, Any]]) -> None:
    coordinates = Coordinates(SPACE)
    assert {len(t) for t in trials} == {4, 5}  # without a momentum, and with one
    for params in trials:
        assert coordinates.params(coordinates.at(params)) == pytest.approx(params)
        assert SPACE.admits(params)
    adam = coordinates.at({"lambda_cross": 1.0, "lambda_joint": 0.1, "optimizer": "adam", "views": 2})
    assert adam[coordinates.names.index("momentum")] == UNSEARCHED


def test_what_is_not_searched_changes_no_prediction(surface: Surface) -> None:
    point = surface.at({"lambda_cross": 1.0, "lambda_joint": 0.1, "optimizer": "adam", "views": 2})
    moved = point.copy()
    moved[surface.names.index("momentum")] = 0.0
    assert surface.mean(moved[None]) == surface.mean(point[None])
    sgd = surface.at({"lambda_cross": 1.0, "lambda_joint": 0.1, "optimizer": "sgd", "momentum": 0.3, "views": 2})
    moved = sgd.copy()
    moved[surface.names.index("momentum")] = 1.0
    assert surface.mean(moved[None]) < surface.mean(sgd[None]) - 0.05


def test_the_plateau_and_what_is_told_around_it_are_of_the_space(surface: Surface) -> None:
    params, _ = plateau_setting(surface, 0.3)
    assert SPACE.admits(params) and params["optimizer"] == "sgd" and params["momentum"] in (0.2, 0.3, 0.4)
    own = {**params, "lambda_cross": 1.0, "lambda_joint": 0.9}
    assert robust_region(surface, own)["lambda_joint"][1] <= 1.0 + 1e-6
    (grid,) = response_pairs(surface, own)
    places = itertools.product(grid["ys"], grid["xs"])
    drawn = dict(zip(places, itertools.chain(*grid["mean"]), strict=True))
    assert {(y, x) for (y, x), mean in drawn.items() if mean is None} == {(y, x) for y, x in drawn if y > x}
    adam = {name: value for name, value in own.items() if name != "momentum"} | {"optimizer": "adam"}
    for told in (robust_region(surface, adam), responses(surface, adam), sensitivity(surface, adam, own)):
        assert told.keys() == {"lambda_cross", "lambda_joint", "views"}
    assert "momentum" in responses(surface, own)


def test_moves_stay_on_the_grid_and_within_constraints() -> None:
    setting = {"lambda_cross": 1.0, "lambda_joint": 0.95, "optimizer": "sgd", "momentum": 0.3, "views": 2}
    around = Coordinates(SPACE).perturbed(setting, 0.3, 64)
    assert all(SPACE.admits(own) for own in around)
    assert len({own["lambda_joint"] for own in around}) > 40  # not left where they are
    assert {own["momentum"] for own in around} >= {0.1, 0.3, 0.5} and {own["views"] for own in around} == {0, 2, 4}
    published = {**setting, "lambda_joint": 5.0}  # which breaks it already
    assert any(own["lambda_joint"] > own["lambda_cross"] for own in Coordinates(SPACE).perturbed(published, 0.3, 16))
    config = SPACE.hyperparameters(setting | {"optimizer": "adam"}).model_copy(update={"momentum": 0.8})
    assert "momentum" not in searched_values(config, SPACE) and can_move(SPACE, config.model_dump())


def test_importances_and_regions_cope(trials: list[dict[str, Any]]) -> None:
    known = [Scored(t, score(t), 0.002) for t in trials]
    found = importances(SPACE, known, distributions(SPACE))
    for values in found.values():
        assert values.keys() == {"lambda_cross", "lambda_joint", "optimizer", "views"}
    shown = [t.get("momentum", 0.0) > 0.55 for t in trials]
    text = region(SPACE, trials, shown)
    assert (
        text is not None and text.startswith("momentum > 0.5") and f"0 of {len(trials) - sum(shown)} elsewhere" in text
    )


def test_figures_and_views_cope(trials: list[dict[str, Any]]) -> None:
    figure = parallel([Trial(i, "completed", t, score=score(t)) for i, t in enumerate(trials)], {})
    assert figure is not None
    drawn = sum(len(trace.x) for trace in figure.data if trace.mode == "lines+markers")
    assert drawn == sum(len(t) + 2 for t in trials)  # an axis for each value, the score, a gap
    view = shared_view("abc", {"lambda_cross": True, "momentum": False}, "accuracy", [""], ["lambda_cross"])
    assert view.state["compareRunCharts"][0]["selectedParams"] == []
    assert "params.`momentum`" in view.state["selectedColumns"]
