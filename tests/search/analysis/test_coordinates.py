"""Moves of a setting: within its ranges, and of a published setting outside of them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from search.analysis.coordinates import Coordinates
from search.space.model import Space

SPACE = Space.model_validate(
    {
        "name": "moves",
        "tasks": [{"dpc": 1}],
        "search": {
            "lambda_cross": {"low": 0.01, "high": 10, "log": True},
            "frequency_scale": {"low": 0.1, "high": 4, "log": True},
            "learning_rate": {"low": 0.03, "high": 3, "log": True},
            "alpha": {"low": 0.5, "high": 1.0},
        },
    }
)


def near(count: int = 32, **params: Any) -> list[dict[str, Any]]:
    setting = {"lambda_cross": 1.0, "frequency_scale": 1.0, "learning_rate": 1.0, "alpha": 0.75, **params}
    return Coordinates(SPACE).perturbed(setting, 0.3, count)


def test_a_value_outside_of_its_range_moves_as_far_on_its_scale() -> None:
    moved = [math.log10(own["learning_rate"] / 10) for own in near(learning_rate=10.0)]
    inside = [math.log10(own["learning_rate"]) for own in near()]
    assert moved == pytest.approx(inside)
    assert min(moved) < -0.2 and max(moved) > 0.2


def test_what_has_no_values_around_it_stays() -> None:
    around = near(lambda_cross=0.0, frequency_scale=None)
    assert {(own["lambda_cross"], own["frequency_scale"]) for own in around} == {(0.0, None)}
    assert len({own["learning_rate"] for own in around}) == 32
    coordinates = Coordinates(SPACE)
    assert not coordinates.can_move("lambda_cross", 0.0) and coordinates.can_move("alpha", 0.0)


def test_no_move_leaves_a_linear_range_further_than_the_setting_does() -> None:
    assert all(0.0 <= own["alpha"] <= 1.0 for own in near(alpha=0.0))
    assert all(0.5 <= own["alpha"] <= 1.0 for own in near())


def test_the_ends_of_a_range_bound_what_is_inside() -> None:
    assert all(0.01 <= own["lambda_cross"] <= 10 for own in near(lambda_cross=0.011))
