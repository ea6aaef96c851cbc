"""From handwritten digits and speech through the official classes, small, to a condensed set: `python -m condense`."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from small_imagebind import built

from condense.__main__ import main
from condense.config.models import CondensationConfig, validate
from condense.data import spoken_digits
from condense.embeddings.task import Task, load_task
from condense.engine.engine import Engine
from condense.engine.replica_batch import ReplicaBatch
from condense.method.condensation import Condensation
from condense.storage.store import Store

CONFIG = {
    "dataset": {"name": "spoken_digits", "pairs_per_image": 1},
    "encoder": {"name": "imagebind", "size": "small", "audio_clips": 1},
    "dpc": 1,
    "initialization": "random",
    "steps": 12,
    "hyperparameters": {"learning_rate": 30.0, "lambda_cross": 0.3, "lambda_joint": 0.3, "num_frequencies": 128},
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """100 of the 1,797 digits, at 224 x 224, and as many utterances of 2 s."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spoken_digits, "IMAGES", {"condense": 60, "validation": 20, "test": 20})
        patch.setenv("CONDENSE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def task(store: Path) -> Task:
    return load_task(validate(CondensationConfig, CONFIG, "digits"), Store(store), torch.device("cpu"))


def test_all_inputs_have_gradients_and_the_loss_falls(task: Task) -> None:
    assert {m: spec.shape for m, spec in task.dataset.specs.items()} == {
        "vision": (3, 224, 224),
        "audio": (1, 128, 204),
    }
    config = validate(CondensationConfig, CONFIG, "digits")
    replica = Condensation(task, 1, "random", config.hyperparameters, 0, 12)
    gradients = ReplicaBatch([replica]).gradients().gradients
    assert (gradients["vision"].flatten(1) != 0).float().mean(1).min() > 0.99
    audio = gradients["audio"]
    assert (audio[:, :, :126, :196].flatten(1) != 0).float().mean(1).min() > 0.99
    assert not audio[:, :, 126:].any() and not audio[..., 196:].any()  # what the patches' stride leaves out
    losses = Engine().run([replica], 12)[0][:, 0]
    assert losses[-3:].mean() < 0.9 * losses[:3].mean()


def test_a_pack_of_two_is_two_alone(task: Task) -> None:
    h = validate(CondensationConfig, CONFIG, "digits").hyperparameters
    pair = [Condensation(task, dpc, "random", h, seed, 12) for dpc, seed in ((1, 0), (2, 1))]
    alone = [Condensation(task, dpc, "random", h, seed, 12) for dpc, seed in ((1, 0), (2, 1))]
    Engine().run(pair, 3)
    for replica in alone:
        Engine().run([replica], 3)
    for one, other in zip(pair, alone, strict=True):
        for m in one.inputs:
            torch.testing.assert_close(one.inputs[m], other.inputs[m], atol=1e-3, rtol=1e-3)


def test_the_command_writes_what_can_be_seen_and_heard(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "digits.yaml").write_text(yaml.safe_dump(CONFIG))
    out = tmp_path / "out"
    assert main(["run", str(tmp_path / "digits.yaml"), "--output", str(out)]) == 0
    assert "error" not in capsys.readouterr().err
    tensors = load_file(out / "condensed.safetensors")
    assert tensors["vision"].shape == (10, 3, 224, 224) and tensors["audio"].shape == (10, 1, 128, 204)
    assert json.loads((out / "condensed.json").read_text())["config"]["encoder"]["name"] == "imagebind"
    images, sounds = sorted(out.glob("previews/*.png")), sorted(out.glob("previews/*.wav"))
    assert len(sounds) == 10 and len(images) >= 10
    wave, rate = soundfile.read(io.BytesIO(sounds[0].read_bytes()))
    assert rate == 16_000 and 1.9 <= len(wave) / rate <= 2.1 and np.abs(wave).max() > 0.5
    with Image.open(next(path for path in images if "vision" in path.name)) as image:
        assert image.size == (224, 224)


def test_three_clips_are_the_default() -> None:
    assert built(("audio",)).specs["audio"].shape == (3, 1, 128, 204)
