"""A user's manifest of sounds and captions, without classes, from the CSV to the scores."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from condense.__main__ import main
from condense.export.export import read_export

WORDS = ["rain", "dog", "door", "engine", "bell", "wind", "train", "voice", "water", "bird"]


def write_manifest(folder: Path) -> Path:
    """30 clips to train, 12 each to validate and test: a tone of its own pitch, and two captions with its own words."""
    rng = np.random.default_rng(0)
    rows, clip = ["split,label,text,audio"], 0
    for split, count in (("train", 30), ("validation", 12), ("test", 12)):
        for _ in range(count):
            pitch, clip = 200 * 1.05**clip, clip + 1
            samples = np.sin(2 * np.pi * pitch * np.arange(8000) / 16000) + 0.1 * rng.normal(size=8000)
            with wave.open(str(folder / f"{clip}.wav"), "wb") as file:
                file.setparams((1, 2, 16000, 0, "NONE", "not compressed"))
                file.writeframes((10000 * samples).astype("<i2").tobytes())
            words = WORDS[clip % 10], WORDS[clip // 10]
            rows += [f"{split},all,{text},{clip}.wav" for text in (" and ".join(words), "a " + ", then a ".join(words))]
    rows = [row if row.count(",") == 3 else ",".join(_quoted(row)) for row in rows]
    (folder / "clips.csv").write_text("\n".join(rows) + "\n")
    return folder / "clips.csv"


def _quoted(row: str) -> list[str]:
    split, label, *text, audio = row.split(",")
    return [split, label, f'"{",".join(text)}"', audio]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / "cache"))
    content: dict[str, Any] = {
        "dataset": {"name": "manifest", "path": str(write_manifest(tmp_path))},
        "encoder": {"name": "tiny", "epochs": 2, "width": 4, "dim": 16},
        "dpc": 5,
        "metric": "retrieval",
        "steps": 4,
        "hyperparameters": {"num_frequencies": 16, "frequency_pool": 32},
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_sounds_and_captions_without_classes(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, scores = config.parent / "out", config.parent / "scores.json"
    assert main(["run", str(config), "--output", str(output)]) == 0
    printed = capsys.readouterr().err
    assert "clips.csv: no classes, audio + text; 5 items in all, 4 steps" in printed
    assert "validation retrieval " in printed
    _, labels, record = read_export(output)
    assert labels.tolist() == [0] * 5
    validation = record["validation"]
    assert 0 < validation["retrieval"] <= 1
    assert validation["share"] == pytest.approx(validation["retrieval"] / validation["full_data"])

    assert main(["evaluate", str(output), "--json", str(scores)]) == 0
    assert "random (5 draws)" in capsys.readouterr().out
    results = json.loads(scores.read_text())["results"]
    assert results.keys() == {"condensed", "random", "herding", "k_center", "k_means", "full_data"}
    for of in results.values():
        assert of["probe"] is None and of["convnet"] is None
        # 24 captions of 12 clips: any recall@1, 5 and 10 of 0 would be below chance by far.
        assert 0.1 < of["retrieval"]["mean"] <= 1
    assert len(results["random"]["retrieval"]["values"]) == 5


def test_accuracy_without_classes_is_refused_in_one_line(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(config), "--output", str(config.parent / "out"), "--set", "metric=accuracy"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.endswith("has a single label: accuracy needs two or more (set `metric: retrieval`)")
    assert not (config.parent / "out").exists()
