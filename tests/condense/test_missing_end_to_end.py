"""The commands on a manifest of six modalities with holes, from files to scores."""

from __future__ import annotations

import csv
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml
from PIL import Image

from condense import commands
from condense.__main__ import main
from condense.config.models import MODALITIES
from condense.evaluation.comparison import Comparison
from condense.export.export import read_export

COUNTS = {"train": 6, "validation": 2, "test": 3}
WORDS = ("cat", "dog", "cow")
ENCODER = {"name": "tiny", "dim": 8, "width": 4, "image_size": 8, "epochs": 2}


def write_files(folder: Path, label: str, index: int) -> list[str]:
    """One complete item: its cells, and the files that they name. A class has its own level, pitch and word."""
    rng = np.random.default_rng([WORDS.index(label), index])
    level = (1 + WORDS.index(label)) / 4
    name = f"{label}{index}"
    for m in ("vision", "depth", "thermal"):
        pixels = 255 * np.clip(level + 0.1 * rng.normal(size=(8, 8)), 0, 1)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{name}_{m}.png")
    time = np.arange(12_400) / 16_000
    sound = np.sin(2 * np.pi * 2000 * level * time) / 4 + 0.02 * rng.normal(size=len(time))
    soundfile.write(folder / f"{name}.wav", sound, 16_000)
    np.save(folder / f"{name}.npy", (level + 0.1 * rng.normal(size=(6, 128))).astype(np.float32))
    cells = {"audio": f"{name}.wav", "text": f"a {label}, number {index}", "imu": f"{name}.npy"}
    return [cells.get(m, f"{name}_{m}.png") for m in MODALITIES]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of each label, one item to train is complete and the others lack up to five modalities."""
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(commands, "Comparison", functools.partial(Comparison, convnet_steps=3))
    rng = np.random.default_rng(0)
    rows = [["split", "label", *MODALITIES]]
    for label in WORDS:
        index = 0
        for split, count in COUNTS.items():
            for position in range(count):
                cells = write_files(tmp_path, label, index)
                holes = rng.permutation(6)[: 0 if (split, position) == ("train", 0) else rng.integers(6)]
                rows.append([split, label, *("" if i in holes else cell for i, cell in enumerate(cells))])
                index += 1
    with (tmp_path / "mine.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    content: dict[str, Any] = {
        "dataset": {"name": "manifest", "path": "mine.csv"},
        "encoder": ENCODER,
        "dpc": 3,
        "steps": 25,
        "hyperparameters": {
            "num_frequencies": 32,
            "frequency_pool": 32,
            "learning_rate": 1,
            "lambda_cross": 0.1,
            "lambda_joint": 0.1,
        },
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_manifest_with_holes_is_condensed_and_evaluated(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, scores = config.parent / "out", config.parent / "scores.json"
    start = config.parent / "start"
    assert main(["run", str(config), "--output", str(start), "--set", "steps=0"]) == 0
    assert main(["run", str(config), "--output", str(output)]) == 0
    capsys.readouterr()
    before, _, _ = read_export(start)
    inputs, labels, record = read_export(output)
    assert list(inputs) == list(MODALITIES)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert record["loss"]["end"]["total"] < 0.9 * record["loss"]["start"]["total"]
    assert record["loss"]["end"]["uni"] < 0.9 * record["loss"]["start"]["uni"]
    for m, x in inputs.items():  # every item has every modality, also what it lacked, and all of them have moved
        assert before[m].flatten(1).any(1).all()
        assert (x - before[m]).flatten(1).any(1).all()
    assert (output / "overview.png").is_file()

    assert main(["evaluate", str(output), "--convnet-seeds", "1", "--json", str(scores)]) == 0
    assert "full data (18 items)" in capsys.readouterr().out
    results = json.loads(scores.read_text())["results"]
    for of_protocol in results.values():
        assert all(0 <= of_protocol[protocol]["mean"] <= 1 for protocol in ("probe", "convnet", "retrieval"))
    assert results["full_data"]["probe"]["mean"] > 1 / 3


def test_what_cannot_be_condensed_is_said_in_a_line(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config.parent / "mine.csv"
    rows = list(csv.reader(path.read_text().splitlines()))
    audio = rows[0].index("audio")
    for row in rows[1:]:
        if row[:2] == ["train", "cow"]:
            row[audio] = ""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    assert main(["run", str(config), "--output", str(config.parent / "out")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("error: mine.csv: class 'cow' has no item with audio to condense: each class needs")
    assert not (config.parent / "out").exists()
