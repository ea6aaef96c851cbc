"""ImageBind's inputs from files: audio against Kaldi's definition in float64, images against PIL, maps by hand.

torchaudio and torchvision are compared with where they can be imported.
"""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from test_waves import importable, kaldi_reference, sinc_reference, sound

from condense.config.models import ManifestDataset
from condense.data import load_dataset
from condense.inputs.imagebind import KINECT, FbankSpec, file_specs
from condense.inputs.kaldi import fbank, wave_of_fbank
from condense.inputs.media import picture, preview, read_item
from condense.system.errors import UserError

SPECS = file_specs()
THREE, ONE = FbankSpec.of(3), FbankSpec.of(1)


# --- audio files


def audio_reference(path: Path, clips: int) -> np.ndarray:
    """The official recipe in float64: resampled file, clips, means subtracted in place, padding, standardisation."""
    wave, rate = soundfile.read(path, dtype="float64", always_2d=True)
    wave = wave.T.copy()
    if rate != 16_000:
        wave = np.stack([sinc_reference(channel, rate, 16_000) for channel in wave])
    starts = [round(index * (wave.shape[1] - 32_000) / max(clips - 1, 1)) for index in range(clips)]
    pieces = []
    for start in starts:
        clip = wave[:, start : start + 32_000]
        clip -= clip.mean()
        bank = kaldi_reference(clip[0])
        pieces.append(np.pad(bank, ((0, 204 - len(bank)), (0, 0))).T)
    return (np.stack(pieces)[:, None] + 4.268) / 9.138


@pytest.mark.parametrize(
    ("seconds", "channels", "suffix"), [(3, 1, "wav"), (2.5, 2, "flac"), (8, 1, "wav"), (2, 1, "wav")]
)
def test_audio_is_three_clips(tmp_path: Path, seconds: float, channels: int, suffix: str) -> None:
    soundfile.write(tmp_path / f"a.{suffix}", sound(seconds, channels=channels), 16_000)
    item = read_item(THREE, f"a.{suffix}", tmp_path)
    assert item.shape == (3, 1, 128, 204)
    assert item.dtype == torch.float32
    np.testing.assert_allclose(item, audio_reference(tmp_path / f"a.{suffix}", 3), atol=1e-3)


