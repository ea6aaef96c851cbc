"""Recall by plain loops, projections that learn a known map, and alignment on embeddings with a known answer."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from condense.evaluation.retrieval import alignment, retrieval_recall, train_projections, warning


def unit(x: np.ndarray) -> torch.Tensor:
    return torch.tensor(x / np.linalg.norm(x, axis=1, keepdims=True), dtype=torch.float32)


def pairs(
    seed: int, n: int, d: int, num_classes: int, *, shared_classes: bool = True, noise: float = 0.3
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """a (n, d), b (n, d), labels (n,): around centres that the modalities share, or do not."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(num_classes, d)) / d**0.5
    other = centres if shared_classes else rng.normal(size=(num_classes, d)) / d**0.5
    labels = np.arange(n) % num_classes
    a, b = (c[labels] + noise * rng.normal(size=(n, d)) / d**0.5 for c in (centres, other))
    return unit(a), unit(b), torch.tensor(labels)


def recall_by_loops(a: np.ndarray, b: np.ndarray, labels: list[int], k: int) -> float:
    hits = 0
    for i, query in enumerate(a):
        order = sorted(range(len(b)), key=lambda j: -float(query @ b[j]))
        hits += any(labels[j] == labels[i] for j in order[:k])
    return hits / len(a)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 25), k=st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_recall_equals_plain_loops(seed, n, k):
    a, b, labels = pairs(seed, n, 4, 3, noise=1.0)
    x, y = a.double().numpy(), b.double().numpy()
    instance = retrieval_recall(a, b, (k,))
    assert instance[f"a_to_b/recall@{k}"] == pytest.approx(recall_by_loops(x, y, list(range(n)), k))
    assert instance[f"b_to_a/recall@{k}"] == pytest.approx(recall_by_loops(y, x, list(range(n)), k))
    by_class = retrieval_recall(a, b, (k,), labels=labels)
    assert by_class[f"a_to_b/class_recall@{k}"] == pytest.approx(recall_by_loops(x, y, labels.tolist(), k))
    assert by_class[f"b_to_a/class_recall@{k}"] == pytest.approx(recall_by_loops(y, x, labels.tolist(), k))


def test_recall_does_not_depend_on_the_order_of_the_pairs_nor_on_scale():
    a, b, _ = pairs(0, 50, 4, 3, noise=1.0)
    shuffle = torch.tensor(np.random.default_rng(0).permutation(50))
    assert retrieval_recall(3 * a[shuffle], 0.1 * b[shuffle]) == pytest.approx(retrieval_recall(a, b))


@pytest.mark.parametrize("k", [1, 2, 3, 5, 6])
def test_collapsed_embeddings_have_the_recall_of_chance(k):
    """All orders of 6 equal items are equally likely: counted one by one."""
    a = torch.ones(6, 4)
    labels = [0, 0, 0, 1, 1, 2]
    orders = list(itertools.permutations(range(6)))
    for classes, result in (
        (list(range(6)), retrieval_recall(a, a, (k,))[f"a_to_b/recall@{k}"]),
        (labels, retrieval_recall(a, a, (k,), labels=torch.tensor(labels))[f"a_to_b/class_recall@{k}"]),
    ):
        hits = [any(classes[j] == classes[i] for j in order[:k]) for order in orders for i in range(6)]
        assert result == pytest.approx(sum(hits) / len(hits))


def test_recall_in_chunks_equals_recall_at_once(monkeypatch):
    a, b, labels = pairs(0, 90, 6, 3, noise=1.0)
    whole = retrieval_recall(a, b, labels=labels)
    monkeypatch.setattr("condense.evaluation.row_blocks.BLOCK", 90 * 7)
    assert retrieval_recall(a, b, labels=labels) == pytest.approx(whole)


def test_projections_start_as_the_identity_and_do_not_move_in_no_steps():
    a, b, _ = pairs(0, 20, 6, 3)
    projections = train_projections(a, b, steps=0)
    for got, expected in zip(projections.project(a, b), (a, b), strict=True):
        torch.testing.assert_close(got, expected)


