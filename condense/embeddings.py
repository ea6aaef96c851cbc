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
    """The embeddings of one split: modality -> (n, D) float32 of unit norm; labels (n,) int64.

    `present`: modality -> (n,) bool, which items have it, only of modalities that some item lacks, as in `Split`. The
    embedding of what an item lacks is zeros; whoever takes means or pairs of embeddings asks `having` for them.
    """

    embeddings: Mapping[str, Tensor]
    labels: Tensor
    present: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def features(self) -> Tensor:
        """(n, M * D): all modalities side by side, zeros for what an item lacks: what probes and herding see."""
        return torch.cat(list(self.embeddings.values()), 1)

    def having(self, *modalities: str) -> tuple[list[Tensor], Tensor]:
        """Of the k items that have all of these modalities: the embeddings of each, (k, D), and the labels (k,)."""
        masks = [self.present[m] for m in modalities if m in self.present]
        if not masks:
            return [self.embeddings[m] for m in modalities], self.labels
        kept = torch.stack(masks).all(0)
        return [self.embeddings[m][kept] for m in modalities], self.labels[kept]

    def to(self, device: torch.device) -> Embedded:
        def moved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: x.to(device) for name, x in tensors.items()}

        return Embedded(moved(self.embeddings), self.labels.to(device), moved(self.present))


@torch.no_grad()
def embed_split(encoder: Encoder, split: Split, device: torch.device, batch: int = 256) -> Embedded:
    """One pass over a split; what an item lacks is not sent through the encoder.

    Raises FloatingPointError if an item's embedding is not finite.
    """
    parts: dict[str, list[Tensor]] = {}
    for first in range(0, len(split), batch):
        items = split.load(range(first, min(first + batch, len(split))))
        for name, tensor in items.items():
            has = split.present[name][first : first + batch] if name in split.present else None
            embedded = _embed_present(encoder, name, tensor.to(device), has).float()
            if not embedded.isfinite().all():
                bad = first + int((~embedded.isfinite().all(1)).nonzero()[0])
                raise FloatingPointError(f"the {name} embedding of item {bad} is not finite")
            parts.setdefault(name, []).append(embedded.cpu())
    return Embedded({name: torch.cat(tensors) for name, tensors in parts.items()}, split.labels, split.present)


def _embed_present(encoder: Encoder, modality: str, inputs: Tensor, has: Tensor | None) -> Tensor:
    """(n, D): embeddings of the inputs (n, *shape) that there are, by `has` (n,) bool; zeros for the others."""
    if has is None or bool(has.all()):
        return encoder.embed(modality, inputs)
    has = has.to(inputs.device)
    embedded = torch.zeros(len(inputs), encoder.dim, device=inputs.device)
    if bool(has.any()):
        embedded[has] = encoder.embed(modality, inputs[has]).float()
    return embedded


def embedding_key(dataset: Dataset, encoder: Encoder, split: str) -> dict[str, object]:
    """What the embeddings of a split depend on; the address of its entry in the store."""
    return {"version": VERSION, "dataset": dataset.fingerprint, "encoder": encoder.fingerprint, "split": split}


def load_embedded(dataset: Dataset, encoder: Encoder, split: str, store: Store, device: torch.device) -> Embedded:
    """Embeddings of `condense`, `validation` or `test`, from the store; computed there first if they are missing."""

    def make() -> dict[str, Tensor]:
        part = dataset.open_test() if split == "test" else getattr(dataset, split)
        log.info("embedding %d items of %s (%s)", len(part), dataset.name, split)
        embedded = embed_split(encoder, part, device)
        masks = {f"present/{name}": has for name, has in embedded.present.items()}
        return {**embedded.embeddings, "label": embedded.labels, **masks}

    tensors = store.get_or_make("embeddings", embedding_key(dataset, encoder, split), make)
    labels = tensors.pop("label")
    present = {name: tensors[f"present/{name}"] for name in dataset.modalities if f"present/{name}" in tensors}
    return Embedded({name: tensors[name] for name in dataset.modalities}, labels, present).to(device)


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
        known = self.condense
        self.statistics = RealStatistics.of(known.embeddings, known.labels, self.dataset.num_classes, known.present)

    @property
    def modalities(self) -> tuple[str, ...]:
        return self.dataset.modalities
