"""The objective where real items lack modalities, against Python loops over the items that there are."""

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

from condense.embeddings.embeddings import Embedded
from condense.embeddings.statistics import RealStatistics, pairs_of
from condense.method.objective import Objective, class_characteristic_function, joint_modal

NAMES = ("vision", "audio", "text", "depth", "thermal", "imu")
Items = list[dict[str, list[float]]]  # one dict per real item: what it has


def problem(
    seed: int, modalities: int, classes: int, s: int, share: float
) -> tuple[Embedded, dict[str, Tensor], dict[str, Tensor]]:
    """float64: real embeddings of which about `share` are missing, two synthetic replicas, frequencies.

    Every item has a modality, and every class at least one item with each.
    """
    g = torch.Generator().manual_seed(seed)
    names = NAMES[:modalities]
    labels = torch.repeat_interleave(torch.arange(classes), torch.arange(classes) % 3 + 2)[
        torch.randperm(sum(c % 3 + 2 for c in range(classes)), generator=g)
    ]
    has = torch.rand(modalities, len(labels), generator=g) >= share
    for item in range(len(labels)):
        has[int(torch.randint(modalities, (), generator=g)), item] = True
    for c, m in itertools.product(range(classes), range(modalities)):
        members = (labels == c).nonzero().squeeze(1)
        if not has[m, members].any():
            has[m, members[int(torch.randint(len(members), (), generator=g))]] = True

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    real = {m: F.normalize(draw(len(labels), 4), dim=1) * has[i, :, None] for i, m in enumerate(names)}
    present = {m: has[i] for i, m in enumerate(names) if not has[i].all()}
    synthetic = {m: F.normalize(draw(2, classes, s, 4), dim=3) for m in names}
    return Embedded(real, labels, present), synthetic, {m: 2 * draw(2, 3, 4) for m in names}


def terms_of(
    real: Embedded, synthetic: dict[str, Tensor], frequencies: dict[str, Tensor], scaling: str = "normalized"
) -> Tensor:
    """(Q, 3), by the module that is tested."""
    classes = next(iter(synthetic.values())).shape[1]
    phi = {}
    for m, t in frequencies.items():
        (x,), y = real.having(m)
        phi[m] = torch.stack([class_characteristic_function(x, y, classes, each) for each in t], 1)
    statistics = RealStatistics.of(real.embeddings, real.labels, classes, real.present)
    objective = Objective(statistics, dict.fromkeys(synthetic, 1.0), "cf", scaling, 0.5, 0.5)
    return objective.terms(synthetic, frequencies, phi)


def by_loops(real: Embedded, synthetic: dict[str, Tensor], frequencies: dict[str, Tensor]) -> list[float]:
    """uni, cross, joint of one replica (modality -> (C, s, D), (F, D)); an item is a dict of what it has."""

    def dot(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    def times(a: list[float], b: list[float]) -> list[float]:
        return [x * y for x, y in zip(a, b, strict=True)]

    def mean(rows: list[list[float]]) -> list[float]:
        return [sum(column) / len(rows) for column in zip(*rows, strict=True)]

    def cf(rows: list[list[float]], t: list[float]) -> complex:
        return sum(cmath.exp(1j * dot(t, x)) for x in rows) / len(rows)

    names = list(synthetic)
    classes = len(synthetic[names[0]])
    of_class: list[Items] = [[] for _ in range(classes)]
    for i, label in enumerate(real.labels.tolist()):
        item = {m: real.embeddings[m][i].tolist() for m in names if m not in real.present or bool(real.present[m][i])}
        of_class[label].append(item)
    s = {m: x.tolist() for m, x in synthetic.items()}
    uni, cross = [], []
    for c, items in enumerate(of_class):
        rows = {m: [item[m] for item in items if m in item] for m in names}
        for m in names:
            for t in frequencies[m].tolist():
                uni.append(abs(cf(rows[m], t) - cf(s[m][c], t)) * math.sqrt(0.5))  # alpha = beta = 0.5
        for a, b in itertools.combinations(names, 2):
            x, y = times(mean(rows[a]), mean(s[b][c])), times(mean(rows[b]), mean(s[a][c]))
            cross.append(1 - dot(x, y) / math.sqrt(dot(x, x) * dot(y, y)))
    of_pairs = []
    for a, b in itertools.combinations(names, 2):
        of_classes = []
        for c, items in enumerate(of_class):
            values = [
                1 - dot(times(item[a], item[b]), times(sa, sb))
                for item in items
                if a in item and b in item
                for sa, sb in zip(s[a][c], s[b][c], strict=True)
            ]
            if values:
                of_classes.append(sum(values) / len(values))
        if of_classes:
            of_pairs.append(sum(of_classes) / len(of_classes))
    joint = sum(of_pairs) / len(of_pairs) if of_pairs else 0.0
    return [sum(uni) / len(uni), sum(cross) / len(cross), joint]


@given(
    seed=st.integers(0, 2**32 - 1),
    modalities=st.integers(2, 6),
    classes=st.integers(1, 4),
    s=st.integers(1, 2),
    share=st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0]),
)
@settings(max_examples=60, deadline=None)
def test_terms_equal_loops_over_what_is_there(seed, modalities, classes, s, share):
    real, synthetic, t = problem(seed, modalities, classes, s, share)
    ours, paper = terms_of(real, synthetic, t), terms_of(real, synthetic, t, "paper")
    pairs = len(RealStatistics.of(real.embeddings, real.labels, classes, real.present).product)
    for q in range(2):
        loops = by_loops(real, {m: x[q] for m, x in synthetic.items()}, {m: x[q] for m, x in t.items()})
        assert ours[q].tolist() == pytest.approx(loops, rel=1e-9, abs=1e-12)
        assert paper[q, 2].item() == pytest.approx(pairs * loops[2], rel=1e-9, abs=1e-12)  # a sum over the pairs


