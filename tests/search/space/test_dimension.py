"""Steps, conditions and constraints of a space: what can be proposed, and what is a mistake."""

from __future__ import annotations

import ast
import contextlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from condense.config.models import Hyperparameters
from condense.system.errors import UserError
from search.space.constraints import OPERATORS, Constraint, parse
from search.space.dimension import Dimension
from search.space.files import space_of
from search.space.model import Space

SEARCH: dict[str, Any] = {
    "lambda_cross": {"low": 0.01, "high": 10, "log": True},
    "lambda_joint": {"low": 0.01, "high": 10, "log": True},
    "optimizer": {"choices": ["adam", "sgd"]},
    "momentum": {"low": 0.0, "high": 0.9, "step": 0.1, "when": {"optimizer": "sgd"}},
    "views": {"low": 0, "high": 8, "step": 4},
}


def space(**changes: Any) -> Space:
    return space_of({"name": "mine", "tasks": [{"dpc": 1}], "search": SEARCH, **changes})


@given(st.integers(-100, 100), st.integers(1, 40), st.sampled_from([0.1, 0.05, 0.25, 1.0, 3.0]), st.floats(-200, 200))
def test_a_stepped_range_has_its_grid_and_nothing_else(start: int, steps: int, step: float, value: float) -> None:
    low = start / 10
    dimension = Dimension(low=low, high=round(low + steps * step, 6), step=step)
    nearest = dimension.nearest(value)
    assert dimension.contains(nearest) and dimension.contains(dimension.centre())
    grid = [low + i * step for i in range(steps + 1)]
    assert min(abs(nearest - own) for own in grid) < 1e-9
    assert abs(nearest - value) <= min(abs(own - value) for own in grid) + 1e-9
    assert len(repr(nearest).replace("-", "")) <= 6  # 0.3, not 0.30000000000000004
    assert not dimension.contains(low + step / 2) and not dimension.contains(low - step)


def test_what_is_searched_depends_on_the_choice() -> None:
    own = space(fixed={"momentum": 0.7})
    sgd = {"lambda_cross": 1.0, "lambda_joint": 1.0, "optimizer": "sgd", "momentum": 0.3, "views": 4}
    adam = {name: value for name, value in (sgd | {"optimizer": "adam"}).items() if name != "momentum"}
    assert own.searched(sgd) == list(SEARCH) and "momentum" not in own.searched(adam)
    assert own.hyperparameters(adam).momentum == 0.7  # elsewhere it is fixed
    for params in (sgd, adam):
        assert own.contains(own.hyperparameters(params)) and own.params_of(own.hyperparameters(params)) == params
    assert not own.contains(own.hyperparameters(sgd | {"momentum": 0.35}))
    assert not own.contains(own.hyperparameters(adam).model_copy(update={"momentum": 0.3}))
    default = own.default_trials()[1].hyperparameters  # sgd, by default
    assert own.contains(default) and default.momentum == pytest.approx(0.5)
    several = space(search={**SEARCH, "momentum": {**SEARCH["momentum"], "when": {"optimizer": ["sgd", "adam"]}}})
    assert "momentum" in several.searched(adam)


def test_constraints_hold_in_what_can_be_proposed() -> None:
    own = space(constraints=["lambda_joint <= lambda_cross", "momentum < 0.8"])
    params = {"lambda_cross": 1.0, "lambda_joint": 0.5, "optimizer": "adam", "views": 0}
    assert own.admits(params) and not own.admits(params | {"lambda_joint": 2.0})
    assert own.admits(params | {"lambda_joint": 1.0})
    assert not own.admits(params | {"optimizer": "sgd", "momentum": 0.9})
    assert not own.contains(own.hyperparameters(params | {"lambda_joint": 2.0}))
    fixed = space(constraints=["lambda_uni >= lambda_joint"], fixed={"lambda_uni": 0.2})
    assert fixed.admits(params | {"lambda_joint": 0.2}) and not fixed.admits(params)


NESTED = {"low": 0, "high": 1, "when": {"schedule": "cosine"}}
NAMES = st.from_regex(r"[a-z][a-z_]{0,12}", fullmatch=True)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@given(NAMES, st.sampled_from(list(OPERATORS)), NAMES | NUMBERS, st.sampled_from(["", " ", "  "]), st.floats(-9, 9))
def test_a_constraint_is_read_as_python_would(left: str, sign: str, right: Any, gap: str, value: float) -> None:
    text = f"{left}{gap}{sign}{gap}{right!r}" if isinstance(right, float) else f"{left}{gap}{sign}{gap}{right}"
    assert parse(text) == Constraint(left, sign, right)
    there = 1.5 if isinstance(right, str) else right
    expected = {"<=": value <= there, "<": value < there, ">=": value >= there, ">": value > there}[sign]
    values = {left: value, **({right: there} if isinstance(right, str) and right != left else {})}
    if right != left:
        assert parse(text).holds(values) == expected
    assert parse(text).holds({})


