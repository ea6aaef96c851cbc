"""Embeddings of real data: computed once per dataset and encoder, kept in the store, then held on the device."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from condense.data.dataset import Dataset, Split
from condense.data.folds import PARTS
from condense.embeddings.encoding import OnPass, encode
from condense.embeddings.input_figures import PREFIX
from condense.encoders.aligned import AlignedTowers
from condense.encoders.protocol import Encoder
from condense.storage.store import Store

log = logging.getLogger(__name__)
VERSION = 1
QUIET = 3.0  # seconds before progress is shown


@dataclass(frozen=True)
class Embedded:
    """The embeddings of one split: modality -> (n, D) float32 of unit norm; labels (n,) int64.

    `present`: modality -> (n,) bool, which items have it, only for modalities that some item lacks, as in `Split`. A
    missing modality has an embedding of zeros; use `having` for means or pairs of embeddings.
    """

    embeddings: Mapping[str, Tensor]
    labels: Tensor
    present: Mapping[str, Tensor] = field(default_factory=dict)
    figures: Mapping[str, Tensor] = field(default_factory=dict)  # modality -> (n, 3) `input_figures.figures`, if known

    @property
    def features(self) -> Tensor:
        """(n, M * D): all modalities side by side, zeros for missing ones; the features of probes and herding."""
        return torch.cat(list(self.embeddings.values()), 1)

    def having(self, *modalities: str) -> tuple[list[Tensor], Tensor]:
        """The k items that have all of these modalities: the embeddings of each modality, (k, D), and the labels (k,)."""
        masks = [self.present[m] for m in modalities if m in self.present]
        if not masks:
            return [self.embeddings[m] for m in modalities], self.labels
        kept = torch.stack(masks).all(0)
        return [self.embeddings[m][kept] for m in modalities], self.labels[kept]

    def rows_having(self, *modalities: str) -> Tensor:
        """(k,) int64: which items `having` selects."""
        everything = torch.ones_like(self.labels, dtype=torch.bool)
        return (
            torch.stack([everything, *(self.present[m] for m in modalities if m in self.present)])
            .all(0)
            .nonzero()[:, 0]
        )

    def to(self, device: torch.device) -> Embedded:
        def moved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: x.to(device) for name, x in tensors.items()}

        return Embedded(moved(self.embeddings), self.labels.to(device), moved(self.present), self.figures)


def embed_split(encoder: Encoder, split: Split, device: torch.device, batch: int | None = None) -> Embedded:
    """Encodes a split without storing the result. `batch`: items per batch; by default `condense.embeddings.encoding` chooses.

    Raises FloatingPointError if an item's embedding is not finite.
    """
    return Embedded(encode(encoder, split, device, batch=batch), split.labels, split.present)


def embedding_key(dataset: Dataset, encoder: Encoder, split: str) -> dict[str, object]:
    """What the embeddings of a split depend on; the address of its entry in the store."""
    return {"version": VERSION, "dataset": dataset.fingerprint, "encoder": encoder.fingerprint, "split": split}


def load_embedded(
    dataset: Dataset,
    encoder: Encoder,
    split: str,
    store: Store,
    device: torch.device,
    quiet: float = QUIET,
    on_pass: OnPass | None = None,
) -> Embedded:
    """Embeddings of `condense`, `validation` or `test`, from the store; computed there first if they are missing.

    `quiet`: seconds before progress is shown. `on_pass`: see `encode`. Those of a fold are rows of the embeddings of the dataset
    that it is a fold of: an encoder that is the same for all folds sees each item once.
    """
    if dataset.fold is not None:
        return _of_fold(dataset, encoder, split, store, device, quiet, on_pass)
    key = embedding_key(dataset, encoder, split)

    def make() -> dict[str, Tensor]:
        part = dataset.open_test() if split == "test" else getattr(dataset, split)
        log.info("embedding %d items of %s (%s)", len(part), dataset.name, split)
        parts = store.parts("embeddings", key)
        name = f"{dataset.name} ({split})"
        if isinstance(encoder, AlignedTowers):  # keeps its towers' features, which outlast its heads
            embeddings = encoder.embed_split(dataset, split, store, device, quiet)
        else:
            embeddings = encode(
                encoder, part, device, parts, key, name=name, quiet=quiet, on_pass=on_pass, with_figures=True
            )
        return {**embeddings, "label": part.labels, **{f"present/{name}": has for name, has in part.present.items()}}

    tensors = store.get_or_make("embeddings", key, make)
    labels = tensors.pop("label")
    present = {name: tensors[f"present/{name}"] for name in dataset.modalities if f"present/{name}" in tensors}
    known = {name: tensors[PREFIX + name] for name in dataset.modalities if PREFIX + name in tensors}
    return Embedded({name: tensors[name] for name in dataset.modalities}, labels, present, known).to(device)


def _of_fold(
    dataset: Dataset,
    encoder: Encoder,
    split: str,
    store: Store,
    device: torch.device,
    quiet: float,
    on_pass: OnPass | None,
) -> Embedded:
    assert dataset.fold is not None
    base = dataset.fold.base
    if split == "test":
        return load_embedded(base, encoder, split, store, device, quiet, on_pass)
    cpu = torch.device("cpu")
    parts = [load_embedded(base, encoder, part, store, cpu, quiet, on_pass) for part in PARTS]
    own: Split = getattr(dataset, split)
    embeddings = {
        name: dataset.fold.chosen(split, [part.embeddings[name] for part in parts]) for name in dataset.modalities
    }
    known = [name for name in dataset.modalities if all(name in part.figures for part in parts)]
    figures = {name: dataset.fold.chosen(split, [part.figures[name] for part in parts]) for name in known}
    return Embedded(embeddings, own.labels, own.present, figures).to(device)
