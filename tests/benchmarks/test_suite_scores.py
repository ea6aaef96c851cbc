"""The intervals of the suite's tables."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_problem import make_task

from condense.evaluation.comparison import Comparison, Sample, chosen_items
from condense.storage.store import Store

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import suite_scores
from suite_scores import METHODS, Draws, over_seeds, points, summary


def drawn(shape: tuple[int, ...], rate: torch.Tensor, seed: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < rate


@pytest.mark.parametrize("groups", [20, 400])
def test_intervals_cover_what_other_seeds_and_groups_would_give(groups: int) -> None:
    # Per-group accuracy varies around 0.7, per-seed accuracy around that; each world draws groups and seeds anew.
    covered, worlds, items = 0, 200, 400
    for world in range(worlds):
        generator = torch.Generator().manual_seed(world)
        of_group = 0.15 * torch.randn(groups, generator=generator)
        of_seed = 0.03 * torch.randn(8, 1, generator=generator)
        cluster = torch.arange(items) % groups
        hits = drawn((8, items), (0.7 + of_group[cluster] + of_seed).clamp(0, 1), 1000 + world)
        low, high = summary(Draws(cluster).means(hits), 0.0, 8)["ci95"]
        covered += low <= 0.7 <= high
    assert 0.88 <= covered / worlds <= 0.99


def test_items_alone_would_be_too_sure_of_groups() -> None:
    of_group = 0.2 * torch.randn(10, generator=torch.Generator().manual_seed(0))
    cluster = torch.arange(1000) % 10
    hits = drawn((3, 1000), (0.6 + of_group[cluster]).clamp(0, 1), 1)
    by_group, by_item = (
        summary(Draws(clusters).means(hits), 0.0, 3)["ci95"] for clusters in (cluster, torch.arange(1000))
    )
    assert by_group[1] - by_group[0] > 2 * (by_item[1] - by_item[0])


def test_a_bootstrap_mean_is_that_of_the_drawn_items() -> None:
    hits = torch.tensor([[True, False, True, True], [False, False, True, False]])
    draws = Draws(torch.tensor([0, 0, 1, 1]))
    found = draws.means(hits)
    # Both groups drawn twice each, in any way: every mean is one of these.
    per_seed = torch.tensor([[0.5, 1.0], [0.0, 0.5]])
    possible = {
        round(float(((a + b) / 2)[[g, h]].mean()), 6)
        for a in per_seed
        for b in per_seed
        for g in (0, 1)
        for h in (0, 1)
    }
    assert {round(value, 6) for value in found.tolist()} <= possible
    assert found.mean() == pytest.approx(0.5, abs=0.02)


def test_equal_methods_do_not_differ_in_any_draw() -> None:
    hits = drawn((3, 50), torch.tensor(0.5), 0)
    draws = Draws(torch.arange(50))
    assert (draws.means(hits) - draws.means(hits.clone())).abs().max() == 0


def test_over_seeds_is_student_t() -> None:
    found = over_seeds([0.1, 0.2, 0.3])
    assert found["ci95"] == pytest.approx([0.2 - 4.302653 * 0.1 / 3**0.5, 0.2 + 4.302653 * 0.1 / 3**0.5], rel=1e-6)
    assert over_seeds([0.5]) == {"mean": 0.5, "ci95": None, "n": 1}
    assert over_seeds([0.5, 0.5])["ci95"] is None  # no seed changes it: that is no certainty
    assert points(over_seeds([0.5]), True) == "+50.0"


@pytest.mark.parametrize("features", [False, True])
def test_features_are_not_judged_by_convnets(features: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task(("vision", "audio"))
    if features:
        task = dataclasses.replace(task, dataset=dataclasses.replace(task.dataset, source=task.dataset))
    comparison = Comparison(task, Store(tmp_path), convnet_steps=1, held_out="validation")
    trained = []

    def convnet(trainings: Any) -> list[float]:
        trained.extend(trainings)
        return [0.5] * len(trainings)

    monkeypatch.setattr(comparison, "convnet", convnet)
    monkeypatch.setattr(comparison, "full_convnet", lambda seeds: [0.6] * len(seeds))
    monkeypatch.setattr(suite_scores, "rank", lambda *_: {name: Sample((0.5, 0.6)) for name in ("lrs", "ars")})
    items = chosen_items(task, "random", 1, 0)
    found = suite_scores.measure(comparison, {name: [items, items] for name in METHODS if name != "full_data"}, 2)
    assert bool(trained) == (not features)
    assert all(("convnet" in of) == (not features) for of in found["methods"].values())
    assert bool(found["ranking"]) == (not features)
    recall = found["methods"]["herding"]["retrieval"]
    assert recall["mean"] == pytest.approx(comparison.retrieval(comparison.embed(items)), abs=1e-6)
    assert recall["ci95"][0] < recall["mean"] < recall["ci95"][1]  # over items, although all sets are the same
    assert found["differences"]["mmd"]["retrieval"]["ci95"] == [0.0, 0.0]
