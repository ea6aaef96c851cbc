"""Embeddings of real data: computed once per dataset and encoder, kept in the store, then held on the device."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from condense.data.dataset import Dataset, Split
from condense.encoders.encoder import Encoder
from condense.objective import RealStatistics
from condense.store import Store

log = logging.getLogger(__name__)
VERSION = 1


@dataclass(frozen=True)
class Embedded:
    """The embeddings of one split: modality -> (n, D) float32 of unit norm; labels (n,) int64."""

    embeddings: Mapping[str, Tensor]
    labels: Tensor

    @property
    def features(self) -> Tensor:
        """(n, M * D): all modalities side by side, what probes and herding see."""
        return torch.cat(list(self.embeddings.values()), 1)

    def to(self, device: torch.device) -> Embedded:
        return Embedded({name: x.to(device) for name, x in self.embeddings.items()}, self.labels.to(device))


@torch.no_grad()
def embed_split(encoder: Encoder, split: Split, device: torch.device, batch: int = 256) -> Embedded:
    """One pass over a split. Raises FloatingPointError if an item's embedding is not finite."""
    parts: dict[str, list[Tensor]] = {}
    for first in range(0, len(split), batch):
        items = split.load(range(first, min(first + batch, len(split))))
        for name, tensor in items.items():
            embedded = encoder.embed(name, tensor.to(device)).float()
            if not embedded.isfinite().all():
                bad = first + int((~embedded.isfinite().all(1)).nonzero()[0])
                raise FloatingPointError(f"the {name} embedding of item {bad} is not finite")
            parts.setdefault(name, []).append(embedded.cpu())
    return Embedded({name: torch.cat(tensors) for name, tensors in parts.items()}, split.labels)


def embedding_key(dataset: Dataset, encoder: Encoder, split: str) -> dict[str, object]:
    """What the embeddings of a split depend on; the address of its entry in the store."""
    return {"version": VERSION, "dataset": dataset.fingerprint, "encoder": encoder.fingerprint, "split": split}


def load_embedded(dataset: Dataset, encoder: Encoder, split: str, store: Store, device: torch.device) -> Embedded:
    """Embeddings of `condense`, `validation` or `test`, from the store; computed there first if they are missing."""

    def make() -> dict[str, Tensor]:
        part = dataset.open_test() if split == "test" else getattr(dataset, split)
        log.info("embedding %d items of %s (%s)", len(part), dataset.name, split)
        embedded = embed_split(encoder, part, device)
        return {**embedded.embeddings, "label": embedded.labels}

    tensors = store.get_or_make("embeddings", embedding_key(dataset, encoder, split), make)
    labels = tensors.pop("label")
    return Embedded({name: tensors[name] for name in dataset.modalities}, labels).to(device)


@dataclass
class Task:
    """A dataset seen through an encoder, on a device: what all condensations of it share, once.

    Holds no test data: `dataset.open_test` is called by final evaluations only.
    """

    dataset: Dataset
    encoder: Encoder
    condense: Embedded
    validation: Embedded
    device: torch.device
    statistics: RealStatistics = field(init=False)

    def __post_init__(self) -> None:
        self.statistics = RealStatistics.of(self.condense.embeddings, self.condense.labels, self.dataset.num_classes)

    @property
    def modalities(self) -> tuple[str, ...]:
        return self.dataset.modalities
