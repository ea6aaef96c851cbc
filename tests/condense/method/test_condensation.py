"""One replica: its start, its frequencies, its state, and what a step does, against torch's own optimisers."""

from __future__ import annotations

import io
import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from condense.config.models import Hyperparameters
from condense.embeddings.task import Task
from condense.engine.engine import Engine
from condense.method.condensation import Condensation, initial_inputs
from condense.system.errors import UserError

SMALL: dict[str, Any] = {"num_frequencies": 8, "frequency_pool": 20}  # two steps to a pass over the pool, 4 left over
THREE = ("text", "depth", "imu")


def replica(task: Task, dpc: int = 2, seed: int = 0, initialization: str = "random", **options: Any) -> Condensation:
    return Condensation(task, dpc, initialization, Hyperparameters(**{**SMALL, **options}), seed, total_steps=10)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[m], b[m]) for m in a)


def test_synthetic_items_start_as_real_ones_of_their_class(small_task):
    task = small_task(THREE)
    r = replica(task, dpc=3)
    assert r.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    items = task.dataset.condense.load(range(len(task.dataset.condense)))
    for i, label in enumerate(r.labels.tolist()):
        found = [
            j for j in range(len(task.condense.labels)) if all(torch.equal(r.inputs[m][i], items[m][j]) for m in THREE)
        ]
        assert [task.condense.labels[j].item() for j in found] == [label]  # one item, all its modalities together


@pytest.mark.parametrize("initialization", ["random", "herding", "k_center", "k_means", "noise"])
def test_start_has_the_encoders_shapes_and_ranges(small_task, initialization):
    task = small_task(THREE)
    start = initial_inputs(task, 2, initialization, torch.Generator().manual_seed(0))
    for m, x in start.items():
        spec = task.dataset.specs[m]
        assert x.shape == (6, *spec.shape)
        assert x.dtype == torch.float32
        assert x.min() >= spec.low
        assert x.max() <= spec.high


def test_noise_has_the_spread_of_real_items(small_task):
    task = small_task()
    start = initial_inputs(task, 10, "noise", torch.Generator().manual_seed(0))
    real = task.dataset.condense.load(range(len(task.dataset.condense)))
    for m, x in start.items():
        assert x.mean().item() == pytest.approx(real[m].mean().item(), abs=0.02)
        assert x.std().item() == pytest.approx(real[m].std().item(), rel=0.1)


def test_a_class_with_fewer_items_than_dpc_is_the_users_error(small_task):
    with pytest.raises(UserError, match="class 'class 0' has 12 items to condense, but dpc is 13"):
        replica(small_task(), dpc=13)


def test_a_seed_decides_everything_and_global_state_nothing(small_task):
    before = torch.get_rng_state()
    first = replica(small_task(), seed=3)
    Engine().run([first], 3)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(999)
        second = replica(small_task(), seed=3)
        Engine().run([second], 3)
    assert same(first.inputs, second.inputs)
    third = replica(small_task(), seed=4)
    assert not same(first.frequencies, third.frequencies)
    Engine().run([third], 3)
    assert not same(first.inputs, third.inputs)


