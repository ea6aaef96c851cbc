"""Files to items and back: reading what a user has, and showing what a condensation made.

Which decoder reads a file, and what a preview looks like, follows from the class of its `InputSpec`.
"""

from __future__ import annotations

import contextlib
import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from condense.inputs.cut_sounds import check_whole
from condense.inputs.pictures import FILE_TYPES, is_deep_png, open_picture, read_pixels
from condense.inputs.series_plot import plot
from condense.inputs.spec import (
    ArraySpec,
    FileSpec,
    ImageSpec,
    InputSpec,
    LogMelSpec,
    WaveSpec,
    WrittenSpec,
    mel_filters,
)
from condense.inputs.waves import griffin_lim, power_of_mel, read_clip
from condense.system.errors import UserError

PREVIEW_SIDE = 128  # pixels: what an image preview's short side is enlarged to, at least
CSV_NUMBERS = 20_000  # arrays with more numbers than a person would scroll through are shown as .npy
ARRAYS = (b"\x93NUMPY", b"PK")  # how NPY and NPZ files begin
COLOURS = np.array(  # evenly spaced anchors of the magma map (CC0): lightness grows linearly from silence to peak
    [
        (0, 0, 4),
        (28, 16, 68),
        (79, 18, 123),
        (129, 37, 129),
        (181, 54, 122),
        (229, 80, 100),
        (251, 135, 97),
        (254, 194, 135),
        (252, 253, 191),
    ],
    dtype=np.float64,
)


def read_item(spec: InputSpec, value: str, folder: Path) -> Tensor:
    """The item that a cell of a manifest stands for: (*spec.shape) float32, in the units of `spec`.

    `value` is the text itself for a `WrittenSpec`, else a file's path, relative to `folder`. Raises UserError, naming
    `value`, if the file is missing, empty, in another format or of another shape, or holds NaN or infinity.
    """
    if isinstance(spec, WrittenSpec):
        return _encode_text(spec, value)
    path = folder / value
    with _told(spec, value):
        check_file(path, value)
        if isinstance(spec, FileSpec):
            item = spec.read(path)
        elif isinstance(spec, ImageSpec):
            item = _read_image(spec, path)
        elif isinstance(spec, LogMelSpec):
            item = _read_log_mel(spec, path)
        else:
            item = _read_array(spec, path)
    if not torch.isfinite(item).all():
        raise UserError(f"{value}: holds NaN or infinity")
    return item


def check_item(spec: InputSpec, value: str, folder: Path) -> None:
    """A look at the file that a cell stands for: that it is there, and its header. Raises as `read_item`, which may find more."""
    path = folder / value
    with _told(spec, value):
        check_file(path, value)
        with path.open("rb"):
            pass
        if isinstance(spec, WaveSpec):
            soundfile.info(path)
            check_whole(path)
        elif isinstance(spec, FileSpec):
            spec.check(path)
        elif isinstance(spec, ImageSpec):
            open_picture(path).close()
        else:
            _check_shape(spec, read_numbers(path))


@contextlib.contextmanager
def _told(spec: InputSpec, value: str) -> Iterator[None]:
    """Makes a UserError that names `value` of all that a decoder raises."""
    if isinstance(spec, FileSpec):
        file_types = spec.file_types
    elif isinstance(spec, ImageSpec):
        file_types = FILE_TYPES
    elif isinstance(spec, LogMelSpec):
        file_types = "WAV or FLAC"
    elif isinstance(spec, ArraySpec):
        file_types = "NPY"
    else:
        raise TypeError(f"no file can be read as a {type(spec).__name__}")
    try:
        yield
    except UserError as error:
        raise UserError(f"{value}: {str(error).removeprefix(f'{value}: ')}") from None
    except UnidentifiedImageError:
        raise UserError(f"{value}: is not a {file_types} file") from None
    except Exception as error:
        reason = getattr(error, "error_string", None) or str(error) or type(error).__name__
        raise UserError(f"{value}: cannot be read as {file_types}: {' '.join(reason.split())}") from None


