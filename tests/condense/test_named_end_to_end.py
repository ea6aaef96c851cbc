"""Modalities with the user's own names, from a manifest to a condensed set and its evaluation: `run`, then `evaluate`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import soundfile
import yaml
from PIL import Image
from small_files import ENCODER

from condense import commands
from condense.config.models import CondensationConfig, validate
from condense.export.export import read_export
from condense.system.errors import UserError


def image(path: Path, label: int, rng: np.random.Generator) -> str:
    pixels = rng.integers(0, 80, (12, 12)).astype(np.uint8)
    pixels[:, 6 * label : 6 * label + 6] += 120
    Image.fromarray(pixels).save(path.with_suffix(".png"))
    return path.with_suffix(".png").name


def sound(path: Path, label: int, rng: np.random.Generator) -> str:
    wave = np.sin(np.arange(4000) * (0.2 + 0.4 * label)) / 2 + rng.normal(size=4000) / 50
    soundfile.write(path.with_suffix(".wav"), wave, 16_000)
    return path.with_suffix(".wav").name


def series(path: Path, label: int, rng: np.random.Generator) -> str:
    time = np.arange(32) * (0.3 + 0.5 * label) + rng.uniform(0, 6)
    np.save(path.with_suffix(".npy"), np.stack([np.sin(time), np.cos(time)]) * 9.81 + rng.normal(size=(2, 32)))
    return path.with_suffix(".npy").name


WRITE: dict[str, Callable[[Path, int, np.random.Generator], str]] = {"image": image, "sound": sound, "series": series}


def write(folder: Path, kinds: dict[str, str], **keys: object) -> Path:
    """A manifest of 2 labels x 8 items, with groups, and a configuration."""
    rng = np.random.default_rng(0)
    rows = [["split", "label", "group", *(f"{name}:{kind}" for name, kind in kinds.items())]]
    for i in range(16):
        files = [WRITE[kind](folder / f"{name}{i}", i % 2, rng) for name, kind in kinds.items()]
        rows.append(["test" if i >= 12 else "train", "ab"[i % 2], f"g{i // 2}", *files])
    (folder / "mine.csv").write_text("\n".join(map(",".join, rows)), encoding="utf-8")
    content = {"dataset": {"name": "manifest", "path": "mine.csv"}, "encoder": ENCODER, "steps": 3, **keys}
    (folder / "mine.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder / "mine.yaml"


PAIRS = [
    {"accelerometer": "series", "gyroscope": "series"},
    {"left": "image", "right": "image"},
    {"heart": "sound", "lung": "sound"},
    {"photo": "image", "values": "series"},  # `values`: torch refuses it as the name of a submodule
]


@pytest.mark.usefixtures("config")  # networks of 3 steps, a cache of its own
@pytest.mark.parametrize("kinds", PAIRS, ids=" and ".join)
def test_a_pair_of_named_modalities(tmp_path: Path, capsys: pytest.CaptureFixture[str], kinds: dict[str, str]) -> None:
    settings = {"num_frequencies": 16, "frequency_pool": 32, "views": 1, "formation": 2}
    settings |= {f"learning_rate_{name}": 0.1 for name in kinds}
    (tmp_path / "data").mkdir()
    bank = [ENCODER, {**ENCODER, "seed": 1}]
    config = write(tmp_path / "data", kinds, hyperparameters=settings, encoders=bank)
    out = tmp_path / "out"
    assert commands.run(config, out, []) == 0
    inputs, labels, record = read_export(out)
    assert list(inputs) == record["modalities"] == sorted(kinds)
    assert all(x.isfinite().all() for x in inputs.values())
    assert record["config"]["hyperparameters"]["learning_rate_" + min(kinds)] == 0.1
    stored = safetensors.torch.load_file(out / "condensed.safetensors")
    assert len(labels) > len(stored["label"]) == 2
    previews = {path.name.removeprefix("000_a_") for path in (out / "previews").glob("000_a_*")}
    suffixes = {"image": [".png"], "sound": [".png", ".wav"], "series": [".png", ".csv"]}
    assert previews == {f"{name}{suffix}" for name, kind in kinds.items() for suffix in suffixes[kind]}
    capsys.readouterr()
    assert commands.evaluate(out, 1, tmp_path / "scores.json") == 0
    table = capsys.readouterr().out
    assert f"2 classes, {' + '.join(sorted(kinds))}" in table
    results = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))["results"]
    assert results["condensed"]["convnet"]["n"] == 1 and results["condensed"]["retrieval"]["n"] == 1


def test_a_learning_rate_of_a_modality_that_is_not_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "load_task", lambda *given, **keys: pytest.fail("work has begun"))
    config = write(tmp_path, PAIRS[1], hyperparameters={"learning_rate_middle": 0.1})
    with pytest.raises(UserError) as caught:
        commands.run(config, tmp_path / "out", [])
    assert str(caught.value) == (
        "hyperparameters.learning_rate_middle: the data have no modality 'middle' (there are: left, right)"
    )


@pytest.mark.parametrize(
    "encoder", [{"name": "imagebind", "random_weights": True}, {"name": "transformers", "model": "x"}]
)
def test_encoders_of_the_six_say_so(tmp_path: Path, encoder: dict[str, object]) -> None:
    config = write(tmp_path, PAIRS[1], encoder=encoder)
    with pytest.raises(
        UserError, match=rf"encoder {encoder['name']}: takes ImageBind's names only .* the data have left"
    ):
        commands.run(config, tmp_path / "out", [])


OWN = """
import torch
from condense.inputs.spec import ArraySpec, ImageSpec

def specs(options):
    return {"left": ImageSpec.of("left", 1, 8, (0.5,), (0.5,)), "right": ArraySpec("right", (1, 8, 8), 0.0, 1.0%s)}
"""


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "",
            "specs(options): 'right': its InputSpec needs a `kind`, one of image, sound, text, series, depth, thermal",
        ),
        (', kind="depth"', "column `right` is of kind image, but the encoder takes depth"),
        (', kind="image"', "is not an NPY file, the only format of numbers that is read"),
    ],
)
def test_an_encoder_of_ones_own_names_any_modality_with_its_kind(tmp_path: Path, kind: str, message: str) -> None:
    (tmp_path / "own.py").write_text(OWN % kind, encoding="utf-8")
    config = write(tmp_path, PAIRS[1], encoder={"name": "python", "path": "own.py"})
    with pytest.raises(UserError) as caught:
        commands.run(config, tmp_path / "out", [])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("hyperparameters", "message"),
    [
        ({"lambda_cros": 1}, "unknown key `hyperparameters.lambda_cros`"),
        ({"learning_rate_Left": 1}, "unknown key `hyperparameters.learning_rate_Left`"),
        (
            {"learning_rate_left": -1},
            "`hyperparameters.learning_rate_left`: Input should be greater than 0, but got -1",
        ),
        ({"learning_rate_left": True}, "`learning_rate_left` must be a number, but got True"),
    ],
)
def test_mistakes_in_hyperparameters(hyperparameters: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as caught:
        validate(CondensationConfig, {"hyperparameters": hyperparameters}, "x.yaml")
    assert message in str(caught.value)
