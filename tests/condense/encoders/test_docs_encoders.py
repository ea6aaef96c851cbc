"""docs/encoders.md: its example is taken out and run; and what a user's encoder may get wrong."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from PIL import Image

from condense.__main__ import main
from condense.config.models import CondensationConfig, PythonEncoder, validate
from condense.config.towers import AlignedEncoder
from condense.embeddings.task import load_task
from condense.encoders import build_encoder, encoder_specs
from condense.engine.engine import Engine
from condense.export.export import read_export
from condense.method.condensation import Condensation
from condense.storage.store import Store
from condense.system.errors import UserError

DOCUMENT = (Path(__file__).parents[3] / "docs/encoders.md").read_text(encoding="utf-8")


def block(language: str, part: str = "One of your own") -> str:
    """The only block of the language in a part of the document."""
    text = DOCUMENT.split(f"\n## {part}\n")[1].split("\n## ")[0]
    (found,) = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    return str(found)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The document's two files, and a small dataset beside them, in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_encoder.py").write_text(block("python"))
    (tmp_path / "mine.yaml").write_text(block("yaml"))
    rows = ["split,label,vision,audio"]
    for index in range(24):
        rng, label = np.random.default_rng(index), index % 2
        pixels = rng.integers(0, 120, (20, 20, 3)) + 120 * label
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{index}.png")
        t = np.arange(12_400) / 16_000
        wave = 0.3 * np.sin(2 * np.pi * (400 + 600 * label) * t) + 0.05 * rng.normal(size=len(t))
        soundfile.write(tmp_path / f"{index}.wav", wave, 16_000)
        rows.append(f"{'train' if index < 16 else 'test'},{('low', 'high')[label]},{index}.png,{index}.wav")
    (tmp_path / "mine.csv").write_text("\n".join(rows))
    return tmp_path


def test_the_example_is_short() -> None:
    assert len(block("python").splitlines()) <= 40
    assert len([line for line in block("python").splitlines() if line.strip()]) <= 30


def test_the_example_runs(folder: Path) -> None:
    assert main(["run", "mine.yaml", "--output", "my_condensed"]) == 0
    inputs, labels, record = read_export(folder / "my_condensed")
    assert {name: tuple(x.shape) for name, x in inputs.items()} == {"vision": (2, 3, 16, 16), "audio": (2, 1, 32, 32)}
    assert labels.tolist() == [0, 1]
    assert record["class_names"] == ["high", "low"]


def test_the_example_condenses(folder: Path) -> None:
    """The loss falls, and the gradient is that of finite differences."""
    config = validate(CondensationConfig, yaml.safe_load(block("yaml")), "mine.yaml")
    task = load_task(config, Store(), torch.device("cpu"))
    replica, engine = Condensation(task, 2, "random", config.hyperparameters, 0, 40), Engine()
    losses = engine.run([replica], 40)[0][:, 0]
    assert losses[-5:].mean() < 0.8 * losses[:5].mean()
    for name, spec in task.dataset.specs.items():
        item = torch.rand(1, *spec.shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
        weights = torch.arange(32.0) / 32
        (gradient,) = torch.autograd.grad((task.encoder.embed(name, item) * weights).sum(), item)
        step = 1e-2 * gradient / gradient.norm()
        with torch.no_grad():
            after, before = ((task.encoder.embed(name, item + sign * step) * weights).sum() for sign in (1, -1))
        torch.testing.assert_close((after - before) / 2e-2, gradient.norm(), rtol=0.01, atol=0)


def test_the_fingerprint_covers_file_and_options(folder: Path) -> None:
    config = PythonEncoder(name="python", path=folder / "my_encoder.py", options={"dim": 32})
    full = validate(CondensationConfig, yaml.safe_load(block("yaml")), "mine.yaml")
    dataset = load_task(full, Store(), torch.device("cpu")).dataset

    def fingerprint(config: PythonEncoder) -> str:
        return build_encoder(config, dataset, Store()).fingerprint

    before = fingerprint(config)
    assert fingerprint(config) == before
    assert fingerprint(config.model_copy(update={"options": {"dim": 32, "seed": 1}})) != before
    (folder / "my_encoder.py").write_text(block("python") + "\n# changed\n")
    assert fingerprint(config) != before


GOOD = block("python")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such Python file"),
        ("import nothing_of_this_name", "cannot be imported: ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("def build(options, dataset): ...", "has no function `specs`"),
        ("def specs(options): return [1]", "specs(options) must return modality -> InputSpec, but returned [1]"),
        (GOOD.replace('{"vision"', '{"smell"'), "specs(options): 'smell': its InputSpec is of the modality 'vision'"),
        (GOOD.replace("self.dim,", "self.size,"), "build(options, dataset): the encoder has no `dim`"),
        (GOOD.replace("seed):", "seeds):"), "build: NameError: name 'seed' is not defined"),
        (GOOD.replace("F.normalize(torch", "(lambda x, dim: x)(torch"), "embed('vision', ...): must have unit norm, but has"),
        (GOOD.replace("inputs.flatten", "inputs.detach().flatten"), "embed('vision', ...): RuntimeError: "),
        (GOOD.replace("inputs.flatten(1)", "(inputs - inputs.mean(0)).flatten(1)"), "embed('vision', ...): an item's"),
        (GOOD.replace("dim=1)\n\n\ndef b", "dim=1)[:, :5]\n\n\ndef b"), "embed('vision', ...): must return float32 of"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_file_is_one_line(folder: Path, content: str | None, message: str) -> None:
    path = folder / "my_encoder.py"
    path.unlink() if content is None else path.write_text(content)
    config = validate(CondensationConfig, yaml.safe_load(block("yaml")), "mine.yaml")
    with pytest.raises(UserError) as raised:
        load_task(config, Store(), torch.device("cpu"))
    assert str(raised.value).startswith(f"my_encoder.py: {message}")
    assert "\n" not in str(raised.value)


def test_the_example_of_aligned_towers_is_valid() -> None:
    content = yaml.safe_load(block("yaml", "Towers of one modality, aligned on your pairs"))
    encoder = validate(CondensationConfig, content, "towers.yaml").encoder
    assert isinstance(encoder, AlignedEncoder)
    assert [tower.kind for tower in encoder.towers.values()] == ["efficientnet_lite0", "transformers", "transformers"]


def test_tiny_is_still_the_default() -> None:
    config = validate(CondensationConfig, {}, "empty")
    assert config.encoder.name == "tiny"
    assert set(encoder_specs(config.encoder)) == {"vision", "audio", "text", "depth", "thermal", "imu"}


READS_ITSELF = """
from dataclasses import dataclass
import numpy as np, torch, torch.nn.functional as F
from PIL import Image
from condense.inputs.spec import FileSpec, ImageSpec

