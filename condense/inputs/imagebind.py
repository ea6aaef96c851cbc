"""ImageBind's input for each modality but text (Girdhar et al. 2023): reading from files and showing.

Images and audio are read exactly as by the official code, except that photos are rotated by their EXIF data.
There is no official code for the other three, which are read as follows:

- depth. The model was trained on disparity, baseline * focal length / depth (pixels); see "Omnivore" (Girdhar et al.
  2022), whose scale is taken: clamped to [0.01, 75], over 75, minus 0.0418, over 0.0295. An NPY file holds disparity in
  pixels, (H, W) or (1, H, W). A 16-bit PNG holds depth in millimetres, 0 where there was no reading, and is taken to be
  of the Kinect that NYU-v2 was recorded with: 0.075 m * 518.86 pixels. (SUN RGB-D's PNGs are not in millimetres, but
  bit-rotated by 3: convert them first.)
- thermal. One channel in [0, 1], not standardised: a grey PNG of 8 or 16 bits over its largest value, a JPEG, or an NPY
  file with values in [0, 1], (H, W) or (1, H, W).
- imu. NPY, (6, n): acceleration along x, y, z, then angular velocity around them, as float. 2,000 readings go in, the
  paper's 5 s. Of a longer recording the middle is taken, a shorter one is zero-padded at its end.

Depth and thermal have their short side resized to 224, then the centre square is cut out, as with images.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from condense.inputs import kaldi
from condense.inputs.media import read_numbers, spectrogram_picture, wav_file
from condense.inputs.pictures import FILE_TYPES, open_picture
from condense.inputs.spec import BILINEAR, FileSpec, ImageSpec, InputSpec, WaveSpec, resized_centre
from condense.inputs.waves import read_wave, resample
from condense.system.errors import UserError

SIDE = 224  # pixels
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's images
NUM_MELS, NUM_FRAMES, CLIP_SECONDS = 128, 204, 2
AUDIO_MEAN, AUDIO_STD = -4.268, 9.138  # of AudioSet's log-mel energies
NEAREST, FARTHEST = 75.0, 0.01  # disparity, pixels
KINECT = 0.075 * 518.857901  # metres * pixels: baseline times focal length
DEPTH_MEAN, DEPTH_STD = 0.0418, 0.0295  # of disparity / 75
FARTHEST_METRES = 50.0


def file_specs(audio_clips: int = 3) -> dict[str, InputSpec]:
    """modality -> input of ImageBind, without text."""
    return {
        "vision": ImageSpec.of("vision", 3, SIDE, CLIP_MEAN, CLIP_STD),
        "audio": FbankSpec.of(audio_clips),
        "depth": DepthSpec.of(SIDE),
        "thermal": ThermalSpec.of(SIDE),
        "imu": RecordingSpec("imu", (6, 2000), -80.0, 80.0),
    }


@dataclass(frozen=True)
class FbankSpec(FileSpec, WaveSpec):
    """Log-mel energies of clips of 2 s, standardised. shape = (128, 204) after (clips, 1), or after (1,) for one clip.

    Clips start at equal distances, the first one where the file does, the last one 2 s before its end; a single clip is
    the first. A file of less than 2 s is one clip, zero-padded *after* the logarithm, as the last 6 frames always are;
    it is repeated, which leaves an average over clips as it is. Of several channels the first is taken.
    """

    file_types: ClassVar[str] = "WAV or FLAC"
    averages_channels: ClassVar[bool] = False  # as the official code
    sample_rate: int = kaldi.SAMPLE_RATE  # Hz

    @staticmethod
    def of(clips: int) -> FbankSpec:
        shape = (1, NUM_MELS, NUM_FRAMES) if clips == 1 else (clips, 1, NUM_MELS, NUM_FRAMES)
        return FbankSpec("audio", shape, -1.28, 2.0)  # silence is at -1.2776, a full-scale sine stays below 1.8

    @property
    def clips(self) -> int:
        return self.shape[0] if len(self.shape) == 4 else 1

    @property
    def num_samples(self) -> int:
        return CLIP_SECONDS * self.sample_rate

    def from_wave(self, wave: Tensor) -> Tensor:
        """(..., 32000) -> (..., *shape): all clips alike. The clip's mean is subtracted first."""
        parts = wave.reshape(-1, self.num_samples).split(256)  # the spectra of thousands of clips are gigabytes
        one = torch.cat([_standardized_fbank(part - part.mean(-1, keepdim=True)) for part in parts])
        one = one.reshape(*wave.shape[:-1], *one.shape[1:])
        return one if len(self.shape) == 3 else torch.stack([one] * self.clips, -4)

    def from_recording(self, wave: Tensor) -> Tensor:
        """(channels, n) at 16 kHz of any length -> (*shape). Raises UserError if it is shorter than a window (25 ms)."""
        if wave.shape[1] < kaldi.WINDOW:
            raise UserError(f"must last 0.025 s or more, but lasts {wave.shape[1] / self.sample_rate:.3f} s")
        wave = wave.clone()
        pieces = []
        for start in self._clip_starts(wave.shape[1]):
            clip = wave[:, start : start + self.num_samples]
            # In place, as in the official code: an overlapping next clip includes this subtraction.
            clip -= clip.mean()
            pieces.append(_standardized_fbank(clip[0]))
        pieces += pieces[-1:] * (self.clips - len(pieces))
        return torch.stack(pieces).reshape(self.shape)

    def _clip_starts(self, length: int) -> list[int]:
        """Of each clip, in samples. The official sampler's arithmetic: rational, from the duration as a float."""
        if length < self.num_samples:
            return [0]
        apart = Fraction(length / self.sample_rate - CLIP_SECONDS) / max(self.clips - 1, 1)
        return [int(apart * index * self.sample_rate) for index in range(self.clips)]

    def read(self, path: Path) -> Tensor:
        wave, rate = read_wave(path)
        return self.from_recording(resample(wave, rate, self.sample_rate))

    def log_mel(self, item: Tensor) -> Tensor:
        """(*shape) -> (clips, 128, 198): natural logarithms, without the frames that are padding."""
        frames = 1 + (self.num_samples - kaldi.WINDOW) // kaldi.HOP
        return (item * AUDIO_STD + AUDIO_MEAN).reshape(-1, NUM_MELS, NUM_FRAMES)[..., :frames]

    def picture(self, item: Tensor) -> Image.Image:
        """The clips side by side."""
        return spectrogram_picture(torch.cat(list(self.log_mel(item)), 1), math.log(kaldi.EPSILON))

    def preview(self, item: Tensor) -> dict[str, bytes]:
        """The clips one after the other."""
        waves = [kaldi.wave_of_fbank(clip.T) for clip in self.log_mel(item)]
        return {".wav": wav_file(torch.cat(waves), self.sample_rate)}


