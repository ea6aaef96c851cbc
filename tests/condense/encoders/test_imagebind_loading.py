"""How `imagebind` comes from its package and a checkpoint: the keys, the cost, and what is said where something is missing."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_imagebind import built, items
from torch import Tensor

from condense.config.models import MODALITIES, ImageBindEncoder
from condense.encoders import imagebind, imagebind_package
from condense.system.errors import UserError

# The huge configuration -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def huge_state() -> dict[str, Tensor]:
    """The official model's state dict, without memory."""
    state: dict[str, Tensor] = imagebind.empty_model("huge").state_dict()
    return state


@pytest.fixture
def fake_checkpoint(huge_state: dict[str, Tensor], tmp_path: Path) -> Iterator[Path]:
    """Full size, same keys and shapes; the numbers are holes in the file and take no disk."""
    path = tmp_path / "imagebind_huge.pth"
    with torch.serialization.skip_data():
        torch.save({key: torch.empty(tensor.shape) for key, tensor in huge_state.items()}, path)
    yield path
    path.unlink()  # whoever copies the folder would fill the holes


def test_keys_of_the_huge_configuration_are_complete_and_strict(
    huge_state: dict[str, Tensor], fake_checkpoint: Path
) -> None:
    assert len(huge_state) == 1311
    path = fake_checkpoint
    assert path.stat().st_size > 4.8e9
    tensors = imagebind.read_checkpoint(path)
    covered: set[str] = set()
    for m in MODALITIES:
        own = imagebind.keep_towers(imagebind.empty_model("huge"), (m,)).state_dict()
        selected = imagebind.select_towers(tensors, own, (m,), path)
        assert selected.keys() == own.keys()
        covered |= selected.keys()
        missing = next(iter(own))
        with pytest.raises(UserError, match="is missing"):
            imagebind.select_towers({k: v for k, v in tensors.items() if k != missing}, own, (m,), path)
    assert covered == huge_state.keys() == tensors.keys()


LOADING = """
import sys, time, psutil, torch
from pathlib import Path
from condense.config.models import ImageBindEncoder
from condense.encoders import imagebind, imagebind_package
imagebind_package.model_module()
before, started = psutil.Process().memory_info().rss, time.monotonic()
config = ImageBindEncoder(checkpoint=Path(sys.argv[1]))
model = imagebind.load_towers(config, ("vision", "audio"))
seconds, after = time.monotonic() - started, psutil.Process().memory_info().rss
assert not any(p.is_meta for p in model.parameters())
assert 718e6 < sum(p.numel() for p in model.parameters()) < 720e6
print(seconds, after - before)
"""