@pytest.mark.parametrize("seed", [0, 1])
def test_gradient_is_that_of_finite_differences(seed):
    real, synthetic, t = problem(seed, 3, 2, 1, 0.5)
    weights = torch.tensor([[1.0, 0.3, 0.7], [0.2, 2.0, 1.0]], dtype=torch.float64)

    def total(*raw: Tensor) -> Tensor:
        return (weights * terms_of(real, dict(zip(synthetic, raw, strict=True)), t)).sum()

    assert torch.autograd.gradcheck(total, [x.requires_grad_() for x in synthetic.values()], rtol=1e-5, atol=1e-7)


def test_masks_that_hide_nothing_change_no_bit():
    real, synthetic, t = problem(1, 4, 3, 2, 0.0)
    real = Embedded({m: x.float() for m, x in real.embeddings.items()}, real.labels)
    masked = Embedded(real.embeddings, real.labels, {m: torch.ones(len(real.labels)).bool() for m in real.embeddings})
    synthetic, t = ({m: x.float() for m, x in tensors.items()} for tensors in (synthetic, t))
    assert torch.equal(terms_of(real, synthetic, t), terms_of(masked, synthetic, t))
    statistics = [RealStatistics.of(e.embeddings, e.labels, 3, e.present) for e in (real, masked)]
    assert all(not each.share for each in statistics)
    assert all(torch.equal(statistics[0].product[pair], statistics[1].product[pair]) for pair in pairs_of(NAMES[:4]))


def test_a_class_without_a_pair_has_no_joint_term():
    """In class 1 nobody has both, so joint is class 0's alone, and the synthetic items of class 1 have no gradient."""
    real, synthetic, _ = problem(2, 2, 2, 1, 0.0)
    one = (real.labels == 1).nonzero().squeeze(1)
    present = {m: torch.ones(len(real.labels)).bool() for m in real.embeddings}
    present["vision"][one[0]] = False
    present["audio"][one[1:]] = False
    leaves = {m: x.requires_grad_() for m, x in synthetic.items()}
    statistics = RealStatistics.of(real.embeddings, real.labels, 2, present)
    joint = joint_modal(leaves, statistics.product, statistics.share)
    alone = RealStatistics.of(real.embeddings, real.labels, 2).product["vision", "audio"][0]
    first = (leaves["vision"] * leaves["audio"])[:, 0, 0]  # (Q, D)
    torch.testing.assert_close(joint, 1 - (first * alone).sum(1))
    joint.sum().backward()
    for x in leaves.values():
        assert x.grad is not None
        assert x.grad[:, 0].any()
        assert not x.grad[:, 1].any()


def test_a_pair_that_no_item_has_is_left_out():
    real, synthetic, t = problem(3, 3, 2, 1, 0.0)
    odd = torch.zeros(len(real.labels)).bool()
    for c in range(2):
        odd[(real.labels == c).nonzero()[0]] = True
    present = {"vision": odd, "audio": ~odd}  # nobody has both; text is everywhere
    statistics = RealStatistics.of(real.embeddings, real.labels, 2, present)
    assert list(statistics.product) == [("vision", "text"), ("audio", "text")]
    assert not statistics.share
    two = Embedded({m: real.embeddings[m] for m in ("vision", "audio")}, real.labels, present)
    terms = terms_of(two, {m: synthetic[m] for m in two.embeddings}, {m: t[m] for m in two.embeddings})
    assert terms[:, 2].tolist() == [0, 0]
    assert (terms[:, :2] > 0).all()
