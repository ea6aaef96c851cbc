"""The engine on a GPU. Skipped where there is none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from small_problem import TOWERS, make_dataset
from test_engine import replica

from condense.embeddings.embeddings import embed_split
from condense.embeddings.task import Task
from condense.encoders.tiny import build_tiny
from condense.engine.engine import Engine

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture
def task() -> Task:
    dataset, device = make_dataset(), torch.device("cuda")
    encoder = build_tiny(TOWERS, dataset).to(device)
    condense, validation = (embed_split(encoder, s, device).to(device) for s in (dataset.condense, dataset.validation))
    return Task(dataset, encoder, condense, validation, device)


@pytest.fixture
def no_synchronisation() -> Iterator[None]:
    """An error where the host would wait for the device; laying a pack out may."""
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.usefixtures("no_synchronisation")
def test_a_step_never_waits_for_the_device(task: Task) -> None:
    cast = [replica(task, 2, seed=i, optimizer=o) for i, o in enumerate(("sgd", "adam", "sgd"))]
    engine = Engine()
    engine.run(cast, 2)
    engine.step(cast)  # laid out now
    torch.cuda.set_sync_debug_mode("error")
    for _ in range(3):
        engine.step(cast)
    torch.cuda.set_sync_debug_mode("default")
    assert engine.losses_of(cast[0]).shape == (4, 4)


def test_packed_equals_alone(task: Task) -> None:
    together = [replica(task, 2, seed=i) for i in range(5)]
    Engine().run(together, 5)
    for i, r in enumerate(together):
        alone = replica(task, 2, seed=i)
        Engine().run([alone], 5)
        for m, x in r.inputs.items():
            assert (x - alone.inputs[m]).norm() <= 1e-3 * x.norm(), m


def test_the_budget_is_what_the_device_has_left(task: Task) -> None:
    engine = Engine()
    cast = [replica(task, 2, seed=i) for i in range(4)]
    engine.step(cast)
    (need,) = engine._needs.values()
    assert 0 < need.each < 2**24
    assert engine._budget_of(cast[0]) > 2**28


@pytest.mark.parametrize("other", ["cpu", "cuda:1"])
def test_two_devices_share_a_condensation(task: Task, other: str) -> None:
    if other == "cuda:1" and torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    shared, alone = (replica(task, 2) for _ in range(2))
    Engine(devices=[torch.device("cuda:0"), torch.device(other)]).run([shared], 5)
    Engine().run([alone], 5)
    for m, x in shared.inputs.items():
        assert x.device.type == "cuda"
        assert (x - alone.inputs[m]).norm() <= 1e-3 * x.norm(), m
