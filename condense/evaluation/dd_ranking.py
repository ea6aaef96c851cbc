"""DD-Ranking's scores: what a condensed set is worth apart from its labels and its augmentation (arXiv 2505.13300).

Source of the formulas: "DD-Ranking: Rethinking the Evaluation of Dataset Distillation", and its package `ddranking` 0.2.0
(`metrics/soft_label.py`, `metrics/aug_robust.py`, README). The package feeds accuracies in percent into the exponential; the
README's range of 0 .. 1 holds for accuracies of 0 .. 1, as here. Leaderboards show both scores times 100.

syn   the condensed set
rdm   as many random real items
any   the method's own evaluation: with its soft labels if it has some
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor

from condense.data.dataset import MemorySplit
from condense.evaluation.comparison import Comparison, Sample, is_finite

EVEN = 0.5  # the leaderboard's weight of the two parts of a score


def hard_label_recovery(full_hard: float, syn_hard: float) -> float:
    """HLR, -1 .. 1: what the set's accuracy lacks to the full data's, both with hard labels. Lower is better."""
    return _accuracy(full_hard) - _accuracy(syn_hard)


def improvement_over_random(syn: float, rdm: float) -> float:
    """IOR, -1 .. 1: what the set is ahead of random items that are trained and labelled in the same way."""
    return _accuracy(syn) - _accuracy(rdm)


def label_robust_score(
    full_hard: float, syn_hard: float, syn_any: float, rdm_any: float, weight: float = EVEN
) -> float:
    """LRS, 0 .. 1, from accuracies of 0 .. 1: (e^a - e^-1) / (e - e^-1) with a = weight * IOR - (1 - weight) * HLR.

    A set as good as the full data, and no better than random items, has (1 - e^-1) / (e - e^-1) = 0.269.
    Raises ValueError for an accuracy or a weight outside 0 .. 1.
    """
    recovery = hard_label_recovery(full_hard, syn_hard)
    return _normalized(_weighted(improvement_over_random(syn_any, rdm_any), -recovery, weight))


def augmentation_robust_score(
    syn_augmented: float, rdm_augmented: float, syn_plain: float, rdm_plain: float, weight: float = EVEN
) -> float:
    """ARS, 0 .. 1, from accuracies of 0 .. 1: (e^b - e^-1) / (e - e^-1) with b = weight * IOR with augmentation + (1 - weight) *
    IOR without it.

    A set no better than random items has 0.269. Raises ValueError for an accuracy or a weight outside 0 .. 1.
    """
    augmented = improvement_over_random(syn_augmented, rdm_augmented)
    return _normalized(_weighted(augmented, improvement_over_random(syn_plain, rdm_plain), weight))


def rank(
    comparison: Comparison,
    items: Sequence[MemorySplit],
    random: Sequence[MemorySplit],
    seeds: Sequence[int],
    soft: Callable[[MemorySplit], Tensor] | None = None,
    weight: float = EVEN,
) -> dict[str, Sample]:
    """`hlr`, `ior`, `lrs` and `ars` of a method by the ConvNet protocol, a value per seed; NaN for items that are not finite.

    `items`, `random`: sets of one size, which the seeds take in turn. `soft`: a set's soft labels (n, C), those of "any";
    without it these are hard. Trains four or five ConvNets per seed, besides those of the full data, which are kept.
    """
    syn, rdm = ([(sets[turn % len(sets)], seed) for turn, seed in enumerate(seeds)] for sets in (items, random))

    def accuracies(trainings: Sequence[tuple[MemorySplit, int]], augmentation: bool = True) -> list[float]:
        targets = [None if soft is None or not is_finite(x) else soft(x) for x, _ in trainings]
        return comparison.convnet(trainings, targets, augmentation)

    augmented = accuracies(syn), accuracies(rdm)
    plain = accuracies(syn, False), accuracies(rdm, False)
    hard = augmented[0] if soft is None else comparison.convnet(syn)
    scores: dict[str, list[float]] = {"hlr": [], "ior": [], "lrs": [], "ars": []}
    for full, own, *others in zip(comparison.full_convnet(seeds), hard, *augmented, *plain, strict=True):
        known = not any(map(math.isnan, (own, *others)))
        syn_augmented, rdm_augmented, syn_plain, rdm_plain = others
        scores["hlr"].append(hard_label_recovery(full, own) if known else math.nan)
        scores["ior"].append(improvement_over_random(syn_augmented, rdm_augmented) if known else math.nan)
        lrs = label_robust_score(full, own, syn_augmented, rdm_augmented, weight) if known else math.nan
        ars = (
            augmentation_robust_score(syn_augmented, rdm_augmented, syn_plain, rdm_plain, weight) if known else math.nan
        )
        scores["lrs"].append(lrs)
        scores["ars"].append(ars)
    return {name: Sample(tuple(values)) for name, values in scores.items()}


def _accuracy(value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"an accuracy must be in 0 .. 1, but got {value}")
    return value


def _weighted(first: float, second: float, weight: float) -> float:
    if not 0 <= weight <= 1:
        raise ValueError(f"weight must be in 0 .. 1, but got {weight}")
    return weight * first + (1 - weight) * second


def _normalized(x: float) -> float:
    """-1 .. 1 to 0 .. 1."""
    return (math.exp(x) - math.exp(-1)) / (math.exp(1) - math.exp(-1))
