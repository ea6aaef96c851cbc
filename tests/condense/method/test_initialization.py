"""The choice of real items, against plain numpy loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from condense.method.initialization import choose

GREEDY = ("herding", "k_center")
METHODS = ("random", *GREEDY)


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


@pytest.mark.parametrize("method", METHODS)
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
    with pytest.raises(ValueError, match="random, herding, k_center, but got 'noise'"):
        choose("noise", features, labels, 1, 3, generator())  # type: ignore[arg-type]
