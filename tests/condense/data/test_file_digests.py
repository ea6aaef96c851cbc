"""Files that have not changed are not read again; any change is noticed, also one of the same size and mtime."""

from __future__ import annotations

import builtins
import hashlib
import io
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from condense.config.models import ManifestDataset, TensorsDataset, TinyEncoder
from condense.data import file_digests, tensor_items
from condense.data.file_digests import digest_files, known_digest
from condense.data.manifest import load_manifest
from condense.data.tensors import load_tensors
from condense.encoders.tiny import tiny_specs
from condense.inputs.series import SeriesSpec
from condense.storage.cache_folder import VERIFY, begin_to_verify

OLD = 1_600_000_000_123_456_789  # ns: long before any test reads


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(VERIFY, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that Python opens for reading, but the cache's."""
    found: list[str] = []

    def watched(own: Callable[..., Any]) -> Callable[..., Any]:
        def call(file: Any, *given: Any, **options: Any) -> Any:
            if "/cache/" not in str(file):
                found.append(str(file))
            return own(file, *given, **options)

        return call

    monkeypatch.setattr(builtins, "open", watched(builtins.open))
    monkeypatch.setattr(io, "open", watched(io.open))  # of Path.open
    return found


def age(path: Path, by: int = 0) -> None:
    os.utime(path, ns=(OLD + by, OLD + by))


def truth(path: Path) -> str:
    content = path.read_bytes()
    return f"{len(content)}:{hashlib.sha256(content).hexdigest()}"


def test_what_has_not_changed_is_read_once(tmp_path: Path, opened: list[str]) -> None:
    paths = [tmp_path / f"{i}.bin" for i in range(5)]
    for i, path in enumerate(paths):
        path.write_bytes(bytes([i]) * (i + 1))
        age(path)
    names = [str(path) for path in paths]
    opened.clear()
    first = digest_files(names, tmp_path)
    assert sorted(opened) == sorted(names)
    opened.clear()
    assert digest_files(names, tmp_path) == first
    assert digest_files(names[::-2], tmp_path) == first[::-2]
    assert known_digest(paths[3]) == first[3]
    assert not opened
    assert first == [truth(path) for path in paths]


def test_a_file_written_just_now_is_read_again(tmp_path: Path, opened: list[str]) -> None:
    """Its mtime may be that of a change which is still to come."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"one")
    os.utime(path, ns=(time.time_ns() + 10**11,) * 2)  # not yet past on a slow machine either
    for _ in range(2):
        opened.clear()
        known_digest(path)
        assert opened == [str(path)]


@pytest.mark.parametrize("whole_seconds", [True, False])
def test_a_clock_of_whole_seconds_has_longer_ticks(tmp_path: Path, opened: list[str], whole_seconds: bool) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"one")
    second = time.time_ns() // 10**9 * 10**9 - 10**9
    mtime = second if whole_seconds else second + 1  # between one and two seconds ago
    os.utime(path, ns=(mtime, mtime))
    known_digest(path)
    opened.clear()
    known_digest(path)
    assert bool(opened) == whole_seconds


@pytest.mark.parametrize("how", ["mtime", "ctime", "size", "replaced"])
def test_a_changed_file_is_noticed(tmp_path: Path, how: str) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"one")
    age(path)
    before = known_digest(path)
    if how == "replaced":
        (tmp_path / "b.bin").write_bytes(b"two")
        age(tmp_path / "b.bin")
        os.replace(tmp_path / "b.bin", path)
    else:
        path.write_bytes(b"three" if how == "size" else b"two")
        age(path, by=how == "mtime")
    assert known_digest(path) == truth(path) != before


@given(
    actions=st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from(["write", "same size", "touch", "remove", "look", "some"])),
        max_size=14,
    )
)
@settings(max_examples=40, deadline=None)
def test_whatever_happens_to_files_their_digests_are_true(actions: list[tuple[int, str]]) -> None:
    """Without any waiting: all of it is within a tick."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONDENSE_CACHE", f"{name}/cache")
        paths = [Path(name) / f"{i}.bin" for i in range(4)]
        for path in paths:
            path.write_bytes(b"start")
            age(path)
        for turn, (i, action) in enumerate(actions):
            path = paths[i]
            if action in ("write", "same size"):
                size = turn + 1 if action == "write" else 5
                path.write_bytes(f"{turn}{i}abcdefghijklmnopq"[:size].encode())
            elif action == "touch" and path.exists():
                age(path, by=turn)
            elif action == "remove":
                path.unlink(missing_ok=True)
            there = [path for path in paths if path.exists()]
            if action == "some":
                there = there[::2]
            assert digest_files([str(path) for path in there], Path(name)) == [truth(path) for path in there]


def test_verify_reads_everything_once_more(tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"one")
    age(path)
    known_digest(path)
    monkeypatch.setenv(VERIFY, "")
    begin_to_verify()
    opened.clear()
    known_digest(path)
    assert opened == [str(path)]  # and the next engine of the same command finds it read
    opened.clear()
    known_digest(path)
    assert not opened


