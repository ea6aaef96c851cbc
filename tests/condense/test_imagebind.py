"""`imagebind` against the official classes: embeddings, gradients, keys; what is missing is told in one line.

Needs the packages of the extra `imagebind` and, installed with --no-deps, imagebind-packaged.
"""

from __future__ import annotations

import importlib.util
import itertools
import logging
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from condense.config import MODALITIES, ImageBindEncoder
from condense.data.dataset import Dataset, MemorySplit
from condense.encoders import build_encoder, encoder_specs
from condense.errors import UserError

for package in ("einops", "ftfy", "regex"):
    pytest.importorskip(package)
if importlib.util.find_spec("imagebind") is None:  # asked for, not imported: by itself it cannot be
    pytest.skip("imagebind is not installed", allow_module_level=True)

from condense.encoders import imagebind, imagebind_package  # noqa: E402

torch.set_num_threads(1)
SCALES = {"vision": 1.0, "audio": 20.0, "text": 1 / 0.07, "depth": 5.0, "thermal": 10.0, "imu": 5.0}  # the paper's
SUBSETS = [s for size in (1, 2, 6) for s in itertools.combinations(MODALITIES, size)]


def dataset_of(config: ImageBindEncoder, modalities: tuple[str, ...]) -> Dataset:
    """No items: only what they would look like."""
    specs = {m: encoder_specs(config)[m] for m in modalities}
    empty = MemorySplit({}, torch.zeros(0, dtype=torch.int64))
    return Dataset("empty", specs, ("a",), empty, empty, empty, "empty")


def built(modalities: tuple[str, ...] = MODALITIES, **options: Any) -> Any:
    config = ImageBindEncoder(**{"size": "small", **options})
    return build_encoder(config, dataset_of(config, modalities))


