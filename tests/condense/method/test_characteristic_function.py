"""Characteristic functions and their discrepancy: closed forms, what they tell apart, rounding near equality."""

from __future__ import annotations

import cmath
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from condense.method.objective import (
    SQRT_FLOOR,
    cf_discrepancy,
    class_characteristic_function,
    draw_frequencies,
    mean_discrepancy,
    pass_over,
    uni_modal,
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def phi(x: Tensor, frequencies: Tensor) -> Tensor:
    """CF of one set of items: (n, D), (F, D) -> (2, F)."""
    return class_characteristic_function(x, torch.zeros(len(x), dtype=torch.int64), 1, frequencies)[:, 0]


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (1.5, 0.5), (-2.0, 2.0)])
def test_cf_of_gaussian_samples_is_the_closed_form(mean, deviation):
    n = 100_000
    x = mean + deviation * torch.randn(n, 1, generator=seeded(0), dtype=torch.float64)
    t = torch.linspace(-3, 3, 41, dtype=torch.float64)[:, None]
    found = phi(x, t)
    for k, at in enumerate(t[:, 0].tolist()):
        exact = cmath.exp(1j * mean * at - deviation**2 * at**2 / 2)
        assert abs(complex(found[0, k], found[1, k]) - exact) < 4.5 / math.sqrt(n)  # each part has std < 1 / sqrt(n)


@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    chunk=st.integers(1, 30),
)
@settings(max_examples=30)
def test_class_cf_is_the_plain_mean_whatever_the_chunk(seed, sizes, chunk):
    g = seeded(seed)
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=g)]
    x = torch.randn(len(labels), 3, generator=g, dtype=torch.float64)
    t = torch.randn(5, 3, generator=g, dtype=torch.float64)
    found = class_characteristic_function(x, labels, len(sizes), t, chunk=chunk)
    assert found.shape == (2, len(sizes), 5)
    for c in range(len(sizes)):
        own = [row.tolist() for row, y in zip(x, labels, strict=True) if y == c]
        for k, frequency in enumerate(t.tolist()):
            plain = sum(cmath.exp(1j * sum(a * b for a, b in zip(frequency, row, strict=True))) for row in own) / len(
                own
            )
            assert complex(found[0, c, k], found[1, c, k]) == pytest.approx(plain, abs=1e-12)


@pytest.mark.parametrize("sigma", [0.1, 1.0])
def test_class_cf_of_a_large_class_is_as_exact_as_of_a_small_one(sigma):
    """Under the floor of the discrepancy; sums that ran on in float32 would be off by 1e-5 and more here."""
    x = F.normalize(torch.randn(50_000, 32, generator=seeded(0)), dim=1)
    t = sigma * torch.randn(64, 32, generator=seeded(1))
    exact = phi(x.double(), t.double())
    assert (phi(x, t).double() - exact).abs().max() < SQRT_FLOOR / 2


def skewed(n: int, seed: int) -> Tensor:
    """Mean 0, variance 1, skew 2."""
    return -1 - torch.rand(n, 1, generator=seeded(seed), dtype=torch.float64).log()


def normal(n: int, seed: int, deviation: float = 1.0) -> Tensor:
    """Mean exactly 0, the given variance exactly."""
    x = torch.randn(n, 1, generator=seeded(seed), dtype=torch.float64)
    return deviation * (x - x.mean()) / x.std(correction=0)


def test_cf_discrepancy_tells_distributions_apart_that_a_mean_cannot():
    n, t = 20_000, torch.linspace(0.1, 3, 30, dtype=torch.float64)[:, None]
    reference = normal(n, 0)
    twisted = skewed(n, 2)
    twisted = (twisted - twisted.mean()) / twisted.std(correction=0)  # the same mean and variance, exactly
    different = {"variance": normal(n, 1, deviation=1.3), "skew": twisted}
    floor = cf_discrepancy(phi(reference, t), phi(normal(n, 3), t), 0.5, 0.5).item()
    assert floor < 2 / math.sqrt(n)
    for what, x in different.items():
        assert cf_discrepancy(phi(reference, t), phi(x, t), 0.5, 0.5).item() > 5 * floor, what
        assert mean_discrepancy(x[None, None], reference.mean(0, keepdim=True)).item() < 1e-20, (
            what
        )  # MMD, linear kernel


@given(seed=st.integers(0, 2**32 - 1), alpha=st.floats(0, 2), beta=st.floats(0.01, 2))
@settings(max_examples=30)
def test_cf_discrepancy_vanishes_for_equal_sets_and_is_symmetric(seed, alpha, beta):
    g = seeded(seed)
    x, y = (torch.randn(6, 3, generator=g, dtype=torch.float64) for _ in range(2))
    t = torch.randn(9, 3, generator=g, dtype=torch.float64)
    assert cf_discrepancy(phi(x, t), phi(x, t), alpha, beta).item() == pytest.approx(SQRT_FLOOR)
    there, back = (cf_discrepancy(phi(a, t), phi(b, t), alpha, beta).item() for a, b in ((x, y), (y, x)))
    assert there == pytest.approx(back, rel=1e-9)
    assert there > 100 * SQRT_FLOOR