def test_a_damaged_or_forbidden_cache_costs_a_read_only(tmp_path: Path, cache: Path, opened: list[str]) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"one")
    age(path)
    expected = known_digest(path)
    (entry,) = (cache / file_digests.KIND).glob("*.safetensors")
    content = bytearray(entry.read_bytes())
    content[-1] ^= 1
    entry.write_bytes(content)
    opened.clear()
    assert known_digest(path) == expected
    assert opened == [str(path)]
    os.environ["CONDENSE_CACHE"] = str(path)  # no folder; the fixture puts it back
    assert known_digest(path) == expected


def test_processes_that_write_at_once_leave_a_whole_cache(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.bin" for i in range(40)]
    for i, path in enumerate(paths):
        path.write_bytes(bytes([i]))
        age(path)
    expected = [truth(path) for path in paths]
    wrong: list[Any] = []

    def work(first: int) -> None:
        for stop in range(first + 1, len(paths)):
            own = paths[first:stop]
            if digest_files([str(path) for path in own], tmp_path) != expected[first:stop]:
                wrong.append((first, stop))

    threads = [threading.Thread(target=work, args=(first,)) for first in (0, 5, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert digest_files([str(path) for path in paths], tmp_path) == expected


def manifest(folder: Path, count: int = 12) -> ManifestDataset:
    """Pictures, and a series of two channels."""
    rows = ["split,label,vision,motion:series"]
    rng = np.random.default_rng(0)
    for i in range(count):
        pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        np.save(folder / f"{i}.npy", rng.normal(size=(2, 10)).astype(np.float32))
        for suffix in ("png", "npy"):
            age(folder / f"{i}.{suffix}")
        rows.append(f"{'train' if i < count - 4 else 'test'},{i % 2},{i}.png,{i}.npy")
    (folder / "data.csv").write_text("\n".join(rows) + "\n")
    return ManifestDataset(name="manifest", path=folder / "data.csv")


def test_a_second_start_reads_no_file_of_a_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = manifest(tmp_path)
    specs = {"vision": tiny_specs(TinyEncoder())["vision"], "motion": SeriesSpec.of("motion", 2, 10)}
    first = load_manifest(config, specs)
    with monkeypatch.context() as patch:
        patch.setattr(file_digests, "digest_file", lambda path: pytest.fail(f"{path} is read"))
        patch.setattr(SeriesSpec, "recording", lambda _, path: pytest.fail(f"{path} is read"))
        again = load_manifest(config, specs)
    assert (again.fingerprint, again.content, again.specs) == (first.fingerprint, first.content, first.specs)
    np.save(tmp_path / "3.npy", np.full((2, 10), 7, dtype=np.float32))  # the same size
    age(tmp_path / "3.npy")
    changed = load_manifest(config, specs)
    assert changed.fingerprint != first.fingerprint
    assert changed.specs["motion"] != first.specs["motion"]


def test_a_second_start_reads_no_item_of_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data.safetensors"
    generator = torch.Generator().manual_seed(0)

    def write(scale: float) -> None:
        tensors = {}
        for split, count in (("train", 12), ("test", 6)):
            tensors[f"{split}/vision"] = scale * torch.randn(count, 3, 4, 4, generator=generator)
            tensors[f"{split}/label"] = torch.arange(count) % 2
        tensors["train/present/vision"] = torch.ones(12, dtype=torch.bool)
        save_file(tensors, path)
        age(path)

    write(1.0)
    config = TensorsDataset(name="tensors", path=path)
    first = load_tensors(config)
    with monkeypatch.context() as patch:
        patch.setattr(tensor_items, "measured_items", lambda *_: pytest.fail("the items are read"))
        again = load_tensors(config)
    assert (again.fingerprint, again.content, again.specs) == (first.fingerprint, first.content, first.specs)
    write(2.0)
    changed = load_tensors(config)
    assert changed.fingerprint != first.fingerprint
    assert changed.specs != first.specs
    monkeypatch.setenv(VERIFY, str(time.time_ns()))
    monkeypatch.setattr(tensor_items, "measured_items", lambda *_: pytest.fail("the items are read"))
    with pytest.raises(pytest.fail.Exception, match="are read"):
        load_tensors(config)


def test_items_are_read_once_at_the_first_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The digests of before, and the extremes, of one pass: counted by the numbers that become floats."""
    count, seen = 600, []
    x = torch.rand(count, 4)
    path = tmp_path / "data.safetensors"
    save_file(
        {
            "train/vision": x,
            "train/label": torch.arange(count) % 2,
            "test/vision": x[:2] + 1,
            "test/label": torch.arange(2),
        },
        path,
    )
    own = tensor_items.to_float
    monkeypatch.setattr(tensor_items, "to_float", lambda t: seen.append(len(t)) or own(t))
    found = load_tensors(TensorsDataset(name="tensors", path=path))
    assert sum(seen) == count + 2
    assert found.digests is not None
    digests = {d for own in found.digests.values() for d in own}
    assert digests == {hashlib.sha256(item.numpy().tobytes()).hexdigest() for item in x}
    margin = 0.05 * (x.max() - x.min()).item()
    assert found.specs["vision"].low == pytest.approx(x.min().item() - margin)  # type: ignore[attr-defined]
