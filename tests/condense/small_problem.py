"""A small problem in memory that every module can afford: 3 classes, any of the 6 modalities, random towers."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from condense.config.models import TinyEncoder
from condense.data.dataset import Dataset, MemorySplit
from condense.embeddings.embeddings import embed_split
from condense.embeddings.task import Task
from condense.encoders.tiny import build_tiny, tiny_specs

CLASSES = 3
TOWERS = TinyEncoder(pretraining="none", dim=8, width=4, image_size=8)


class Sealed:
    """A test split that must stay shut."""

    labels = torch.zeros(4, dtype=torch.int64)
    present: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return 4

    def load(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        raise AssertionError("the test split was read")


@functools.cache
def make_dataset(modalities: tuple[str, ...] = ("vision", "audio"), per_class: int = 12, seed: int = 0) -> Dataset:
    """Each class is a random pattern per modality; items are the pattern under noise, inside the encoder's range."""
    specs = {m: tiny_specs(TOWERS)[m] for m in modalities}
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(CLASSES).repeat(per_class)
    patterns = {m: torch.randn(CLASSES, *spec.shape, generator=generator) / 2 for m, spec in specs.items()}
    splits = []
    for _ in range(2):
        items = {m: patterns[m][labels] for m in modalities}
        noisy = {m: x + 0.3 * torch.randn(x.shape, generator=generator) for m, x in items.items()}
        splits.append(MemorySplit({m: x.clamp(specs[m].low, specs[m].high) for m, x in noisy.items()}, labels))
    names = tuple(f"class {c}" for c in range(CLASSES))
    return Dataset("small", specs, names, splits[0], splits[1], Sealed(), f"small {modalities} {per_class} {seed}")


@functools.cache
def make_task(
    modalities: tuple[str, ...] = ("vision", "audio"), per_class: int = 12, seed: int = 0, dim: int = TOWERS.dim
) -> Task:
    dataset, device = make_dataset(modalities, per_class, seed), torch.device("cpu")
    encoder = build_tiny(TOWERS.model_copy(update={"dim": dim}), dataset)
    embedded = [embed_split(encoder, split, device) for split in (dataset.condense, dataset.validation)]
    return Task(dataset, encoder, embedded[0], embedded[1], device)
