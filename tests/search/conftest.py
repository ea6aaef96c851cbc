"""What the tests of the search share: a small search, its process, and the report of one that has not been run."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_search import fake_search
from ray.cluster_utils import Cluster
from report_page import Page
from safetensors.torch import save_file
from search_process import SearchProcess
from small_search import ONE_AT_A_TIME, SMALL, small_tensors

from search.report.page import write_html


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


@pytest.fixture
def boot() -> Iterator[Callable[[int], Cluster]]:
    """Starts a head with so many cores for trials."""
    made: list[Cluster] = []

    def begin(cores: int) -> Cluster:
        made.append(Cluster(initialize_head=True, head_node_args={"num_cpus": cores, "include_dashboard": False}))
        return made[-1]

    yield begin
    for cluster in made:
        cluster.shutdown()


@pytest.fixture(scope="session")
def whole_search(
    tmp_path_factory: pytest.TempPathFactory, start: Callable[..., SearchProcess], write_space: Callable[..., Path]
) -> tuple[Path, SearchProcess]:
    """(output folder, process) of an undisturbed search of 10 trials, one at a time, which has ended."""
    folder = tmp_path_factory.mktemp("whole")
    search = start("--space", write_space(folder, **ONE_AT_A_TIME), "--output", folder / "out")
    search.finish()
    return folder / "out", search


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The report's page of a complete, made-up search."""
    return Page(write_html(tmp_path_factory.mktemp("report"), *fake_search()))
