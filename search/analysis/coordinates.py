"""A space's settings as points in the unit cube, and moves of a setting; needs no trials."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from search.space.dimension import listed
from search.space.model import Space, is_integer

UNSEARCHED = 0.5  # where on its scale what is not searched in a setting stands: the same for all such settings


class Coordinates:
    """Points are (d,) in [0, 1]: the numeric hyperparameters, on a log scale where the space has one, then a column of 0 or 1
    for each value of those with choices. What is not searched in a setting (`when`) is at UNSEARCHED, or has no choice.

    Attributes:
        names: the numeric hyperparameters, in the order of the columns.
        choices: the other ones, with their values.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self.names = [name for name, d in space.search.items() if d.choices is None]
        self.choices = {name: list(d.choices) for name, d in space.search.items() if d.choices is not None}

    def at(self, params: Mapping[str, Any]) -> np.ndarray:
        """(d,): the point of a setting."""
        known = {name: params.get(name) for name in self.names}
        numeric = [UNSEARCHED if value is None else self.position(name, float(value)) for name, value in known.items()]
        chosen = [
            float(name in params and params[name] == value) for name, values in self.choices.items() for value in values
        ]
        return np.array([*numeric, *chosen])

    def settled(self, points: np.ndarray) -> np.ndarray:
        """(n, d) -> (n, d): the points, with what is not searched there where `at` has it: moving it changes nothing."""
        conditional = [name for name in self.names if self.space.search[name].when is not None]
        if conditional:
            points = points.copy()
        for name in conditional:
            searched = np.ones(len(points), dtype=bool)
            for other, wanted in (self.space.search[name].when or {}).items():
                searched &= points[:, [self._column(other, value) for value in listed(wanted)]].max(1) > 0.5
            points[~searched, self.names.index(name)] = UNSEARCHED
        return points

    def _column(self, name: str, value: Any) -> int:
        before = itertools.takewhile(lambda other: other != name, self.choices)
        return len(self.names) + sum(len(self.choices[other]) for other in before) + self.choices[name].index(value)

    def params(self, point: np.ndarray) -> dict[str, Any]:
        """Inverse of `at`, in the order of the space."""
        known: dict[str, Any] = {name: self.value(name, float(x)) for name, x in zip(self.names, point, strict=False)}
        column = len(self.names)
        for name, values in self.choices.items():
            known[name] = values[int(np.argmax(point[column : column + len(values)]))]
            column += len(values)
        return {name: known[name] for name in self.space.searched(known)}

    def is_proposable(self, point: np.ndarray) -> bool:
        """Whether it is that of a proposal: each hyperparameter with choices has one of them as its value, and `constraints`
        hold; a default may be another."""
        params = self.params(point)
        chosen = sum(name in self.choices for name in params)
        return float(point[len(self.names) :].sum()) == chosen and self.space.admits(params)

    def position(self, name: str, value: float) -> float:
        """Where a value of a numeric hyperparameter lies in its range: 0 at the low end, 1 at the high one."""
        d = self.space.search[name]
        assert d.low is not None and d.high is not None
        low, high, at = (math.log(d.low), math.log(d.high), math.log(value)) if d.log else (d.low, d.high, value)
        return (at - low) / (high - low)

    def value(self, name: str, at: float) -> Any:
        """Inverse of `position`; never outside the range."""
        d = self.space.search[name]
        assert d.low is not None and d.high is not None
        value = math.exp(math.log(d.low) * (1 - at) + math.log(d.high) * at) if d.log else d.low + at * (d.high - d.low)
        value = d.nearest(value)  # rounding must not leave the space
        return round(value) if is_integer(name) else value

    def spread(self, names: Sequence[str], count: int) -> list[dict[str, Any]]:
        """`count` settings of these numeric hyperparameters, spread evenly over their ranges."""
        return [
            {name: self.value(name, x) for name, x in zip(names, row, strict=True)}
            for row in sobol_points(len(names), count, 3)
        ]

    def reach(self, decades: float) -> np.ndarray:
        """(numeric,): how far `decades` are on each scale; on one that is not log, that share of the range."""
        reach = []
        for name in self.names:
            d = self.space.search[name]
            assert d.low is not None and d.high is not None
            reach.append(decades / math.log10(d.high / d.low) if d.log else decades)
        return np.array(reach)

    def moves(self, decades: float, count: int, seed: int = 0) -> np.ndarray:
        """(count, numeric): random moves of a point, each hyperparameter by up to `decades`, up or down, evenly spread."""
        moves: np.ndarray = (2 * sobol_points(len(self.names), count, seed) - 1) * self.reach(decades)
        return moves

    def perturbed(self, params: Mapping[str, Any], decades: float, count: int, draw: int = 1) -> list[dict[str, Any]]:
        """`count` settings around one. `draw`: which random moves.

        A value within its range stays there. One outside, as a published setting may have, moves as far on the same scale; where
        that is not logarithmic, not further out. What cannot move (None, or 0 on a log scale) stays, as do choices. Where a move
        would break `constraints` that the setting keeps, it is halved, and in the end left out.
        """
        moves = self.moves(decades, count, draw) if self.names else np.zeros((count, 0))
        return [self._near(params, move) for move in moves]

    def _near(self, params: Mapping[str, Any], move: np.ndarray) -> dict[str, Any]:
        """`params`, with each hyperparameter moved by its part of `move`, (numeric,)."""
        keeps = self.space.keeps_constraints(params)
        for shrink in (1.0, 0.5, 0.25, 0.125):
            own = dict(params)
            for name, far in zip(self.names, move, strict=True):
                if self.can_move(name, params.get(name)):
                    own[name] = self._moved(name, float(params[name]), shrink * float(far))
            if not keeps or self.space.keeps_constraints(own):
                return own
        return dict(params)

    def can_move(self, name: str, value: Any) -> bool:
        """Whether there are values of a numeric hyperparameter around this one. None: it has no value."""
        return value is not None and (value > 0 or not self.space.search[name].log)

    def _moved(self, name: str, value: float, move: float) -> Any:
        d, at = self.space.search[name], self.position(name, value)
        assert d.low is not None and d.high is not None
        if d.contains(value):
            return self.value(name, min(max(at + move, 0.0), 1.0))
        moved = value * (d.high / d.low) ** move if d.log else d.low + (d.high - d.low) * (at + move)
        if not d.log:
            moved = min(max(moved, min(d.low, value)), max(d.high, value))
        if d.step is not None:
            moved = value + round((moved - value) / d.step) * d.step
        return max(1, round(moved)) if is_integer(name) else moved


def sobol_points(dimensions: int, count: int, seed: int) -> np.ndarray:
    """(count, dimensions) in [0, 1): a scrambled Sobol sequence, the same every time."""
    from scipy.stats import qmc

    power = max(0, int(np.ceil(np.log2(count))))
    points: np.ndarray = qmc.Sobol(dimensions, scramble=True, rng=np.random.default_rng(seed)).random_base2(power)
    return points[:count]
