"""One condensation on several devices. CPUs stand in for GPUs: each has its own copy of the encoder, and its own thread."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import pytest
import torch
from small_problem import CLASSES
from test_class_blocks import exact_replica, exact_task, float64
from test_engine import PAIR, TRIPLE, assert_same_path, replica
from torch import Tensor

from condense.engine.engine import Engine
from condense.engine.replica_batch import ReplicaBatch
from condense.engine.spread import Spread
from condense.system.devices import devices_of
from condense.system.errors import UserError

DPC = 3
RATE: dict[str, Any] = {"learning_rate": 0.1}
TWO, MANY = [torch.device("cpu")] * 2, [torch.device("cpu")] * 5


@pytest.mark.parametrize("devices", [TWO, MANY])
@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize(
    ("modalities", "lacking", "options"),
    [(PAIR, False, {}), (PAIR, False, {"formation": 2, "discrepancy": "mmd"}), (TRIPLE, True, {"lambda_joint": 2.0})],
)
def test_gradients_are_those_of_one_device(devices, steps, modalities, lacking, options):
    task = exact_task(modalities, lacking)
    with float64():
        r = exact_replica(task, scaling="gradient", **options)
        Engine().run([r], steps)
        for most in (None, DPC, 2 * DPC, 2):
            here, there = ReplicaBatch([r]).gradients(most), ReplicaBatch([r]).gradients(most, Spread(devices))
            for m, gradient in here.gradients.items():
                torch.testing.assert_close(there.gradients[m], gradient, rtol=1e-10, atol=1e-10 * gradient.abs().max())
            torch.testing.assert_close(there.losses[0][1], here.losses[0][1], rtol=1e-10, atol=1e-10)


def test_views_are_shared_as_well(small_task):
    r = replica(small_task(PAIR), DPC, views=3, **RATE)
    Engine().run([r], 2)
    whole, shared = ReplicaBatch([r]).gradients(), ReplicaBatch([r]).gradients(None, Spread(TWO))
    for m, gradient in whole.gradients.items():
        torch.testing.assert_close(shared.gradients[m], gradient, rtol=1e-4, atol=1e-6 * gradient.abs().max().item())


def test_several_devices_take_the_path_of_one(small_task):
    shared, alone = (replica(small_task(), DPC, **RATE) for _ in range(2))
    losses = Engine(devices=TWO).run([shared], 6)[0]
    assert_same_path(shared, losses, (alone.inputs, Engine().run([alone], 6)[0]))


class Watched(torch.nn.Module):
    """Notes how many items each of its copies is given, and by which thread."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder, self.most = encoder, 10**9
        self.items: list[int] = []
        self.threads: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name) if name in ("encoder", "_modules") else getattr(self.encoder, name)

    def embed(self, modality: str, inputs: Tensor) -> Tensor:
        if len(inputs) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.items.append(len(inputs))
        self.threads.add(threading.get_ident())
        embedded: Tensor = self.encoder.embed(modality, inputs)
        return embedded


def test_each_device_takes_its_share_in_a_thread_of_its_own(small_task):
    watched = Watched(small_task().encoder)
    r = replica(dataclasses.replace(small_task(), encoder=watched), DPC, **RATE)
    engine = Engine(devices=TWO)
    engine.run([r], 1)
    first, second = (place.encoder for place in engine._spread.places(watched))
    assert first is watched and second is not watched
    for each in (first, second):
        each.items.clear()
        each.threads.clear()
    engine.run([r], 4)
    assert sum(first.items) + sum(second.items) == 4 * CLASSES * DPC * len(PAIR)
    assert len(first.items) == len(second.items) == 4 * len(PAIR)  # two blocks of three classes
    assert len(first.threads) == len(second.threads) == 1
    assert first.threads != second.threads


def test_frequencies_are_drawn_once_before_devices_ask_for_them(small_task, monkeypatch):
    r = replica(small_task(), DPC, num_frequencies=8, frequency_pool=20, **RATE)
    drawn: list[tuple[int, int]] = []
    own = type(r).next_frequencies

    def watched(self: Any) -> Tensor:
        if self._chosen is None or self._chosen[0] != self.step:
            drawn.append((self.step, threading.get_ident()))
        return own(self)

    monkeypatch.setattr(type(r), "next_frequencies", watched)
    engine = Engine(devices=TWO)
    engine.run([r], 6)
    assert drawn == [(step, threading.get_ident()) for step in range(6)]


def test_a_device_short_of_memory_gets_smaller_blocks(small_task):
    watched = Watched(small_task().encoder)
    r, plain = (
        replica(dataclasses.replace(small_task(), encoder=watched), DPC, **RATE),
        replica(small_task(), DPC, **RATE),
    )
    engine = Engine(devices=TWO)
    engine.run([r], 1)
    engine._spread.places(watched)[1].encoder.most = DPC  # a class at a time
    losses = torch.cat([torch.zeros(1, 4), engine.run([r], 3)[0]])
    reference = Engine().run([plain], 4)[0]
    assert_same_path(r, losses[1:], (plain.inputs, reference[1:]))


def test_replicas_beside_each_other_stay_on_the_first_device(small_task):
    together = [replica(small_task(), DPC, seed=seed, **RATE) for seed in range(3)]
    alone = [replica(small_task(), DPC, seed=seed, **RATE) for seed in range(3)]
    Engine(devices=TWO, workers=1).run(together, 3)
    Engine(workers=1).run(alone, 3)
    for one, other in zip(together, alone, strict=True):
        for m, x in one.inputs.items():
            torch.testing.assert_close(x, other.inputs[m])


class Plain:
    """An encoder that is no module."""

    def __init__(self, encoder: Any) -> None:
        self.encoder = encoder

    def __getattr__(self, name: str) -> Any:
        return getattr(self.encoder, name)


class Fixed(torch.nn.Module):
    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("cannot pickle '_io.BufferedReader' object")


def test_an_encoder_that_cannot_be_copied_is_told_before_any_step(small_task):
    for encoder, why in (
        (Plain(small_task().encoder), "torch.nn.Module"),
        (Fixed(), "cannot be copied to cpu: cannot pickle"),
    ):
        task = dataclasses.replace(small_task(), encoder=encoder)
        with pytest.raises(UserError, match=why):
            Engine(devices=TWO).copy_encoders(task)
        Engine().copy_encoders(task)


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ("cpu,cpu", "several devices must be GPUs, but got 'cpu,cpu'"),
        ("cuda:0,cpu", "several devices must be GPUs"),
        ("cuda:0, cuda:0", "each device must be named once"),
        ("cuda,cuda:0", "each device must be named once"),
        ("cuda:0,cuda:7", "only cuda:0 .. cuda:1"),
        ("cuda:0,", "device must be cpu, cuda or cuda:N, but got ''"),
    ],
)
def test_devices_that_cannot_be_are_told(asked, why, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError) as caught:
        devices_of(asked)
    assert why in str(caught.value)
    assert devices_of("cuda:0, cuda:1") == [torch.device("cuda:0"), torch.device("cuda:1")]
