"""Decoding in worker processes: the same items in the same order, the same messages, and nobody left behind."""

from __future__ import annotations

import csv
import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from condense.__main__ import main
from condense.config.models import ManifestDataset
from condense.data import decoding
from condense.data.decoding import cut, decoded, worker_count, workers_for
from condense.data.manifest import ManifestSplit, load_manifest
from condense.embeddings import encoding
from condense.inputs.spec import ArraySpec, ImageSpec, InputSpec, LogMelSpec
from condense.system.errors import UserError
from condense.system.process import cores

ROOT = Path(__file__).parents[3]
SPECS: dict[str, InputSpec] = {
    "vision": ImageSpec.of("vision", 1, 8, (0.5,), (0.5,)),
    "audio": LogMelSpec.of(8, 5),
}


def write_manifest(folder: Path, train: int) -> Path:
    """So many train items, and 4 of validation and test each; every fifth has no sound. The CSV."""
    rows = [["split", "label", "vision", "audio"]]
    for i in range(train + 8):
        rng = np.random.default_rng(i)
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(folder / f"{i}.png")
        if i % 5 != 3:
            soundfile.write(folder / f"{i}.wav", rng.uniform(-0.5, 0.5, 800), 16_000)
        split = "train" if i < train else "validation" if i < train + 4 else "test"
        rows.append([split, "ab"[i % 2], f"{i}.png", f"{i}.wav" if i % 5 != 3 else ""])
    with (folder / "mine.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / "mine.csv"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> ManifestSplit:
    path = write_manifest(tmp_path_factory.mktemp("manifest"), 30)
    split = load_manifest(ManifestDataset(name="manifest", path=path), SPECS).condense
    assert isinstance(split, ManifestSplit)
    return split


class Local(ArraySpec):
    """Sent to another process, it would not be found: `<locals>`, as in an encoder's own file."""

    def __reduce__(self) -> str:
        return "no such name"


class Dying(ManifestSplit):
    """Ends every process but the first as a decoder's crash would."""

    def load(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        if multiprocessing.parent_process() is not None and 12 in indices:
            os._exit(1)
        return super().load(indices)


@pytest.fixture
def broken(manifest: ManifestSplit) -> ManifestSplit:
    """Item 17's sound is none."""
    rows = list(manifest.rows)
    (manifest.csv_path.parent / "torn.wav").write_bytes(b"RIFF")
    rows[17] = dataclasses.replace(rows[17], cells=(rows[17].cells[0], "torn.wav"))
    return dataclasses.replace(manifest, rows=tuple(rows))


def test_processes_give_what_this_one_does(manifest: ManifestSplit, monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = cut(range(30), 4)
    expected = [manifest.load(chunk) for chunk in chunks]
    assert list(decoded(manifest, chunks, 0))[3].keys() == expected[3].keys()
    shared = list(decoded(manifest, chunks, 2))
    monkeypatch.setattr(decoding, "SHARED_MEMORY", Path("nowhere"))  # a container without any
    piped = list(decoded(manifest, chunks, 2))
    for way in (shared, piped):
        torch.testing.assert_close(way, expected, rtol=0, atol=0)
    assert list(decoded(manifest, [], 2)) == []


def test_chunks_are_taken_only_when_they_can_be_begun_with(manifest: ManifestSplit) -> None:
    taken: list[range] = []

    def chunks() -> Iterator[range]:
        for chunk in cut(range(30), 2):
            taken.append(chunk)
            yield chunk

    for workers, ahead in ((0, 1), (1, 1 + decoding.AHEAD)):
        taken.clear()
        for done, _ in enumerate(decoded(manifest, chunks(), workers), 1):
            assert len(taken) <= min(done + ahead, 15)
        assert done == 15


def test_a_file_that_cannot_be_read_is_the_same_line_from_a_process(broken: ManifestSplit) -> None:
    said = []
    for workers in (0, 2):
        with pytest.raises(UserError) as raised:
            list(decoded(broken, cut(range(30), 4), workers))
        said.append(str(raised.value))
    assert said[0] == said[1]
    assert said[0].startswith(f"{broken.csv_path}: row 19, column `audio`: torn.wav: cannot be read as WAV or FLAC: ")
    assert "\n" not in said[0]


@pytest.mark.slow
def test_a_process_that_dies_is_done_without(manifest: ManifestSplit, caplog: pytest.LogCaptureFixture) -> None:
    fields = {field.name: getattr(manifest, field.name) for field in dataclasses.fields(manifest)}
    found = list(decoded(Dying(**fields), cut(range(30), 4), 2))
    torch.testing.assert_close(found, [manifest.load(chunk) for chunk in cut(range(30), 4)], rtol=0, atol=0)
    assert "continuing to decode without worker processes" in caplog.text


def test_who_gets_processes(manifest: ManifestSplit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDENSE_WORKERS", "3")
    assert workers_for(manifest) == 0
    monkeypatch.setattr(decoding, "WORTHWHILE", 30)
    assert workers_for(manifest) == 3
    unsendable = dataclasses.replace(manifest, specs={"depth": Local("depth", (2,), 0.0, 1.0)})
    assert workers_for(unsendable) == 0


@pytest.mark.parametrize(("cores", "count"), [(1, 0), (2, 0), (3, 2), (8, 7), (64, 8)])
def test_how_many_by_default(monkeypatch: pytest.MonkeyPatch, cores: int, count: int) -> None:
    monkeypatch.delenv("CONDENSE_WORKERS", raising=False)
    monkeypatch.setattr(decoding, "cores", lambda: cores)
    assert worker_count() == count


@pytest.mark.parametrize("value", ["-1", "two", "1.5", "²"])
def test_a_count_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("CONDENSE_WORKERS", value)
    with pytest.raises(UserError, match=r"\$CONDENSE_WORKERS: must be a whole number of processes"):
        worker_count()


# A kill in the middle -------------------------------------------------------------------------------------------------

ENCODER = """
import os, time
import torch
from condense.inputs.spec import ImageSpec, LogMelSpec

def specs(options):
    return {"vision": ImageSpec.of("vision", 1, 8, (0.5,), (0.5,)), "audio": LogMelSpec.of(8, 5)}

class Slow:
    dim, fingerprint, output_scale = 6, "slow", {"vision": 1.0, "audio": 1.0}

    def __init__(self, specs):
        self.specs = specs
        generator = torch.Generator().manual_seed(0)
        self.matrix = {"vision": torch.randn(64, 6, generator=generator), "audio": torch.randn(40, 6, generator=generator)}

    def embed(self, modality, inputs):
        if modality == "vision":
            with open(os.environ["COUNT_FILE"], "a") as file:
                file.write(f"{len(inputs)}\\n")
            time.sleep(float(os.environ["PAUSE"]))
        return torch.nn.functional.normalize(inputs.flatten(1) @ self.matrix[modality], dim=1)

def build(options, dataset):
    return Slow(dataset.specs)
"""
COMMAND = """
import runpy, sys
from condense.data import decoding
from condense.embeddings import encoding
encoding.LARGEST_BATCH, encoding.SHARD_SECONDS, decoding.CHUNK, decoding.WORTHWHILE = 8, 0.0, 4, 30
sys.argv = ["condense", "embed", "config.yaml"]
runpy.run_module("condense", run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """(cache) -> `python -m condense embed` over 120 items, each batch of 8 a shard, with two processes."""
    write_manifest(tmp_path, 120)
    (tmp_path / "slow.py").write_text(ENCODER)
    encoder = {"name": "python", "path": "slow.py"}
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump({"dataset": {"name": "manifest", "path": "mine.csv"}, "encoder": encoder})
    )

    def popen(cache: str) -> subprocess.Popen[str]:
        environment = {
            **os.environ,
            "CONDENSE_CACHE": str(tmp_path / cache),
            "COUNT_FILE": str(tmp_path / f"{cache}.count"),
            "CONDENSE_WORKERS": "2",
            "PAUSE": "0.3",
            "PYTHONPATH": str(ROOT),
        }
        return subprocess.Popen(
            [sys.executable, "-c", COMMAND], cwd=tmp_path, env=environment, text=True, stderr=subprocess.PIPE
        )

    return popen


def embedded(folder: Path) -> dict[str, dict[str, Tensor]]:
    return {path.name: load_file(path) for path in sorted((folder / "embeddings").glob("*.safetensors"))}


def count(path: Path) -> int:
    """Items of train embedded; the encoder is also tried, and measured, on one or two, and embeds 4 of the other splits."""
    return sum(n for n in map(int, path.read_text().split()) if n > 4)


@pytest.mark.slow
def test_a_kill_costs_at_most_a_shard(
    tmp_path: Path,
    start: Callable[..., subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    killed = start("killed")
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("killed/embeddings/*.parts/shard/*.safetensors"))) < 5:
        assert killed.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    family = psutil.Process(killed.pid).children(recursive=True)
    assert len(family) >= 3  # a server and two that decode
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert psutil.wait_procs(family, timeout=30)[1] == []
    kept = list(tmp_path.glob("killed/embeddings/*.parts/shard/*.safetensors"))
    assert 5 <= len(kept) < 15
    before = count(tmp_path / "killed.count")
    assert 8 * len(kept) <= before <= 8 * len(kept) + 8

    # On to the end, and without a break: in this process, and without others that decode.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONDENSE_WORKERS", "0")
    monkeypatch.setenv("PAUSE", "0")
    monkeypatch.setattr(encoding, "LARGEST_BATCH", 8)
    for cache, items in (("killed", 120 - 8 * len(kept)), ("whole", 120)):
        monkeypatch.setenv("CONDENSE_CACHE", cache)
        monkeypatch.setenv("COUNT_FILE", f"{cache}.count")
        assert main(["embed", "config.yaml"]) == 0
        assert "encoding mine.csv (condense): 120 of 120 (100.0 %)" in capsys.readouterr().err
        assert count(tmp_path / f"{cache}.count") == items + (before if cache == "killed" else 0)
    torch.testing.assert_close(embedded(tmp_path / "killed"), embedded(tmp_path / "whole"), rtol=0, atol=0)
    assert list(tmp_path.glob("killed/embeddings/*.parts")) == []


def test_cores_are_what_affinity_and_the_control_group_leave(tmp_path: Path) -> None:
    assert 1 <= cores(tmp_path) == len(os.sched_getaffinity(0))
    limit = tmp_path / "sys/fs/cgroup/cpu.max"
    limit.parent.mkdir(parents=True)
    for written, count_ in (("max 100000", cores(Path("nowhere"))), ("50000 100000", 1), ("100000 100000", 1)):
        limit.write_text(f"{written}\n")
        assert cores(tmp_path) == count_