@pytest.mark.slow
def test_two_towers_of_a_full_size_checkpoint_load_in_seconds_and_little_memory(
    fake_checkpoint: Path,
) -> None:
    run = subprocess.run(
        [sys.executable, "-c", LOADING, str(fake_checkpoint)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    seconds, extra = map(float, run.stdout.split())
    assert seconds < 60  # a second or two on an idle machine
    assert extra < 1e9


# What is missing ------------------------------------------------------------------------------------------------------


def refusal(**options: Any) -> str:
    with pytest.raises(UserError) as caught:
        built(("vision",), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_checkpoint_that_is_not_there_or_not_whole_is_told_in_one_line(checkpoint: Path, tmp_path: Path) -> None:
    command = "python -m condense download imagebind --to"
    missing = tmp_path / "missing.pth"
    assert refusal(checkpoint=missing).startswith(f"{missing}: no such file: `{command} {missing}`")
    assert "cannot be read" in refusal(checkpoint=tmp_path)
    cut = tmp_path / "cut.pth"
    cut.write_bytes(checkpoint.read_bytes()[:-1000])
    assert refusal(checkpoint=cut).startswith(f"{cut}: is cut off after {cut.stat().st_size:,} bytes: `{command}")
    for content in (b"", b"<html>404</html>"):
        cut.write_bytes(content)
        assert "cannot be read as a checkpoint" in refusal(checkpoint=cut)


def test_a_checkpoint_of_something_else_is_told_in_one_line(official: Any, checkpoint: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pth"
    state = official.state_dict()

    def saved(content: Any) -> str:
        torch.save(content, other)
        return refusal(checkpoint=other)

    key = "modality_heads.vision.0.weight"
    assert f"`{key}` is missing" in saved({k: v for k, v in state.items() if k != key})
    assert "the model has no `layer.weight`" in saved({"layer.weight": torch.zeros(2)})
    assert "the model has no `modality_heads.vision.lora`" in saved(
        {**state, "modality_heads.vision.lora": torch.zeros(2)}
    )
    assert f"`{key}` must have shape (32,), but got (16,)" in saved({**state, key: torch.zeros(16)})
    assert "must hold floating-point numbers" in saved({**state, key: torch.zeros(32, dtype=torch.int64)})
    assert "must hold tensors by name" in saved({"model": state})
    assert "must hold tensors by name" in saved([1, 2])
    with pytest.raises(UserError, match="must have shape"):
        imagebind.load_towers(ImageBindEncoder(checkpoint=checkpoint), ("vision",))


def test_files_of_old_torch_and_of_half_precision_are_read(official: Any, checkpoint: Path, tmp_path: Path) -> None:
    x, expected = items("imu", 2), built(("imu",), checkpoint=checkpoint).embed("imu", items("imu", 2))
    torch.save(official.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(built(("imu",), checkpoint=tmp_path / "old.pth").embed("imu", x), expected)
    torch.save({k: v.half() for k, v in official.state_dict().items()}, tmp_path / "half.pth")
    half = built(("imu",), checkpoint=tmp_path / "half.pth")
    assert {p.dtype for p in half.parameters()} == {torch.float32}
    assert (half.embed("imu", x) * expected).sum(1).min() > 0.999


def in_fresh_python(program: str, *paths: Path) -> str:
    """What it prints, with `paths` before all others; warnings are errors, and nothing may be said on stderr."""
    program = f"import sys; sys.path[:0] = {[str(p) for p in paths]}\n{program}"
    run = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    return run.stdout.strip()


REFUSED = """
from condense.encoders.imagebind_package import model_module
from condense.system.errors import UserError
import logging; logging.disable()
{hide}
try: model_module()
except UserError as error: print(error)
"""


@pytest.mark.parametrize("hidden", ["einops", "ftfy"])
def test_a_missing_package_is_told_in_one_line(hidden: str) -> None:
    told = in_fresh_python(REFUSED.format(hide=f"sys.modules[{hidden!r}] = None"))
    assert told.startswith(f"encoder imagebind: `{hidden}` cannot be imported: pip install")
    assert "\n" not in told


def test_a_missing_imagebind_is_told_in_one_line() -> None:
    hide = (
        "import importlib.util as u; find = u.find_spec; u.find_spec = lambda n: None if n == 'imagebind' else find(n)"
    )
    told = in_fresh_python(REFUSED.format(hide=hide))
    assert told.startswith("encoder imagebind: the package `imagebind` is not installed: pip install")
    assert "--no-deps imagebind-packaged==0.1.2" in told
    assert "\n" not in told


def test_the_package_is_loaded_silently_beside_what_the_user_has(tmp_path: Path) -> None:
    """An `__init__` that cannot be imported, as the official one, is skipped; the user's own timm stays."""
    installed = Path(imagebind_package.model_module().__file__).parents[1]
    repository = tmp_path / "imagebind"
    repository.mkdir()
    (repository / "__init__.py").write_text("raise ImportError('torchaudio')")
    (repository / "models").symlink_to(installed / "models")
    (repository / "bpe").symlink_to(installed / "bpe")
    program = (
        "import logging; logging.disable()\n"
        "import types; sys.modules['timm'] = mine = types.ModuleType('timm')\n"
        "from condense.encoders.imagebind_package import model_module, tokenizer\n"
        "print(model_module().__file__, sys.modules['timm'] is mine, 'timm.models' in sys.modules)\n"
        "print(tokenizer().decode(tokenizer().encode('a dog barks')))"
    )
    first, second = in_fresh_python(program, tmp_path).splitlines()
    assert first == f"{repository / 'models' / 'imagebind_model.py'} True False"
    assert second.strip() == "a dog barks"


def test_the_licence_is_said_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagebind_package, "_said", set())
    with caplog.at_level(logging.WARNING):
        built(("imu",))
        built(("imu",), seed=1)
    said = [record for record in caplog.records if "CC-BY-NC-SA" in record.message]
    assert len(said) == 1
    assert said[0].levelno == logging.WARNING


def test_drop_path_keeps_the_expectation_and_drops_whole_items() -> None:
    layer = imagebind_package.DropPath(0.25)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        y = layer(torch.ones(4000, 2, 3))
    rows = y.flatten(1)
    assert ((rows == 0).all(1) | torch.isclose(rows, torch.tensor(4 / 3)).all(1)).all()
    assert abs(float(y.mean()) - 1) < 0.03
    assert torch.equal(layer.eval()(y), y)
