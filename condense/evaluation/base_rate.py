"""What an accuracy is worth: beside what always giving the same answer gets, and the mean over classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from condense.data.dataset import Dataset

NAMES = 5  # classes named in a warning
UNBALANCED = 1.2  # times the mean size of a class: a largest one below that makes no difference worth a number


@dataclass(frozen=True)
class BaseRate:
    """Of the items of one split."""

    answer: str  # the class that most items are of
    share: float  # of them, 0 .. 1
    balanced: bool  # whether its classes are about as large as one another

    def excuses(self, score: float) -> bool:
        """Whether an accuracy is no better than this."""
        return score <= self.share + 1e-6


def base_rate(labels: Tensor, class_names: Sequence[str]) -> BaseRate:
    """Of (n,) labels in 0 .. C-1, n > 0. Classes without items count as classes."""
    counts = torch.bincount(labels.cpu(), minlength=len(class_names))
    top = int(counts.argmax())
    share = counts[top].item() / len(labels)
    return BaseRate(class_names[top], share, share * len(class_names) <= UNBALANCED)


def balanced_accuracy(right: Tensor, labels: Tensor) -> float:
    """(n,) bool, which items are right, and (n,) labels -> the share that is right, mean over the classes that are there."""
    _, places, counts = labels.unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(len(counts), dtype=torch.float64, device=labels.device).index_add_(0, places, right.double())
    return float((sums / counts).mean())


def absent_classes(dataset: Dataset) -> list[str]:
    """A line per split, of validation and test, that lacks classes: nothing is known of those there. Counts labels only."""
    found = []
    for split, part in (("validation", dataset.validation), ("test", dataset.open_test())):
        counts = torch.bincount(part.labels.cpu(), minlength=dataset.num_classes)
        lacking = [name for name, count in zip(dataset.class_names, counts.tolist(), strict=True) if not count]
        if lacking:
            names = ", ".join(map(repr, lacking[:NAMES])) + (" ..." if len(lacking) > NAMES else "")
            found.append(
                f"{dataset.name}: {split} has no item of {len(lacking):,} of {dataset.num_classes:,} classes ({names}): "
                "no score there says anything of these"
            )
    return found


def no_better(name: str, split: str, score: float, labels: Tensor, class_names: Sequence[str]) -> list[str]:
    """A line if the full data's accuracy is no better than always giving the same answer."""
    rate = base_rate(labels, class_names)
    if not rate.excuses(score):
        return []
    return [
        f"{name}: the full data's accuracy on {split}, {score:.3f}, is no better than always answering {rate.answer!r} "
        f"({rate.share:.3f}): shares of it say nothing"
    ]
