"""A disk that fills up in the middle of a search: one clear line, no trial is counted as failed, --resume ends it."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from search_process import SearchProcess, report, reports, results, table
from test_search import check_mlflow

from search.interruption import Stopped, caused_by_full_disk, check_room, stop_on_full_disk
from search.ledger.ledger import Ledger
from search.tracking.answers import verdict
from search.tuning.callbacks import SearchCallback


def fill(folder: Path) -> Path:
    """Leaves no byte on a disk; the file that does."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
    return filler


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "disk", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("NO FULL DISK IS TESTED HERE: mounting needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.faults
def test_a_search_whose_disk_fills_up(
    small_disk: Path, start: Callable[..., SearchProcess], write_space: Callable[..., Path], tmp_path: Path
) -> None:
    """MLflow's database is on that disk, too."""
    space = write_space(tmp_path, trials=4, max_concurrent=1, confirmation={"top_k": 1, "seeds": 2})
    arguments = ("--space", space, "--output", small_disk / "out")
    search = start(*arguments)
    search.until(lambda: reports(small_disk / "out", "00001") > 0)
    filler = fill(small_disk)
    assert search.finish() == 1, search.said()
    (line,) = [line for line in search.err.read_text().splitlines() if "MLflow" not in line]
    assert line.startswith("error: no space is left on the disk of ") and "--resume" in line
    before = results(small_disk / "out")
    assert 1 <= len(before) < 4
    assert not any(b'"failed"' in content for content, _ in before.values())

    filler.unlink()
    search = start(*arguments, "--resume")
    assert search.finish() == 0, search.said()
    assert before.items() <= results(small_disk / "out").items()
    assert {row["status"] for row in table(small_disk / "out")} == {"completed", "pruned"}
    assert report(small_disk / "out")["trials"]["failed"] == 0
    check_mlflow(small_disk / "out")


@pytest.mark.faults
def test_a_worker_whose_disk_is_full_takes_part(
    small_disk: Path,
    boot: Callable[[int], Cluster],
    start: Callable[..., SearchProcess],
    write_space: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """It keeps no copy of the embeddings, and needs none."""
    fill(small_disk)
    output = tmp_path / "out"
    cluster = boot(0)  # no trials there
    cluster.add_node(num_cpus=1, env_vars={"CONDENSE_CACHE": str(small_disk)})
    space = write_space(tmp_path, trials=3, max_concurrent=1, confirmation={"top_k": 1, "seeds": 2})
    search = start("--space", space, "--output", output, "--address", cluster.address)
    assert search.finish() == 0, search.said()
    assert [row["status"] in ("completed", "pruned") for row in table(output)] == [True] * 3
    assert {file.suffix for file in small_disk.rglob("*") if file.is_file() and file.name != "filler"} == {".lock"}


@pytest.mark.faults
def test_a_cache_without_space_is_a_line(
    small_disk: Path, start: Callable[..., SearchProcess], write_space: Callable[..., Path], tmp_path: Path
) -> None:
    """On the head, whose copy is the only one."""
    filler = fill(small_disk)
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("CONDENSE_CACHE", str(small_disk))
        space = write_space(tmp_path, trials=3, max_concurrent=1, confirmation={"top_k": 1, "seeds": 2})
        search = start("--space", space, "--output", tmp_path / "out")
        assert search.finish() == 1, search.said()
        (line,) = search.err.read_text().splitlines()
        assert (
            line.startswith(f"error: no space is left on the disk of {small_disk}/embeddings/") and "--resume" in line
        )
        filler.unlink()
        search = start("--space", space, "--output", tmp_path / "out", "--resume")
        assert search.finish() == 0, search.said()


def test_what_a_full_disk_leads_to_is_a_line(tmp_path: Path) -> None:
    named = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/cache/entry")
    for error, where in ((named, "/cache/entry;"), (OSError(errno.ENOSPC, "no space"), f"{tmp_path}, or of another")):
        in_an_actor = ray.exceptions.RayTaskError("describe", "traceback", error)
        with pytest.raises(Stopped, match=f"no space is left on the disk of {where}"), stop_on_full_disk(tmp_path):
            raise in_an_actor.as_instanceof_cause()
    with pytest.raises(ZeroDivisionError), stop_on_full_disk(tmp_path):
        raise ZeroDivisionError


def test_a_full_disk_is_told_from_other_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_space = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    in_an_actor = ray.exceptions.RayTaskError("save", "traceback", no_space)
    assert caused_by_full_disk(no_space) and caused_by_full_disk(in_an_actor.as_instanceof_cause())
    assert (
        not caused_by_full_disk(None)
        and not caused_by_full_disk(OSError(errno.EACCES, "no"))
        and not caused_by_full_disk(ValueError())
    )
    check_room(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert verdict(RuntimeError("(sqlite3.OperationalError) database or disk is full")) == "away"

    def write(*_: Any) -> None:
        raise no_space

    ledger = Ledger.open(tmp_path / "out", {}, resume=False)
    ledger.new_trial(0, None, {}, {}, [0])
    monkeypatch.setattr(os, "fsync", write)
    with pytest.raises(OSError, match="No space left"):
        ledger.save(0, 1, {}, None, bytes(10_000))
    assert sorted(path.name for path in (tmp_path / "out/trials/00000").iterdir()) == ["trial.json"]  # not half a file
    trial = SimpleNamespace(config={"number": 0}, get_pickled_error=lambda: in_an_actor.as_instanceof_cause())
    following = SearchCallback(None, ledger, None, None, {})  # type: ignore[arg-type]  # it gets no further
    with pytest.raises(Stopped, match="no space is left"):
        following.on_trial_error(0, [], trial)
    ledger.close()