def _standardized_fbank(wave: Tensor) -> Tensor:
    """(..., n) of at most 2 s -> (..., 1, 128, 204)."""
    bank = kaldi.fbank(wave, NUM_MELS).transpose(-1, -2)
    bank = torch.nn.functional.pad(bank, (0, NUM_FRAMES - bank.shape[-1]))
    return ((bank - AUDIO_MEAN) / AUDIO_STD).unsqueeze(-3)


@dataclass(frozen=True)
class MapSpec(FileSpec):
    """Base of one-channel camera images. shape = (1, side, side)."""

    file_types: ClassVar[str] = f"{FILE_TYPES}, or NPY"

    def read(self, path: Path) -> Tensor:
        with path.open("rb") as file:
            is_array = file.read(6) == b"\x93NUMPY"
        if is_array:
            measured = self._from_array(_read_map(path))
        else:
            with open_picture(path) as opened:
                measured = self._from_image(opened)
        image = Image.fromarray(np.ascontiguousarray(measured, dtype=np.float32))
        pixels = np.asarray(resized_centre(image, self.shape[1], BILINEAR), dtype=np.float32)
        return self._scaled(torch.from_numpy(pixels.copy())[None])

    @abstractmethod
    def _from_array(self, array: np.ndarray) -> np.ndarray:
        """(H, W) of an NPY file -> in the units of `_scaled`."""

    @abstractmethod
    def _from_image(self, image: Image.Image) -> np.ndarray:
        """A PNG or JPEG -> (H, W) in the units of `_scaled`."""

    @abstractmethod
    def _scaled(self, measured: Tensor) -> Tensor:
        """The measurement, in the encoder's units."""

    def picture(self, item: Tensor) -> Image.Image:
        """From the item's own smallest value, black, to its largest."""
        low, high = item.min(), item.max()
        grey = (item[0] - low) / (high - low).clamp(min=1e-6) * 255
        return Image.fromarray(grey.round().byte().numpy())


