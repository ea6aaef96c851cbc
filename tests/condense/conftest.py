"""A small problem in memory that every module can afford: 3 classes, any of the 6 modalities, random towers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from condense.config import SpokenDigits, TinyEncoder
from condense.data.dataset import Dataset, MemorySplit
from condense.data.spoken_digits import load_spoken_digits
from condense.embeddings import Task, embed_split
from condense.encoders.tiny import build_tiny, tiny_specs
from condense.store import Store

torch.set_num_threads(1)  # tensors are tiny here: threads would only wait for each other, and for other processes

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
def make_task(modalities: tuple[str, ...] = ("vision", "audio"), per_class: int = 12, seed: int = 0) -> Task:
    dataset, device = make_dataset(modalities, per_class, seed), torch.device("cpu")
    encoder = build_tiny(TOWERS, dataset)
    embedded = [embed_split(encoder, split, device) for split in (dataset.condense, dataset.validation)]
    return Task(dataset, encoder, embedded[0], embedded[1], device)


@pytest.fixture(scope="session")
def small_dataset() -> Callable[..., Dataset]:
    """(modalities, per_class, seed) -> the dataset; the same object for the same arguments; test is sealed."""
    return make_dataset


@pytest.fixture(scope="session")
def small_task() -> Callable[..., Task]:
    """(modalities, per_class, seed) -> that dataset seen through random towers of 8 dimensions."""
    return make_task


@pytest.fixture(scope="session")
def spoken_digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Store]:
    """The embedded dataset at its smallest (one pair per image), made anew, and the store that it is kept in."""
    store = Store(tmp_path_factory.mktemp("store"))
    return load_spoken_digits(SpokenDigits(pairs_per_image=1), tiny_specs(TinyEncoder()), store), store


@pytest.fixture(scope="session")
def official() -> Any:
    """The official model with seeded weights that are not those of any initialisation, in evaluation mode."""
    from condense.encoders import imagebind

    model = imagebind.random_model("small", seed=7).eval()
    generator = torch.Generator().manual_seed(8)
    for parameter in model.parameters():
        if parameter.ndim:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model.requires_grad_(False)


@pytest.fixture(scope="session")
def checkpoint(official: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("imagebind") / "small.pth"
    torch.save(official.state_dict(), path)
    return path
