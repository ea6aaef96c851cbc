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

SECONDS_FOR_NAMES = 60.0  # how long a node may take to start a process that says what its GPUs are called


@dataclass(frozen=True)
class Devices:
    """Of a cluster, for one search."""

    own: Device  # of the driver's node: it prepares, evaluates the baselines and writes exports
    workers: list[Device]  # those that trials can run on, the driver's node's first; its own one if there are none


def find_devices(wanted: Resources) -> Devices:
    """`devices` of the cluster that this process is connected to."""
    return devices(ray.nodes(), ray.get_runtime_context().get_node_id(), wanted, gpu_names)


def devices(
    nodes: Sequence[Mapping[str, Any]], here: str, wanted: Resources, names: Callable[[str, int], Sequence[str]]
) -> Devices:
    """Which devices a search has. `nodes`: `ray.nodes()`; `here`: the driver's; `wanted`: by a trial; `names`: as `gpu_names`.

    Where trials take GPUs, nodes without one are for other work, the driver's included: one slow device would keep all others
    waiting at the end.
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
    """What Ray, and with it the trials, call the GPUs of a node: as its CUDA_VISIBLE_DEVICES does, if there is one."""
    where = NodeAffinitySchedulingStrategy(node, soft=False)
    asked = ray.remote(visible_gpus).options(num_cpus=0, max_retries=0, scheduling_strategy=where).remote()
    try:
        visible = ray.get(asked, timeout=SECONDS_FOR_NAMES)
    except ray.exceptions.RayError:  # gone, or out of breath; it would answer nothing else either
        visible = None
    own = visible.split(",") if visible else []
    return own if len(own) == count else [str(i) for i in range(count)]


def visible_gpus() -> str | None:
    """Of this process. Ray leaves the variable as it is where it has given out no GPU."""
    return os.environ.get("CUDA_VISIBLE_DEVICES")
