"""What the real items of a split are, for comparisons item by item."""

from __future__ import annotations

from typing import Any

from condense.config.models import Fold
from condense.data.dataset import Dataset
from condense.data.folds import pooled_groups
from condense.evaluation.base_rate import base_rate


def describe_items(dataset: Dataset, split: str, fold: Fold | None = None) -> dict[str, Any]:
    """{count, groups, data, of_groups} of `condense`, `validation` or `test`, as in `search.analysis.paired.Items`; and `labels`,
    None where the classes are about as large as one another.

    `groups`: one number per item, or None where none are known; those that stratified folds divide are not: the same group is
    in several of them. `fold`: the one that `dataset` is, whose test split is that of the dataset it was made of.
    """
    source = dataset.source or dataset
    base = source if source.fold is None else source.fold.base
    by = None if fold is None or split == "test" else fold.by
    part = dataset.open_test() if split == "test" else getattr(dataset, split)
    pooled = pooled_groups(base) if by == "group" else None
    return {
        "count": len(part),
        "groups": None if part.groups is None or by == "class" else part.groups.tolist(),
        "data": base.fingerprint if split == "test" else dataset.fingerprint,
        "of_groups": None if pooled is None else len(set(pooled.tolist())),
        "labels": None if base_rate(part.labels, dataset.class_names).balanced else part.labels.tolist(),
    }