GAIN = 1.0

@dataclass(frozen=True)
class Own(FileSpec):
    kind = "PNG"

    def read(self, path):
        return GAIN * torch.from_numpy(np.asarray(Image.open(path).convert("L").resize((8, 8)), dtype=np.float32))[None] / 255

def specs(options): return {"vision": Own("vision", (1, 8, 8), 0.0, 1.0), "audio": ImageSpec.of("audio", 1, 8, (0.5,), (0.5,))}
def build(options, dataset): ...
"""


def test_how_a_file_of_ones_own_reads_is_part_of_what_is_cached(folder: Path) -> None:
    """Beside embeddings: the inputs themselves, and what a ConvNet learns from them."""
    file = folder / "own.py"

    def described(content: str, **options: int) -> dict[str, str]:
        file.write_text(content)
        found = encoder_specs(PythonEncoder(name="python", path=file, options=options))
        return {name: str(spec.describe()) for name, spec in found.items()}

    before = described(READS_ITSELF)
    assert described(READS_ITSELF) == before
    for other in (described(READS_ITSELF.replace("GAIN = 1.0", "GAIN = 0.5")), described(READS_ITSELF, window=3)):
        assert other["vision"] != before["vision"]
        assert other["audio"] == before["audio"]  # one of this project's: its fields say all