def test_audio_of_another_rate_is_resampled_first(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", sound(2.2, 44_100), 44_100, subtype="FLOAT")
    item = read_item(ONE, "a.wav", tmp_path)
    assert item.shape == (1, 128, 204)
    np.testing.assert_allclose(item[None], audio_reference(tmp_path / "a.wav", 1), atol=2e-3)


def test_the_mean_is_subtracted_in_place(tmp_path: Path) -> None:
    """Where clips overlap, the second one has a step in it; without that the file is read differently."""
    wave = sound(2.5)
    wave[:12_000] += 0.4
    soundfile.write(tmp_path / "a.wav", wave, 16_000, subtype="FLOAT")
    item = read_item(THREE, "a.wav", tmp_path)
    apart = torch.stack([ONE.from_wave(torch.from_numpy(wave[start : start + 32_000, 0])) for start in (0, 4000, 8000)])
    torch.testing.assert_close(item[0], apart[0], atol=1e-3, rtol=0)
    assert (item[1:] - apart[1:]).abs().max() > 0.01


def test_the_last_frames_are_padding_after_the_logarithm(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", sound(2), 16_000)
    item = read_item(ONE, "a.wav", tmp_path)
    assert (item[..., 198:] == torch.tensor(4.268) / torch.tensor(9.138)).all()
    assert (item[..., :198] != item[0, 0, -1]).all()


def test_short_audio_is_one_clip_repeated(tmp_path: Path) -> None:
    wave = sound(0.5)
    soundfile.write(tmp_path / "a.wav", wave, 16_000, subtype="FLOAT")
    item = read_item(THREE, "a.wav", tmp_path)
    bank = kaldi_reference(wave[:, 0] - wave.mean())
    assert (item[0] == item[1]).all()
    assert (item[0] == item[2]).all()
    np.testing.assert_allclose(item[0, 0, :, : len(bank)], (bank.T + 4.268) / 9.138, atol=1e-3)
    np.testing.assert_allclose(item[0, 0, :, len(bank) :], 4.268 / 9.138, rtol=1e-6)


def test_waves_become_what_files_become(tmp_path: Path) -> None:
    wave = sound(2)
    soundfile.write(tmp_path / "a.wav", wave, 16_000, subtype="FLOAT")
    batch = ONE.from_wave(torch.from_numpy(np.stack([wave[:, 0]] * 2)))
    assert batch.shape == (2, 1, 128, 204)
    torch.testing.assert_close(batch[1], read_item(ONE, "a.wav", tmp_path), atol=1e-4, rtol=0)
    assert THREE.from_wave(torch.from_numpy(wave[None, :, 0])).shape == (1, 3, 1, 128, 204)


def test_audio_stays_in_its_range() -> None:
    t = torch.arange(32_000) / 16_000
    for wave in (torch.zeros(32_000), torch.sin(2 * math.pi * 7000 * t), torch.sin(2 * math.pi * 100 * t).sign()):
        item = ONE.from_wave(wave)
        assert ONE.low <= item.min()
        assert item.max() <= ONE.high


# --- images


def test_image_is_resized_cut_and_standardised(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (25, 40, 3), np.uint8).repeat(10, 0).repeat(10, 1)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    item = read_item(SPECS["vision"], "a.png", tmp_path)
    small = Image.fromarray(pixels).resize((358, 224), Image.Resampling.BICUBIC)  # int(224 * 400 / 250)
    square = np.asarray(small, np.float64)[:, 67 : 67 + 224] / 255  # round(134 / 2)
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    np.testing.assert_allclose(item, ((square - mean) / std).transpose(2, 0, 1), atol=1e-5)


@pytest.mark.parametrize("size", [(300, 500), (224, 224), (901, 333), (100, 60)])
def test_image_is_torchvisions(tmp_path: Path, size: tuple[int, int]) -> None:
    transforms = importable("torchvision.transforms")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)).save(tmp_path / "a.png")
    spec = SPECS["vision"]
    chain = [transforms.Resize(224, interpolation=transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(224)]
    chain += [transforms.ToTensor(), transforms.Normalize(spec.mean, spec.std)]  # type: ignore[attr-defined]
    expected = transforms.Compose(chain)(Image.open(tmp_path / "a.png").convert("RGB"))
    torch.testing.assert_close(read_item(spec, "a.png", tmp_path), expected, atol=0, rtol=0)


# --- depth, thermal, imu


def test_depth_in_millimetres_becomes_scaled_disparity(tmp_path: Path) -> None:
    Image.fromarray(np.full((240, 320), 2000, np.uint16)).save(tmp_path / "a.png")
    item = read_item(SPECS["depth"], "a.png", tmp_path)
    expected = (0.075 * 518.857901 / 2.0 / 75 - 0.0418) / 0.0295
    torch.testing.assert_close(item, torch.full((1, 224, 224), expected))


def test_depth_as_disparity_is_the_same(tmp_path: Path) -> None:
    millimetres = np.linspace(700, 9000, 240 * 320).reshape(240, 320).astype(np.uint16)
    Image.fromarray(millimetres).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", KINECT / (millimetres / 1000.0))
    item = read_item(SPECS["depth"], "a.png", tmp_path)
    torch.testing.assert_close(item, read_item(SPECS["depth"], "a.npy", tmp_path), atol=1e-4, rtol=0)
    assert SPECS["depth"].low <= item.min()
    assert item.max() <= SPECS["depth"].high


def test_depth_without_a_reading_is_far_away(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((224, 224), np.uint16)).save(tmp_path / "zero.png")
    Image.fromarray(np.full((224, 224), 50_000, np.uint16)).save(tmp_path / "far.png")
    assert torch.equal(read_item(SPECS["depth"], "zero.png", tmp_path), read_item(SPECS["depth"], "far.png", tmp_path))


def test_a_map_is_resized_like_an_image(tmp_path: Path) -> None:
    left_dark = np.concatenate([np.zeros((448, 448)), np.ones((448, 448))], 1)
    np.save(tmp_path / "a.npy", left_dark[None])
    item = read_item(SPECS["thermal"], "a.npy", tmp_path)
    assert item.shape == (1, 224, 224)
    assert (item[..., :110] == 0).all()
    assert (item[..., 114:] == 1).all()


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 65535)])
def test_thermal_is_brightness(tmp_path: Path, dtype: type, top: int) -> None:
    ramp = np.linspace(0, top, 224).round().astype(dtype)
    Image.fromarray(np.tile(ramp, (224, 1))).save(tmp_path / "a.png")
    item = read_item(SPECS["thermal"], "a.png", tmp_path)
    torch.testing.assert_close(item[0, 5], torch.linspace(0, 1, 224), atol=1 / 255, rtol=0)


def test_imu_keeps_its_middle_or_is_padded(tmp_path: Path) -> None:
    readings = np.arange(6 * 3000).reshape(6, 3000) / 1000
    for length in (1500, 2000, 3000):
        np.save(tmp_path / f"{length}.npy", readings[:, :length])
    items = {length: read_item(SPECS["imu"], f"{length}.npy", tmp_path) for length in (1500, 2000, 3000)}
    np.testing.assert_allclose(items[2000], readings[:, :2000], rtol=1e-6)
    np.testing.assert_allclose(items[3000], readings[:, 500:2500], rtol=1e-6)
    np.testing.assert_allclose(items[1500][:, :1500], readings[:, :1500], rtol=1e-6)
    assert (items[1500][:, 1500:] == 0).all()


# --- from a manifest, and what a user may get wrong


