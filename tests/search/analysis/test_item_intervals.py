"""Intervals of scores that are no plain means of right and wrong: how often they hold the truth about new items."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from condense.evaluation.item_values import geometric_mean, mean_of_parts, mean_over
from search.analysis.paired import Items, Outcome, difference

SEED_SPREAD, CELL_SPREAD, SEEDS = 0.05, 0.3, 10


def log_losses(logs: np.ndarray) -> Outcome:
    """(S, n) natural logarithms of the right class's probability."""
    found = [geometric_mean(torch.from_numpy(own)) for own in logs]
    return Outcome([score for score, _ in found], [torch.stack([values for _, values in found]).numpy()])


def log_probability_of(x: np.ndarray) -> np.ndarray:
    """Of the right one of two classes, by its logit; always in the same, skewed, form."""
    return -np.logaddexp(0, -x)


def expected_log_probability(middle: float, spread: float) -> float:
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    return float((log_probability_of(middle + spread * nodes) * weights).sum() / weights.sum())


def one_seeds_score(middle: float, item_spread: float) -> float:
    """The mean over seeds of the score on infinitely many items: exp of a mean that a seed's own part moves."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    spread = math.hypot(item_spread, CELL_SPREAD)
    of_seed = [math.exp(expected_log_probability(middle + SEED_SPREAD * node, spread)) for node in nodes]
    return float(np.dot(of_seed, weights) / weights.sum())


@pytest.mark.parametrize(("n", "middles"), [(200, (2.5, 2.2)), (600, (1.0, 1.0))])
def test_of_log_losses(n: int, middles: tuple[float, float]) -> None:
    covered = 0
    truth = one_seeds_score(middles[0], math.hypot(1.5, 0.4)) - one_seeds_score(middles[1], math.hypot(1.5, 0.4))
    for seed in range(600):
        rng = np.random.default_rng(seed)
        common = rng.normal(0, 1.5, n)
        a, b = (
            log_losses(
                log_probability_of(
                    middle
                    + common
                    + rng.normal(0, 0.4, n)
                    + rng.normal(0, SEED_SPREAD, (SEEDS, 1))
                    + rng.normal(0, CELL_SPREAD, (SEEDS, n))
                )
            )
            for middle in middles
        )
        found = difference(a, b, [Items(n)])
        assert found.covers == ("seeds", "items")
        covered += found.low <= truth <= found.high
    assert 0.93 * 600 <= covered <= 0.975 * 600


def recalls(found: np.ndarray, asked: list[np.ndarray]) -> Outcome:
    """(S, directions, n) chances to find, of which each direction asks some items: the mean over directions."""
    per_seed = [
        mean_of_parts(
            [
                mean_over(torch.from_numpy(rows), torch.from_numpy(own[rows]))
                for rows, own in zip(asked, seed, strict=True)
            ],
            found.shape[-1],
        )
        for seed in found
    ]
    values = [own for _, own in per_seed if own is not None]
    return Outcome([score for score, _ in per_seed], [torch.stack(values).numpy()])


def test_of_recalls_whose_directions_ask_different_numbers_of_items() -> None:
    """One direction asks all items, the other only a third of them, which therefore count more."""
    n, covered = 300, 0
    chance = np.array([[0.30, 0.20], [0.27, 0.15]])  # setting, direction: on new items
    truth = float((chance[0] - chance[1]).mean())
    for seed in range(600):
        rng = np.random.default_rng(seed)
        asked = [np.arange(n), np.flatnonzero(np.arange(n) % 3 == 0)]
        common = rng.normal(size=(2, n))
        outcomes = []
        for own in chance:
            level = np.array([[float(np.sqrt(1.3) * _normal_quantile(p))] for p in own])
            x = level + common + rng.normal(0, math.sqrt(0.3), (SEEDS, 2, n))
            outcomes.append(recalls((x > 0).astype(float), asked))
        found = difference(outcomes[0], outcomes[1], [Items(n)])
        covered += found.low <= truth <= found.high
    assert 0.93 * 600 <= covered <= 0.975 * 600


def _normal_quantile(p: float) -> float:
    from scipy.stats import norm

    return float(norm.ppf(p))