@given(pool=st.integers(1, 40), count=st.integers(1, 40), passes=st.integers(1, 3))
@settings(max_examples=30)
def test_a_pass_over_the_pool_takes_no_frequency_twice(small_task, pool, count, passes):
    r = replica(small_task(), num_frequencies=count, frequency_pool=pool)
    size = max(pool, count)
    assert all(len(t) == size for t in r.frequencies.values())
    for _ in range(passes):
        chosen = []
        for _ in range(size // count):
            chosen.append(r.next_frequencies())
            assert r.next_frequencies() is chosen[-1]  # the same until the step is taken
            twin = replica(small_task(), num_frequencies=count, frequency_pool=pool)
            twin.load_state_dict(r.state_dict())
            assert torch.equal(twin.next_frequencies(), chosen[-1])
            r.step += 1
        taken = torch.cat(chosen)
        assert len(taken.unique()) == len(taken) == size // count * count
        assert taken.max() < size


@pytest.mark.parametrize("sampling", ["orthogonal", "independent"])
def test_the_frequencies_of_a_step_are_orthogonal_unless_told_otherwise(small_task, sampling):
    task = small_task()
    dim = task.encoder.dim
    for count in (dim, dim // 2):
        r = replica(task, num_frequencies=count, frequency_pool=4 * dim, frequency_sampling=sampling)
        for _ in range(4):
            for pool in r.frequencies.values():
                t = F.normalize(pool[r.next_frequencies()], dim=1)
                orthogonal = torch.allclose(t @ t.T, torch.eye(count), atol=1e-5)
                assert orthogonal == (sampling == "orthogonal")
            r.step += 1
    assert Hyperparameters().frequency_sampling == "orthogonal"


def test_real_cf_at_the_pool_is_that_of_the_class(small_task):
    r = replica(small_task(), frequency_scale=0.7)
    embedded = r.task.condense
    for m, t in r.frequencies.items():
        assert t.std().item() == pytest.approx(0.7, rel=0.2)
        for c in range(3):
            angle = embedded.embeddings[m][embedded.labels == c] @ t.T
            expected = torch.stack([angle.cos().mean(0), angle.sin().mean(0)])
            assert torch.allclose(r.phi_real[m][:, c], expected, atol=1e-6)


def test_first_loss_of_the_normalised_scaling_is_the_sum_of_the_weights(small_task):
    r = replica(small_task(THREE), scaling="normalized", lambda_uni=1.0, lambda_cross=0.3, lambda_joint=2.0)
    losses = Engine().run([r], 2)[0]
    assert losses[0, 3].item() == pytest.approx(3.3, rel=1e-6)
    assert torch.equal(r.normalizer, losses[0, :3])
    paper = replica(small_task(), scaling="paper", lambda_cross=10.0, lambda_joint=10.0)
    losses = Engine().run([paper], 1)[0]
    assert paper.normalizer.tolist() == [1, 1, 1]
    assert losses[0, 3].item() == pytest.approx((losses[0, 0] + 10 * losses[0, 1] + 10 * losses[0, 2]).item(), rel=1e-6)


# Against an independent loop ------------------------------------------------------------------------------------------


def plain_terms(r: Condensation, embedded: dict[str, Tensor], chosen: Tensor) -> Tensor:
    """uni, cross, joint of one replica, class by class, as the method's page writes them, in float64."""
    h, task = r.hyperparameters, r.task
    paper = h.scaling == "paper"
    uni, cross, joint = torch.zeros(3, dtype=torch.float64)
    classes, modalities = task.dataset.num_classes, list(embedded)
    pairs = list(itertools.combinations(modalities, 2))
    for c in range(classes):
        real = {m: x[task.condense.labels == c].double() for m, x in task.condense.embeddings.items()}
        syn = {m: x[r.labels == c].double() for m, x in embedded.items()}
        for m in modalities:
            if h.discrepancy == "mmd":
                value = (real[m].mean(0) - syn[m].mean(0)).square().sum()
            else:
                p, q = (torch.exp(1j * (x @ r.frequencies[m][chosen].double().T)).mean(0) for x in (real[m], syn[m]))
                phase = 2 * (p.abs() * q.abs() - p.real * q.real - p.imag * q.imag)
                value = (h.alpha * (p.abs() - q.abs()).square() + h.beta * phase).sqrt().mean()
                value = 300 * value if paper else value
            uni = uni + value / classes / (1 if paper else len(modalities))
        for a, b in pairs:
            share = 1 / classes / (1 if paper else len(pairs))
            x, y = real[a].mean(0) * syn[b].mean(0), real[b].mean(0) * syn[a].mean(0)
            product = x @ y if paper else x @ y / x.norm() / y.norm()
            cross = cross + (1 - product) * share
            joint = joint + (1 - (real[a] * real[b]) @ (syn[a] * syn[b]).T).mean() * share
    return torch.stack([uni, cross, joint])


def plain_pulls(term: Tensor, embedded: dict[str, Tensor]) -> dict[str, Tensor]:
    """Norm of the gradient of `term` along the sphere, per modality."""
    pulls = {}
    for m, x in embedded.items():
        (gradient,) = torch.autograd.grad(term, x, retain_graph=True)
        along = [g - (g @ s) * s for g, s in zip(gradient.double(), x.detach().double(), strict=True)]
        pulls[m] = torch.cat(along).norm()
    return pulls


@pytest.mark.parametrize("modalities", [("vision", "audio"), THREE])
@pytest.mark.parametrize(
    "options",
    [
        {"lambda_cross": 0.3, "lambda_joint": 2.0, "learning_rate": 0.1, "momentum": 0.8},
        {"optimizer": "adam", "learning_rate": 0.02, "momentum": 0.7},
        {"scaling": "paper", "lambda_cross": 10.0, "lambda_joint": 10.0, "learning_rate": 0.05, "schedule": "constant"},
        {"scaling": "relative", "lambda_cross": 0.3, "lambda_joint": 2.0, "learning_rate": 0.5},
        {"scaling": "normalized", "lambda_cross": 0.3, "lambda_joint": 2.0, "learning_rate": 0.1},
        {"discrepancy": "mmd", "learning_rate": 2.0, "momentum": 0.0, "learning_rate_depth": 0.1},
        {"alpha": 0.9, "beta": 0.2, "learning_rate": 0.2, "learning_rate_text": 0.4, "learning_rate_vision": 0.05},
    ],
    ids=["sgd", "adam", "paper", "relative", "normalized", "mmd", "alpha_beta"],
)
def test_steps_are_those_of_torchs_optimiser_on_the_plain_loss(small_task, modalities, options):
    task = small_task(modalities)
    ours, twin = replica(task, **options), replica(task, **options)  # the twin gives the start and the frequencies
    steps = 6
    losses = Engine().run([ours], steps)[0]

    h = twin.hyperparameters
    leaves = {m: x.clone().requires_grad_() for m, x in twin.inputs.items()}
    groups = [{"params": [x], "lr": h.learning_rate_of(m)} for m, x in leaves.items()]
    rates = [group["lr"] for group in groups]
    optimizer: torch.optim.Optimizer
    if h.optimizer == "adam":
        optimizer = torch.optim.Adam(groups, betas=(h.momentum, 0.999))
    else:
        optimizer = torch.optim.SGD(groups, momentum=h.momentum)
    weights = torch.tensor([h.lambda_uni, h.lambda_cross, h.lambda_joint])
    size = torch.ones(3)
    for step in range(steps):
        chosen = twin.next_frequencies() if h.discrepancy == "cf" else torch.empty(0)
        embedded = {m: task.encoder.embed(m, x) for m, x in leaves.items()}
        terms = plain_terms(twin, embedded, chosen)
        if step == 0 and h.scaling == "gradient":
            size = torch.stack([torch.stack(list(plain_pulls(term, embedded).values())).norm() for term in terms])
        elif step == 0 and h.scaling != "paper":
            size = terms.detach() / (terms.detach()[0] if h.scaling == "relative" else 1)
        total = (weights * terms / size).sum()
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            falling = 0.5 * (1 + math.cos(math.pi * step / 10))
            group["lr"] = rate * (falling if h.schedule == "cosine" else 1.0)
        twin.step += 1
        optimizer.zero_grad()
        classes = task.dataset.num_classes
        factor = {"paper": 1, "relative": classes, "normalized": len(twin.labels), "gradient": math.sqrt(classes / 2)}
        loss = total * factor[h.scaling]
        pulls = plain_pulls(loss, embedded) if step == 0 else {}
        loss.backward()
        if step == 0 and h.scaling == "gradient" and h.optimizer == "sgd":
            for i, (m, x) in enumerate(leaves.items()):
                assert x.grad is not None
                # By a pull of norm 1 on the sphere, values would change by the items' standard deviation (root mean square).
                change = x.grad.norm() / pulls[m] / math.sqrt(x[0].numel())
                rates[i] *= (x.std(correction=0) / change).item()
                optimizer.param_groups[i]["lr"] = rates[i]
        optimizer.step()
        with torch.no_grad():
            for m, x in leaves.items():
                x.clamp_(task.dataset.specs[m].low, task.dataset.specs[m].high)
        expected = [*terms.tolist(), total.item()]
        assert losses[step].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-6), step
    for m, x in leaves.items():
        moved = (x - twin.inputs[m]).norm()
        assert moved > 1e-3
        assert (ours.inputs[m] - x).norm() < 1e-3 * moved, m


@pytest.mark.parametrize("scaling", ["gradient", "normalized", "relative"])
def test_gradients_mean_the_same_for_every_dpc(small_task, scaling):
    """The same item n times over instead of once takes the same path: at the same learning rate, or at n times that where
    the items of a class share their movement."""
    task = small_task()
    one = replica(task, dpc=1, learning_rate=0.3, scaling=scaling)
    four = replica(task, dpc=4, learning_rate=0.3 if scaling == "normalized" else 1.2, scaling=scaling)
    for m in four.inputs:
        four.inputs[m].copy_(one.inputs[m].repeat_interleave(4, 0))
        four.frequencies[m], four.phi_real[m] = one.frequencies[m], one.phi_real[m]
    four.generator.set_state(one.generator.get_state())
    Engine().run([one], 4)
    Engine().run([four], 4)
    for m in four.inputs:
        assert torch.allclose(four.inputs[m], one.inputs[m].repeat_interleave(4, 0), atol=1e-5)


# State ----------------------------------------------------------------------------------------------------------------


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    loaded: dict[str, Any] = torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    return loaded


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimizer": "adam"},
        {"scaling": "paper", "learning_rate": 0.05},
        {"scaling": "normalized"},
        {"discrepancy": "mmd"},
    ],
    ids=["sgd", "adam", "paper", "normalized", "mmd"],
)
@pytest.mark.parametrize("stop", [0, 1, 3])
def test_stopping_and_going_on_changes_nothing(small_task, options, stop):
    task = small_task()
    whole = replica(task, **options)
    expected = Engine().run([whole], 7)[0]
    first = replica(task, **options)
    before = Engine().run([first], stop)[0]
    second = replica(task, **options)
    second.load_state_dict(through_a_file(first.state_dict()))
    assert second.step == stop
    after = Engine().run([second], 7 - stop)[0]
    assert torch.equal(torch.cat([before, after]), expected)
    for own, other in ((whole.inputs, second.inputs), (whole.velocity, second.velocity), (whole.square, second.square)):
        assert same(own, other)
    assert second.step == 7


