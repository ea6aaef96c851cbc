"""Where settings are run after the trials."""

from __future__ import annotations

from typing import Any

import pytest

from search.closing import devices


def node(name: str, gpus: int = 0, alive: bool = True) -> dict[str, Any]:
    return {"NodeID": name, "Alive": alive, "Resources": {"CPU": 4.0} | ({"GPU": float(gpus)} if gpus else {})}


def test_every_node_of_a_cluster_without_gpus_takes_part_this_one_first() -> None:
    nodes = [node("a"), node("head"), node("b"), node("lost", alive=False)]
    assert devices(nodes, "head", gpus=False) == [("head", ""), ("a", ""), ("b", "")]


def test_every_gpu_takes_part_and_a_head_without_one() -> None:
    nodes = [node("a", gpus=2), node("head"), node("cpu only")]
    assert devices(nodes, "head", gpus=True) == [("head", ""), ("a", "0"), ("a", "1")]
    assert devices([node("head", gpus=1), node("a", gpus=1)], "head", gpus=True) == [("head", "0"), ("a", "0")]


def test_gpus_have_the_names_that_this_machine_gives_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    nodes = [node("head", gpus=2), node("a", gpus=1)]
    assert devices(nodes, "head", gpus=True) == [("head", "3"), ("head", "5"), ("a", "0")]


def test_gpus_that_the_space_does_not_ask_for_are_left_alone() -> None:
    assert devices([node("head", gpus=2)], "head", gpus=False) == [("head", "")]