def check_file(path: Path, value: str) -> None:
    """Raises UserError, naming `value`, unless `path` is a file with something in it."""
    try:
        if not path.is_file():
            raise UserError(f"{value}: no such file")
        if path.stat().st_size == 0:
            raise UserError(f"{value}: the file is empty")
    except (OSError, ValueError) as error:  # a path that is too long, holds a NUL, or may not be looked at
        raise UserError(f"{value}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _read_image(spec: ImageSpec, path: Path) -> Tensor:
    pixels = torch.from_numpy(read_pixels(spec, path))
    return spec.normalize(pixels.permute(2, 0, 1)).contiguous()


def _read_log_mel(spec: LogMelSpec, path: Path) -> Tensor:
    return spec.from_wave(read_clip(path, spec.sample_rate, spec.num_samples))


def is_resampled(spec: InputSpec, path: Path) -> bool:
    """Whether `read_item` resamples the sound in a file, by its header. False for one that cannot be read: `read_item`
    says so."""
    if not isinstance(spec, LogMelSpec):
        return False
    try:
        return int(soundfile.info(path).samplerate) != spec.sample_rate
    except (OSError, RuntimeError):  # the latter: of libsndfile
        return False


def is_averaged(spec: InputSpec, path: Path) -> bool:
    """Whether `read_item` averages several channels of a file, by its header; as `is_resampled`."""
    if not (isinstance(spec, WaveSpec) and spec.averages_channels):
        return False
    try:
        return int(soundfile.info(path).channels) > 1
    except (OSError, RuntimeError):
        return False


def keeps_levels(spec: InputSpec, path: Path) -> bool:
    """Whether `read_item` reads a picture of 16 bits, whose levels earlier versions rounded to 256."""
    return isinstance(spec, ImageSpec) and is_deep_png(path)


def _read_array(spec: InputSpec, path: Path) -> Tensor:
    """Any real dtype, converted to float32 as it is: integers keep their values."""
    array = read_numbers(path)
    _check_shape(spec, array)
    with np.errstate(over="ignore"):  # becomes infinity, which the caller reports
        return torch.from_numpy(array.astype(np.float32))


def _check_shape(spec: InputSpec, array: np.ndarray) -> None:
    if array.shape != spec.shape:
        raise UserError(f"shape must be {spec.shape}, but got {array.shape}")


def read_numbers(path: Path) -> np.ndarray:
    """The one array of real numbers in an NPY file, mapped: a wrong shape costs no memory. Raises UserError."""
    with path.open("rb") as file:
        start = file.read(64)
    if not start.startswith(ARRAYS):
        text = start.isascii() and b"\0" not in start
        made = (
            "numpy.save('a.npy', numpy.loadtxt('a.csv', delimiter=',').T) makes one of a CSV whose lines are readings"
        )
        raise UserError(f"is not an NPY file, the only format of numbers that is read{': ' + made if text else ''}")
    array: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray):
        array.close()
        raise UserError("holds several arrays (NPZ): one array (NPY) is needed")
    if array.dtype.kind not in "biuf":
        raise UserError(f"must hold real numbers, but holds {array.dtype}")
    return array


def _encode_text(spec: WrittenSpec, text: str) -> Tensor:
    if not text.strip():
        raise UserError("the text is empty")
    return spec.encode(text)


def decode_text(spec: WrittenSpec, item: Tensor) -> str:
    """The text that is nearest to an item."""
    return spec.decode(item.detach().cpu())


def preview(spec: InputSpec, item: Tensor) -> dict[str, bytes]:
    """File suffix -> content of the files that show `item` (*spec.shape) to a person.

    Images: `.png`. Log-mel spectrograms: `.png` and `.wav` (`to_wave`, its peak at 0.9). Text: `.txt`. Arrays: `.png`
    if (1 or 3, H, W), else `.csv` (a line per index of all dimensions but the last), or `.npy` if that would be long. A series
    also has a plot, `.png`. A `FileSpec` says itself.
    """
    if isinstance(spec, WrittenSpec):
        return {".txt": decode_text(spec, item).encode()}
    own = spec.preview(item.detach().float().cpu()) if isinstance(spec, FileSpec) else {}
    image = picture(spec, item)
    if image is None:
        drawn = {".png": plot(item, None)} if spec.kind == "series" and item.ndim == 2 else {}
        return own or {**drawn, **numbers_file(item)}
    buffer = io.BytesIO()
    enlarge(image, PREVIEW_SIDE).save(buffer, "PNG")
    files = {".png": buffer.getvalue()}
    if isinstance(spec, LogMelSpec):
        files[".wav"] = wav_file(to_wave(spec, item), spec.sample_rate)
    return {**files, **own}


