"""What one item of a modality looks like to an encoder: its shape, its range, how it is read and shown.

An encoder has one `InputSpec` per modality: datasets read files with it, condensations keep synthetic items inside
its range, exports turn items back into images, sounds and texts.
All tensors here are float32 and hold one item, without a batch dimension.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from condense.config.modalities import KIND_OF
from condense.system.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

BILINEAR, BICUBIC = 2, 3  # Pillow's numbers of its resampling filters


@dataclass(frozen=True)
class InputSpec:
    """Base: an array of `shape` with values in [`low`, `high`] (in the encoder's own units), or narrower: `bounds`.

    `kind` is the modality's (`condense/config/modalities.py`): how items are moved, cut and shown goes by it, never by the
    modality's name. ImageBind's six have theirs; of others it is `usual_kind` of the class unless it is given.
    """

    modality: str
    shape: tuple[int, ...]
    low: float
    high: float
    kind: str = field(default="", kw_only=True)
    usual_kind: ClassVar[str] = ""
    source_digest: ClassVar[str] = (
        ""  # digest of the user's file that defines the class, since its code affects what is read
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", KIND_OF.get(self.modality) or self.kind or self.usual_kind)

    def describe(self) -> dict[str, Any]:
        """JSON-able; part of the fingerprint of everything cached from data read with this spec."""
        own = {"source": self.source_digest} if self.source_digest else {}
        fields = asdict(self)
        kind = fields.pop("kind")  # of ImageBind's modalities it goes without saying
        named = {} if self.modality in KIND_OF else {"modality_kind": kind}
        return {"kind": type(self).__name__, **fields, **named, **own}

    def template(self) -> InputSpec:
        """What the encoder asks for, before anything was measured on a dataset: this, for all but `SeriesSpec`."""
        return self

    def bounds(self) -> tuple[Tensor, Tensor]:
        """The smallest and the largest value at each place, float32: `low` and `high`, () each, the same everywhere.

        A subclass may return tensors that broadcast to (*shape), such as (channels, 1, 1).
        """
        return torch.tensor(self.low), torch.tensor(self.high)


@dataclass(frozen=True)
class FileSpec(InputSpec, ABC):
    """Base of inputs with their own methods for reading and showing; `condense/inputs/media.py` does the rest."""

    file_types: ClassVar[str] = "the encoder's format"  # for messages, such as "WAV or FLAC"

    @abstractmethod
    def read(self, path: Path) -> Tensor:
        """The item in a file: (*shape) float32. Any error may be raised; a UserError's message does not name the file."""

    def check(self, path: Path) -> None:
        """A look at a file's header, where that is much cheaper than `read`. Raises as `read` does."""
        return None

    def picture(self, item: Tensor) -> Image | None:
        """`item` (*shape) as an image, one pixel per value; None if it is not one."""
        return None

    def preview(self, item: Tensor) -> dict[str, bytes]:
        """File suffix -> content of files shown besides the image, or instead of it."""
        return {}


class WaveSpec(InputSpec, ABC):
    """Base of inputs that are made from a mono clip of sound."""

    usual_kind: ClassVar[str] = "sound"
    averages_channels: ClassVar[bool] = True  # else the first is read
    sample_rate: int  # Hz

    @property
    @abstractmethod
    def num_samples(self) -> int:
        """Length of the clip that `from_wave` takes."""

    @abstractmethod
    def from_wave(self, wave: Tensor) -> Tensor:
        """(..., num_samples) in [-1, 1] at `sample_rate` -> (..., *shape)."""


class WrittenSpec(InputSpec, ABC):
    """Base of inputs that are text in a continuous space."""

    usual_kind: ClassVar[str] = "text"

    @abstractmethod
    def encode(self, text: str) -> Tensor:
        """(*shape) float32. Raises UserError for an unsupported text."""

    @property
    def reads(self) -> str:
        """How much of a text is read, such as `63 bytes`."""
        return f"{self.shape[0]} positions"

    def left_of(self, text: str) -> Hashable | None:
        """What is read of a text that is cut, the same for all that are then alike; None: all of it."""
        return None

    @abstractmethod
    def decode(self, item: Tensor) -> str:
        """The text that is nearest to `item` (*shape)."""


@dataclass(frozen=True)
class ArraySpec(InputSpec):
    """Raw numbers: NPY files of depth, thermal or IMU readings, or prepared tensors. Other modalities' `kind` must be given."""


@dataclass(frozen=True)
class FeatureSpec(InputSpec):
    """What a frozen tower makes of an item, (width,): made instead of inputs, and shown as the nearest real item."""


@dataclass(frozen=True)
class ImageSpec(InputSpec):
    """An image: short side resized (bicubic), centre crop, (pixel / 255 - mean) / std. shape = (channels, side, side)."""

    usual_kind: ClassVar[str] = "image"
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)

    @staticmethod
    def of(modality: str, channels: int, side: int, mean: tuple[float, ...], std: tuple[float, ...]) -> ImageSpec:
        low = min((0.0 - m) / s for m, s in zip(mean, std, strict=True))
        high = max((1.0 - m) / s for m, s in zip(mean, std, strict=True))
        return ImageSpec(modality, (channels, side, side), low, high, mean, std)

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Black and white of each channel, (channels, 1, 1) within [`low`, `high`]; () where the channels do not differ."""
        if len(set(zip(self.mean, self.std, strict=True))) == 1:
            return super().bounds()
        lows = [max(self.low, (0.0 - m) / s) for m, s in zip(self.mean, self.std, strict=True)]
        highs = [min(self.high, (1.0 - m) / s) for m, s in zip(self.mean, self.std, strict=True)]
        return torch.tensor(lows)[:, None, None], torch.tensor(highs)[:, None, None]

    def fit(self, image: Image) -> Image:
        """Any size -> (side, side). Short side to `side` (bicubic), then the centre square."""
        return resized_centre(image, self.shape[1], BICUBIC)

    def normalize(self, pixels: Tensor) -> Tensor:
        """(..., channels, side, side) in [0, 1] -> model units."""
        mean = torch.tensor(self.mean)[:, None, None]
        std = torch.tensor(self.std)[:, None, None]
        return (pixels - mean) / std

    def pixels(self, item: Tensor) -> Tensor:
        """Inverse of `normalize`, clamped to [0, 1]."""
        mean = torch.tensor(self.mean)[:, None, None]
        std = torch.tensor(self.std)[:, None, None]
        return (item * std + mean).clamp(0, 1)


def resized_centre(image: Image, side: int, resampling: int) -> Image:
    """Short side to `side`, then the centre square; the roundings are torchvision's. `resampling` is Pillow's number."""
    short = min(image.size)
    width, height = (side if length == short else int(side * length / short) for length in image.size)
    image = image.resize((width, height), resampling)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return image.crop((left, top, left + side, top + side))


@dataclass(frozen=True)
class LogMelSpec(WaveSpec):
    """Log-mel spectrogram of a mono clip, standardised. shape = (1, num_mels, num_frames), time running right.

    Power of a Hann-windowed short-time Fourier transform, triangular filters on the mel scale
    (2595 log10(1 + f / 700)), natural log with a floor, then (x - mean) / std.
    """

    sample_rate: int = 16_000  # Hz
    window: int = 800  # samples (50 ms)
    hop: int = 400  # samples (25 ms)
    n_fft: int = 1024
    low_hz: float = 60.0
    high_hz: float = 7600.0
    floor: float = 1e-5  # of mel power; 1.0 would be a full-scale signal
    mean: float = -9.5
    std: float = 1.7

    @staticmethod
    def of(num_mels: int, num_frames: int) -> LogMelSpec:
        low = (math.log(1e-5) + 9.5) / 1.7
        return LogMelSpec("audio", (1, num_mels, num_frames), low, 6.0)

    @property
    def num_samples(self) -> int:
        """Length of the clip that fills `num_frames`: shorter ones are zero-padded, longer ones cut."""
        return self.hop * (self.shape[2] - 1)

    def from_wave(self, wave: Tensor) -> Tensor:
        """(..., num_samples) in [-1, 1] at `sample_rate` -> (..., 1, num_mels, num_frames)."""
        stft = torch.stft(
            wave.reshape(-1, wave.shape[-1]),
            self.n_fft,
            self.hop,
            self.window,
            torch.hann_window(self.window),
            center=True,
            pad_mode="constant",
            return_complex=True,
        )
        power = stft.abs().square() / (self.window / 4) ** 2  # a full-scale sine has power 1 in its bin
        mel = mel_filters(self.shape[1], self.n_fft, self.sample_rate, self.low_hz, self.high_hz) @ power
        logmel = (mel + self.floor).log()
        return ((logmel - self.mean) / self.std).clamp(self.low, self.high).reshape(*wave.shape[:-1], *self.shape)


@functools.lru_cache(maxsize=8)
def mel_filters(num_mels: int, n_fft: int, sample_rate: int, low_hz: float, high_hz: float) -> Tensor:
    """(num_mels, n_fft // 2 + 1) triangular filters, peak 1, equally spaced on the mel scale."""

    def to_mel(hz: float | np.ndarray) -> Any:
        return 2595.0 * np.log10(1.0 + np.asarray(hz) / 700.0)

    edges = 700.0 * (10.0 ** (np.linspace(to_mel(low_hz), to_mel(high_hz), num_mels + 2) / 2595.0) - 1.0)
    bins = np.arange(n_fft // 2 + 1) * sample_rate / n_fft
    rise = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return torch.from_numpy(np.maximum(0.0, np.minimum(rise, fall))).float()


@dataclass(frozen=True)
class TextSpec(WrittenSpec):
    """Text as embedded bytes: shape = (length, dim). Synthetic text lives in this continuous space.

    Byte b at a position is row b of a fixed random codebook; text ends with END and is padded with zeros.
    """

    seed: int = 0
    END = 0

    @staticmethod
    def of(length: int, dim: int) -> TextSpec:
        return TextSpec("text", (length, dim), -3.0, 3.0)

    @property
    def codebook(self) -> Tensor:
        """(256, dim) embeddings of the byte values."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randn(256, self.shape[1], generator=generator).clamp(self.low, self.high)

    def encode(self, text: str) -> Tensor:
        """UTF-8 bytes through the codebook, then END, then zeros; a long text loses whole characters before END."""
        if "\0" in text:
            raise UserError("the text holds a NUL character, which marks the end of a text")
        length, dim = self.shape
        encoded = self._kept(text) + bytes([self.END])
        item = torch.zeros(length, dim)
        item[: len(encoded)] = self.codebook[torch.tensor(list(encoded))]
        return item

    def _kept(self, text: str) -> bytes:
        return text.encode()[: self.shape[0] - 1].decode(errors="ignore").encode()

    @property
    def reads(self) -> str:
        return f"{self.shape[0] - 1} bytes"

    def left_of(self, text: str) -> bytes | None:
        kept = self._kept(text)
        return None if kept == text.encode() else kept

    def decode(self, item: Tensor) -> str:
        """The nearest codebook byte of each position, up to END; invalid UTF-8 becomes U+FFFD."""
        nearest = torch.cdist(item.float(), self.codebook).argmin(dim=1).tolist()
        if self.END in nearest:
            nearest = nearest[: nearest.index(self.END)]
        return bytes(nearest).decode(errors="replace")
