"""A run that is interrupted goes on where it was, to the very result of one that was not."""

from __future__ import annotations

import functools
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small_files import ENCODER, HYPERPARAMETERS, write_tensors
from torch import Tensor

import condense
from condense import api, single_run
from condense.__main__ import main
from condense.engine.engine import Engine
from condense.export.export import read_export
from condense.export.unfinished import FILE
from condense.method.condensation import Condensation

pytestmark = pytest.mark.usefixtures("hang_up_is_heard")

STEPS = 23  # three between two reports, two before the last
ADAM = {**HYPERPARAMETERS, "optimizer": "adam", "learning_rate": 0.1}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(single_run, "PIECE", 1e-6)  # a step at a time
    write_tensors(tmp_path / "data.safetensors")
    content = {
        "dataset": {"name": "tensors", "path": "data.safetensors"},
        "encoder": ENCODER,
        "dpc": 2,
        "steps": STEPS,
        "hyperparameters": ADAM,
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "config.yaml"


def run(config: Path, name: str = "out", *more: str) -> int:
    return main(["run", str(config), "--output", str(config.parent / name), *more])


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[], Any]) -> None:
    """`act`, once, while the step after `step` is computed."""
    original, done = Engine.run, []

    @functools.wraps(original)
    def acting(engine: Engine, replicas: Sequence[Condensation], steps: int) -> dict[int, Tensor]:
        if not done and replicas[0].step >= step:
            done.append(True)
            act()
        return original(engine, replicas, steps)

    monkeypatch.setattr(Engine, "run", acting)


