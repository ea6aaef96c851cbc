"""Intervals over folds: each fold's groups are few, all folds' together are enough."""

from __future__ import annotations

import numpy as np
import pytest
from test_paired import World

from search.analysis.paired import Items, Outcome, Paired, difference


def folded(world: World, groups: int, told: bool) -> Paired:
    """The difference of two settings where the items of every third group are one fold. `told`: whether all groups count."""
    number = world.items.groups
    assert number is not None
    parts = [np.flatnonzero(number % 3 == fold) for fold in range(3)]
    items = [Items(len(own), 1.0, number[own], f"fold {i}", groups if told else None) for i, own in enumerate(parts)]
    outcomes = []
    for setting in range(2):
        (hits,) = world.run(setting).hits or ()
        own = [hits[:, part] for part in parts]
        outcomes.append(Outcome([score for part in own for score in part.mean(1)], own))
    return difference(*outcomes, items)


@pytest.mark.parametrize("groups", [9, 12, 24])
def test_intervals_cover_the_difference_on_new_groups(groups: int) -> None:
    covered = 0
    for seed in range(1000):
        world = World(seed, (1.5, 1.3), 360, groups)
        truth = world.accuracy(1.5) - world.accuracy(1.3)
        found = folded(world, groups, told=True)
        covered += found.low <= truth <= found.high
        assert found.covers == ("seeds", "groups")
    assert 930 <= covered <= 985  # a fold's own mean takes a degree of freedom


def test_without_that_they_are_over_items() -> None:
    world = World(0, (1.5, 1.3), 360, 9)
    assert folded(world, 9, told=False).covers == ("seeds", "items")
    assert folded(world, 4, told=True).covers == ("seeds", "items")
