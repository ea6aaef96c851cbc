"""The objective: plain loops, finite differences, and what each term is for."""

from __future__ import annotations

import cmath
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from condense.embeddings.statistics import RealStatistics, pairs_of
from condense.method.objective import (
    PAPER_CF_FACTOR,
    Objective,
    class_characteristic_function,
    cross_modal,
    draw_frequencies,
    mean_discrepancy,
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def terms_of(
    real: dict[str, Tensor],  # modality -> (n, D)
    labels: Tensor,  # (n,)
    synthetic: dict[str, Tensor],  # modality -> (Q, C, s, D)
    frequencies: dict[str, Tensor],  # modality -> (Q, F, D)
    alpha: Tensor | float = 0.5,
    beta: Tensor | float = 0.5,
    scaling: str = "normalized",
    discrepancy: str = "cf",
    output_scale: dict[str, float] | None = None,
) -> Tensor:
    """(Q, 3): everything that `Objective` wants, computed from real items."""
    classes = next(iter(synthetic.values())).shape[1]
    phi_real = {
        m: torch.stack([class_characteristic_function(real[m], labels, classes, t) for t in frequencies[m]], 1)
        for m in real
    }
    statistics = RealStatistics.of(real, labels, classes)
    scale = output_scale or dict.fromkeys(real, 1.0)
    return Objective(statistics, scale, discrepancy, scaling, alpha, beta).terms(synthetic, frequencies, phi_real)


# What each term is for ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def paired() -> tuple[dict[str, Tensor], Tensor]:
    """Two classes of 8 paired items in two modalities, float64; partners share a direction of their own."""
    g = seeded(3)
    labels = torch.arange(2).repeat_interleave(8)
    shared = torch.randn(16, 24, generator=g, dtype=torch.float64)  # of the pair
    centre = torch.randn(2, 24, generator=g, dtype=torch.float64)[labels]  # of the class
    own = [torch.randn(16, 24, generator=g, dtype=torch.float64) for _ in range(2)]
    return {
        m: F.normalize(centre + shared + 0.3 * x, dim=1) for m, x in zip(("vision", "audio"), own, strict=True)
    }, labels


def losses_of_pairing(paired: tuple[dict[str, Tensor], Tensor], order: Tensor) -> list[float]:
    """uni, cross, joint of the real items themselves, the audio ones in another order."""
    real, labels = paired
    t = {m: draw_frequencies(64, 24, 1.0, seeded(i)).double()[None] for i, m in enumerate(real)}
    synthetic = {"vision": real["vision"], "audio": real["audio"][order]}
    return terms_of(real, labels, {m: x.view(1, 2, 8, -1) for m, x in synthetic.items()}, t)[0].tolist()


def test_joint_sees_wrong_partners_within_a_class(paired):
    right = losses_of_pairing(paired, torch.arange(16))
    rotated = torch.cat([torch.arange(8).roll(1), 8 + torch.arange(8).roll(1)])
    wrong = losses_of_pairing(paired, rotated)
    assert wrong[:2] == pytest.approx(right[:2], abs=1e-9)  # every modality's set and mean is as it was
    assert wrong[2] > right[2] + 1e-3


def test_cross_and_joint_see_partners_of_another_class_and_uni_of_the_whole_set_does_not(paired):
    """The audio of the two classes exchanged: as a set, each modality is still the real one; only the pairing is wrong.

    Matching without classes, uni is blind to it. Cross is made of class means, so this is the wrong pairing that it can
    see; joint sees it in either case.
    """
    real, labels = paired
    exchanged = torch.arange(16).roll(8)
    right, wrong = losses_of_pairing(paired, torch.arange(16)), losses_of_pairing(paired, exchanged)
    assert right[1] == pytest.approx(0, abs=1e-12)
    assert wrong[1] > 0.05
    assert wrong[2] > right[2] + 0.01

    t = {m: draw_frequencies(64, 24, 1.0, seeded(i)).double()[None] for i, m in enumerate(real)}

    def pooled(order: Tensor) -> Tensor:
        synthetic = {"vision": real["vision"], "audio": real["audio"][order]}
        items = {m: x.view(1, 1, 16, -1) for m, x in synthetic.items()}
        return terms_of(real, torch.zeros_like(labels), items, t)[0]

    assert pooled(exchanged)[0].item() == pytest.approx(pooled(torch.arange(16))[0].item(), abs=1e-9)
    assert pooled(exchanged)[2].item() > pooled(torch.arange(16))[2].item() + 0.01


def test_uni_sees_what_cross_and_joint_cannot():
    """Items drawn apart around the same class means: means and mean products stay, the distributions do not."""
    g = seeded(4)
    base = {m: torch.randn(1, 24, generator=g, dtype=torch.float64) for m in ("vision", "audio")}
    apart = {m: 0.5 * torch.randn(1, 24, generator=g, dtype=torch.float64) for m in base}
    # (x + y, x - y) have the mean x; over the four combinations the mean product is the product of means.
    signs = {"vision": torch.tensor([1.0, 1, -1, -1])[:, None], "audio": torch.tensor([1.0, -1, 1, -1])[:, None]}
    spread = {m: base[m] + signs[m] * apart[m] for m in base}
    still = {m: base[m].expand(4, 24) for m in base}
    t = {m: draw_frequencies(64, 24, 1.0, seeded(i)).double()[None] for i, m in enumerate(base)}
    one_class = torch.zeros(4, dtype=torch.int64)
    same = terms_of(spread, one_class, {m: x[None, None] for m, x in spread.items()}, t)[0].tolist()
    other = terms_of(spread, one_class, {m: x[None, None] for m, x in still.items()}, t)[0].tolist()
    assert other[1:] == pytest.approx(same[1:], abs=1e-9)
    assert other[0] > same[0] + 0.05


def test_linear_mmd_is_blind_to_everything_but_the_mean():
    g = seeded(1)
    real = torch.randn(10, 6, generator=g, dtype=torch.float64)
    far = real.mean(0) + 5 * (real - real.mean(0))
    assert mean_discrepancy(far[None, None], real.mean(0, keepdim=True)).item() == pytest.approx(0, abs=1e-20)
    assert mean_discrepancy(far[None, None] + 1, real.mean(0, keepdim=True)).item() == pytest.approx(6)


# Against plain loops --------------------------------------------------------------------------------------------------


MODALITIES = ("vision", "audio", "text")


def problem(
    seed: int, replicas: int, classes: int, s: int, d: int, f: int, modalities: tuple[str, ...] = MODALITIES
) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Random float64 arguments of `terms_of`; classes have 2, 3, 4, .. real items."""
    g = seeded(seed)
    labels = torch.repeat_interleave(torch.arange(classes), torch.arange(classes) + 2)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    real = {m: F.normalize(draw(len(labels), d), dim=1) for m in modalities}
    synthetic = {m: F.normalize(draw(replicas, classes, s, d), dim=3) for m in modalities}
    return real, labels, synthetic, {m: 2 * draw(replicas, f, d) for m in modalities}


def by_loops(
    real: dict[str, Tensor],
    labels: Tensor,
    synthetic: dict[str, Tensor],  # modality -> (C, s, D): one replica
    frequencies: dict[str, Tensor],  # modality -> (F, D)
    alpha: float,
    beta: float,
) -> list[float]:
    """uni, cross, joint as the method's page writes them, with Python numbers."""

    def dot(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    def times(a: list[float], b: list[float]) -> list[float]:
        return [x * y for x, y in zip(a, b, strict=True)]

    def mean(items: list[list[float]]) -> list[float]:
        return [sum(column) / len(items) for column in zip(*items, strict=True)]

    def cf(items: list[list[float]], t: list[float]) -> complex:
        return sum(cmath.exp(1j * dot(t, x)) for x in items) / len(items)

    classes = len(next(iter(synthetic.values())))
    r = {m: [x[labels == c].tolist() for c in range(classes)] for m, x in real.items()}
    s = {m: x.tolist() for m, x in synthetic.items()}
    uni, cross, joint = [], [], []
    for c in range(classes):
        for m in real:
            for t in frequencies[m].tolist():
                p, q = cf(r[m][c], t), cf(s[m][c], t)
                amplitude = (abs(p) - abs(q)) ** 2
                phase = 2 * (abs(p) * abs(q) - p.real * q.real - p.imag * q.imag)
                uni.append(math.sqrt(alpha * amplitude + beta * phase))
        for a, b in itertools.combinations(real, 2):
            x = times(mean(r[a][c]), mean(s[b][c]))
            y = times(mean(r[b][c]), mean(s[a][c]))
            cross.append(1 - dot(x, y) / math.sqrt(dot(x, x) * dot(y, y)))
            for ra, rb in zip(r[a][c], r[b][c], strict=True):
                weight = 1 / len(r[a][c]) / len(s[a][c])  # the mean over all pairs of this class
                joint += [
                    (1 - dot(times(ra, rb), times(sa, sb))) * weight for sa, sb in zip(s[a][c], s[b][c], strict=True)
                ]
    pairs = len(list(itertools.combinations(real, 2)))
    return [sum(uni) / len(uni), sum(cross) / len(cross), sum(joint) / classes / pairs]


@pytest.mark.parametrize("modalities", [MODALITIES, MODALITIES[:2]])
@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 0.5), (0.2, 1.5), (1.0, 0.25)])
def test_terms_equal_plain_loops(modalities, alpha, beta):
    real, labels, synthetic, t = problem(0, 2, 2, 3, 4, 5, modalities)
    ours = terms_of(real, labels, synthetic, t, alpha, beta)
    for q in range(2):
        plain = by_loops(
            real, labels, {m: x[q] for m, x in synthetic.items()}, {m: x[q] for m, x in t.items()}, alpha, beta
        )
        assert ours[q].tolist() == pytest.approx(plain, rel=1e-10)


