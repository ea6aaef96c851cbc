"""A replica that is larger than its device: in blocks of classes, forward and backward once, to the whole's gradients."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from small_problem import CLASSES, make_dataset, make_task
from test_engine import PAIR, TRIPLE, assert_same_path, replica
from test_engine_trouble import limited
from torch import Tensor

from condense.config.models import Hyperparameters
from condense.embeddings.embeddings import Embedded
from condense.embeddings.task import Task
from condense.engine.engine import UNKNOWN, Engine, _shape
from condense.engine.replica_batch import ReplicaBatch
from condense.method.condensation import Condensation

DPC = 3
RATE: dict[str, Any] = {"learning_rate": 0.1}


@contextlib.contextmanager
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def exact_task(modalities: tuple[str, ...], lacking: bool) -> Task:
    """In float64. `lacking`: of one class no item has the last modality together with the first."""
    dataset, small = make_dataset(modalities), make_task(modalities)
    labels, present = dataset.condense.labels, {}
    if lacking:
        odd = torch.arange(len(labels)) % 2 == 1
        present = {modalities[0]: (labels != 1) | odd, modalities[-1]: (labels != 1) | ~odd}
    embedded = Embedded({m: x.double() for m, x in small.condense.embeddings.items()}, labels, present)
    encoder = copy.deepcopy(small.encoder).double()  # type: ignore[attr-defined]
    return Task(dataset, encoder, embedded, embedded, torch.device("cpu"))


def exact_replica(task: Task, **options: Any) -> Condensation:
    keys = {"num_frequencies": 8, "frequency_pool": 20, "learning_rate": 0.1, **options}
    r = Condensation(task, DPC, "random", Hyperparameters(**keys), 0, 10)
    for tensors in (r.inputs, r.velocity):
        tensors.update({m: x.double() for m, x in tensors.items()})
    return r


@pytest.mark.parametrize("scaling", ["normalized", "relative", "gradient", "paper"])
@pytest.mark.parametrize(
    ("modalities", "lacking", "options"),
    [
        (PAIR, False, {}),
        (PAIR, False, {"discrepancy": "mmd", "lambda_cross": 3.0}),
        (PAIR, False, {"alpha": 0.8, "beta": 0.2, "formation": 2}),
        (TRIPLE, True, {"lambda_joint": 2.0}),
    ],
)
def test_gradients_of_blocks_are_those_of_the_whole(scaling, modalities, lacking, options):
    task = exact_task(modalities, lacking)
    assert bool(task.statistics.share) is lacking
    with float64():
        r = exact_replica(task, scaling=scaling, **options)
        Engine().run([r], 1)
        whole, *in_blocks = (ReplicaBatch([r]).gradients(most) for most in (None, DPC, 2 * DPC))
    for blocks in in_blocks:
        for m, gradient in whole.gradients.items():
            torch.testing.assert_close(blocks.gradients[m], gradient, rtol=1e-10, atol=1e-10 * gradient.abs().max())
        torch.testing.assert_close(blocks.losses[0][1], whole.losses[0][1], rtol=1e-10, atol=1e-10)


def test_views_go_in_blocks_as_well(small_task):
    r = replica(small_task(PAIR), DPC, views=3, **RATE)
    Engine().run([r], 2)
    whole, blocks = (ReplicaBatch([r]).gradients(most) for most in (None, DPC))
    for m, gradient in whole.gradients.items():
        torch.testing.assert_close(blocks.gradients[m], gradient, rtol=1e-4, atol=1e-6 * gradient.abs().max().item())


class Counting:
    """Counts the items of each pass, and whether their activations are kept."""

    def __init__(self, encoder: Any) -> None:
        self.encoder = encoder
        self.kept: list[int] = []
        self.without = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.encoder, name)

    def embed(self, modality: str, inputs: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            self.kept.append(len(inputs))
        else:
            self.without += len(inputs)
        embedded: Tensor = self.encoder.embed(modality, inputs)
        return embedded


@pytest.mark.parametrize("scaling", ["normalized", "gradient", "paper"])
def test_each_item_is_embedded_once_after_the_first_step(small_task, scaling):
    counting = Counting(small_task().encoder)
    r = replica(dataclasses.replace(small_task(), encoder=counting), DPC, scaling=scaling, **RATE)
    engine = Engine()
    engine._needs[_shape(r)] = UNKNOWN  # without passes that measure
    engine._at_once[_shape(r)] = 2 * DPC  # of 3 classes
    engine.run([r], 1)
    items = CLASSES * DPC * len(PAIR)
    assert (sum(counting.kept), counting.without) == (items, items)
    counting.kept.clear()
    engine.run([r], 4)
    assert (sum(counting.kept), counting.without) == (4 * items, items)
    assert set(counting.kept) == {DPC, 2 * DPC}


@pytest.mark.parametrize("most", [DPC, 2 * DPC, 2 * DPC + 2])
def test_a_replica_in_blocks_takes_the_path_of_the_whole(small_task, most):
    r, plain = (replica(task, DPC, **RATE) for task in (limited(small_task(), most), small_task()))
    losses = Engine().run([r], 4)[0]
    assert_same_path(r, losses, (plain.inputs, Engine().run([plain], 4)[0]))


def test_a_replica_in_blocks_continues_bit_for_bit(small_task):
    def engine() -> Engine:
        made = Engine()
        made._at_once[_shape(through)] = DPC
        return made

    through = replica(small_task(), DPC, optimizer="adam", scaling="gradient")
    engine().run([through], 5)
    first, second = (replica(small_task(), DPC, optimizer="adam", scaling="gradient") for _ in range(2))
    engine().run([first], 2)
    second.load_state_dict(first.state_dict())
    engine().run([second], 3)
    for m, x in through.inputs.items():
        assert torch.equal(x, second.inputs[m])
