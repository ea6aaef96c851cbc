"""The devices of a Ray cluster that this project's engines run on: GPUs, or nodes without one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from search.engine.pool import Device
from search.space.model import Resources

SECONDS_FOR_NAMES = 60.0  # a node must name its GPUs within these


@dataclass(frozen=True)
class Devices:
    """The devices of a cluster, for one search."""

    own: Device  # on the driver's node: prepares tasks, evaluates the baselines, writes exports
    workers: list[Device]  # devices for trials, the driver's node first; `own` if there are none


def find_devices(wanted: Resources) -> Devices:
    """The devices of the cluster that this process is connected to."""
    return devices(ray.nodes(), ray.get_runtime_context().get_node_id(), wanted, gpu_names)


def devices(
    nodes: Sequence[Mapping[str, Any]], here: str, wanted: Resources, names: Callable[[str, int], Sequence[str]]
) -> Devices:
    """The devices of a search. `nodes`: `ray.nodes()`; `here`: the driver's node; `wanted`: by a trial; `names`: see `gpu_names`.

    If trials take GPUs, nodes without one (also the driver's) run no trials: one slow device would delay the end of the
    search.
    """
    own, workers = (here, ""), []
    for node in sorted(nodes, key=lambda node: (node["NodeID"] != here, node["NodeID"])):
        if not node["Alive"]:
            continue
        name, resources = node["NodeID"], node["Resources"]
        count = int(resources.get("GPU", 0)) if wanted.gpus_per_trial else 0
        found = [(name, gpu) for gpu in names(name, count)] if count else [(name, "")]
        if name == here:
            own = found[0]
        if (count or not wanted.gpus_per_trial) and (wanted.node_kind is None or resources.get(wanted.node_kind)):
            workers += found
    return Devices(own, workers or [own])


def gpu_names(node: str, count: int) -> list[str]:
    """The names that Ray and the trials use for a node's GPUs: those in its CUDA_VISIBLE_DEVICES, if it is set."""
    where = NodeAffinitySchedulingStrategy(node, soft=False)
    asked = ray.remote(visible_gpus).options(num_cpus=0, max_retries=0, scheduling_strategy=where).remote()
    try:
        visible = ray.get(asked, timeout=SECONDS_FOR_NAMES)
    except ray.exceptions.RayError:  # the node is lost or overloaded: it would not answer other calls either
        visible = None
    own = visible.split(",") if visible else []
    return own if len(own) == count else [str(i) for i in range(count)]


def visible_gpus() -> str | None:
    """The same for this process. Ray leaves the variable unchanged if it assigned no GPU."""
    return os.environ.get("CUDA_VISIBLE_DEVICES")