def test_amplitude_and_phase_parts():
    """A shift of all items changes phases only; alpha and beta weigh the two parts."""
    g = seeded(0)
    x, t = torch.randn(40, 2, generator=g, dtype=torch.float64), torch.randn(16, 2, generator=g, dtype=torch.float64)
    shifted, spread = x + 0.3, 1.5 * x
    assert cf_discrepancy(phi(x, t), phi(shifted, t), 1.0, 0.0).item() == pytest.approx(SQRT_FLOOR)
    assert cf_discrepancy(phi(x, t), phi(shifted, t), 0.0, 1.0).item() > 0.05
    assert cf_discrepancy(phi(x, t), phi(spread, t), 1.0, 0.0).item() > 0.05


@pytest.mark.parametrize("sampling", ["independent", "orthogonal"])
def test_draws_have_the_frequency_scale(sampling):
    t = draw_frequencies(4096, 8, 0.7, seeded(0), sampling)
    assert t.shape == (4096, 8)
    assert t.dtype == torch.float32
    assert t.std().item() == pytest.approx(0.7, rel=0.02)
    assert torch.equal(t, draw_frequencies(4096, 8, 0.7, seeded(0), sampling))
    twice = draw_frequencies(9, 8, 2.0, seeded(1), sampling)
    assert torch.allclose(twice, 2 * draw_frequencies(9, 8, 1.0, seeded(1), sampling))