def outcome(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
    """Items, record and course, without the time that they took."""
    items, _, record = read_export(folder)
    course = json.loads((folder / "condensation.json").read_text())
    assert record.pop("seconds") > 0
    assert course.pop("seconds") > 0
    return items, record, course


def assert_same(config: Path) -> None:
    """`out` is what a run without an interruption makes, bit for bit, and nothing unfinished is left."""
    assert not (config.parent / ".out.partial").exists()
    assert run(config, "whole") == 0
    (items, *rest), (expected, *others) = outcome(config.parent / "out"), outcome(config.parent / "whole")
    torch.testing.assert_close(items, expected, atol=0, rtol=0)
    assert rest == others


@pytest.mark.parametrize(
    ("step", "number"),
    [(0, signal.SIGINT), (6, signal.SIGTERM), (7, signal.SIGHUP), (STEPS - 1, signal.SIGINT)],
)
def test_an_interrupted_run_goes_on(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], step: int, number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    at_step(monkeypatch, step, lambda: os.kill(os.getpid(), number))
    assert run(config) == 130
    partial = config.parent / ".out.partial"
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"interrupted: kept at step {step + 1}/{STEPS} in {partial}: run the same again to go on from there"
    assert not (config.parent / "out").exists()
    assert signal.getsignal(number) == before
    taken: list[int] = []
    original = Engine.run
    monkeypatch.setattr(
        Engine, "run", lambda engine, replicas, steps: taken.append(steps) or original(engine, replicas, steps)
    )
    assert run(config) == 0
    assert sum(taken) == STEPS - step - 1  # no step is taken twice
    lines = capsys.readouterr().err.splitlines()
    assert f"going on from step {step + 1}/{STEPS}, kept in {partial}" in lines
    assert_same(config)


def test_what_a_kill_leaves_is_gone_on_from(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twice: the state is from before the kill, whenever that came."""
    monkeypatch.setattr(single_run, "KEEP_EVERY", 0.0)

    def killed() -> None:
        raise RuntimeError("killed")

    for step in (5, 12):
        at_step(monkeypatch, step, killed)
        with pytest.raises(RuntimeError, match="killed"):
            run(config)
    assert f"going on from step 5/{STEPS}" in capsys.readouterr().err
    assert run(config) == 0
    assert f"going on from step 12/{STEPS}" in capsys.readouterr().err
    assert_same(config)


def test_a_run_through_chunks_of_any_length_is_the_same(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(config) == 0
    monkeypatch.setattr(single_run, "PIECE", 1e6)
    assert_same(config)


def test_a_short_run_keeps_nothing(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_step(monkeypatch, 7, lambda: pytest.fail("kept") if (config.parent / ".out.partial").exists() else None)
    assert run(config) == 0
    assert not (config.parent / ".out.partial").exists()


@pytest.mark.parametrize(
    ("override", "difference"),
    [
        ("seed=1", "`seed` is 0 there but 1 here"),
        ("steps=24", "`steps` is 23 there but 24 here"),
        ("hyperparameters.learning_rate=0.2", "`hyperparameters.learning_rate` is 0.1 there but 0.2 here"),
        ("dpc=1", "`dpc` is 2 there but 1 here"),
    ],
)
def test_another_configuration_starts_anew(
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    override: str,
    difference: str,
) -> None:
    at_step(monkeypatch, 7, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert run(config) == 130
    capsys.readouterr()
    assert run(config, "out", "--set", override) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "unfinished" in line]
    partial = config.parent / ".out.partial"
    assert said == [
        f"{partial} holds an unfinished run of another configuration ({difference}): starting anew in its place"
    ]
    assert not partial.exists()
    assert run(config, "whole", "--set", override) == 0
    (items, *rest), (expected, *others) = outcome(config.parent / "out"), outcome(config.parent / "whole")
    torch.testing.assert_close(items, expected, atol=0, rtol=0)
    assert rest == others


def test_other_data_start_anew(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at_step(monkeypatch, 7, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert run(config) == 130
    write_tensors(config.parent / "data.safetensors", seed=1)
    assert run(config) == 0
    assert "of another configuration (`fingerprints.dataset` is " in capsys.readouterr().err
    assert_same(config)


def damages() -> dict[str, Callable[[bytes], bytes]]:
    return {
        "empty": lambda content: b"",
        "cut": lambda content: content[:-9],
        "a bit of a tensor": lambda content: content[:-5] + bytes([content[-5] ^ 1]) + content[-4:],
        "a digit of the reports": lambda content: content.replace(b'\\"step\\": 6', b'\\"step\\": 5'),
        "no safetensors": lambda content: b"what is this?" * 10,
    }


@pytest.mark.parametrize("kind", damages())
def test_a_damaged_file_starts_anew(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    at_step(monkeypatch, 6, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert run(config) == 130
    path = config.parent / ".out.partial" / FILE
    content = path.read_bytes()
    damaged = damages()[kind](content)
    assert damaged != content
    path.write_bytes(damaged)
    capsys.readouterr()
    assert run(config) == 0
    lines = capsys.readouterr().err.splitlines()
    said = [line for line in lines if "unfinished" in line]
    assert len(said) == 1
    assert said[0].startswith(f"warning: the unfinished run in {path.parent} is damaged (")
    assert said[0].endswith("): starting anew")
    assert any(line.startswith(f"step  0/{STEPS}") for line in lines)
    assert_same(config)


def test_a_place_that_takes_no_state_is_one_warning(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(single_run, "KEEP_EVERY", 0.0)
    (config.parent / ".out.partial").write_text("mine")
    assert run(config) == 0
    assert len([line for line in capsys.readouterr().err.splitlines() if "cannot be kept" in line]) == 1
    assert (config.parent / ".out.partial").read_text() == "mine"


def test_a_divergence_leaves_nothing(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single_run, "KEEP_EVERY", 0.0)
    huge = ["--set", "hyperparameters.lambda_joint=3e38", "--set", "hyperparameters.lambda_cross=3e38"]
    assert run(config, "out", *huge) == 1
    assert not (config.parent / ".out.partial").exists()


def test_a_second_signal_ends_it_at_once(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("went on")

    at_step(monkeypatch, 7, twice)
    assert run(config) == 130
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "interrupted: run the same command again to go on"  # no step: nothing was kept yet
    assert not (config.parent / ".out.partial").exists()


def test_an_interruption_in_python_says_where_it_was(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = condense.load_task(
        dataset={"name": "tensors", "path": str(tmp_path / "data.safetensors")}, encoder=ENCODER, dpc=1, device="cpu"
    )
    at_step(monkeypatch, 2, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(condense.Interrupted) as caught:
        condense.run(task, ADAM, steps=6, keep_beside=tmp_path / "out")
    assert caught.value.step == 3
    reports: list[condense.RunReport] = []
    result = condense.run(task, ADAM, steps=6, keep_beside=tmp_path / "out", on_report=reports.append)
    assert [report.step for report in reports] == [4, 5, 6]  # 3 was reported before
    assert [report.step for report in result.reports] == list(range(7))
    whole = condense.run(task, ADAM, steps=6)
    torch.testing.assert_close(result.items, whole.items, atol=0, rtol=0)
    assert result.reports == whole.reports
    assert result.losses.equals(whole.losses)


def test_a_process_that_is_told_to_end(config: Path) -> None:
    """As from a shell: SIGTERM to the process, status 130, a line; then the same command."""
    command = [sys.executable, "-m", "condense", "run", str(config), "--output", str(config.parent / "out")]
    command += ["--set", "steps=100000"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("step"):
                break
        time.sleep(1)
        process.terminate()
        rest = process.stderr.read().splitlines()
        assert process.wait(60) == 130
    assert "run the same again to go on" in rest[-1]
    assert "Traceback" not in "".join(rest)
    assert (config.parent / ".out.partial" / FILE).is_file()


def test_an_export_that_fails_loses_no_step(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a run that has been kept on its way."""
    monkeypatch.setattr(single_run, "KEEP_EVERY", math.inf)
    at_step(monkeypatch, 6, lambda: monkeypatch.setattr(single_run, "KEEP_EVERY", 0.0))
    at_step(monkeypatch, 8, lambda: monkeypatch.setattr(single_run, "KEEP_EVERY", math.inf))
    with monkeypatch.context() as context:
        context.setattr(api, "export", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
        assert run(config) == 130
    at_step(monkeypatch, 0, lambda: pytest.fail("took a step again"))
    assert run(config) == 0
    monkeypatch.undo()
    monkeypatch.setenv("CONDENSE_CACHE", str(config.parent / "cache"))
    assert_same(config)
