"""A search that is over in seconds: three classes of tensors, random towers, a few steps."""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fake_search import fake_search
from report_page import Page
from safetensors.torch import save_file
from search_process import SearchProcess
from torch import Tensor

from search.report.page import write_html

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
    "confirmation": {"top_k": 2, "seeds": 3},
}
ONE_AT_A_TIME: dict[str, Any] = {"trials": 8, "max_concurrent": 1}  # such a search is exactly repeatable


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
def two_nodes_in(folder: Path, **variables: str) -> Iterator[tuple[str, str]]:
    """A cluster of two nodes, whose caches are the folders `head` and `worker`; their ids, the driver's first."""
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()
    cluster = Cluster()
    nodes = [
        cluster.add_node(
            num_cpus=1, include_dashboard=False, env_vars={"CONDENSE_CACHE": str(folder / name), **variables}
        )
        for name in ("head", "worker")
    ]
    try:
        ray.init(address=cluster.address, logging_level=40)
        cluster.wait_for_nodes()
        yield nodes[0].node_id, nodes[1].node_id
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="session", autouse=True)
def _environment() -> Iterator[None]:
    """Of this process and the ones that tests start: one thread each, and Ray's files in a folder that is removed."""
    # Sockets lie in it, whose paths may have about 100 characters: pytest's own folders are too deep.
    ray_folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    wanted = {
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": ray_folder,
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    unwanted = ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")
    before = {key: os.environ.get(key) for key in (*wanted, *unwanted)}
    os.environ.update(wanted)
    for key in unwanted:
        os.environ.pop(key, None)
    yield
    for key, value in before.items():
        os.environ.pop(key, None)
        if value is not None:
            os.environ[key] = value
    shutil.rmtree(ray_folder, ignore_errors=True)


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of `small_tensors`."""
    path = tmp_path_factory.mktemp("data") / "data.safetensors"
    save_file(small_tensors(), path)
    return path


@pytest.fixture(scope="session")
def write_space(small_data: Path) -> Callable[..., Path]:
    """(folder, **changes of top-level keys) -> a space's YAML in it, by default on `small_data`."""

    def write(folder: Path, **changes: Any) -> Path:
        space = {**copy.deepcopy(SMALL), **changes}
        for task in space["tasks"]:
            if task["dataset"]["path"] == "data.safetensors":
                task["dataset"]["path"] = str(small_data)
        path = folder / f"{space['name']}.yaml"
        path.write_text(yaml.safe_dump(space))
        return path

    return write


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., SearchProcess]]:
    """(*arguments) -> a running `search/run.py`; what still runs at the end is killed."""
    started: list[SearchProcess] = []

    def begin(*arguments: object) -> SearchProcess:
        started.append(SearchProcess(tmp_path_factory.mktemp("run"), *map(str, arguments)))
        return started[-1]

    yield begin
    for search in started:
        search.kill()


@pytest.fixture(scope="session")
def whole_search(
    tmp_path_factory: pytest.TempPathFactory, start: Callable[..., SearchProcess], write_space: Callable[..., Path]
) -> tuple[Path, SearchProcess]:
    """(output folder, process) of an undisturbed search of 8 trials, one at a time, which has ended."""
    folder = tmp_path_factory.mktemp("whole")
    search = start("--space", write_space(folder, **ONE_AT_A_TIME), "--output", folder / "out")
    search.finish()
    return folder / "out", search


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The report's page of a complete, made-up search."""
    return Page(write_html(tmp_path_factory.mktemp("report"), *fake_search()))