def test_paper_scaling_sums_where_the_normalised_one_averages():
    real, labels, synthetic, t = problem(1, 2, 3, 2, 6, 7)
    averaged = terms_of(real, labels, synthetic, t)
    paper = terms_of(
        real, labels, synthetic, t, scaling="paper", output_scale={"vision": 1.0, "audio": 20.0, "text": 3.0}
    )
    pairs = len(pairs_of(MODALITIES))
    assert torch.allclose(paper[:, 0], PAPER_CF_FACTOR * 3 * averaged[:, 0], rtol=1e-12)
    assert torch.allclose(paper[:, 2], pairs * averaged[:, 2], rtol=1e-12)
    cross = torch.zeros(2, dtype=torch.float64)
    means = RealStatistics.of(real, labels, 3).mean
    for (a, b), scale in {("vision", "audio"): 20.0, ("vision", "text"): 3.0, ("audio", "text"): 60.0}.items():
        x, y = means[a] * synthetic[b].mean(2), means[b] * synthetic[a].mean(2)  # (Q, C, D)
        cross += (1 - scale**2 * (x * y).sum(2)).mean(1)
    assert torch.allclose(paper[:, 1], cross, rtol=1e-12)
    mmd = terms_of(real, labels, synthetic, t, scaling="paper", discrepancy="mmd")
    assert torch.allclose(mmd[:, 0], 3 * terms_of(real, labels, synthetic, t, discrepancy="mmd")[:, 0], rtol=1e-12)


