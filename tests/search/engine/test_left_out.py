"""A node whose engine cannot start is left out, with a line; the search goes on with the others, or ends with that line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
from search_process import SearchProcess, report
from small_search import NO_CONFIRMATION, two_nodes_in

from search.engine.actor import prove
from search.engine.left_out import tell_left_out
from search.interruption import Stopped

TROUBLE = "libcudart.so.99: cannot open shared object file"
BROKEN = f"raise ImportError({TROUBLE!r})\n"


def test_it_is_told_and_ends_the_search_if_none_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.get", lambda call, timeout: call)
    said: list[str] = []

    def pool(*answer: Any) -> Any:
        return SimpleNamespace(left_out=SimpleNamespace(remote=lambda: answer))

    tell_left_out(pool([], ""), said.append)
    tell_left_out(pool(["a is left out"], ""), said.append)
    assert said == ["warning: a is left out"]
    with pytest.raises(Stopped, match=r"^no device is left to go on with: a is left out; b too\. .*--resume"):
        tell_left_out(pool(["b too"], "a is left out; b too"), said.append)


@pytest.fixture
def broken_torch(tmp_path: Path) -> dict[str, str]:
    """The environment of a node on which PyTorch cannot be loaded, as with a GPU driver that does not fit."""
    (tmp_path / "broken" / "torch").mkdir(parents=True)
    (tmp_path / "broken" / "torch" / "__init__.py").write_text(BROKEN)
    root = str(Path(__file__).parents[3])
    return {"PYTHONPATH": os.pathsep.join([str(tmp_path / "broken"), root])}


@pytest.mark.faults
def test_the_search_goes_on_with_the_other_node(
    tmp_path: Path, broken_torch: dict[str, str], start: Callable[..., SearchProcess], write_space: Callable[..., Path]
) -> None:
    output = tmp_path / "out"
    space = write_space(
        tmp_path, trials=8, max_concurrent=2, confirmation=NO_CONFIRMATION, resources={"cpus_per_trial": 1}
    )
    with two_nodes_in(tmp_path, broken_torch) as (_, worker):
        search = start("--space", space, "--output", output, "--address", ray.get_runtime_context().gcs_address)
        assert search.finish() == 0, search.said()
    said = search.out.read_text()
    (line,) = (line for line in said.splitlines() if "is left out" in line)
    assert f"(node {worker[:8]})" in line and line.endswith(f"ImportError: {TROUBLE}")
    trials = report(output)["trials"]
    assert trials["failed"] == 0 and sum(trials.values()) == 8


@pytest.mark.faults
def test_the_search_ends_where_no_device_works(
    tmp_path: Path, broken_torch: dict[str, str], start: Callable[..., SearchProcess], write_space: Callable[..., Path]
) -> None:
    with two_nodes_in(tmp_path, **broken_torch):
        address = ray.get_runtime_context().gcs_address
        search = start("--space", write_space(tmp_path), "--output", tmp_path / "out", "--address", address)
        assert search.finish() == 1, search.said()
    last = search.err.read_text().strip().splitlines()[-1]
    assert last.startswith("error: no device is left to go on with: this host prepares the data"), search.said()
    assert f"ImportError: {TROUBLE}" in last and "Traceback" not in search.said()


def test_a_device_must_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is there, but broken, is found out when its engine starts."""
    device = torch.device("cpu")
    prove(device)
    monkeypatch.setattr(torch, "ones", lambda *size, device: torch.full(size, 0.5, device=device))
    with pytest.raises(RuntimeError, match=r"^cpu adds 262144 ones up to 65536\.0$"):
        prove(device)
