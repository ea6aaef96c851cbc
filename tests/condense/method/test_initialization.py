"""The choice of real items, against plain numpy loops, brute force and scikit-learn."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from condense.method.initialization import choose, clusters, k_center, k_means

GREEDY = ("herding", "k_center")
DETERMINISTIC = (*GREEDY, "k_means")
METHODS = ("random", *DETERMINISTIC)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def problem(seed: int, sizes: list[int], d: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Shuffled items of classes with these sizes: features (n, d), labels (n,)."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    features = rng.normal(size=(len(labels), d)) + rng.normal(size=(len(sizes), d))[labels]
    return torch.tensor(features, dtype=torch.float32), torch.tensor(labels)


def herd_by_loops(x: np.ndarray, dpc: int) -> list[int]:
    chosen: list[int] = []
    for _ in range(dpc):
        free = [i for i in range(len(x)) if i not in chosen]
        chosen.append(min(free, key=lambda i: float(np.linalg.norm(x.mean(0) - x[[*chosen, i]].mean(0)))))
    return chosen


def centres_by_loops(x: np.ndarray, dpc: int) -> list[int]:
    chosen = [min(range(len(x)), key=lambda i: float(np.linalg.norm(x[i] - x.mean(0))))]
    while len(chosen) < dpc:
        free = [i for i in range(len(x)) if i not in chosen]
        chosen.append(max(free, key=lambda i: min(float(np.linalg.norm(x[i] - x[j])) for j in chosen)))
    return chosen


@pytest.mark.parametrize(("method", "by_loops"), [("herding", herd_by_loops), ("k_center", centres_by_loops)])
@given(
    seed=st.integers(0, 2**32 - 1), sizes=st.lists(st.integers(4, 12), min_size=1, max_size=3), dpc=st.integers(1, 4)
)
def test_greedy_choices_equal_plain_loops(method, by_loops, seed, sizes, dpc):
    features, labels = problem(seed, sizes)
    expected: list[int] = []
    for c in range(len(sizes)):
        members = np.flatnonzero(labels.numpy() == c)
        expected += members[by_loops(features.double().numpy()[members], dpc)].tolist()
    assert choose(method, features, labels, len(sizes), dpc, generator()).tolist() == expected


@pytest.mark.parametrize("method", METHODS)
@given(seed=st.integers(0, 2**32 - 1), sizes=st.lists(st.integers(3, 9), min_size=1, max_size=4), dpc=st.integers(1, 3))
def test_items_are_unique_of_the_right_class_and_class_major(method, seed, sizes, dpc):
    features, labels = problem(seed, sizes)
    chosen = choose(method, features, labels, len(sizes), dpc, generator(seed))
    assert chosen.dtype == torch.int64
    assert len(set(chosen.tolist())) == len(sizes) * dpc
    assert labels[chosen].tolist() == np.repeat(np.arange(len(sizes)), dpc).tolist()


@pytest.mark.parametrize("method", GREEDY)
@given(seed=st.integers(0, 2**32 - 1))
def test_order_of_the_items_does_not_matter_to_greedy_choices(method, seed):
    features, labels = problem(seed, [8, 11])
    shuffle = torch.tensor(np.random.default_rng(seed).permutation(len(labels)))
    straight = choose(method, features, labels, 2, 4, generator())
    shuffled = choose(method, features[shuffle], labels[shuffle], 2, 4, generator())
    assert shuffle[shuffled].tolist() == straight.tolist()


@pytest.mark.parametrize("method", METHODS)
def test_a_whole_class_and_duplicates(method):
    features, labels = torch.ones(6, 3), torch.tensor([0, 0, 0, 1, 1, 1])
    assert sorted(choose(method, features, labels, 2, 3, generator()).tolist()) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("method", ["random", *GREEDY])  # not k_means: its clusters change with the budget
def test_a_smaller_budget_is_the_beginning_of_a_larger_one(method):
    features, labels = problem(3, [20, 30])
    small = choose(method, features, labels, 2, 2, generator()).view(2, 2)
    large = choose(method, features, labels, 2, 9, generator()).view(2, 9)
    assert torch.equal(large[:, :2], small)


def test_only_random_depends_on_the_generator_and_nothing_on_the_global_one():
    features, labels = problem(0, [30, 30])
    state = torch.get_rng_state()
    for method in METHODS:
        first, again, other = (choose(method, features, labels, 2, 5, generator(seed)).tolist() for seed in (0, 0, 1))
        assert first == again
        assert (first != other) == (method == "random")
    assert torch.equal(torch.get_rng_state(), state)


def test_random_is_uniform_over_a_class():
    labels = torch.tensor([0] * 5 + [1] * 5)
    draw = generator()
    picks = torch.cat([choose("random", torch.zeros(10, 1), labels, 2, 2, draw) for _ in range(1000)])
    counts = torch.bincount(picks, minlength=10)  # 400 expected, standard deviation 15.5
    assert bool(((counts - 400).abs() < 5 * 15.5).all())


@pytest.mark.parametrize("method", METHODS)
def test_a_class_that_is_too_small_is_named(method):
    features, labels = problem(0, [5, 2, 5])
    with pytest.raises(ValueError, match="class 1 has 2 items, but dpc is 3"):
        choose(method, features, labels, 3, 3, generator())


def test_an_unknown_method_is_refused():
    features, labels = problem(0, [5])
    with pytest.raises(ValueError, match="random, herding, k_center, k_means, but got 'noise'"):
        choose("noise", features, labels, 1, 3, generator())  # type: ignore[arg-type]


def inertia(x: np.ndarray, owner: np.ndarray) -> float:
    """Summed squared distances to the means of the clusters."""
    return sum(float(np.square(x[owner == c] - x[owner == c].mean(0)).sum()) for c in np.unique(owner))


def best_partition(x: np.ndarray, k: int) -> np.ndarray:
    """(n,): of all partitions into at most k clusters the one with the smallest inertia."""
    owners = np.array(list(itertools.product(range(k), repeat=len(x))))
    members = owners[:, :, None] == np.arange(k)  # (k**n, n, k)
    sums = np.einsum("pnk,nd->pkd", members, x)
    inertias = np.square(x).sum() - (np.square(sums).sum(2) / np.maximum(1, members.sum(1))).sum(1)
    return owners[inertias.argmin()]


def groups(seed: int, sizes: list[int], spread: float) -> torch.Tensor:
    """Shuffled points (n, 4) around as many corners, which are 1 apart."""
    rng = np.random.default_rng(seed)
    corners = np.eye(4)[: len(sizes)] / np.sqrt(2)
    points = np.repeat(corners, sizes, 0) + spread * rng.normal(size=(sum(sizes), 4))
    return torch.tensor(rng.permutation(points))


@given(seed=st.integers(0, 2**32 - 1))
def test_k_means_finds_clusters_as_good_as_those_of_scikit_learn(seed):
    x = groups(seed, [25, 15, 10, 5], spread=0.05)
    centres, owner = clusters(x, k_center(x, 4))
    reference = KMeans(4, n_init=10, random_state=0).fit(x.numpy())
    assert inertia(x.numpy(), owner.numpy()) == pytest.approx(reference.inertia_)
    assert float((x - centres[owner]).square().sum()) == pytest.approx(reference.inertia_)


@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 3))
def test_k_means_ends_where_neither_a_centre_nor_an_item_moves(seed, k):
    """No worse than it started, no better than the best of all partitions, and that itself where the clusters are plain."""
    x = torch.tensor(np.random.default_rng(seed).normal(size=(8, 4)))
    plain = groups(seed, [4, 3, 1][:k], spread=0.05)
    for points in (x, plain):
        start = k_center(points, k)
        centres, owner = clusters(points, start)
        assert torch.equal(torch.cdist(points, centres).argmin(1), owner)
        for c in range(k):
            torch.testing.assert_close(centres[c], points[owner == c].mean(0))
        found = inertia(points.numpy(), owner.numpy())
        assert found <= float(torch.cdist(points, points[start]).amin(1).square().sum()) + 1e-9
        best = inertia(points.numpy(), best_partition(points.numpy(), k))
        assert found == pytest.approx(best) if points is plain else found >= best - 1e-9


@given(seed=st.integers(0, 2**32 - 1))
def test_medoids_are_those_of_the_best_partition_largest_cluster_first(seed):
    points = groups(seed, [4, 3, 1], spread=0.05)
    x = points.numpy()
    owner = best_partition(x, 3)
    expected = []
    for size in (4, 3, 1):
        (members,) = (np.flatnonzero(owner == c) for c in range(3) if (owner == c).sum() == size)
        expected.append(members[np.square(x[members] - x[members].mean(0)).sum(1).argmin()])
    assert k_means(points, 3).tolist() == expected
    shuffle = torch.tensor(np.random.default_rng(seed).permutation(8))
    assert shuffle[k_means(points[shuffle], 3)].tolist() == expected


def test_medoids_are_different_and_ties_go_to_the_first():
    equal = torch.tensor([[0.0], [0.0], [0.0], [0.0], [5.0]]).double()
    assert k_means(equal, 4).tolist() == [0, 4, 1, 2]
    pairs = torch.tensor([[0.1], [0.3], [9.1], [11.7]]).double()  # both of a pair are equally far from its centre
    assert k_means(pairs, 2).tolist() == [2, 0]
    assert k_means(pairs.flip(0), 2).tolist() == [0, 2]
    assert k_means(equal, 0).tolist() == []
