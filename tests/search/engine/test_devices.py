"""Which devices of a cluster take part, and what they are called."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from search_process import SearchProcess

from search.engine.devices import Devices, devices, find_devices
from search.space.model import Resources


def node(name: str, gpus: int = 0, alive: bool = True, **more: float) -> dict[str, Any]:
    gpu = {"GPU": float(gpus)} if gpus else {}
    return {"NodeID": name, "Alive": alive, "Resources": {"CPU": 4.0} | gpu | more}


def numbered(_: str, count: int) -> list[str]:
    return [str(i) for i in range(count)]


ACTORS = ("EngineActor", "ImplicitFunc")  # engines, trials
CPUS, GPUS = Resources(), Resources(gpus_per_trial=0.5)


def test_every_node_of_a_cluster_without_gpus_takes_part_this_one_first() -> None:
    nodes = [node("a"), node("head"), node("b"), node("lost", alive=False)]
    found = devices(nodes, "head", CPUS, numbered)
    assert found == Devices(("head", ""), [("head", ""), ("a", ""), ("b", "")])


def test_every_gpu_takes_part_and_no_node_without_one() -> None:
    nodes = [node("a", gpus=2), node("head"), node("cpu only")]
    assert devices(nodes, "head", GPUS, numbered) == Devices(("head", ""), [("a", "0"), ("a", "1")])
    both = [node("a", gpus=1), node("head", gpus=1)]
    assert devices(both, "head", GPUS, numbered) == Devices(("head", "0"), [("head", "0"), ("a", "0")])
    assert devices([node("head")], "head", GPUS, numbered) == Devices(("head", ""), [("head", "")])


def test_only_nodes_of_the_kind_that_is_asked_for_take_part() -> None:
    nodes = [node("head", gpus=1), node("a", gpus=2, a100=1.0), node("b", gpus=1), node("c", a100=1.0)]
    wanted = GPUS.model_copy(update={"node_kind": "a100"})
    assert devices(nodes, "head", wanted, numbered) == Devices(("head", "0"), [("a", "0"), ("a", "1")])
    wanted = CPUS.model_copy(update={"node_kind": "a100"})
    assert devices(nodes, "head", wanted, numbered) == Devices(("head", ""), [("a", ""), ("c", "")])


@pytest.mark.faults
def test_a_search_on_one_kind_of_nodes(
    start: Callable[..., SearchProcess], write_space: Callable[..., Path], tmp_path: Path
) -> None:
    """On a head that is not of that kind: it writes the report and the exports, but runs nothing else."""
    cluster = Cluster()
    head = cluster.add_node(num_cpus=1, include_dashboard=False)
    worker = cluster.add_node(num_cpus=1, resources={"a100": 1})
    output = tmp_path / "out"
    confirmation = {"top_k": 1, "seeds": 2, "tuned_rates": 0}
    space = write_space(tmp_path, trials=4, confirmation=confirmation, resources={"node_kind": "a100"})
    try:
        ray.init(address=cluster.address, logging_level=40)
        search = start("--space", space, "--output", output, "--address", cluster.address)
        assert search.finish() == 0, search.said()
        at: dict[str, set[str]] = {name: set() for name in ACTORS}
        for actor in ray._private.state.actors().values():  # also those that are gone; the public way needs a dashboard
            if actor["StartTime"]:  # before that, the node is the one that is asked where to place it
                at.get(actor["ActorClassName"].rpartition(".")[2], set()).add(actor["Address"]["NodeID"])
        assert at == {"EngineActor": {head.node_id, worker.node_id}, "ImplicitFunc": {worker.node_id}}
    finally:
        ray.shutdown()
        cluster.shutdown()
    settings = [json.loads(file.read_text()) for file in (output / "confirmation").glob("*.json")]
    assert {run["node"] for known in settings for run in known.get("runs", {}).values()} == {worker.node_id}
    assert (output / "condensed" / "overview.png").is_file() and (output / "report.html").is_file()


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
        found = find_devices(GPUS)
        assert found.own == (head.node_id, "0")
        assert found.workers == [(head.node_id, "0"), (other.node_id, "3"), (other.node_id, "5")]
        where = NodeAffinitySchedulingStrategy(other.node_id, soft=False)
        given = ray.remote(ray.get_gpu_ids).options(num_gpus=2, scheduling_strategy=where).remote()
        assert {str(name) for name in ray.get(given)} == {"3", "5"}  # as trials there are told
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_gpus_that_the_space_does_not_ask_for_are_left_alone() -> None:
    assert devices([node("head", gpus=2)], "head", CPUS, numbered) == Devices(("head", ""), [("head", "")])
