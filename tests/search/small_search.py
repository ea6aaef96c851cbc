"""A search that is over in seconds: three classes of tensors, random towers, a few steps; and two nodes on one machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SHAPES = {"vision": (1, 8, 8), "audio": (1, 32, 32)}
ENCODER = {"name": "tiny", "pretraining": "none", "width": 4, "dim": 8, "image_size": 8}
SMALL: dict[str, Any] = {
    "name": "small",
    "tasks": [{"dataset": {"name": "tensors", "path": "data.safetensors"}, "encoder": ENCODER, "dpc": 1}],
    "fixed": {"lambda_uni": 1.0, "num_frequencies": 16, "frequency_pool": 64},
    "search": {
        "lambda_cross": {"low": 0.01, "high": 100, "log": True},
        "frequency_scale": {"low": 0.1, "high": 4, "log": True},
        "learning_rate_vision": {"low": 0.3, "high": 100, "log": True},
    },
    "steps": 6,
    "report_every": 2,
    "trials": 6,
    "seeds": 2,
    "sampler": {"startup_trials": 3},
    "max_concurrent": 2,
    "confirmation": {"top_k": 2, "seeds": 3, "perturbations": 2, "reported_perturbations": 3, "tuned_rates": 2},
}
NO_CONFIRMATION = {"top_k": 1, "seeds": 2, "perturbations": 0, "reported_perturbations": 0, "tuned_rates": 0}
# Such a search is exactly repeatable; its trials are enough for a surface.
ONE_AT_A_TIME: dict[str, Any] = {"trials": 10, "max_concurrent": 1}


def small_tensors(per_class: int = 40) -> dict[str, Tensor]:
    """Each class is a pattern per modality under noise; train and test, as `tensors` reads them."""
    generator = torch.Generator().manual_seed(0)
    patterns = {name: torch.randn(3, *shape, generator=generator) for name, shape in SHAPES.items()}
    tensors = {}
    for split, count in (("train", per_class), ("test", 20)):
        labels = torch.arange(3).repeat(count)
        tensors[f"{split}/label"] = labels
        for name, pattern in patterns.items():
            noise = torch.randn(len(labels), *SHAPES[name], generator=generator)
            tensors[f"{split}/{name}"] = pattern[labels] / 2 + noise
    return tensors


@contextlib.contextmanager
def two_nodes_in(folder: Path, worker: Mapping[str, str] | None = None, **variables: str) -> Iterator[tuple[str, str]]:
    """A cluster of two nodes, whose caches are the folders `head` and `worker`; their ids, the driver's first. `variables` of the
    environment of both; those of `worker` are only its own."""
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()
    cluster = Cluster()
    nodes = [
        cluster.add_node(
            num_cpus=1, include_dashboard=False, env_vars={"CONDENSE_CACHE": str(folder / name), **variables, **own}
        )
        for name, own in (("head", {}), ("worker", worker or {}))
    ]
    try:
        ray.init(address=cluster.address, logging_level=40)
        cluster.wait_for_nodes()
        yield nodes[0].node_id, nodes[1].node_id
    finally:
        ray.shutdown()
        cluster.shutdown()
