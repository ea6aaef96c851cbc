"""Reading files into items, and showing items to people."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from condense.inputs.imagebind import FbankSpec
from condense.inputs.media import PREVIEW_SIDE, decode_text, is_averaged, is_resampled, preview, read_item, to_wave
from condense.inputs.pictures import FILE_TYPES
from condense.inputs.spec import ArraySpec, ImageSpec, InputSpec, LogMelSpec, TextSpec
from condense.system.errors import UserError

GREY = ImageSpec.of("vision", 1, 16, (0.5,), (0.5,))
COLOUR = ImageSpec.of("vision", 3, 16, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
SOUND = LogMelSpec.of(32, 33)
TEXT = TextSpec.of(24, 8)
DEPTH = ArraySpec("depth", (1, 4, 6), 0.0, 10.0)
IMU = ArraySpec("imu", (6, 5), -3.0, 3.0)


def chirp(seconds: float, rate: int) -> np.ndarray:
    t = np.arange(round(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * (300 * t + 400 * t**2)) + 0.1 * np.sin(2 * np.pi * 2000 * t)).astype(np.float32)


def save_image(path: Path, pixels: np.ndarray, **options: Any) -> None:
    Image.fromarray(pixels.astype(np.uint8)).save(path, **options)


# --- images


def test_image_of_the_right_size_keeps_its_pixels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3))
    save_image(tmp_path / "a.png", pixels)
    item = read_item(COLOUR, "a.png", tmp_path)
    expected = COLOUR.normalize(torch.from_numpy(pixels).float().permute(2, 0, 1) / 255)
    assert item.dtype == torch.float32
    torch.testing.assert_close(item, expected)


def test_image_keeps_the_middle_of_the_long_side(tmp_path: Path) -> None:
    pixels = np.zeros((32, 96))
    pixels[:, 32:64] = 255  # a white square between two black ones
    save_image(tmp_path / "a.png", pixels)
    item = GREY.pixels(read_item(GREY, "a.png", tmp_path))
    assert item.shape == (1, 16, 16)
    assert (item[..., 1:-1] == 1).all()


def test_image_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    pixels = np.zeros((32, 32))
    pixels[:16] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    save_image(tmp_path / "a.jpg", pixels, exif=exif, quality=95)
    item = GREY.pixels(read_item(GREY, "a.jpg", tmp_path))
    assert item[0, :7].max() < 0.1
    assert item[0, 9:].min() > 0.9


def test_image_of_16_bit_grey_keeps_its_range(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    pixels = GREY.pixels(read_item(GREY, "a.png", tmp_path)).flatten()
    torch.testing.assert_close(pixels, torch.linspace(0, 1, 256), atol=1 / 255, rtol=0)


def test_image_with_a_transparent_palette_is_read(tmp_path: Path) -> None:
    image = Image.fromarray(np.full((16, 16, 3), 200, np.uint8)).convert("P")
    image.save(tmp_path / "a.png", transparency=bytes(range(256)))
    assert read_item(COLOUR, "a.png", tmp_path).shape == (3, 16, 16)


# --- sound


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_sound_is_the_spectrogram_of_its_channels_mean(tmp_path: Path, suffix: str) -> None:
    wave = chirp(SOUND.num_samples / 16_000, 16_000)
    soundfile.write(tmp_path / f"a.{suffix}", np.stack([0 * wave, wave], axis=1), 16_000)  # the left one is silent
    item = read_item(SOUND, f"a.{suffix}", tmp_path)
    torch.testing.assert_close(item, SOUND.from_wave(torch.from_numpy(wave) / 2), atol=0.1, rtol=0)  # 16-bit steps


def test_only_several_channels_are_averaged(tmp_path: Path) -> None:
    for name, channels in (("one.wav", 1), ("two.wav", 2)):
        soundfile.write(tmp_path / name, np.zeros((160, channels)), 16_000)
    assert is_averaged(SOUND, tmp_path / "two.wav")
    assert not is_averaged(SOUND, tmp_path / "one.wav")
    assert not is_averaged(DEPTH, tmp_path / "two.wav")
    assert not is_averaged(FbankSpec.of(1), tmp_path / "two.wav")  # ImageBind's own code reads the first


@pytest.mark.parametrize("rate", [44_100, 44_101, 22_050, 192_000])
def test_sound_is_resampled(tmp_path: Path, rate: int) -> None:
    seconds = SOUND.num_samples / 16_000
    soundfile.write(tmp_path / "a.wav", chirp(seconds, rate), rate, subtype="FLOAT")
    item = read_item(SOUND, "a.wav", tmp_path)
    expected = SOUND.from_wave(torch.from_numpy(chirp(seconds, 16_000)))
    loud = expected > expected.max() - 4
    assert (item - expected)[loud].abs().mean() < 0.05


def test_only_sound_of_another_rate_is_resampled(tmp_path: Path) -> None:
    for name, rate in (("same.wav", 16_000), ("other.wav", 44_100)):
        soundfile.write(tmp_path / name, chirp(0.1, rate), rate)
    (tmp_path / "text.wav").write_text("this is no such file")
    assert is_resampled(SOUND, tmp_path / "other.wav")
    assert not any(is_resampled(SOUND, tmp_path / name) for name in ("same.wav", "text.wav", "none.wav"))
    assert not is_resampled(DEPTH, tmp_path / "other.wav")


def test_short_sound_is_padded_at_its_end(tmp_path: Path) -> None:
    wave = chirp(SOUND.num_samples / 32_000, 16_000)
    soundfile.write(tmp_path / "a.wav", wave, 16_000, subtype="FLOAT")
    padded = torch.nn.functional.pad(torch.from_numpy(wave), (0, SOUND.num_samples - len(wave)))
    torch.testing.assert_close(read_item(SOUND, "a.wav", tmp_path), SOUND.from_wave(padded))


def test_long_sound_keeps_its_middle(tmp_path: Path) -> None:
    wave = chirp(3 * SOUND.num_samples / 16_000, 16_000)
    soundfile.write(tmp_path / "a.wav", wave, 16_000, subtype="FLOAT")
    middle = torch.from_numpy(wave[SOUND.num_samples : 2 * SOUND.num_samples])
    torch.testing.assert_close(read_item(SOUND, "a.wav", tmp_path), SOUND.from_wave(middle))


# --- text


@given(st.text(min_size=1).filter(lambda text: text.strip() and "\0" not in text))
def test_text_round_trip(text: str) -> None:
    item = read_item(TEXT, text, Path())
    shown = preview(TEXT, item)[".txt"].decode()
    assert item.shape == TEXT.shape
    assert text.startswith(shown)
    assert shown == text or len(text.encode()) > 23 - 3  # a character of up to 4 bytes may not fit


def test_long_text_ends_with_end() -> None:
    item = read_item(TEXT, "x" * 100, Path())
    torch.testing.assert_close(item[-1], TEXT.codebook[TEXT.END])
    assert decode_text(TEXT, item) == "x" * 23


def test_short_text_is_padded_with_zeros() -> None:
    item = read_item(TEXT, "ab", Path())
    torch.testing.assert_close(item[:3], TEXT.codebook[[97, 98, 0]])
    assert (item[3:] == 0).all()


def test_bytes_that_are_no_text_are_shown_as_such() -> None:
    item = TEXT.codebook[[97, 255, 98, 0] + [0] * 20] + 0.01
    assert decode_text(TEXT, item) == "a\ufffdb"


# --- arrays


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.uint16, np.int8, np.bool_])
def test_array_keeps_its_values(tmp_path: Path, dtype: type) -> None:
    array: np.ndarray = (np.arange(24).reshape(1, 4, 6) % 5).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    torch.testing.assert_close(read_item(DEPTH, "a.npy", tmp_path), torch.from_numpy(array.astype(np.float32)))


# --- what a user may get wrong


def bad_files(folder: Path) -> None:
    (folder / "folder.png").mkdir()
    for suffix in ("png", "wav", "npy"):
        (folder / f"empty.{suffix}").touch()
        (folder / f"text.{suffix}").write_text("this is no such file")
    save_image(folder / "whole.png", np.random.default_rng(0).integers(0, 256, (64, 64, 3)))
    (folder / "cut.png").write_bytes((folder / "whole.png").read_bytes()[:3000])
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "a.ppm")
    soundfile.write(folder / "slow.wav", np.zeros(100), 10)
    soundfile.write(folder / "silent.wav", np.zeros(0), 16_000)
    soundfile.write(folder / "nan.wav", np.array([0.0, math.nan] * 10), 16_000, subtype="FLOAT")
    np.save(folder / "shape.npy", np.zeros((4, 6)))
    np.save(folder / "nan.npy", np.full((1, 4, 6), math.nan))
    np.save(folder / "huge.npy", np.full((1, 4, 6), 1e300))
    np.save(folder / "object.npy", np.array([[{}]]), allow_pickle=True)
    np.save(folder / "complex.npy", np.zeros((1, 4, 6), complex))
    np.savez(folder / "several.npz", a=np.zeros((1, 4, 6)))


@pytest.mark.parametrize(
    ("spec", "value", "message"),
    [
        (GREY, "none.png", "none.png: no such file"),
        (GREY, "folder.png", "folder.png: no such file"),
        (GREY, "x" * 5000, f"{'x' * 5000}: cannot be read: File name too long"),
        (GREY, "empty.png", "empty.png: the file is empty"),
        (GREY, "text.png", f"text.png: is not a {FILE_TYPES} file"),
        (GREY, "a.ppm", f"a.ppm: is not a {FILE_TYPES} file"),
        (GREY, "cut.png", f"cut.png: cannot be read as {FILE_TYPES}: image file is truncated"),
        (SOUND, "empty.wav", "empty.wav: the file is empty"),
        (SOUND, "text.wav", "text.wav: cannot be read as WAV or FLAC: Format not recognised."),
        (SOUND, "silent.wav", "silent.wav: holds no samples"),
        (SOUND, "nan.wav", "nan.wav: holds NaN or infinity"),
        (SOUND, "slow.wav", "slow.wav: sample rate must be 1000 .. 768000 Hz, but got 10"),
        (DEPTH, "empty.npy", "empty.npy: the file is empty"),
        (DEPTH, "text.npy", "text.npy: is not an NPY file, the only format of numbers that is read: numpy.save("),
        (DEPTH, "shape.npy", "shape.npy: shape must be (1, 4, 6), but got (4, 6)"),
        (DEPTH, "nan.npy", "nan.npy: holds NaN or infinity"),
        (DEPTH, "huge.npy", "huge.npy: holds NaN or infinity"),
        (DEPTH, "object.npy", "object.npy: cannot be read as NPY: "),
        (DEPTH, "complex.npy", "complex.npy: must hold real numbers, but holds complex128"),
        (DEPTH, "several.npz", "several.npz: holds several arrays (NPZ): one array (NPY) is needed"),
        (TEXT, " ", "the text is empty"),
        (TEXT, "a\0b", "the text holds a NUL character, which marks the end of a text"),
    ],
)
def test_what_cannot_be_read_is_named_in_one_line(tmp_path: Path, spec: InputSpec, value: str, message: str) -> None:
    bad_files(tmp_path)
    with pytest.raises(UserError) as raised:
        read_item(spec, value, tmp_path)
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


def test_numbers_as_text_are_told_what_to_make_of_them(tmp_path: Path) -> None:
    readings = np.arange(30.0).reshape(5, 6)  # a line per reading
    np.savetxt(tmp_path / "a.csv", readings, delimiter=",")
    for value in ("a.csv", "b.npy"):
        (tmp_path / "b.npy").write_bytes((tmp_path / "a.csv").read_bytes())
        with pytest.raises(UserError, match=rf"^{value}: is not an NPY file, .*loadtxt.*CSV") as raised:
            read_item(IMU, value, tmp_path)
        assert "pickle" not in str(raised.value)
    np.save(tmp_path / "a.npy", np.loadtxt(tmp_path / "a.csv", delimiter=",").T)  # as the line says
    torch.testing.assert_close(read_item(IMU, "a.npy", tmp_path), torch.from_numpy(readings.T).float())


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([GREY, SOUND, DEPTH]), st.binary(min_size=1), st.booleans())
def test_no_bytes_escape_as_another_error(
    tmp_path_factory: pytest.TempPathFactory, spec: InputSpec, content: bytes, with_header: bool
) -> None:
    headers = {GREY: b"\x89PNG\r\n\x1a\n", SOUND: b"RIFF\x24\x00\x00\x00WAVEfmt ", DEPTH: b"\x93NUMPY\x01\x00"}
    folder = tmp_path_factory.getbasetemp()
    (folder / "any").write_bytes((headers[spec] if with_header else b"") + content)
    try:
        item = read_item(spec, "any", folder)
    except UserError:
        return
    assert item.shape == spec.shape


# --- previews


def open_image(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


@pytest.mark.parametrize(("spec", "mode"), [(GREY, "L"), (COLOUR, "RGB"), (DEPTH, "L")])
def test_preview_of_an_image_is_enlarged_pixels(spec: InputSpec, mode: str) -> None:
    item = torch.rand(spec.shape, generator=torch.Generator().manual_seed(0)) * (spec.high - spec.low) + spec.low
    files = preview(spec, item)
    image = open_image(files[".png"])
    assert list(files) == [".png"]
    assert image.mode == mode
    assert min(image.size) >= PREVIEW_SIDE
    factor = image.width // spec.shape[2]
    small = np.asarray(image)[::factor, ::factor].reshape(*spec.shape[1:], -1) / 255
    shown = spec.pixels(item) if isinstance(spec, ImageSpec) else item / 10
    np.testing.assert_allclose(small, shown.permute(1, 2, 0), atol=1 / 255)


def test_preview_of_an_image_can_be_read_back(tmp_path: Path) -> None:
    item = COLOUR.normalize(torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)))
    (tmp_path / "a.png").write_bytes(preview(COLOUR, item)[".png"])
    back = read_item(COLOUR, "a.png", tmp_path)
    assert (COLOUR.pixels(back) - COLOUR.pixels(item)).abs().mean() < 0.1


def test_preview_of_sound_has_low_frequencies_at_the_bottom() -> None:
    t = torch.arange(SOUND.num_samples) / SOUND.sample_rate
    files = preview(SOUND, SOUND.from_wave(0.5 * torch.sin(2 * math.pi * 200 * t)))
    lightness = np.asarray(open_image(files[".png"]).convert("L"))
    assert set(files) == {".png", ".wav"}
    assert lightness[-len(lightness) // 4 :].max() > 200
    assert lightness[: len(lightness) // 2].max() < 50


def test_preview_of_sound_plays_what_the_item_shows(tmp_path: Path) -> None:
    item = SOUND.from_wave(torch.from_numpy(chirp(SOUND.num_samples / 16_000, 16_000)))
    files = preview(SOUND, item)
    wave, rate = soundfile.read(io.BytesIO(files[".wav"]))
    assert (len(wave), rate) == (SOUND.num_samples, SOUND.sample_rate)
    assert np.abs(wave).max() == pytest.approx(0.9, abs=1e-3)
    assert files == preview(SOUND, item)


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_wave_has_the_spectrogram_it_was_made_from(noise: float) -> None:
    generator = torch.Generator().manual_seed(0)
    wave = torch.from_numpy(chirp(SOUND.num_samples / 16_000, 16_000))
    item = SOUND.from_wave(wave + noise * torch.randn(len(wave), generator=generator))
    difference = (SOUND.from_wave(to_wave(SOUND, item)) - item).abs().mean() * SOUND.std
    assert difference < 0.2  # nats of power: less than a decibel
    untouched = (SOUND.from_wave(to_wave(SOUND, item, iterations=0)) - item).abs().mean() * SOUND.std
    assert difference < untouched / 2


def test_silence_has_a_preview() -> None:
    wave, _ = soundfile.read(io.BytesIO(preview(SOUND, torch.full(SOUND.shape, SOUND.low))[".wav"]))
    assert np.abs(wave).max() < 0.1


def test_preview_of_numbers() -> None:
    item = torch.arange(30.0).reshape(6, 5) / 4
    content = preview(IMU, item)[".csv"].decode()
    assert content.splitlines()[:2] == ["0,0.25,0.5,0.75,1", "1.25,1.5,1.75,2,2.25"]
    long = ArraySpec("imu", (6, 5000), -3.0, 3.0)
    array = np.load(io.BytesIO(preview(long, torch.ones(6, 5000))[".npy"]), allow_pickle=False)
    assert array.shape == (6, 5000)