def test_a_state_is_a_copy_and_a_replica_can_be_put_back_in_its_engine(small_task):
    r, engine = replica(small_task()), Engine()
    engine.run([r], 2)
    state = r.state_dict()
    kept = {m: x.clone() for m, x in state["inputs"].items()}
    first = engine.run([r], 3)[0]
    assert same(state["inputs"], kept)
    r.load_state_dict(state)
    assert torch.equal(engine.run([r], 3)[0], first)
    assert same(state["inputs"], kept)


def test_a_divergence_is_kept(small_task):
    r = replica(small_task())
    r.inputs["vision"][0] = math.nan
    Engine().run([r], 1)
    other = replica(small_task())
    other.load_state_dict(through_a_file(r.state_dict()))
    assert other.divergence == r.divergence
    assert str(other.divergence) == "the uni loss is not finite at step 1"


def test_a_state_of_something_else_is_refused(small_task):
    state = replica(small_task(), dpc=2).state_dict()
    with pytest.raises(ValueError, match="other shapes or another optimiser"):
        replica(small_task(), dpc=3).load_state_dict(state)
    with pytest.raises(ValueError, match="other shapes or another optimiser"):
        replica(small_task(), dpc=2, optimizer="adam").load_state_dict(state)
    with pytest.raises(ValueError, match="other shapes or another optimiser"):
        replica(small_task(THREE), dpc=2).load_state_dict(state)
    with pytest.raises(ValueError, match=r"version must be \d+, but got 1"):  # its frequencies were independent
        replica(small_task(), dpc=2).load_state_dict({**state, "version": 1})


@pytest.mark.parametrize("scaling", ["gradient", "normalized", "relative"])
@pytest.mark.parametrize("discrepancy", ["cf", "mmd"])
def test_items_that_start_as_all_there_are_stay_good(small_task, scaling, discrepancy):
    """With as many items as the class has, uni and cross start at zero but for rounding, and are not divided by that."""
    task = small_task(("vision", "audio"), 4)
    hyperparameters = Hyperparameters(scaling=scaling, discrepancy=discrepancy, num_frequencies=32, frequency_pool=64)
    replica = Condensation(task, 4, "herding", hyperparameters, 0, 20)
    assert len(replica.labels) == len(task.condense.labels)
    losses = Engine().run([replica], 20)[0]
    assert replica.normalizer[:2].tolist() == [1.0, 1.0]
    assert 0.1 < replica.normalizer[2] <= 1  # joint has its size, or is left as it is beside a uni of zero
    assert losses[:, 3].max() < 2
