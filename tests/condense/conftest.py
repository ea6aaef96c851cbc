"""What the tests of the method share: a small problem, the embedded dataset, the official model."""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_problem import make_dataset, make_task
from small_run import write_config

from condense import commands
from condense.config.models import SpokenDigits, TinyEncoder
from condense.data.dataset import Dataset
from condense.data.spoken_digits import load_spoken_digits
from condense.embeddings.task import Task
from condense.encoders.tiny import tiny_specs
from condense.evaluation.comparison import Comparison
from condense.storage.store import Store


@pytest.fixture
def hang_up_is_heard() -> Iterator[None]:
    """Whatever started the tests (`nohup`, some CI runners) may ignore SIGHUP, and a process keeps to that."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


torch.set_num_threads(1)  # tensors are tiny here: threads would only wait for each other, and for other processes


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


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(commands, "Comparison", functools.partial(Comparison, convnet_steps=3))
    return write_config(tmp_path)
