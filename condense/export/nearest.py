"""Features are shown as the real item that is nearest to each: what they mean to a person."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from condense.data.dataset import Dataset
from condense.evaluation.row_blocks import row_blocks


@torch.no_grad()
def nearest_items(
    dataset: Dataset, features: Mapping[str, Tensor]
) -> tuple[Dataset, dict[str, Tensor], dict[str, Tensor]]:
    """The dataset of inputs that a dataset of features was made of; modality -> (n, *shape), the inputs of the nearest items of
    its condense split; and modality -> (n,) int64, which these are.

    `features`: modality -> (n, width), standardised. Near is their Euclidean distance, in each modality by itself.
    Raises ValueError if the dataset is not of features.
    """
    source = dataset.source
    if source is None:
        raise ValueError(f"{dataset.name}: its items are no features")
    split = dataset.condense
    real = split.load(range(len(split)))
    indices, items = {}, {}
    for m, x in features.items():
        found = []
        for rows in row_blocks(len(x), len(split)):
            apart = torch.cdist(x[rows].float().cpu(), real[m].float())
            if m in split.present:
                apart[:, ~split.present[m].cpu()] = torch.inf
            found.append(apart.argmin(1))
        indices[m] = torch.cat(found)
        items[m] = source.condense.load(indices[m])[m].float().cpu()
    return source, items, indices


def shown_as(dataset: Dataset, inputs: Mapping[str, Tensor]) -> tuple[Dataset, Mapping[str, Tensor]]:
    """What a person is shown of items: themselves, or of features the nearest real items. With the dataset of what is shown."""
    if dataset.source is None:
        return dataset, inputs
    source, items, _ = nearest_items(dataset, inputs)
    return source, items