@given(
    seed=st.integers(0, 2**32 - 1),
    replicas=st.integers(1, 4),
    classes=st.integers(1, 3),
    s=st.integers(1, 3),
    modalities=st.sampled_from([MODALITIES, MODALITIES[:2], MODALITIES[:1]]),
    scaling=st.sampled_from(["normalized", "paper"]),
    discrepancy=st.sampled_from(["cf", "mmd"]),
)
@settings(max_examples=40)
def test_together_equals_one_by_one(seed, replicas, classes, s, modalities, scaling, discrepancy):
    """Each replica with its own frequencies, alpha and beta; and a replica's gradient is of its own items only."""
    real, labels, synthetic, t = problem(seed, replicas, classes, s, 5, 4, modalities)
    g = seeded(seed)
    alpha, beta = (0.1 + torch.rand(replicas, 1, 1, generator=g, dtype=torch.float64) for _ in range(2))
    leaves = {m: x.requires_grad_() for m, x in synthetic.items()}
    ours = terms_of(real, labels, leaves, t, alpha, beta, scaling, discrepancy)
    assert ours.shape == (replicas, 3)
    weights = torch.rand(replicas, 3, generator=g, dtype=torch.float64)
    gradients = torch.autograd.grad((weights * ours).sum(), list(leaves.values()))
    for q in range(replicas):
        own = {m: x[q : q + 1].detach().requires_grad_() for m, x in synthetic.items()}
        frequencies = {m: x[q : q + 1] for m, x in t.items()}
        alone = terms_of(real, labels, own, frequencies, alpha[q].item(), beta[q].item(), scaling, discrepancy)
        assert torch.allclose(alone[0], ours[q], rtol=1e-9, atol=1e-12)
        for x, y in zip(torch.autograd.grad((weights[q] * alone[0]).sum(), list(own.values())), gradients, strict=True):
            assert torch.allclose(x[0], y[q], rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("scaling", ["normalized", "paper"])
@pytest.mark.parametrize("discrepancy", ["cf", "mmd"])
@pytest.mark.parametrize("alpha", [0.5, 0.1, 2.0])
def test_gradient_is_that_of_finite_differences(scaling, discrepancy, alpha):
    real, labels, synthetic, t = problem(2, 2, 2, 2, 3, 4)
    weights = torch.tensor([[1.0, 0.3, 0.7], [0.2, 2.0, 1.0]], dtype=torch.float64)
    alphas = torch.tensor([alpha, 0.5], dtype=torch.float64)[:, None, None]

    def total(*raw: Tensor) -> Tensor:
        unit = {m: F.normalize(x, dim=3) for m, x in zip(MODALITIES, raw, strict=True)}
        return (weights * terms_of(real, labels, unit, t, alphas, 0.5, scaling, discrepancy)).sum()

    leaves = [2 * x.requires_grad_() for x in synthetic.values()]
    assert torch.autograd.gradcheck(total, leaves, rtol=1e-5, atol=1e-7)


def test_alpha_and_beta_as_tensors_equal_numbers():
    real, labels, synthetic, t = problem(3, 2, 2, 2, 4, 5)
    for alpha, beta in ((0.5, 0.5), (0.3, 0.9)):
        full = [torch.full((2, 1, 1), x, dtype=torch.float64) for x in (alpha, beta)]
        ours = terms_of(real, labels, synthetic, t, *full)
        assert torch.allclose(ours, terms_of(real, labels, synthetic, t, alpha, beta), rtol=1e-12)


def test_one_modality_has_no_pairs():
    real, labels, synthetic, t = problem(4, 2, 2, 2, 4, 5, MODALITIES[:1])
    for scaling in ("normalized", "paper"):
        assert terms_of(real, labels, synthetic, t, scaling=scaling)[:, 1:].tolist() == [[0, 0], [0, 0]]


def test_cross_term_is_a_cosine_whatever_the_lengths():
    g = seeded(6)
    syn = {m: torch.randn(3, 2, 5, generator=g) for m in ("vision", "audio")}
    real = {m: torch.randn(2, 5, generator=g) for m in syn}
    there = cross_modal(syn, real)
    assert ((there >= 0) & (there <= 2)).all()
    assert torch.allclose(there, cross_modal({m: 7 * x for m, x in syn.items()}, real), atol=1e-6)
    assert torch.allclose(cross_modal({m: x.expand(3, 2, 5) for m, x in real.items()}, real), torch.zeros(3), atol=1e-6)
