"""A score item by item: values whose mean over the held-out items is the score, for intervals that cover new items, too.

n  held-out items

An accuracy is a mean already: an item is right, or not. Other scores are functions of means, f(m). Of these an item's value is
the score plus the item's influence on it, f(m) + f'(m) (x_i - m) (the delta method): the mean over items is the score, and the
variance of that mean is, to first order, the score's over new items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

FEWEST = 5  # independent items below which nothing is said of new ones


class Part(NamedTuple):
    """A mean over some of the items, which may count differently."""

    rows: Tensor  # (k,) int64: which items
    values: Tensor  # (k,)
    weights: Tensor  # (k,), sum 1


def mean_over(rows: Tensor, values: Tensor) -> Part:
    """The mean of `values` (k,), all alike."""
    return Part(rows, values.double(), torch.full_like(values, 1 / len(values), dtype=torch.float64))


def geometric_mean(log_probabilities: Tensor) -> tuple[float, Tensor]:
    """The score `log_loss`, exp(-log-loss), and each item's value (n,) float64; from natural logarithms (n,).

    Why not the log-loss itself: this is bounded (0 .. 1), higher is better, and positive, so that it has shares of the full
    data's. The log-loss is a strictly proper score (Gneiting and Raftery 2007); a monotone function of it ranks settings alike.
    """
    logs = log_probabilities.double()
    score = logs.mean().exp()
    return float(score), score * (1 + logs - logs.mean())


def mean_of_parts(parts: Sequence[Part], n: int, same: Tensor | None = None) -> tuple[float, Tensor | None]:
    """The mean of several means, and each item's value (n,) float64.

    `same`: (n,) int64, equal for items that are not independent: the first of them then stands for all. Values are None where
    fewer than FEWEST are independent.
    """
    means = [(part.weights * part.values).sum() for part in parts]
    score = torch.stack(means).mean()
    influence = torch.zeros(n, dtype=torch.float64, device=score.device)
    for part, mean in zip(parts, means, strict=True):
        influence.index_add_(0, part.rows, n * part.weights * (part.values - mean) / len(parts))
    if same is not None:
        if len(same[torch.cat([part.rows for part in parts])].unique()) < FEWEST:
            return float(score), None
        influence = torch.zeros_like(influence).index_add_(0, same, influence)
    return float(score), score + influence


def connected(shared: Sequence[Tensor]) -> Tensor:
    """(n,) int64: for each row, the first of those that share an item with it, directly or through others.

    `shared`: at least one (n,) int64, equal for rows with the same item of a modality.
    """
    numbers = [items.unique(return_inverse=True)[1] for items in shared]
    row = torch.arange(len(numbers[0]), device=numbers[0].device)
    while True:
        before = row
        for number in numbers:
            least = torch.full_like(row, len(row)).scatter_reduce(0, number, row, "amin")
            row = least[number]
        if torch.equal(row, before):
            return row
