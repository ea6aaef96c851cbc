"""Series: readings of sensors over time, (channels, length), each channel standardised by its own mean and deviation.

Sensors differ in units by orders of magnitude (g, rad/s, microvolts). So a series is brought to unit scale: its means and
standard deviations are those of the condense split, and are a part of the spec, hence of all that is cached. They are shown and
written in the units of the files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from condense.inputs.media import numbers_file, read_numbers
from condense.inputs.series_plot import plot
from condense.inputs.spec import FileSpec
from condense.system.errors import UserError

WIDEST = 10.0  # standard deviations: the range of a series that was not measured
MARGIN = 0.05  # how far the range lies beyond the condense split's extremes, as a share of their distance


@dataclass(frozen=True)
class SeriesSpec(FileSpec):
    """A series in standard deviations from its channels' means. shape = (channels, length)."""

    usual_kind: ClassVar[str] = "series"
    file_types: ClassVar[str] = "NPY"
    rate: float | None = None  # readings per second, Hz
    mean: tuple[float, ...] = ()  # per channel, in the units of the files; empty: not measured yet
    std: tuple[float, ...] = ()

    @staticmethod
    def of(modality: str, channels: int, length: int, rate: float | None = None) -> SeriesSpec:
        """Before the data are known."""
        return SeriesSpec(modality, (channels, length), -WIDEST, WIDEST, rate)

    def template(self) -> SeriesSpec:
        return replace(self, low=-WIDEST, high=WIDEST, mean=(), std=())

    def fitted(self, parts: Iterable[Tensor]) -> SeriesSpec:
        """With the means, deviations (n in the denominator) and extremes of all readings of the condense split.

        `parts`: (..., channels, n) of any n, in the units of the files. What is measured is rounded to six digits, so that
        machines that add in another order agree. A constant channel has deviation 1.
        """
        channels = self.shape[0]
        count, mean, squares = 0, torch.zeros(channels, dtype=torch.float64), torch.zeros(channels, dtype=torch.float64)
        least, most = torch.full_like(mean, math.inf), torch.full_like(mean, -math.inf)
        for part in parts:
            x = part.double().transpose(-1, -2).reshape(-1, channels)  # (readings, channels)
            if len(x) == 0:
                continue
            # Chan, Golub & LeVeque 1979: sums of squares around the mean, put together without cancellation.
            own = x.mean(0)
            total, apart = count + len(x), own - mean
            squares += (x - own).square().sum(0) + apart.square() * (count * len(x) / total)
            mean += apart * (len(x) / total)
            count = total
            least, most = torch.minimum(least, x.amin(0)), torch.maximum(most, x.amax(0))
        if count == 0:
            return replace(self, mean=(0.0,) * channels, std=(1.0,) * channels)
        std = (squares / count).sqrt()
        constant = std <= 1e-6 * torch.maximum(least.abs(), most.abs())  # its deviation is rounding, if anything
        std = torch.where(constant, 1.0, std)
        low, high = float(((least - mean) / std).min()), float(((most - mean) / std).max())
        margin = MARGIN * (high - low) if high > low else MARGIN
        return replace(
            self,
            low=_rounded(low - margin),
            high=_rounded(high + margin),
            mean=tuple(map(_rounded, mean.tolist())),
            std=tuple(map(_rounded, std.tolist())),
        )

    def standardized(self, readings: Tensor) -> Tensor:
        """(..., channels, n) in the units of the files -> float32 in standard deviations."""
        if not self.mean:
            return readings.float()
        mean, std = self._columns()
        return ((readings.double() - mean) / std).float()

    def readings(self, item: Tensor) -> Tensor:
        """Inverse of `standardized`."""
        if not self.mean:
            return item.float()
        mean, std = self._columns()
        return (item.double() * std + mean).float()

    def _columns(self) -> tuple[Tensor, Tensor]:
        """Means and deviations, (channels, 1) float64."""
        return torch.tensor(self.mean, dtype=torch.float64)[:, None], torch.tensor(self.std, dtype=torch.float64)[
            :, None
        ]

    def recording(self, path: Path) -> Tensor:
        """(channels, n <= length) float32 in the units of the file: the middle of one that is too long."""
        channels, length = self.shape
        array = read_numbers(path)
        if array.ndim == 1 and channels == 1:
            array = array[None]
        if array.ndim != 2 or len(array) != channels or array.shape[1] == 0:
            raise UserError(f"shape must be ({channels}, n), but got {array.shape}")
        surplus = max(0, array.shape[1] - length)
        with np.errstate(over="ignore"):  # becomes infinity, which the caller reports
            kept = np.array(array[:, surplus // 2 : surplus // 2 + length], dtype=np.float32)
        return torch.from_numpy(kept)

    def check(self, path: Path) -> None:
        channels = measured_shape(path)[0]
        if channels != self.shape[0]:
            raise UserError(f"must have {self.shape[0]} channels, but has {channels}")

    def read(self, path: Path) -> Tensor:
        """A recording that is too short is padded with its channels' means, at its end."""
        known = self.standardized(self.recording(path))
        return torch.nn.functional.pad(known, (0, self.shape[1] - known.shape[1]))

    def preview(self, item: Tensor) -> dict[str, bytes]:
        """A plot, and the numbers, both in the units of the files."""
        readings = self.readings(item)
        return {".png": plot(readings, self.rate), **numbers_file(readings)}


def measured_shape(path: Path) -> tuple[int, int]:
    """(channels, readings) of a recording, from the header of its NPY file. Raises UserError, without the file's name."""
    array = read_numbers(path)
    shape = (1, *array.shape) if array.ndim == 1 else array.shape
    if len(shape) != 2 or 0 in shape:
        raise UserError(f"shape must be (channels, n), but got {array.shape}")
    return shape[0], shape[1]


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