@dataclass(frozen=True)
class DepthSpec(MapSpec):
    """Disparity, scaled; see the top of this file."""

    usual_kind: ClassVar[str] = "depth"
    file_types: ClassVar[str] = "16-bit PNG (millimetres) or NPY (disparity)"

    @staticmethod
    def of(side: int) -> DepthSpec:
        low, high = ((value / NEAREST - DEPTH_MEAN) / DEPTH_STD for value in (FARTHEST, NEAREST))
        return DepthSpec("depth", (1, side, side), low, high)

    def _from_array(self, array: np.ndarray) -> np.ndarray:
        return np.clip(array, FARTHEST, NEAREST)

    def _from_image(self, image: Image.Image) -> np.ndarray:
        if not image.mode.startswith("I"):
            raise UserError(f"a PNG of depth must have 16 bits (millimetres), but is of Pillow's mode {image.mode}")
        metres = np.asarray(image, dtype=np.float32) / 1000
        metres = np.where(metres == 0, FARTHEST_METRES, metres).clip(0.01, FARTHEST_METRES)
        return np.clip(KINECT / metres, FARTHEST, NEAREST)

    def _scaled(self, measured: Tensor) -> Tensor:
        return (measured / NEAREST - DEPTH_MEAN) / DEPTH_STD

    def disparity(self, item: Tensor) -> Tensor:
        """Inverse of the scaling: pixels."""
        return (item * DEPTH_STD + DEPTH_MEAN) * NEAREST


@dataclass(frozen=True)
class ThermalSpec(MapSpec):
    """Brightness in [0, 1]."""

    usual_kind: ClassVar[str] = "thermal"

    @staticmethod
    def of(side: int) -> ThermalSpec:
        return ThermalSpec("thermal", (1, side, side), 0.0, 1.0)

    def _from_array(self, array: np.ndarray) -> np.ndarray:
        if array.min() < 0 or array.max() > 1:
            raise UserError(f"values must be in 0 .. 1, but are in {array.min():g} .. {array.max():g}")
        return array

    def _from_image(self, image: Image.Image) -> np.ndarray:
        if image.mode.startswith("I"):
            return np.asarray(image, dtype=np.float32) / 65535
        return np.asarray(image.convert("L"), dtype=np.float32) / 255

    def _scaled(self, measured: Tensor) -> Tensor:
        return measured.clamp(0, 1)


@dataclass(frozen=True)
class RecordingSpec(FileSpec):
    """Readings of several sensors over time. shape = (sensors, readings)."""

    usual_kind: ClassVar[str] = "series"
    file_types: ClassVar[str] = "NPY"

    def read(self, path: Path) -> Tensor:
        array = read_numbers(path)
        sensors, readings = self.shape
        if array.ndim != 2 or len(array) != sensors or array.shape[1] == 0:
            raise UserError(f"shape must be ({sensors}, n), but got {array.shape}")
        surplus = max(0, array.shape[1] - readings)
        with np.errstate(over="ignore"):  # becomes infinity, which the caller reports
            kept = array[:, surplus // 2 : surplus // 2 + readings].astype(np.float32)
        return torch.from_numpy(np.pad(kept, ((0, 0), (0, readings - kept.shape[1]))))


def _read_map(path: Path) -> np.ndarray:
    """(H, W) float32 from an array of (H, W) or (1, H, W)."""
    array = read_numbers(path)
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 2 or 0 in array.shape:
        raise UserError(f"shape must be (H, W) or (1, H, W), but got {array.shape}")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise UserError("holds NaN or infinity")
    return array
