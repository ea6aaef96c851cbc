"""Linear probes, against scikit-learn and against themselves one by one."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from condense.evaluation.linear_probe import Probes, accuracy, as_share, pad, train_probes


@pytest.fixture(autouse=True, scope="module", params=[400, 0], ids=["newton", "accelerated"])
def _method(request: pytest.FixtureRequest) -> Iterator[None]:
    """Both ways to the minimum, whatever the size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("condense.evaluation.linear_probe.NEWTON_SIZE", request.param)
        yield


def clusters(seed: int, n: int, d: int, num_classes: int, common: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit features (n, d) around class centres, all classes present; `common` adds a direction that all share."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % num_classes
    centres = np.random.default_rng(99).normal(size=(num_classes, d))  # the same for every seed
    x = centres[labels] + rng.normal(size=(n, d)) + common * np.random.default_rng(98).normal(size=d)
    return torch.tensor(x / np.linalg.norm(x, axis=1, keepdims=True), dtype=torch.float32), torch.tensor(labels)


def sklearn_probe(
    x: np.ndarray, y: np.ndarray, weight_decay: float, item_weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Weight (d, C) and bias (C,) of the documented objective, by scikit-learn's solver in float64."""
    w = np.ones(len(x)) if item_weights is None else item_weights
    w = w / w.sum()
    mean = w @ x
    scale = np.sqrt(w @ np.square(x - mean).sum(1))
    extended = np.hstack([(x - mean) / scale, np.ones((len(x), 1))])
    model = LogisticRegression(C=1 / weight_decay, fit_intercept=False, tol=1e-10, max_iter=10_000)
    model.fit(extended, y, sample_weight=w)
    weight = model.coef_[:, :-1].T / scale
    return weight, model.coef_[:, -1] - mean @ weight


def centred(logits: np.ndarray) -> np.ndarray:
    return logits - logits.mean(1, keepdims=True)


@pytest.mark.parametrize(
    ("n", "d", "weight_decay", "common"),
    [
        (5, 40, 1e-3, 0),
        (60, 40, 1e-3, 0),
        (41, 40, 1e-2, 5),
        (500, 40, 1e-3, 0),
        (500, 40, 1e-3, 20),
        (500, 8, 1e-4, 1),
    ],
)
def test_probe_is_the_minimum_that_sklearn_finds(n, d, weight_decay, common):
    features, labels = clusters(0, n, d, 5, common)
    probes = train_probes(features[None], labels[None], None, 5, weight_decay=weight_decay)
    assert bool(probes.converged.all())
    weight, bias = sklearn_probe(features.double().numpy(), labels.numpy(), weight_decay)
    test, test_labels = clusters(1, 400, d, 5, common)
    expected = centred(test.double().numpy() @ weight + bias)
    got = centred((test @ probes.weight[0, 0] + probes.bias[0, 0]).double().numpy())
    np.testing.assert_allclose(got, expected, atol=0.01 * np.abs(expected).max())
    expected_accuracy = float((expected.argmax(1) == test_labels.numpy()).mean())
    assert accuracy(probes, test, test_labels).overall.item() == pytest.approx(expected_accuracy, abs=0.005)


def test_item_weights_are_those_of_the_objective():
    features, labels = clusters(0, 40, 6, 3)
    weights = torch.tensor(np.random.default_rng(0).uniform(0.1, 3, 40), dtype=torch.float32)
    probes = train_probes(features[None], labels[None], weights[None], 3)
    weight, bias = sklearn_probe(features.double().numpy(), labels.numpy(), 1e-3, weights.double().numpy())
    expected = centred(features.double().numpy() @ weight + bias)
    got = centred((features @ probes.weight[0, 0] + probes.bias[0, 0]).double().numpy())
    np.testing.assert_allclose(got, expected, atol=0.01 * np.abs(expected).max())


def soft(seed: int, n: int, num_classes: int) -> torch.Tensor:
    """(n, C) probabilities, some close to a corner."""
    return torch.tensor(np.random.default_rng(seed).dirichlet([0.4] * num_classes, n), dtype=torch.float32)


def test_one_hot_targets_are_the_labels():
    features, labels = clusters(0, 40, 6, 3)
    hard = train_probes(features[None], labels[None], None, 3)
    one_hot = torch.nn.functional.one_hot(labels, 3)[None]
    same = train_probes(features[None], torch.zeros_like(labels)[None], None, 3, targets=one_hot)
    assert torch.equal(same.weight, hard.weight)
    assert torch.equal(same.bias, hard.bias)


@pytest.mark.parametrize(("n", "d"), [(12, 40), (60, 8)])
def test_soft_targets_are_those_of_the_objective(n, d):
    """The documented objective in float64, with autograd: its gradient at the probe is as small as `converged` promises."""
    features, labels = clusters(0, n, d, 5)
    targets, w = soft(1, n, 5), torch.tensor(np.random.default_rng(0).uniform(0.1, 3, n))
    probes = train_probes(features[None], labels[None], w[None].float(), 5, targets=targets[None], weight_decay=1e-3)
    assert bool(probes.converged.all())
    x, y, w = features.double(), targets.double(), w / w.sum()
    mean = w @ x
    scale = (w @ (x - mean).square().sum(1)).sqrt()
    weight, bias = probes.weight[0, 0].double(), probes.bias[0, 0].double()
    head = torch.cat([weight * scale, (bias + mean @ weight)[None]]).requires_grad_()  # for the standardised features
    z = torch.cat([(x - mean) / scale, torch.ones(n, 1, dtype=torch.float64)], 1)

    def objective(head: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return -(w @ (y * (z @ head).log_softmax(1)).sum(1)) + 1e-3 / 2 * head.square().sum()

    def gap(y: torch.Tensor) -> float:
        (gradient,) = torch.autograd.grad(objective(head, y), head)
        return float(gradient.square().sum()) / (2 * 1e-3)

    assert gap(y) < 1e-6  # nats above the minimum; TOLERANCE is 1e-7, and the probe is in float32
    assert gap(torch.nn.functional.one_hot(y.argmax(1), 5).double()) > 1e-3


def test_targets_of_padded_sets_equal_those_one_by_one():
    sets = [(*clusters(i, n, 12, 4), soft(i, n, 4)) for i, n in enumerate((5, 9))]
    features, labels, weights = pad([x for x, _, _ in sets], [y for _, y, _ in sets])
    targets = torch.nn.utils.rnn.pad_sequence([t for *_, t in sets], batch_first=True, padding_value=torch.nan)
    together = train_probes(features, labels, weights, 4, targets=targets)
    for i, (x, y, t) in enumerate(sets):
        alone = train_probes(x[None], y[None], None, 4, targets=t[None])
        size = float(alone.weight.abs().max())
        torch.testing.assert_close(together.weight[i], alone.weight[0], atol=2e-3 * size, rtol=0)


def test_targets_that_are_no_probabilities_are_refused():
    features, labels = clusters(0, 4, 6, 3)
    for targets, message in (
        (torch.full((1, 3, 3), 1 / 3), r"targets must be \(1, 4, 3\), but got \(1, 3, 3\)"),
        (torch.ones(1, 4, 3), "targets must be probabilities"),
    ):
        with pytest.raises(ValueError, match=message):
            train_probes(features[None], labels[None], None, 3, targets=targets)


@pytest.fixture(scope="module")
def digits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Train features (1000, 64), labels, test features (797, 64), labels; unit features of real digits."""
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x / np.linalg.norm(x, axis=1, keepdims=True), dtype=torch.float32), torch.tensor(y)
    return x[:1000], y[:1000], x[1000:], y[1000:]


@pytest.mark.parametrize("dpc", [1, 5, 20, pytest.param(None, marks=pytest.mark.slow)])
def test_one_rule_serves_small_sets_and_full_data(digits, dpc):
    """Trained within the default steps; no more steps, no other head seed changes it; as good as the best C of many."""
    x, y, test_x, test_y = digits
    if dpc is not None:
        chosen = torch.cat([torch.nonzero(y == c).squeeze(1)[:dpc] for c in range(10)])
        x, y = x[chosen], y[chosen]
    probes = train_probes(x[None], y[None], None, 10, head_seeds=(0, 1, 2))
    longer = train_probes(x[None], y[None], None, 10, head_seeds=(0, 1, 2), steps=4000)
    assert bool(probes.converged.all())
    got, got_longer = accuracy(probes, test_x, test_y).overall, accuracy(longer, test_x, test_y).overall
    assert float((got - got_longer).abs().max()) < 0.002
    assert float(got.max() - got.min()) < 0.004
    best = max(LogisticRegression(C=c, max_iter=5000).fit(x, y).score(test_x, test_y) for c in (1, 10, 100))
    assert float(got.mean()) > best - 0.02


def test_a_step_limit_that_is_too_low_is_reported():
    features, labels = clusters(0, 50, 10, 5)
    short = train_probes(features[None], labels[None], None, 5, steps=3)
    assert short.steps == 3
    assert not bool(short.converged.any())


@given(seed=st.integers(0, 1000), sizes=st.lists(st.integers(4, 30), min_size=2, max_size=4))
@settings(max_examples=20, deadline=None)
def test_batched_padded_probes_equal_probes_one_by_one(seed, sizes):
    sets = [clusters(seed + i, n, 12, 4) for i, n in enumerate(sizes)]
    features, labels, weights = pad([x for x, _ in sets], [y for _, y in sets])
    labels = labels.masked_fill(weights == 0, -1)  # what padding holds
    features = features.masked_fill((weights == 0).unsqueeze(2), torch.nan)  # must not matter
    together = train_probes(features, labels, weights, 4, (0, 1))
    for i, (x, y) in enumerate(sets):
        alone = train_probes(x[None], y[None], None, 4, (0, 1))
        size = float(alone.weight.abs().max())
        torch.testing.assert_close(together.weight[i], alone.weight[0], atol=2e-3 * size, rtol=0)
        torch.testing.assert_close(together.bias[i], alone.bias[0], atol=2e-3 * size, rtol=0)


@given(seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_order_of_items_and_names_of_classes_do_not_matter(seed):
    features, labels = clusters(seed, 23, 6, 4)
    rng = np.random.default_rng(seed)
    items, classes = torch.tensor(rng.permutation(23)), torch.tensor(rng.permutation(4))
    straight = train_probes(features[None], labels[None], None, 4)
    shuffled = train_probes(features[items][None], classes[labels[items]][None], None, 4)
    size = float(straight.weight.abs().max())
    torch.testing.assert_close(shuffled.weight[..., classes], straight.weight, atol=5e-3 * size, rtol=0)


def test_determinism_without_global_randomness():
    features, labels = clusters(0, 20, 6, 4)
    state = torch.get_rng_state()
    first, again = (train_probes(features[None], labels[None], None, 4, (3, 4)) for _ in range(2))
    assert torch.equal(first.weight, again.weight)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("labels", [[0, 0, 2, 2], [1, 1, 1, 1]])
def test_classes_without_items_and_identical_items_are_no_trouble(labels):
    features = torch.nn.functional.normalize(
        torch.ones(1, 4, 3) + torch.tensor(labels)[None, :, None] * torch.eye(3)[0], dim=2
    )
    probes = train_probes(features, torch.tensor([labels]), None, 3)
    assert bool(probes.weight.isfinite().all())
    assert accuracy(probes, features[0], torch.tensor(labels)).overall.item() == 1.0


def test_accuracy_by_hand():
    # One feature x; probe 0 says class 1 iff x > 0, probe 1 always says class 0, of three classes.
    weight = torch.tensor([[[[0.0, 1.0, 0.0]]], [[[0.0, 0.0, 0.0]]]])  # (R=2, H=1, d=1, C=3)
    bias = torch.tensor([[[0.0, 0.0, -9.0]], [[1.0, 0.0, 0.0]]])
    probes = Probes(weight, bias, 0, torch.ones(2, 1, dtype=torch.bool))
    result = accuracy(probes, torch.tensor([[1.0], [2.0], [-1.0], [3.0]]), torch.tensor([1, 1, 1, 0]))
    assert result.overall.tolist() == [[0.5], [0.25]]
    torch.testing.assert_close(result.per_class[:, 0, :2], torch.tensor([[0.0, 2 / 3], [1.0, 0.0]]))
    assert bool(result.per_class[:, :, 2].isnan().all())


def test_accuracy_in_chunks_equals_accuracy_at_once():
    features, labels = clusters(0, 9000, 4, 40)
    probes = train_probes(features[None, :80].expand(60, -1, -1), labels[None, :80].expand(60, -1), None, 40, steps=8)
    whole = accuracy(probes, features, labels).overall  # 9,000 items x 60 x 40 logits: two chunks
    logits = features @ probes.weight[7, 0] + probes.bias[7, 0]
    assert float(whole[7, 0]) == pytest.approx(float((logits.argmax(1) == labels).float().mean()), abs=2e-4)


def test_fast_enough_for_every_report_of_a_search():
    """12 replicas x 3 heads of 10 items: 15 ms on the core it was written on; the limit is there to catch a blunder."""
    sets = [clusters(i, 10, 128, 10) for i in range(12)]
    features, labels, weights = pad([x for x, _ in sets], [y for _, y in sets])
    train_probes(features, labels, weights, 10, (0, 1, 2))
    start = time.process_time()
    train_probes(features, labels, weights, 10, (0, 1, 2))
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    ("features", "labels", "weights", "message"),
    [
        (torch.ones(4, 3), torch.zeros(4), None, "features must be"),
        (torch.ones(1, 4, 3), torch.zeros(1, 3), None, "features must be"),
        (torch.ones(1, 2, 3), torch.tensor([[0, 5]]), None, "labels must be 0 .. 1, but got 0 .. 5"),
        (torch.ones(1, 2, 3), torch.tensor([[0, 1]]), torch.zeros(1, 2), "weights must be >= 0"),
        (torch.ones(1, 2, 3), torch.tensor([[0, 1]]), torch.ones(1, 3), "weights must be"),
    ],
)
def test_what_does_not_fit_is_refused(features, labels, weights, message):
    with pytest.raises(ValueError, match=message):
        train_probes(features, labels, weights, 2)


def test_as_share():
    assert as_share(0.45, 0.9) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="must be > 0, but got 0"):
        as_share(0.5, 0.0)
