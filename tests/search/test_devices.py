"""Which devices of a cluster take part, and what they are called."""

from __future__ import annotations

from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from search.devices import devices, find_devices


def node(name: str, gpus: int = 0, alive: bool = True) -> dict[str, Any]:
    return {"NodeID": name, "Alive": alive, "Resources": {"CPU": 4.0} | ({"GPU": float(gpus)} if gpus else {})}


def numbered(_: str, count: int) -> list[str]:
    return [str(i) for i in range(count)]


def test_every_node_of_a_cluster_without_gpus_takes_part_this_one_first() -> None:
    nodes = [node("a"), node("head"), node("b"), node("lost", alive=False)]
    assert devices(nodes, "head", gpus=False, names=numbered) == [("head", ""), ("a", ""), ("b", "")]


def test_every_gpu_takes_part_and_a_head_without_one() -> None:
    nodes = [node("a", gpus=2), node("head"), node("cpu only")]
    assert devices(nodes, "head", gpus=True, names=numbered) == [("head", ""), ("a", "0"), ("a", "1")]
    assert devices([node("head", gpus=1), node("a", gpus=1)], "head", gpus=True, names=numbered) == [
        ("head", "0"),
        ("a", "0"),
    ]


@pytest.mark.slow
def test_gpus_have_the_names_that_their_node_gives_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those that this process would give them: it may not be a child of its node."""
    cluster = Cluster()
    head = cluster.add_node(num_cpus=1, num_gpus=1, include_dashboard=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")  # a node's process takes it over; Ray counts what it is told to
    other = cluster.add_node(num_cpus=1, num_gpus=2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6")
    try:
        ray.init(address=cluster.address, logging_level=40)
        cluster.wait_for_nodes()
        found = find_devices(gpus=True)
        assert found == [(head.node_id, "0"), (other.node_id, "3"), (other.node_id, "5")]
        where = NodeAffinitySchedulingStrategy(other.node_id, soft=False)
        given = ray.remote(ray.get_gpu_ids).options(num_gpus=2, scheduling_strategy=where).remote()
        assert {str(name) for name in ray.get(given)} == {"3", "5"}  # as trials there are told
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_gpus_that_the_space_does_not_ask_for_are_left_alone() -> None:
    assert devices([node("head", gpus=2)], "head", gpus=False, names=numbered) == [("head", "")]
