"""CLIP, SigLIP and CLAP through our configuration, against the transformers classes called directly.

Small models with random weights, made from configurations, saved to a folder and loaded from it: nothing is downloaded.
"""

from __future__ import annotations

import io
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from small_transformers import KINDS, TEXTS, dataset_of, direct, features, load, make_model, some_inputs, transformers
from torch import Tensor

from condense.config.models import (
    CondensationConfig,
    Hyperparameters,
    ManifestDataset,
    TensorsDataset,
    TransformersEncoder,
    validate,
)
from condense.data import load_dataset
from condense.embeddings.embeddings import embed_split
from condense.embeddings.task import Task
from condense.encoders import build_encoder, encoder_specs
from condense.engine.engine import Engine
from condense.inputs.media import decode_text, preview, read_item
from condense.inputs.tokens import TokenSpec, end_positions
from condense.method.condensation import Condensation
from condense.storage.store import Store
from condense.system.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def of(kind: str) -> Path:
        if kind not in made:
            made[kind] = make_model(kind, tmp_path_factory.mktemp(kind))
        return made[kind]

    return of


# --- embeddings and gradients


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_and_input_gradients_are_the_models(folder: Callable[[str], Path], kind: str) -> None:
    encoder, specs = load(folder(kind))
    modality = next(iter(specs))
    ours, theirs = some_inputs(specs[modality]), some_inputs(specs[modality])
    weights = torch.randn(3, encoder.dim, generator=torch.Generator().manual_seed(2))
    embedded = encoder.embed(modality, ours.requires_grad_())
    expected = features(direct(folder(kind)), modality, theirs.requires_grad_())
    assert embedded.dtype == torch.float32
    torch.testing.assert_close(embedded, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(embedded.norm(dim=1), torch.ones(3))
    (embedded * weights).sum().backward()
    (expected * weights).sum().backward()
    assert ours.grad is not None and theirs.grad is not None
    assert ours.grad.abs().max() > 0
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_text_embeddings_are_those_of_its_tokens(folder: Callable[[str], Path], kind: str) -> None:
    encoder, specs = load(folder(kind))
    items = torch.stack([read_item(specs["text"], text, Path()) for text in TEXTS])
    embedded = encoder.embed("text", items)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder(kind))
    length = specs["text"].shape[0]
    tokens = tokenizer(TEXTS, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    given = {"input_ids": tokens["input_ids"]}
    if kind != "siglip":  # it was trained without a mask
        given["attention_mask"] = tokens["attention_mask"]
    expected = F.normalize(direct(folder(kind)).get_text_features(**given).pooler_output, dim=1)
    torch.testing.assert_close(embedded, expected, atol=1e-6, rtol=1e-5)
    assert (embedded[0] - embedded[1]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_text_gradients_are_those_of_the_token_embeddings(folder: Callable[[str], Path], kind: str) -> None:
    """A forward hook on the model's own table gives the same gradient; there is none after the end."""
    encoder, specs = load(folder(kind))
    items = torch.stack([read_item(specs["text"], text, Path()) for text in TEXTS]).requires_grad_()
    weights = torch.randn(3, encoder.dim, generator=torch.Generator().manual_seed(2))
    (encoder.embed("text", items) * weights).sum().backward()

    model, kept = direct(folder(kind)), []
    table = model.text_model.get_input_embeddings()

    def keep(module: Any, args: Any, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[-1]

    table.register_forward_hook(keep)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder(kind))
    tokens = tokenizer(
        TEXTS, padding="max_length", max_length=specs["text"].shape[0], truncation=True, return_tensors="pt"
    )
    mask = {} if kind == "siglip" else {"attention_mask": tokens["attention_mask"]}
    output = model.get_text_features(input_ids=tokens["input_ids"], **mask).pooler_output
    (F.normalize(output, dim=1) * weights).sum().backward()
    assert items.grad is not None and kept[0].grad is not None
    torch.testing.assert_close(items.grad, kept[0].grad, atol=1e-7, rtol=1e-4)
    if kind != "siglip":
        after_end = ~tokens["attention_mask"].bool()
        assert (items.grad[after_end] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_finite_differences(folder: Callable[[str], Path], kind: str) -> None:
    encoder, specs = load(folder(kind))
    for modality, spec in specs.items():
        text = modality == "text"
        item = read_item(spec, TEXTS[0], Path())[None] if text else some_inputs(spec, 1)
        generator = torch.Generator().manual_seed(3)
        target, direction = (torch.randn(size, generator=generator) for size in ((1, encoder.dim), item.shape))
        if isinstance(spec, TokenSpec):  # what padding moves by would be text
            direction[:, int(end_positions(item, spec.open_table()[spec.padding])) + 1 :] = 0
        item.requires_grad_()
        (encoder.embed(modality, item) * target).sum().backward()
        assert item.grad is not None
        step = 1e-2 * item.detach().std() / direction.std()

        def value(x: Tensor, name: str = modality, weights: Tensor = target) -> Tensor:
            with torch.no_grad():
                return (encoder.embed(name, x) * weights).sum()

        difference = (value(item + step * direction) - value(item - step * direction)) / (2 * step)
        torch.testing.assert_close(difference, (item.grad * direction).sum(), atol=1e-4, rtol=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_an_items_embedding_does_not_depend_on_its_batch(folder: Callable[[str], Path], kind: str) -> None:
    encoder, specs = load(folder(kind))
    for modality, spec in specs.items():
        text = modality == "text"
        items = torch.stack([read_item(spec, text, Path()) for text in TEXTS]) if text else some_inputs(spec)
        alone = torch.cat([encoder.embed(modality, item[None]) for item in items])
        torch.testing.assert_close(encoder.embed(modality, items), alone, atol=2e-6, rtol=0)
        assert all(not parameter.requires_grad for parameter in encoder.parameters())  # type: ignore[attr-defined]


def test_threads_do_not_see_each_others_text(folder: Callable[[str], Path]) -> None:
    encoder, specs = load(folder("clip"))
    items = [read_item(specs["text"], text, Path())[None] for text in TEXTS]
    alone = [encoder.embed("text", item) for item in items]
    together: dict[int, list[Tensor]] = {}

    def work(index: int) -> None:
        together[index] = [encoder.embed("text", items[index]) for _ in range(20)]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(items))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(together) == list(range(len(items)))  # none has failed
    for index, embedded in together.items():
        assert all(torch.equal(one, alone[index]) for one in embedded)


def test_only_the_towers_of_the_dataset_are_kept(folder: Callable[[str], Path]) -> None:
    encoder, _ = load(folder("clip"), ("vision",))
    assert encoder.model.text_model is None  # type: ignore[attr-defined]
    assert list(encoder.specs) == ["vision"]


def test_bfloat16_is_close_and_of_unit_norm(folder: Callable[[str], Path]) -> None:
    exact, specs = load(folder("clip"))
    rough, _ = load(folder("clip"), precision="bfloat16")
    text = torch.stack([read_item(specs["text"], text, Path()) for text in TEXTS])
    for modality, inputs in {"vision": some_inputs(specs["vision"]), "text": text}.items():
        embedded = rough.embed(modality, inputs)
        assert embedded.dtype == torch.float32
        torch.testing.assert_close(embedded.norm(dim=1), torch.ones(3))
        assert (embedded * exact.embed(modality, inputs)).sum(1).min() > 0.99
    assert rough.fingerprint != exact.fingerprint


def test_fingerprint_is_of_content_not_of_place(folder: Callable[[str], Path], tmp_path: Path) -> None:
    before, _ = load(folder("siglip"))
    shutil.copytree(folder("siglip"), tmp_path / "moved")
    assert load(tmp_path / "moved")[0].fingerprint == before.fingerprint
    path = tmp_path / "moved/preprocessor_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "resample": 2}))
    assert load(tmp_path / "moved")[0].fingerprint != before.fingerprint


# --- files


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("size", [(50, 81), (81, 50), (32, 32), (20, 31)])
def test_images_are_read_as_the_models_processor_does(
    folder: Callable[[str], Path], tmp_path: Path, kind: str, size: tuple[int, int]
) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)).save(tmp_path / "a.png")
    processor = {"clip": transformers.CLIPImageProcessorPil, "siglip": transformers.SiglipImageProcessorPil}[kind]
    with Image.open(tmp_path / "a.png") as image:
        expected = processor.from_pretrained(folder(kind))(images=image, return_tensors="pt")["pixel_values"][0]
    spec = encoder_specs(TransformersEncoder(name="transformers", model=str(folder(kind))))["vision"]
    item = read_item(spec, "a.png", tmp_path)
    torch.testing.assert_close(item, expected.float(), atol=1e-5, rtol=0)
    assert set(preview(spec, item)) == {".png"}


@pytest.mark.parametrize("kind", ["clap", "clap_fused"])
@pytest.mark.parametrize("seconds", [0.2, 0.35, 1.0])
def test_sound_is_read_as_the_models_extractor_does(
    folder: Callable[[str], Path], tmp_path: Path, kind: str, seconds: float
) -> None:
    wave = 0.2 * np.random.default_rng(0).normal(size=round(8000 * seconds)).astype(np.float32).clip(-4, 4)
    soundfile.write(tmp_path / "a.wav", wave, 8000, subtype="FLOAT")
    extractor = transformers.ClapFeatureExtractor.from_pretrained(folder(kind))
    expected = extractor(wave, sampling_rate=8000, return_tensors="pt")["input_features"][0, :1]
    spec = encoder_specs(TransformersEncoder(name="transformers", model=str(folder(kind))))["audio"]
    item = read_item(spec, "a.wav", tmp_path)
    torch.testing.assert_close(item, expected.float(), atol=1e-3, rtol=0)


def test_long_sound_keeps_its_middle(folder: Callable[[str], Path], tmp_path: Path) -> None:
    wave = 0.2 * np.random.default_rng(0).normal(size=20_000).astype(np.float32).clip(-4, 4)
    soundfile.write(tmp_path / "a.wav", wave, 8000, subtype="FLOAT")
    soundfile.write(tmp_path / "middle.wav", wave[6000:14_000], 8000, subtype="FLOAT")
    spec = encoder_specs(TransformersEncoder(name="transformers", model=str(folder("clap"))))["audio"]
    assert torch.equal(read_item(spec, "a.wav", tmp_path), read_item(spec, "middle.wav", tmp_path))


def test_a_spectrogram_becomes_a_wave_that_has_it(folder: Callable[[str], Path]) -> None:
    spec = encoder_specs(TransformersEncoder(name="transformers", model=str(folder("clap"))))["audio"]
    t = torch.arange(8000) / 8000
    item = spec.from_wave(0.3 * torch.sin(2 * torch.pi * (300 * t + 400 * t**2)))  # type: ignore[attr-defined]
    files = preview(spec, item)
    wave, rate = soundfile.read(io.BytesIO(files[".wav"]), dtype="float32")
    assert (len(wave), rate, set(files)) == (8000, 8000, {".png", ".wav"})
    back = spec.from_wave(torch.from_numpy(wave))  # type: ignore[attr-defined]
    loud = item > item.max() - 20
    difference = (back - item)[loud]
    assert (difference - difference.mean()).abs().mean() < 2  # dB; the level itself was changed for playing


@pytest.mark.parametrize("kind", KINDS)
def test_text_comes_back_from_its_embeddings(folder: Callable[[str], Path], kind: str) -> None:
    spec = encoder_specs(TransformersEncoder(name="transformers", model=str(folder(kind))))["text"]
    assert isinstance(spec, TokenSpec)
    scale = spec.open_table().std()
    for text in TEXTS:
        item = read_item(spec, text, Path())
        noisy = item + 0.05 * scale * torch.randn(item.shape, generator=torch.Generator().manual_seed(0))
        back = decode_text(spec, noisy)
        assert text.startswith(back)
        assert back == text or len(text.split()) > spec.shape[0] - 3
        assert preview(spec, item)[".txt"].decode() == back
        assert spec.low < item.min() and item.max() < spec.high


# --- a whole condensation


def test_images_and_texts_are_condensed(folder: Callable[[str], Path], tmp_path: Path) -> None:
    """From a manifest through CLIP: the loss falls, both inputs move, the texts keep their lengths."""
    rows = ["split,label,vision,text"]
    for index in range(16):
        label = ("cat", "dog")[index % 2]
        pixels = np.random.default_rng(index).integers(0, 100, (40, 40, 3)) + 100 * (index % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{index}.png")
        split = "train" if index < 8 else "validation" if index < 12 else "test"
        rows.append(f"{split},{label},{index}.png,a photo of {'two ' * (index // 2)}{label} .")
    (tmp_path / "mine.csv").write_text("\n".join(rows))
    config = validate(
        CondensationConfig,
        {"encoder": {"name": "transformers", "model": str(folder("clip"))}, "initialization": "random"},
        "mine.yaml",
    )
    dataset = load_dataset(ManifestDataset(name="manifest", path=tmp_path / "mine.csv"), encoder_specs(config.encoder))
    encoder, device = build_encoder(config.encoder, dataset, Store()), torch.device("cpu")
    condense, validation = (embed_split(encoder, split, device) for split in (dataset.condense, dataset.validation))
    task = Task(dataset, encoder, condense, validation, device)
    settings = Hyperparameters(learning_rate=0.02, optimizer="adam", schedule="constant", num_frequencies=64)
    replica, engine = Condensation(task, 1, "random", settings, 0, 60), Engine()
    before = {name: inputs.clone() for name, inputs in replica.inputs.items()}
    assert engine.step([replica], 60) == []
    losses = engine.losses_of(replica)[:, 3]
    assert losses[-10:].mean() < 0.9 * losses[:10].mean()
    for name, inputs in replica.inputs.items():
        assert ((inputs - before[name]).flatten(1).abs().amax(1) > 0).all()
    spec = dataset.specs["text"]
    assert isinstance(spec, TokenSpec)
    padding = spec.open_table()[spec.padding]
    ends = end_positions(before["text"], padding)
    assert torch.equal(end_positions(replica.inputs["text"], padding), ends)


@pytest.mark.parametrize("kind", ["clip", "clap"])
def test_text_that_is_prepared_already_is_embedded_as_text_that_is_read(
    folder: Callable[[str], Path], tmp_path: Path, kind: str
) -> None:
    """A dataset of tensors, whose own spec of text knows no tokens."""
    config = TransformersEncoder(name="transformers", model=str(folder(kind)))
    specs = encoder_specs(config)
    text = specs["text"]
    assert isinstance(text, TokenSpec)
    words = [("cat", "dog", "rain")[i % 3] + " two" * (i // 3) for i in range(24)]
    items = torch.stack([text.encode(each) for each in words])
    content = {"train/text": items[:16].clone(), "test/text": items[16:].clone()}
    content |= {"train/label": torch.arange(16) % 2, "test/label": torch.arange(8) % 2}
    save_file(content, tmp_path / "texts.safetensors")
    dataset = load_dataset(TensorsDataset(name="tensors", path=tmp_path / "texts.safetensors"), specs)
    found = build_encoder(config, dataset, Store()).embed("text", items)
    assert torch.allclose(found, load(folder(kind), ("text",))[0].embed("text", items), atol=1e-6)


# --- what a user may get wrong


def message_of(model: str, **options: Any) -> str:
    config = TransformersEncoder(name="transformers", model=model, **options)
    with pytest.raises(UserError) as raised:
        build_encoder(config, dataset_of(dict(encoder_specs(config)), ("text",)), Store())
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_model_is_not_downloaded_silently(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    message = message_of("someone/no-such-model")
    assert message.startswith("encoder.model: someone/no-such-model: no such folder, and not in the Hugging Face cache")
    assert "download: true" in message


@pytest.mark.parametrize("download", [False, True])
def test_only_a_request_reaches_the_hub(
    folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, download: bool
) -> None:
    calls: list[bool] = []

    def snapshot(name: str, allow_patterns: Any = None, local_files_only: bool = False) -> str:
        assert name == "someone/clip"
        calls.append(not local_files_only)
        return str(folder("clip"))

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    encoder, _ = load(Path("someone/clip"), download=download)
    assert any(calls) is download
    assert encoder.fingerprint == load(folder("clip"))[0].fingerprint


def test_a_broken_model_is_named(folder: Callable[[str], Path], tmp_path: Path) -> None:
    place = tmp_path / "model"
    place.mkdir()
    assert message_of(str(place)) == f"{place}/config.json: cannot be read: No such file or directory"
    (place / "config.json").write_text("{}")
    assert message_of(str(place)).startswith(f"{place}/config.json: is not the configuration of a model")
    (place / "config.json").write_text('{"model_type": "bert"}')
    assert message_of(str(place)) == f"{place}/config.json: `model_type` must be clip, siglip, clap, but got 'bert'"
    shutil.rmtree(place)
    shutil.copytree(folder("clip"), place)
    (place / "preprocessor_config.json").unlink()
    assert message_of(str(place)).startswith(f"{place}: the model's preprocessor cannot be read: ")
    shutil.copy(folder("clip") / "preprocessor_config.json", place)
    content = (place / "model.safetensors").read_bytes()
    (place / "model.safetensors").write_bytes(content[:1000])
    assert message_of(str(place)).startswith(f"{place}/model.safetensors: cannot be read as weights: ")
    (place / "model.safetensors").unlink()
    assert message_of(str(place)) == f"{place}: holds no weights: a file model.safetensors is needed"


def test_weights_that_are_missing_are_not_left_random(folder: Callable[[str], Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder("clip"), tmp_path / "model")
    path = tmp_path / "model/model.safetensors"
    tensors = load_file(path)
    del tensors["visual_projection.weight"]
    save_file(tensors, path, {"format": "pt"})
    assert message_of(f"{tmp_path}/model") == f"{tmp_path}/model: the weights lack visual_projection.weight"
