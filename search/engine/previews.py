"""Synthetic items as files to be shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from condense.data.dataset import Dataset
from condense.inputs.media import preview


def cards(
    dataset: Dataset, inputs: Mapping[str, Tensor], labels: Sequence[int], dpc: int, most: int
) -> list[dict[str, Any]]:
    """The first `most` of the `dpc` items of each class: label, index, modality -> {png, wav, txt}. `inputs`: modality -> (n,
    *shape), on the CPU."""
    made = []
    for i, label in enumerate(labels):
        if i % dpc < most:
            items = {m: preview(dataset.specs[m], x[i]) for m, x in inputs.items()}
            files = {m: {k.lstrip("."): v for k, v in of.items()} for m, of in items.items()}
            made.append({"label": dataset.class_names[label], "index": i, "items": files})
    return made