def test_five_modalities_of_a_manifest(tmp_path: Path) -> None:
    rows = ["split,label,vision,audio,depth,thermal,imu"]
    for index, split in enumerate(["train", "train", "test"]):
        rng = np.random.default_rng(index)
        Image.fromarray(rng.integers(0, 256, (230, 250, 3), np.uint8)).save(tmp_path / f"{index}.jpg")
        soundfile.write(tmp_path / f"{index}.flac", sound(2, seed=index), 16_000)
        Image.fromarray(rng.integers(500, 9000, (230, 250), np.uint16)).save(tmp_path / f"d{index}.png")
        Image.fromarray(rng.integers(0, 256, (230, 250), np.uint8)).save(tmp_path / f"t{index}.png")
        np.save(tmp_path / f"{index}.npy", rng.normal(size=(6, 2000)))
        rows.append(f"{split},a,{index}.jpg,{index}.flac,d{index}.png,t{index}.png,{index}.npy")
    (tmp_path / "mine.csv").write_text("\n".join(rows))
    dataset = load_dataset(ManifestDataset(name="manifest", path=tmp_path / "mine.csv"), SPECS)
    items = dataset.condense.load([0])
    assert {name: tuple(tensor.shape[1:]) for name, tensor in items.items()} == {n: s.shape for n, s in SPECS.items()}
    for name, spec in SPECS.items():
        assert spec.low <= items[name].min()
        assert items[name].max() <= spec.high


@pytest.mark.parametrize(
    ("modality", "value", "message"),
    [
        ("audio", "short.wav", "short.wav: must last 0.025 s or more, but lasts 0.006 s"),
        ("audio", "nan.wav", "nan.wav: holds NaN or infinity"),
        ("audio", "text", "text: cannot be read as WAV or FLAC: "),
        ("depth", "grey.png", "grey.png: a PNG of depth must have 16 bits (millimetres), but is of Pillow's mode L"),
        ("depth", "text", "text: is not a 16-bit PNG (millimetres) or NPY (disparity) file"),
        ("depth", "nan.npy", "nan.npy: holds NaN or infinity"),
        ("thermal", "bright.npy", "bright.npy: values must be in 0 .. 1, but are in 0 .. 255"),
        ("thermal", "line.npy", "line.npy: shape must be (H, W) or (1, H, W), but got (5,)"),
        ("imu", "turned.npy", "turned.npy: shape must be (6, n), but got (2000, 6)"),
        ("imu", "text", "text: is not an NPY file, the only format of numbers that is read"),
    ],
)
def test_what_cannot_be_read_is_named_in_one_line(tmp_path: Path, modality: str, value: str, message: str) -> None:
    soundfile.write(tmp_path / "short.wav", np.zeros(100), 16_000)
    soundfile.write(tmp_path / "nan.wav", np.array([[0.0, math.nan]] * 500), 16_000, subtype="FLOAT")
    (tmp_path / "text").write_text("this is no such file")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "grey.png")
    np.save(tmp_path / "nan.npy", np.full((8, 8), math.nan))
    np.save(tmp_path / "bright.npy", np.linspace(0, 255, 64).reshape(8, 8))
    np.save(tmp_path / "line.npy", np.zeros(5))
    np.save(tmp_path / "turned.npy", np.zeros((2000, 6)))
    with pytest.raises(UserError) as raised:
        read_item(SPECS[modality], value, tmp_path)
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


# --- previews


def test_pixels_become_the_png_they_came_from(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    item = read_item(SPECS["vision"], "a.png", tmp_path)
    shown = np.asarray(Image.open(io.BytesIO(preview(SPECS["vision"], item)[".png"])))
    np.testing.assert_array_equal(shown, pixels)


def test_a_spectrogram_becomes_a_wave_that_has_it() -> None:
    wave = torch.from_numpy(sound(2)[:, 0])
    target = fbank(wave, 128)
    rebuilt = fbank(wave_of_fbank(target), 128)
    loud = target > target.max() - 12
    difference = (rebuilt - target[: len(rebuilt)])[loud[: len(rebuilt)]].abs().mean()
    assert difference < 0.3  # nats of power


def test_preview_of_audio_plays_all_clips(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", sound(6), 16_000)
    files = preview(THREE, read_item(THREE, "a.wav", tmp_path))
    played, rate = soundfile.read(io.BytesIO(files[".wav"]))
    assert (len(played), rate) == (3 * (400 + 160 * 197), 16_000)
    assert np.abs(played).max() == pytest.approx(0.9, abs=1e-3)
    image = picture(THREE, read_item(THREE, "a.wav", tmp_path))
    assert image is not None
    assert image.size == (3 * 198, 128)


def test_previews_of_the_others() -> None:
    generator = torch.Generator().manual_seed(0)
    items = {name: torch.rand(spec.shape, generator=generator) for name, spec in SPECS.items()}
    suffixes = {name: set(preview(SPECS[name], item)) for name, item in items.items()}
    assert suffixes["depth"] == suffixes["thermal"] == {".png"}
    assert suffixes["imu"] == {".png", ".csv"}