@given(count=st.integers(1, 40), dim=st.integers(1, 12), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_orthogonal_frequencies_are_gaussian_vectors_made_orthogonal(count, dim, seed):
    """Against Gram and Schmidt's method, written out."""
    t = draw_frequencies(count, dim, 1.0, seeded(seed), "orthogonal")
    vectors = torch.randn(-(-count // dim), dim, dim, generator=seeded(seed)).double().transpose(1, 2)
    expected = []
    for block in vectors:
        directions: list[Tensor] = []
        for g in block:
            left = g
            for _ in range(2):  # twice is enough
                left = left - sum(((left @ e) * e for e in directions), torch.zeros(dim, dtype=torch.float64))
            directions.append(left / left.norm())
            expected.append(directions[-1] * g.norm())
    assert torch.allclose(t.double(), torch.stack(expected)[:count], atol=1e-5)
    for block in t.double().split(dim):
        angle = (block / block.norm(dim=1, keepdim=True)) @ (block / block.norm(dim=1, keepdim=True)).T
        assert torch.allclose(angle, torch.eye(len(block), dtype=torch.float64), atol=1e-6)


@pytest.mark.parametrize("place", [0, 7])  # the first of a block, and the last
def test_each_orthogonal_frequency_is_a_standard_normal_vector(place):
    """Lengths, components and projections on any direction: Kolmogorov and Smirnov's test, and the moments."""
    d = 8
    t = draw_frequencies(20_000 * d, d, 1.0, seeded(3), "orthogonal")[place::d].double()
    along = t @ F.normalize(torch.randn(d, generator=seeded(4), dtype=torch.float64), dim=0)
    for sample, law in ((along, stats.norm()), (t[:, 2], stats.norm()), (t.norm(dim=1), stats.chi(d))):
        assert stats.kstest(sample.numpy(), law.cdf).pvalue > 0.01
    assert torch.allclose(t.T @ t / len(t), torch.eye(d, dtype=torch.float64), atol=0.04)
    assert (t.norm(dim=1).square() * t[:, 0].square()).mean().item() == pytest.approx(d + 2, rel=0.05)


@pytest.mark.parametrize("sigma", [0.2, 0.8])
def test_orthogonal_frequencies_estimate_the_same_with_less_noise(sigma):
    """The CF discrepancy of two sets and its gradient, over 300 draws of as many frequencies as there are dimensions."""
    d = 32
    g = seeded(0)
    real = F.normalize(torch.randn(60, d, generator=g) + 1.0, dim=1)
    synthetic = F.normalize(torch.randn(1, d, generator=g) + 1.0, dim=1)
    values: dict[str, Tensor] = {}
    gradients: dict[str, Tensor] = {}
    for sampling in ("independent", "orthogonal"):
        found = []
        for seed in range(300):
            t = draw_frequencies(d, d, sigma, seeded(seed), sampling)
            leaf = synthetic.clone().requires_grad_()
            loss = uni_modal(leaf[None, None], t[None], phi(real, t)[:, None, None], 0.5, 0.5)[0]
            found.append((loss.detach(), torch.autograd.grad(loss, leaf)[0][0]))
        values[sampling] = torch.stack([value for value, _ in found])
        gradients[sampling] = torch.stack([gradient for _, gradient in found])
    difference = values["orthogonal"].mean() - values["independent"].mean()
    assert abs(difference) < 4 * (values["independent"].var() / 300 + values["orthogonal"].var() / 300).sqrt()
    apart = gradients["orthogonal"].mean(0) - gradients["independent"].mean(0)
    assert apart.norm() < 2 * (gradients["independent"].var(0).sum() / 300).sqrt()
    assert gradients["orthogonal"].var(0).sum() < 0.7 * gradients["independent"].var(0).sum()


@given(
    blocks=st.integers(1, 6),
    block=st.integers(1, 12),
    rest=st.integers(0, 11),
    count=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_a_pass_over_the_pool_keeps_blocks_together(blocks, block, rest, count, seed):
    pool = max(blocks * block + rest % block, count)
    order = pass_over(pool, count, block, seeded(seed))
    assert len(order.unique()) == len(order) == pool // count * count
    assert order.max() < pool
    changes = int((order[1:] // block != order[:-1] // block).sum())
    assert changes <= -(-pool // block) - 1


# The floor under the square root --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("d", [64, 1024])
def test_floor_is_just_above_the_error_of_float32(sigma, d):
    g = seeded(0)
    x, t = F.normalize(torch.randn(40, d, generator=g), dim=1), draw_frequencies(512, d, sigma, g)
    error = (phi(x, t) - phi(x.double(), t.double())).square().sum(0).sqrt().mean().item()
    assert error < SQRT_FLOOR < 100 * error


@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 0.5), (2.0, 0.1), (0.0, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize("sigma", [0.1, 1.0, 4.0])
def test_gradient_is_finite_and_bounded_near_real_equals_synthetic(sigma, alpha, beta):
    """In float32. |d phi_S(t) / d s_j| <= |t| / s; the discrepancy grows by at most sqrt(max(alpha, beta)) as much."""
    g = seeded(0)
    n, d = 12, 64
    real = F.normalize(torch.randn(n, d, generator=g), dim=1)
    t = draw_frequencies(256, d, sigma, g)
    bound = math.sqrt(max(alpha, beta)) * t.norm(dim=1).mean().item() / n
    previous = math.inf
    for distance in (1e-2, 1e-4, 1e-6, 1e-8, 0.0):
        moved = real + distance * torch.randn(n, d, generator=g)
        leaf = moved[torch.randperm(n, generator=g)].requires_grad_()  # another order: another rounding
        loss = uni_modal(leaf[None, None], t[None], phi(real, t)[:, None, None], alpha, beta)[0]
        (gradient,) = torch.autograd.grad(loss, leaf)
        assert gradient.isfinite().all()
        assert gradient.norm(dim=1).max().item() <= 1.05 * bound, distance
        assert loss.item() <= previous * 1.01
        previous = loss.item()
    # The published code returns 0.02 / 300 here, 70 times as much, and its gradient is that of the noise.
    assert previous < 1.5 * SQRT_FLOOR
    same = real.clone().requires_grad_()
    loss = uni_modal(same[None, None], t[None], phi(real, t)[:, None, None], alpha, beta)[0]
    assert torch.autograd.grad(loss, same)[0].norm().item() <= 0.05 * bound


@pytest.mark.parametrize("sigma", [0.3, 2.0])
@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 1.0), (1.0, 0.0), (0.2, 0.8), (0.9, 0.3), (0.5, 0.5)])
def test_gradients_are_as_exact_as_float32_for_all_weights(alpha, beta, sigma):
    """Against float64, where the synthetic items are close to the real ones: with a small alpha, differences of nearly equal
    numbers would leave two digits."""
    g = seeded(0)
    real = F.normalize(torch.randn(40, 16, generator=g) + 1.0, dim=1)
    synthetic = F.normalize(real[:5] + 0.05 * torch.randn(5, 16, generator=g), dim=1)
    t = draw_frequencies(64, 16, sigma, seeded(1))
    found = []
    for dtype in (torch.float32, torch.float64):
        leaf, own = synthetic.to(dtype).requires_grad_(), phi(real.double(), t.double()).float().to(dtype)
        loss = uni_modal(leaf[None, None], t.to(dtype)[None], own[:, None, None], alpha, beta)[0]
        angle = leaf @ t.to(dtype).T
        plain = cf_discrepancy(own, torch.stack([angle.cos().mean(0), angle.sin().mean(0)]), alpha, beta)
        (gradient,), (expected,) = (torch.autograd.grad(value, leaf) for value in (loss, plain))
        assert (gradient - expected).norm() < 1e-4 * expected.norm()  # written out and by autograd
        found.append(gradient.double())
    assert (found[0] - found[1]).norm() < 2e-5 * found[1].norm()
