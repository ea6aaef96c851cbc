"""A dataset of files that is encoded before a search: by the head's engine, and by another node's where that can be."""

from __future__ import annotations

import csv
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from PIL import Image
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from small_search import two_nodes_in

from condense.config.models import ManifestDataset
from condense.data.manifest import load_manifest
from condense.inputs.spec import ImageSpec
from condense.storage.store import Store
from search.engine import preparation
from search.engine.client import Client
from search.engine.pool import EnginePool
from search.engine.preparation import Preparation

pytestmark = pytest.mark.slow

# A user's own file. On the head it goes on after three batches only when `go` is there; the other node's makes it.
ENCODER = """
import os, time
from pathlib import Path
import torch
from condense.data import decoding
from condense.embeddings import encoding
from condense.inputs.spec import ImageSpec

encoding.LARGEST_BATCH, encoding.SHARD_SECONDS, decoding.CHUNK, decoding.WORTHWHILE = 4, 0.0, 2, 64
node, go = Path(os.environ["CONDENSE_CACHE"]), Path(__file__).parent / "go"

def specs(options):
    return {"vision": ImageSpec.of("vision", 1, 8, (0.5,), (0.5,))}

class Pixels:
    dim, fingerprint, output_scale = 6, "pixels", {"vision": 1.0}

    def __init__(self, specs):
        self.specs, self.batches = specs, 0
        self.matrix = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))

    def embed(self, modality, inputs):
        if len(inputs) == 4:
            self.batches += 1
            node.mkdir(exist_ok=True)
            with (node / "batches.txt").open("a") as file:
                file.write("4 items\\n")
            if node.name == "worker":
                go.touch()
            deadline = time.monotonic() + 100
            while self.batches > 3 and not go.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            time.sleep(0.05)  # for the other one to get some
        return torch.nn.functional.normalize(inputs.flatten(1) @ self.matrix, dim=1)

def build(options, dataset):
    return Pixels(dataset.specs)
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """Where the nodes' caches are, and the head's id."""
    folder = tmp_path_factory.mktemp("nodes")
    with two_nodes_in(folder, CONDENSE_WORKERS="2") as (head, _):
        yield folder, head


def write_task(folder: Path, seed: int) -> dict[str, Any]:
    """A manifest of 240 images to condense, and 8 of the other splits each; the task."""
    rows = [["split", "label", "vision"]]
    images = np.random.default_rng(seed).integers(0, 256, (256, 8, 8), np.uint8)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i}.png")
        rows.append(["train" if i < 240 else "validation" if i < 248 else "test", "ab"[i % 2], f"{i}.png"])
    with (folder / "mine.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    (folder / "pixels.py").write_text(ENCODER)
    return {
        "dataset": {"name": "manifest", "path": str(folder / "mine.csv")},
        "encoder": {"name": "python", "path": str(folder / "pixels.py")},
        "dpc": 1,
    }


@pytest.fixture
def prepare(cluster: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Preparation, list[str]]]:
    """(hear) -> a preparation with engines of its own, which end when they are idle for three seconds; what it says, too."""
    monkeypatch.setattr(preparation, "EVERY", 0.3)
    monkeypatch.setattr(preparation, "WORTHWHILE", 0.0)

    def make(hear: Callable[[str], None]) -> tuple[Preparation, list[str]]:
        here = NodeAffinitySchedulingStrategy(cluster[1], soft=False)
        pool = ray.remote(EnginePool).options(num_cpus=0, scheduling_strategy=here).remote(None, 3.0)
        said: list[str] = []

        def say(line: str) -> None:
            said.append(line)
            hear(line)

        return Preparation(pool, Client(pool, "preparation", cluster[1], ""), say, per_gpu=False), said

    return make


def test_another_node_does_some_of_the_batches(
    cluster: tuple[Path, str], prepare: Callable[..., tuple[Preparation, list[str]]], tmp_path: Path
) -> None:
    task = write_task(tmp_path, 0)
    work, said = prepare(lambda line: (tmp_path / "go").touch() if "does not help" in line else None)
    described = work.describe(task)
    assert work.describe(task) == described  # an engine that was busy for so long has not been idle
    assert described["items"] == {"condense": 240, "validation": 8}
    assert any(line.startswith("encoding mine.csv (condense): ") and "items/s" in line for line in said)
    assert said.count(f"asking {socket.gethostname()} to help encode") == 1
    assert not any("does not help" in line for line in said)
    head, worker = (len((cluster[0] / name / "batches.txt").read_text().splitlines()) for name in ("head", "worker"))
    assert worker > 0 and 3 < head < 62  # 60 and 2 of validation, had it been alone

    key = {"version": 1, **described["fingerprints"], "split": "condense"}
    found = Store(cluster[0] / "head").get("embeddings", key)
    assert found is not None
    specs = {"vision": ImageSpec.of("vision", 1, 8, (0.5,), (0.5,))}
    items = load_manifest(ManifestDataset(name="manifest", path=tmp_path / "mine.csv"), specs).condense.load(range(240))
    matrix = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    alone = [torch.nn.functional.normalize(x.flatten(1) @ matrix, dim=1) for x in items["vision"].split(4)]
    torch.testing.assert_close(found["vision"], torch.cat(alone), rtol=0, atol=0)
    assert not list((cluster[0] / "head/embeddings").glob("*.parts"))


def test_files_that_are_not_there_are_one_line_and_the_head_goes_on_alone(
    cluster: tuple[Path, str], prepare: Callable[..., tuple[Preparation, list[str]]], tmp_path: Path
) -> None:
    def hear(line: str) -> None:
        while not list(cluster[0].glob("head/embeddings/*.parts/shard/*.safetensors")):
            time.sleep(0.05)
        (tmp_path / "0.png").unlink(missing_ok=True)  # the head has read it; the other node has not
        if "does not help" in line:
            (tmp_path / "go").touch()

    task = write_task(tmp_path, 1)
    work, said = prepare(hear)
    assert work.describe(task)["items"]["condense"] == 240
    (line,) = [line for line in said if "does not help" in line]
    assert line.endswith("mine.csv: row 2, column `vision`: 0.png: no such file")
