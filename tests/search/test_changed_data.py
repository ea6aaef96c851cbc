"""A resumed search has the data that it began with: what has changed is refused, what has moved goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from search_process import SearchProcess, results
from small_search import NO_CONFIRMATION, SMALL


@pytest.mark.faults
def test_changed_data_are_refused_and_moved_data_go_on(
    tmp_path: Path, start: Callable[..., SearchProcess], write_space: Callable[..., Path], small_data: Path
) -> None:
    data, output, elsewhere = tmp_path / "data.safetensors", tmp_path / "out", tmp_path / "elsewhere"
    shutil.copy(small_data, data)
    task = {**SMALL["tasks"][0], "dataset": {"name": "tensors", "path": str(data)}}
    space = write_space(tmp_path, tasks=[task], trials=3, confirmation=NO_CONFIRMATION)
    assert start("--space", space, "--output", output).finish() == 0
    before, recorded = results(output), (output / "search.json").read_bytes()

    tensors = load_file(data)
    of_first = (tensors["train/label"] == 0).nonzero()[:, 0]
    tensors["train/label"][of_first[: len(of_first) // 2]] = 1
    save_file(tensors, data)
    search = start("--space", space, "--output", output, "--resume", "--trials", "5")
    assert search.finish() == 2
    (line,) = search.err.read_text().splitlines()
    assert f"{data}: 20 of 180 items have another label" in line
    assert results(output) == before
    assert (output / "search.json").read_bytes() == recorded, "it would name the refused data"

    shutil.copy(small_data, data)
    elsewhere.mkdir()
    data.rename(elsewhere / "data.safetensors")
    output.rename(elsewhere / "out")
    moved = f"tasks.0.dataset.path={elsewhere / 'data.safetensors'}"
    again = ("--space", space, "--output", elsewhere / "out", "--resume", "--trials", "5", "--set", moved)
    search = start(*again)
    assert search.finish() == 0, search.said()
    after = results(elsewhere / "out")
    assert len(after) == 5
    assert before.items() <= after.items()