@pytest.fixture(scope="module")
def official() -> Any:
    """The official model with seeded weights that are not those of any initialisation, in evaluation mode."""
    model = imagebind.random_model("small", seed=7).eval()
    generator = torch.Generator().manual_seed(8)
    for parameter in model.parameters():
        if parameter.ndim:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def checkpoint(official: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("imagebind") / "small.pth"
    torch.save(official.state_dict(), path)
    return path


def items(m: str, n: int, seed: int = 0) -> Tensor:
    shape = encoder_specs(ImageBindEncoder(size="small"))[m].shape
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


def tokens(*lengths: int) -> Tensor:
    """(n, 77) int64: start, random tokens, end, padding; `lengths` counts start and end."""
    generator = torch.Generator().manual_seed(sum(lengths))
    rows = torch.zeros(len(lengths), 77, dtype=torch.int64)
    for row, length in zip(rows, lengths, strict=True):
        row[:length] = torch.randint(0, 49406, (length,), generator=generator)
        row[0], row[length - 1] = 49406, 49407
    return rows


# Parity ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("m", [m for m in MODALITIES if m != "text"])
def test_embeddings_and_input_gradients_are_the_official_ones(official: Any, checkpoint: Path, m: str) -> None:
    encoder = built((m,), checkpoint=checkpoint)
    assert encoder.dim == 32
    x = items(m, 3)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    embedded = encoder.embed(m, ours)
    raw = official({m: theirs})[m]
    assert torch.allclose(raw.norm(dim=1), torch.full((3,), encoder.output_scale[m]), rtol=1e-5)
    expected = F.normalize(raw, dim=1)
    assert embedded.dtype == torch.float32
    assert torch.allclose(embedded, expected, atol=2e-6)
    toward = torch.randn(3, encoder.dim, generator=torch.Generator().manual_seed(1))
    (own,) = torch.autograd.grad((embedded * toward).sum(), ours)
    (wanted,) = torch.autograd.grad((expected * toward).sum(), theirs)
    assert wanted.flatten(1).norm(dim=1).min() > 0
    assert (own - wanted).norm() <= 1e-5 * wanted.norm()


def test_text_embeddings_and_gradients_are_those_of_the_official_path_through_tokens(
    official: Any, checkpoint: Path
) -> None:
    """Official: tokens in; the gradient at what the token embedding gives is read by a hook."""
    encoder = built(("text",), checkpoint=checkpoint)
    ids = tokens(2, 7, 77, 30)
    kept: list[Tensor] = []

    def keep(_: Any, __: Any, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[0]

    hook = official.modality_preprocessors["text"].token_embedding.register_forward_hook(keep)
    try:
        raw = official({"text": ids})["text"]
    finally:
        hook.remove()
    expected = F.normalize(raw, dim=1)
    leaf = kept[0].detach().clone().requires_grad_()
    embedded = encoder.embed("text", leaf)
    assert torch.allclose(embedded, expected, atol=2e-6)
    assert torch.allclose(raw.norm(dim=1), torch.full((4,), encoder.output_scale["text"]), rtol=1e-5)
    toward = torch.randn(4, encoder.dim, generator=torch.Generator().manual_seed(1))
    (own,) = torch.autograd.grad((embedded * toward).sum(), leaf)
    (wanted,) = torch.autograd.grad((expected * toward).sum(), kept[0])
    assert (own - wanted).norm() <= 1e-5 * wanted.norm()
    for row, length in zip(own, (2, 7, 77, 30), strict=True):
        assert (row[:length].norm(dim=1) > 0).all()
        assert (row[length:] == 0).all()


def test_several_clips_of_a_sound_are_averaged_as_in_the_official_model(official: Any, checkpoint: Path) -> None:
    encoder = built(("audio",), checkpoint=checkpoint, audio_clips=3)
    x = torch.randn(2, 3, 1, 128, 204, generator=torch.Generator().manual_seed(0))
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    embedded, expected = encoder.embed("audio", ours), F.normalize(official({"audio": theirs})["audio"], dim=1)
    assert torch.allclose(embedded, expected, atol=2e-6)
    toward = torch.randn(2, encoder.dim, generator=torch.Generator().manual_seed(1))
    (own,) = torch.autograd.grad((embedded * toward).sum(), ours)
    (wanted,) = torch.autograd.grad((expected * toward).sum(), theirs)
    assert (own - wanted).norm() <= 1e-5 * wanted.norm()


def test_output_scales_are_the_papers_and_of_a_checkpoint_its_own(official: Any, tmp_path: Path) -> None:
    assert built().output_scale == pytest.approx(SCALES, rel=1e-5)
    state = dict(official.state_dict())
    state["modality_postprocessors.text.1.log_logit_scale"] = torch.tensor(9.0)  # clipped at 100
    torch.save(state, tmp_path / "other.pth")
    assert built(("text",), checkpoint=tmp_path / "other.pth").output_scale == pytest.approx({"text": 100.0})


@pytest.mark.parametrize("modalities", SUBSETS, ids="+".join)
def test_only_the_wanted_towers_are_there(checkpoint: Path, modalities: tuple[str, ...]) -> None:
    encoder = built(modalities, checkpoint=checkpoint)
    assert tuple(encoder.specs) == modalities
    assert {key.split(".")[1] for key in encoder.model.state_dict()} == set(modalities)
    assert not any(p.requires_grad or p.is_meta for p in encoder.parameters())
    assert not any(module.training for module in encoder.modules())


def test_an_item_does_not_see_its_batch(checkpoint: Path) -> None:
    encoder = built(checkpoint=checkpoint)
    for m in MODALITIES:
        x = items(m, 3)
        together = encoder.embed(m, x)
        assert torch.allclose(together.norm(dim=1), torch.ones(3), atol=1e-6)
        assert (encoder.embed(m, x[1:2])[0] - together[1]).abs().max() <= 2e-6
        x[0] = torch.nan
        assert torch.equal(encoder.embed(m, x).isnan().any(1), torch.tensor([True, False, False]))


def test_another_shape_is_refused_and_never_taken_for_clips() -> None:
    encoder = built(("vision", "audio"))
    for m, shape in (("vision", (1, 3, 3, 224, 224)), ("audio", (1, 3, 1, 128, 204)), ("audio", (1, 1, 128, 100))):
        with pytest.raises(ValueError, match=f"{m} must be"):
            encoder.embed(m, torch.zeros(shape))


def test_bfloat16_towers_give_float32_embeddings_near_those_of_float32(checkpoint: Path) -> None:
    exact, low = (built(checkpoint=checkpoint, precision=p) for p in ("float32", "bfloat16"))
    table = imagebind.token_table(ImageBindEncoder(size="small", checkpoint=checkpoint))
    for m in MODALITIES:
        x = table[tokens(5, 9, 77)] if m == "text" else items(m, 3)
        leaves = [x.clone().requires_grad_() for _ in range(2)]
        a, b = (encoder.embed(m, leaf) for encoder, leaf in zip((exact, low), leaves, strict=True))
        assert b.dtype == torch.float32
        assert torch.allclose(b.norm(dim=1), torch.ones(3), atol=1e-6)
        assert (a * b).sum(1).min() > 0.999, m
        toward = torch.randn(exact.dim, generator=torch.Generator().manual_seed(1))
        g = [torch.autograd.grad((e @ toward).sum(), leaf)[0] for e, leaf in zip((a, b), leaves, strict=True)]
        assert g[1].dtype == torch.float32
        assert torch.cosine_similarity(g[0].flatten(), g[1].flatten(), dim=0) > 0.98, m


def test_random_towers_are_seeded_whatever_company_they_are_in() -> None:
    before = torch.get_rng_state()
    x = items("imu", 2)
    alone, together, other = built(("imu",)), built(("vision", "imu")), built(("imu",), seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(alone.embed("imu", x), together.embed("imu", x))
    assert not torch.allclose(alone.embed("imu", x), other.embed("imu", x))


def test_fingerprint_tells_weights_towers_precision_and_clips_apart(official: Any, tmp_path: Path) -> None:
    state = {key: tensor.clone() for key, tensor in official.state_dict().items()}
    plain, tuned = (tmp_path / name / "same.pth" for name in ("a", "b"))  # torch.save writes the name into the file
    for path in (plain, tuned):
        path.parent.mkdir()
        torch.save(state, path)
        state["modality_trunks.vision.blocks.1.mlp.fc1.weight"][3, 5] += 1e-4  # amid the file
    assert tuned.stat().st_size == plain.stat().st_size
    copied = tmp_path / "copied.pth"
    copied.write_bytes(plain.read_bytes())
    av = ("vision", "audio")
    encoders = [
        built(av, checkpoint=plain),
        built(("vision",), checkpoint=plain),
        built(av, checkpoint=tuned),
        built(av, checkpoint=plain, precision="bfloat16"),
        built(av, checkpoint=plain, audio_clips=3),
        built(av),
        built(av, seed=1),
    ]
    assert len({encoder.fingerprint for encoder in encoders}) == len(encoders)
    assert built(av, checkpoint=copied).fingerprint == encoders[0].fingerprint


# Specs ----------------------------------------------------------------------------------------------------------------


def test_specs_are_of_the_six_modalities() -> None:
    specs = encoder_specs(ImageBindEncoder(size="small"))
    assert tuple(specs) == MODALITIES
    assert {m: spec.shape for m, spec in specs.items()} == {
        "vision": (3, 224, 224),
        "audio": (1, 128, 204),
        "text": (77, 32),
        "depth": (1, 224, 224),
        "thermal": (1, 224, 224),
        "imu": (6, 2000),
    }
    assert encoder_specs(ImageBindEncoder(random_weights=True))["text"].shape == (77, 1024)
    white = torch.ones(3, 2, 2)
    expected = torch.tensor(
        [(1 - 0.48145466) / 0.26862954, (1 - 0.4578275) / 0.26130258, (1 - 0.40821073) / 0.27577711]
    )
    assert torch.allclose(specs["vision"].normalize(white)[:, 0, 0], expected)  # type: ignore[attr-defined]
    silence = (math.log(torch.finfo(torch.float32).eps) + 4.268) / 9.138
    assert specs["audio"].low < silence < specs["audio"].low + 0.01


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
from condense.config import ImageBindEncoder
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
    assert seconds < 10
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
    assert "it has no `layer.weight`" in saved({"layer.weight": torch.zeros(2)})
    assert "it has no `modality_heads.vision.lora`" in saved({**state, "modality_heads.vision.lora": torch.zeros(2)})
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
from condense.errors import UserError
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