@given(st.text(alphabet="ab_1.<>=! ()'+-*e", max_size=12))
def test_nothing_else_is_a_constraint(text: str) -> None:
    """Whatever is read is a single comparison of two names or numbers, as Python's own parser has it."""
    with contextlib.suppress(ValueError):
        found = parse(text)
        (comparison,) = (
            node for node in ast.walk(ast.parse(text.strip(), mode="eval")) if isinstance(node, ast.Compare)
        )
        sides = [ast.unparse(side) for side in (comparison.left, *comparison.comparators)]
        assert len(sides) == 2
        for side, own in zip(sides, (found.left, found.right), strict=True):
            assert side == own or ast.literal_eval(side) == own


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"momentum": {"low": 0, "high": 0.85, "step": 0.1}}, "`search.momentum.high` must be low + a multiple of step"),
        ({"momentum": {"low": 0.1, "high": 0.9, "step": 0.1, "log": True}}, "must have log or step, but has both"),
        ({"views": {"low": 0, "high": 8, "step": 0.5}}, "`search.views.step` must be a whole number, but got 0.5"),
        ({"optimizer": {"choices": ["sgd"], "step": 1}}, "must have choices or a range"),
        ({"momentum": {"low": 0, "high": 0.9, "when": {"optimiser": "sgd"}}}, "`search.momentum.when.optimiser` must name"),
        ({"momentum": {"low": 0, "high": 0.9, "when": {"views": 4}}}, "`search.momentum.when.views` must name"),
        ({"momentum": {"low": 0, "high": 0.9, "when": {"optimizer": "rmsprop"}}}, "must be of its choices ['adam', 'sgd']"),
        ({"momentum": {"low": 0, "high": 0.9, "when": {"optimizer": []}}}, "must not have an empty list"),
        ({"schedule": {"choices": ["cosine"], "when": {"optimizer": "sgd"}}, "alpha": NESTED}, "one that is always searched"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_range_is_a_line(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError) as caught:
        space(search={**SEARCH, **changes})
    assert expected in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("constraint", "expected"),
    [
        ("lambda_joint", "`constraints.0` must be `NAME <= NAME`"),
        ("lambda_joint == 1", "must be `NAME <= NAME`"),
        ("__import__('os') < 1", "must be `NAME <= NAME`"),
        ("2 * lambda_joint < 1", "must be `NAME <= NAME`"),
        ("alpha <= lambda_cross", "`alpha` is neither in `search` nor in `fixed`"),
        ("optimizer <= lambda_cross", "`optimizer` is no number"),
        ("lambda_uni < 3", "must name a searched hyperparameter"),
        ("lambda_joint > 9.999", "must leave something to search"),
    ],
)
def test_a_mistake_in_a_constraint_is_a_line(constraint: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        space(constraints=[constraint], fixed={"lambda_uni": 1.0})
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_a_warm_start_must_be_a_proposal() -> None:
    setting = {"lambda_cross": 1.0, "lambda_joint": 0.5, "optimizer": "adam", "views": 0}
    rules = {"constraints": ["lambda_joint <= lambda_cross"], "trials": 8}
    assert space(warm_start=[setting], **rules).first_trials()[2].hyperparameters.lambda_joint == 0.5
    for wrong, expected in (
        (setting | {"momentum": 0.5}, "`warm_start.0.momentum` is not searched there"),
        (setting | {"optimizer": "sgd"}, "lacks `momentum`"),
        (setting | {"lambda_joint": 2.0}, "must be within `constraints`"),
    ):
        with pytest.raises(UserError, match=expected):
            space(warm_start=[wrong], **rules)


def test_the_yaml_of_the_docs_loads(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "hyperparameters.md").read_text()
    example = text.split("## Ranges, steps, conditions, constraints")[1].split("```yaml\n")[1].split("```")[0]
    own = space_of({"name": "docs", "tasks": [{"dpc": 1}], **yaml.safe_load(example)})
    assert own.constraints and any(d.when for d in own.search.values()) and any(d.step for d in own.search.values())
    assert Hyperparameters().momentum == 0.5  # as the page says