def wav_file(wave: Tensor, sample_rate: int) -> bytes:
    """(num_samples,) as 16-bit WAV, its peak at 0.9."""
    wave = wave * (0.9 / wave.abs().max().clamp(min=1e-8))
    buffer = io.BytesIO()
    soundfile.write(buffer, wave.numpy(), sample_rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def picture(spec: InputSpec, item: Tensor) -> Image.Image | None:
    """`item` as an image, one pixel per value; None if it is not one: text, and arrays that are not (1 or 3, H, W).

    A spectrogram has low frequencies at the bottom; its colours run from silence to its own loudest value.
    """
    item = item.detach().float().cpu()
    if isinstance(spec, FileSpec):
        return spec.picture(item)
    if isinstance(spec, ImageSpec):
        pixels = spec.pixels(item)
    elif isinstance(spec, LogMelSpec):
        return spectrogram_picture(item[0], spec.low)
    elif isinstance(spec, ArraySpec) and len(spec.shape) == 3 and spec.shape[0] in (1, 3):
        pixels = ((item - spec.low) / (spec.high - spec.low)).clamp(0, 1)
    else:
        return None
    grid = (pixels * 255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(grid[:, :, 0] if grid.shape[2] == 1 else grid)


def spectrogram_picture(levels: Tensor, silence: float) -> Image.Image:
    """(bins, frames), low frequencies first -> an image with them at the bottom, from `silence` to the loudest value."""
    loudness = (levels.flip(0) - silence) / (levels.max() - silence).clamp(min=0.1)
    place = loudness.clamp(0, 1).double().numpy() * (len(COLOURS) - 1)
    colour = [np.interp(place, np.arange(len(COLOURS)), COLOURS[:, channel]) for channel in range(3)]
    return Image.fromarray(np.stack(colour, axis=-1).round().astype(np.uint8))


def enlarge(image: Image.Image, side: int) -> Image.Image:
    """By the smallest whole factor that brings the short side to `side` pixels or more; values stay square pixels."""
    factor = math.ceil(side / min(image.size))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def numbers_file(item: Tensor) -> dict[str, bytes]:
    """`.csv` -> a line per index of all dimensions but the last; or `.npy` -> the array, if that would be long."""
    array = item.detach().float().cpu().numpy()
    if array.size > CSV_NUMBERS:
        buffer = io.BytesIO()
        np.save(buffer, array)
        return {".npy": buffer.getvalue()}
    text = io.StringIO()
    lines = array.reshape(-1, array.shape[-1])
    csv.writer(text, lineterminator="\n").writerows([f"{number:.6g}" for number in line] for line in lines.tolist())
    return {".csv": text.getvalue().encode()}


def to_wave(spec: LogMelSpec, item: Tensor, iterations: int = 60, momentum: float = 0.99) -> Tensor:
    """A wave (num_samples,) whose log-mel spectrogram is close to `item` (1, num_mels, num_frames).

    Its power by `power_of_mel`, its phases by `griffin_lim`.
    """
    filters = mel_filters(spec.shape[1], spec.n_fft, spec.sample_rate, spec.low_hz, spec.high_hz)  # (mels, bins)
    mel = ((item.detach().float().cpu()[0] * spec.std + spec.mean).exp() - spec.floor).clamp(min=0)  # (mels, frames)
    magnitude = power_of_mel(filters, mel).sqrt() * (spec.window / 4)
    window = torch.hann_window(spec.window)

    def stft(wave: Tensor) -> Tensor:
        frames = torch.stft(
            wave, spec.n_fft, spec.hop, spec.window, window, center=True, pad_mode="constant", return_complex=True
        )
        return frames

    def istft(frames: Tensor) -> Tensor:
        return torch.istft(frames, spec.n_fft, spec.hop, spec.window, window, center=True, length=spec.num_samples)

    return griffin_lim(magnitude, stft, istft, iterations, momentum)
