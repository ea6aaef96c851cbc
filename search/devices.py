"""The devices of a Ray cluster that this project's engines run on: GPUs, or nodes without one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from search.broker import Device

SECONDS_FOR_NAMES = 60.0  # how long a node may take to start a process that says what its GPUs are called


def find_devices(gpus: bool) -> list[Device]:
    """`devices` of the cluster that this process is connected to; its own node's first."""
    return devices(ray.nodes(), ray.get_runtime_context().get_node_id(), gpus, gpu_names)


def devices(
    nodes: Sequence[Mapping[str, Any]], own: str, gpus: bool, names: Callable[[str, int], Sequence[str]]
) -> list[Device]:
    """Every device that settings can run on, the own node's first.

    `nodes`: `ray.nodes()`; `gpus`: whether trials take some; `names`: as `gpu_names`.
    """
    found = []
    for node in sorted(nodes, key=lambda node: (node["NodeID"] != own, node["NodeID"])):
        if node["Alive"]:
            count = int(node["Resources"].get("GPU", 0)) if gpus else 0
            found += [(node["NodeID"], name) for name in (names(node["NodeID"], count) if count else ())]
            # A head without a GPU writes the exports, and has to take part; other nodes without one are for other work.
            if not count and (not gpus or node["NodeID"] == own):
                found.append((node["NodeID"], ""))
    return found


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