def rotated(seed: int, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs that correspond exactly, but for a rotation of b by about 60 degrees."""
    d = 16
    latent = np.random.default_rng(seed).normal(size=(n, d))
    generator = np.random.default_rng(5).normal(size=(d, d))
    rotation = torch.linalg.matrix_exp(0.3 * torch.tensor(generator - generator.T)).numpy()
    return unit(latent), unit(latent @ rotation)


def test_projections_learn_a_rotation_and_it_carries_over_to_unseen_pairs():
    a, b = rotated(0, 400)
    test_a, test_b = rotated(1, 200)
    before = retrieval_recall(test_a, test_b)["a_to_b/recall@1"]
    few = train_projections(a[:10], b[:10], learning_rate=0.01)
    many = train_projections(a, b, learning_rate=0.01)
    after_few = retrieval_recall(*few.project(test_a, test_b))["a_to_b/recall@1"]
    after_many = retrieval_recall(*many.project(test_a, test_b))["a_to_b/recall@1"]
    assert before < 0.5 < after_many
    assert before < after_few < after_many


def test_labels_let_pairs_of_a_class_attract_each_other():
    a, b, labels = pairs(0, 60, 16, 4, shared_classes=False)
    test_a, test_b, test_labels = pairs(0, 200, 16, 4, shared_classes=False)
    projections = train_projections(a, b, labels=labels, learning_rate=0.01)
    before = retrieval_recall(test_a, test_b, (1,), labels=test_labels)
    after = retrieval_recall(*projections.project(test_a, test_b), (1,), labels=test_labels)
    assert sum(after.values()) / 2 > 0.95 > sum(before.values()) / 2


def test_a_teacher_that_is_sure_of_partners_or_classes_gives_hard_targets():
    a, b, labels = pairs(0, 40, 16, 4)
    for similarity, known in ((60 * torch.eye(40), None), (60 * (labels[:, None] == labels).float(), labels)):
        hard = train_projections(a, b, labels=known, steps=20)
        taught = train_projections(a, b, similarity=similarity, steps=20)
        torch.testing.assert_close(taught.a, hard.a, atol=1e-4, rtol=0)
        torch.testing.assert_close(taught.b, hard.b, atol=1e-4, rtol=0)


@pytest.mark.parametrize("batch_size", [512, 7])
def test_a_teacher_s_similarities_are_the_target_of_rows_and_columns(batch_size):
    """The same steps by autograd in float64, with a target of its own for rows and for columns."""
    a, b, _ = pairs(0, 12, 5, 3, noise=1.0)
    similarity = 3 * torch.randn(12, 12, generator=torch.Generator().manual_seed(1))
    given = {"steps": 4, "learning_rate": 0.05, "batch_size": batch_size}
    taught = train_projections(a, b, similarity=similarity, **given)
    maps = [torch.eye(5, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    optimizer = torch.optim.Adam(maps, lr=0.05)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        chosen = torch.randint(12, (batch_size,), generator=generator) if batch_size < 12 else torch.arange(12)
        x, y, s = a.double()[chosen] @ maps[0], b.double()[chosen] @ maps[1], similarity.double()[chosen][:, chosen]
        logits = torch.nn.functional.normalize(x, dim=1) @ torch.nn.functional.normalize(y, dim=1).T / 0.07
        rows, columns = (s.softmax(d) * logits.log_softmax(d) for d in (1, 0))
        decay = sum((w - torch.eye(5)).square().sum() for w in maps)
        optimizer.zero_grad()
        (-(rows.sum() + columns.sum()) / (2 * len(x)) + 0.01 / 2 * decay).backward()
        optimizer.step()
    torch.testing.assert_close(taught.a.double(), maps[0].detach(), atol=1e-4, rtol=0)
    torch.testing.assert_close(taught.b.double(), maps[1].detach(), atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match=r"similarity must be \(1, 12, 12\), but got \(1, 3, 3\)"):
        train_projections(a, b, similarity=torch.eye(3))


def test_projections_are_deterministic_and_leave_global_randomness_alone():
    a, b, _ = pairs(0, 40, 6, 3)
    state = torch.get_rng_state()
    first, again, other = (train_projections(a, b, seed=seed, batch_size=16, steps=5) for seed in (0, 0, 1))
    assert torch.equal(first.a, again.a)
    assert not torch.equal(first.a, other.a)
    assert torch.equal(torch.get_rng_state(), state)


def test_alignment_by_plain_loops():
    a, b, labels = pairs(0, 30, 5, 3)
    labels = labels.masked_fill(labels == 2, 7)  # classes need not be 0 .. C-1
    found = alignment(a, b, labels)
    cosines = (a.double() @ b.double().T).numpy()
    assert found.paired == pytest.approx(np.diag(cosines).mean(), abs=1e-6)
    different = labels[:, None] != labels
    assert found.unpaired == pytest.approx(cosines[different.numpy()].mean(), abs=1e-6)  # classes of one size
    assert found.class_recall == pytest.approx(
        sum(retrieval_recall(a, b, (1,), labels=labels).values()) / 2,
    )
    assert found.chance == pytest.approx(1 / 3)


def test_aligned_embeddings_give_no_warning():
    for seed in range(5):
        a, b, labels = pairs(seed, 200, 32, 10)
        found = alignment(a, b, labels)
        assert found.z > 5
        assert warning(found, "vision", "audio") is None


def test_a_common_offset_between_modalities_is_no_misalignment():
    """The modality gap of CLIP-like encoders: each modality in a cone of its own."""
    a, b, labels = pairs(0, 300, 32, 10)
    offset = np.random.default_rng(1).normal(size=32)
    assert warning(alignment(a, unit(b.numpy() + offset / 2), labels), "vision", "audio") is None


@pytest.mark.parametrize("shuffled", [True, False])
def test_embeddings_that_are_not_aligned_are_warned_of(shuffled):
    """Pairs shuffled over all classes, or towers that put the classes in places of their own."""
    warned = 0
    for seed in range(20):
        a, b, labels = pairs(seed, 200, 32, 10, shared_classes=shuffled)
        if shuffled:
            b = b[torch.tensor(np.random.default_rng(seed).permutation(200))]
        text = warning(alignment(a, b, labels), "vision", "audio")
        if text is not None:
            warned += 1
            assert text.startswith("vision and audio embeddings are not aligned: cosine of partners ")
            assert "\n" not in text
    assert warned >= 19


def test_two_classes_that_are_aligned_give_no_warning():
    """Two classes never make many standard errors over classes, but what is nearest is of the right one."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        labels = torch.arange(2).repeat(20)
        centres = rng.normal(size=(2, 64))[labels] + rng.normal(size=(40, 64)) / 2
        a, b = (unit(centres + rng.normal(size=(40, 64)) / 2 + 2 * rng.normal(size=64)) for _ in range(2))
        assert warning(alignment(a, b, labels), "vision", "audio") is None


def test_z_of_shuffled_pairs_is_about_standard_normal():
    scores = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        a, b = unit(rng.normal(size=(60, 8)) + 1), unit(rng.normal(size=(60, 8)) + 1)
        scores.append(alignment(a, b, torch.arange(60) % 6).z)
    assert abs(np.mean(scores)) < 0.25  # 3.5 standard errors
    assert 0.5 < np.std(scores) < 1.3


def test_large_sets_are_sampled():
    a, b, labels = pairs(0, 3000, 8, 10)
    sampled, whole = alignment(a, b, labels, limit=1000), alignment(a, b, labels)
    assert sampled.gap == pytest.approx(whole.gap, abs=0.05)
    assert sampled == alignment(a, b, labels, limit=1000)


def test_what_does_not_fit_is_refused():
    a = torch.ones(4, 3)
    with pytest.raises(ValueError, match="a and b must both be"):
        retrieval_recall(a, a[:3])
    with pytest.raises(ValueError, match="k must be at least 1, but got 0"):
        retrieval_recall(a, a, (0,))
    with pytest.raises(ValueError, match="a and b must both be"):
        train_projections(a[:0], a[:0])
    with pytest.raises(ValueError, match="labels \\(n,\\)"):
        alignment(a, a, torch.zeros(3))
    with pytest.raises(ValueError, match="at least 2 classes, but there are 1"):
        alignment(a, a, torch.zeros(4))
