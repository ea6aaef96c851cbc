"""`python -m condense evaluate`: how networks are trained, and where."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import pytest
import yaml
from small_files import ENCODER, HYPERPARAMETERS, write_tensors

from condense import commands
from condense.__main__ import main
from condense.evaluation import network_protocol
from condense.evaluation.comparison import Comparison


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """A condensed dataset."""
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / "cache"))
    write_tensors(tmp_path / "data.safetensors")
    dataset = {"name": "tensors", "path": "data.safetensors"}
    content = {"dataset": dataset, "encoder": ENCODER, "dpc": 2, "steps": 1, "hyperparameters": HYPERPARAMETERS}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    assert main(["run", str(tmp_path / "config.yaml"), "--output", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("options", "heading", "protocol"),
    [
        ([], "ConvNet (fast, 300 steps)", ("fast", "convnet", 300, 300)),
        (["--convnet", "dc", "--steps", "2"], "ConvNet (dc, 2 steps)", ("dc", "convnet", 2, 2)),
        (["--convnet", "dc"], "ConvNet (dc, 300 epochs)", ("dc", "convnet", 300, 600)),
        (["--architecture", "resnet", "--steps", "1"], "ResNet (fast, 1 steps)", ("fast", "resnet", 1, 1)),
    ],
)
def test_how_the_networks_are_trained_is_a_choice_and_is_said(
    output: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    heading: str,
    protocol: tuple[str, str, int, int],
) -> None:
    """Few epochs, larger than a batch on the full data only; trained for 1 step in any case."""
    small = dataclasses.replace(network_protocol.DC, epochs=300, batch_size=16, widths=(4, 4, 4))
    monkeypatch.setitem(network_protocol.PRESETS, "dc", small)
    steps = 1 if "--steps" not in options else None
    monkeypatch.setattr(commands, "Comparison", functools.partial(Comparison, convnet_steps=steps))
    scores = output.parent / "scores.json"
    arguments = ["evaluate", str(output), "--convnet-seeds", "1", "--json", str(scores), "--device", "cpu", *options]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert f"  {heading}  of full" in printed.out.splitlines()[1]
    keys = ("preset", "architecture", "steps", "full_data_steps")
    found = json.loads(scores.read_text())
    assert found["protocol"] == dict(zip(keys, protocol, strict=True))
    assert all(0 <= of["convnet"]["mean"] <= 1 for of in found["results"].values())
    more = f", {protocol[3]} on the full data" if protocol[2] != protocol[3] else ""
    assert f"{heading}: {protocol[2]} steps each{more}, on cpu" in printed.err.splitlines()


def test_devices_and_protocols_that_there_are_not(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for device in ("cuda:99", "gpu", "meta"):
        assert main(["evaluate", str(output), "--device", device]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: device ") and device in line
    for wrong in (
        ("--convnet", "slow"),
        ("--architecture", "mlp"),
        ("--steps", "0"),
        ("--steps", "x"),
        ("--protocols", "probe", "recall"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(["evaluate", str(output), *wrong])
        assert caught.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: argument {wrong[0]}: ")


@pytest.mark.parametrize("protocols", [["probe"], ["retrieval"], ["retrieval", "convnet"]])
def test_protocols_that_are_not_asked_for_are_left_out(
    output: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, protocols: list[str]
) -> None:
    monkeypatch.setattr(commands, "Comparison", functools.partial(Comparison, convnet_steps=1))
    scores = output.parent / "scores.json"
    assert (
        main(["evaluate", str(output), "--convnet-seeds", "1", "--json", str(scores), "--protocols", *protocols]) == 0
    )
    table = capsys.readouterr().out
    found = json.loads(scores.read_text())["results"]
    for row in found.values():
        assert {name for name, cell in row.items() if cell is not None} == set(protocols)
    assert "random (5 draws)" in table
