"""`scaling: gradient`: terms of equal weight pull equally, whatever the encoder's size and dpc; rates are in units of the items.

The pulls are measured without the engine's own code: in float64, class by class.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import pytest
import torch
from small_problem import make_task
from torch import Tensor

from condense.config.models import Hyperparameters
from condense.data.dataset import MemorySplit
from condense.embeddings.task import Task
from condense.engine.engine import Engine
from condense.inputs.spec import ArraySpec
from condense.method.condensation import Condensation

SIX = ("vision", "audio", "text", "depth", "thermal", "imu")
FASTER = 10.0  # the factor between the units of two encoders that are otherwise the same


def replica(task: Task, dpc: int, **options: object) -> Condensation:
    h = Hyperparameters.model_validate(
        {"num_frequencies": 16, "frequency_pool": 48, "frequency_sampling": "independent", **options}
    )
    return Condensation(task, dpc, "random", h, seed=1, total_steps=10)


def plain_pulls(r: Condensation) -> Tensor:
    """(3,): of a replica that has not started, the norm of each term's gradient along the sphere, not divided by anything."""
    task, chosen = r.task, r.next_frequencies()
    with torch.no_grad():
        embedded = {m: task.encoder.embed(m, x).double() for m, x in r.inputs.items()}
    leaves = {m: (x / x.norm(dim=1, keepdim=True)).requires_grad_() for m, x in embedded.items()}
    pairs = list(itertools.combinations(leaves, 2))
    uni, cross, joint = [], [], []
    for c in range(task.dataset.num_classes):
        real = {m: x[task.condense.labels == c].double() for m, x in task.condense.embeddings.items()}
        syn = {m: x[r.labels == c] for m, x in leaves.items()}
        for m, pool in r.frequencies.items():
            t = pool[chosen].double()
            apart = torch.exp(1j * (real[m] @ t.T)).mean(0) - torch.exp(1j * (syn[m] @ t.T)).mean(0)
            uni.append((r.hyperparameters.beta * apart.abs().square()).sqrt().mean())
        for a, b in pairs:
            x, y = real[a].mean(0) * syn[b].mean(0), real[b].mean(0) * syn[a].mean(0)
            cross.append(1 - x @ y / x.norm() / y.norm())
            joint.append((1 - (real[a] * real[b]) @ (syn[a] * syn[b]).T).mean())
    pulls = []
    for term in (torch.stack(values).mean() for values in (uni, cross, joint)):
        gradients = torch.autograd.grad(term, list(leaves.values()), retain_graph=True)
        along = [g - (g * x).sum(1, keepdim=True) * x for g, x in zip(gradients, leaves.values(), strict=True)]
        pulls.append(torch.cat(along).norm().detach())
    return torch.stack(pulls)


@pytest.mark.parametrize("dim", [64, 1024])
@pytest.mark.parametrize("modalities", [("vision", "audio"), SIX], ids=["two", "six"])
def test_terms_of_equal_weight_pull_equally(dim, modalities):
    task = make_task(modalities, per_class=24, dim=dim)
    for dpc in (1, 5, 20):
        r = replica(task, dpc)
        plain = plain_pulls(r)
        Engine().run([r], 1)
        in_the_loss = plain / r.normalizer.double()
        assert in_the_loss.tolist() == pytest.approx([1.0, 1.0, 1.0], rel=0.01), dpc


def test_terms_of_equal_size_do_not_pull_equally():
    """What the scaling is for: the same measure tells `normalized` from it."""
    r = replica(make_task(dim=64), 5, scaling="normalized")
    plain = plain_pulls(r)
    Engine().run([r], 1)
    uni, _, joint = (plain / r.normalizer.double()).tolist()
    assert joint < uni / 2


def in_other_units(task: Task) -> Task:
    """The same items times FASTER, seen by the same towers with their first layer's weights over FASTER."""
    data = task.dataset
    specs = {m: ArraySpec(m, s.shape, FASTER * s.low, FASTER * s.high) for m, s in data.specs.items()}
    whole = data.condense.load(range(len(data.condense)))
    split = MemorySplit({m: FASTER * x for m, x in whole.items()}, data.condense.labels)
    encoder = copy.deepcopy(task.encoder)
    with torch.no_grad():
        for tower in encoder.towers.values():
            tower.body[0].weight /= FASTER
    return Task(replace(data, specs=specs, condense=split), encoder, task.condense, task.validation, task.device)


@pytest.mark.parametrize("scaling", ["gradient", "normalized"])
def test_a_learning_rate_does_not_depend_on_the_units_of_the_items(scaling):
    task = make_task()
    plain = replica(task, 2, scaling=scaling, learning_rate=0.3)
    other = replica(in_other_units(task), 2, scaling=scaling, learning_rate=0.3)
    start = {m: x.clone() for m, x in plain.inputs.items()}
    for m, x in start.items():
        assert torch.allclose(other.inputs[m], FASTER * x)
    for steps in (1, 3):
        Engine().run([plain], steps)
        Engine().run([other], steps)
        for m, x in start.items():
            moved = plain.inputs[m] - x
            assert moved.norm() > 1e-3 * x.norm()
            apart = (other.inputs[m] / FASTER - plain.inputs[m]).norm() / moved.norm()
            # Without the unit, the gradient is smaller by FASTER, and the step, seen in the other unit, by FASTER again.
            assert apart < 1e-3 if scaling == "gradient" else 0.9 < apart < 1.1
