"""Seeds are added where the decision is open: who gets them, why it stops, and how often it errs, on a truth that is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from search.analysis.paired import Items, Outcome, Paired, difference
from search.analysis.sequential import looks
from search.confirmation.elimination import Settled, compare_in_looks

SEEDS, COMPARED = 20, 41


@dataclass
class Setting:
    label: str
    rate: float
    noise: float = 0.02  # of a seed
    seeds: int = 0
    mean: float = -math.inf


class Known:
    """Settings that get an item right where its difficulty is below their rate, with noise of items and seeds."""

    def __init__(self, items: int, seed: int = 0, own: float = 0.05) -> None:
        self.seed, self.own = seed, own
        self.difficulty = np.random.default_rng(seed).uniform(size=items)
        self.ran: list[tuple[str, int]] = []

    def outcome(self, setting: Setting, n: int) -> Outcome:
        key = sum(map(ord, setting.label))
        own = np.random.default_rng([self.seed, key]).normal(0, self.own, len(self.difficulty))
        hits = []
        for seed in range(n):
            rng = np.random.default_rng([self.seed, key, seed])
            shift = rng.normal(0, setting.noise) + rng.normal(0, setting.noise, len(own))
            hits.append(self.difficulty + own + shift < setting.rate)
        return Outcome(np.mean(hits, 1).tolist(), [np.stack(hits)])

    def run(self, some: Sequence[Setting], n: int) -> None:
        for c in some:
            self.ran += [(c.label, i) for i in range(c.seeds, n)]
            c.seeds = n
            c.mean = -math.inf if math.isnan(c.rate) else float(np.mean(self.outcome(c, n).scores))

    def compare(self, a: Setting, b: Setting, n: int, of: int) -> Paired:
        return difference(self.outcome(a, n), self.outcome(b, n), [Items(len(self.difficulty))], of)

    def settle(
        self,
        candidates: Sequence[Setting],
        published: Sequence[Setting],
        preferred: str | None = None,
        affords: Callable[[int], bool] = lambda _: True,
    ) -> Settled:
        return compare_in_looks(
            candidates, published, preferred, looks(SEEDS), COMPARED, self.run, self.compare, affords
        )


def test_what_is_clear_is_decided_at_the_first_look() -> None:
    known = Known(1000)
    settled = known.settle([Setting("a", 0.9, 0.002)], [Setting("p", 0.7, 0.002)])
    assert (settled.stopped, settled.shown, settled.seeds, settled.best) == ("decided", ["a"], 4, "p")
    assert known.ran == [(label, seed) for label in "ap" for seed in range(4)]
    assert settled.found["a"].low > 0


def test_what_items_cannot_tell_gets_no_more_seeds() -> None:
    quiet = 0.002
    settled = Known(200).settle(
        [Setting("a", 0.80, quiet), Setting("b", 0.5, quiet)], [Setting("p", 0.80, quiet), Setting("q", 0.78, quiet)]
    )
    assert (settled.stopped, settled.shown, settled.seeds) == ("items", [], 4)
    assert settled.found["a"].low <= 0


def open_one() -> tuple[Known, list[Setting], list[Setting]]:
    """Noise of seeds hides a difference that items show; another candidate is far behind, and so is a published setting."""
    return Known(4000, own=0.01), [Setting("a", 0.8, 0.05), Setting("b", 0.4)], [Setting("p", 0.69), Setting("q", 0.3)]


def test_only_what_is_open_gets_more_seeds() -> None:
    known, candidates, published = open_one()
    settled = known.settle(candidates, published)
    assert settled.stopped == "decided" and settled.shown == ["a"] and 4 < settled.seeds <= 20
    assert [c.seeds for c in (*candidates, *published)] == [settled.seeds, 4, settled.seeds, 4]


def test_a_budget_ends_it_while_it_is_open() -> None:
    known, candidates, published = open_one()
    asked: list[int] = []
    settled = known.settle(candidates, published, affords=lambda runs: bool(asked.append(runs)))
    assert settled.stopped == "budget" and settled.shown == [] and settled.seeds == 4
    assert asked[0] == 2 * (7 - 4)  # the candidate and the published setting that are in question


def test_the_preferred_one_is_waited_for() -> None:
    known, (a, _), _ = open_one()
    clear, p = Setting("c", 0.95, 0.002), Setting("p", 0.69, 0.002)
    settled = known.settle([clear, a], [p])
    assert settled.shown == ["c"] and settled.seeds == 4
    known, (a, _), _ = open_one()
    clear, p = Setting("c", 0.95, 0.002), Setting("p", 0.69, 0.002)
    settled = known.settle([clear, a], [p], preferred="a")
    assert settled.seeds > 4 and set(settled.shown) == {"a", "c"}


def test_what_diverges_is_left_out() -> None:
    nan = math.nan
    settled = Known(500).settle([Setting("a", nan), Setting("b", 0.9)], [Setting("p", nan), Setting("q", 0.7)])
    assert settled.best == "q" and settled.shown == ["b"] and "a" not in settled.found
    assert Known(500).settle([Setting("b", 0.9)], [Setting("p", nan)]).best is None


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("items", "own", "noise"), [(300, 0.05, 0.01), (300, 0.05, 0.05), (1000, 0.02, 0.1)])
def test_without_a_true_difference_at_most_one_search_in_twenty_recommends(
    items: int, own: float, noise: float
) -> None:
    """The best four of forty equal settings on three other seeds, against the best of three published ones."""
    wrong, searches = 0, 150
    for seed in range(searches):
        known = Known(items, seed, own)
        trials = [Setting(f"trial {i}", 0.8, noise) for i in range(40)]
        first = {c.label: float(np.mean(known.outcome(c, 23).scores[20:])) for c in trials}
        top = sorted(trials, key=lambda c: -first[c.label])[:4]
        wrong += bool(known.settle(top, [Setting(f"published {i}", 0.8, noise) for i in range(3)]).shown)
    assert wrong <= 0.05 * searches


def test_the_same_runs_take_the_same_way() -> None:
    first, again = (known.settle(candidates, published) for known, candidates, published in (open_one(), open_one()))
    assert first == again


def test_with_a_small_budget_those_that_lead_go_on() -> None:
    known, (a, _), (p, _) = open_one()
    behind = Setting("d", 0.77, 0.05)
    settled = known.settle([behind, a], [p], affords=lambda runs: runs in (6, 10, 16))  # of two settings
    assert a.seeds == settled.seeds > behind.seeds == 4
