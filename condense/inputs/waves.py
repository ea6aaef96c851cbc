"""Sound: read from files, resampled, and rebuilt from spectrograms. Pure PyTorch, no torchaudio."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import soundfile
import torch
import torch.nn.functional as F
from torch import Tensor

from condense.inputs.cut_sounds import check_decoded, check_whole
from condense.system.errors import UserError

ZERO_CROSSINGS = 6  # of the sinc, on either side: torchaudio's `lowpass_filter_width`
ROLLOFF = 0.99  # the cut-off, as a share of the lower of the two Nyquist frequencies


def read_wave(path: Path) -> tuple[Tensor, int]:
    """(channels, n) float32 in [-1, 1], and the sample rate in Hz. Raises UserError, without the file's name, also
    for one that was cut."""
    check_whole(path)
    with soundfile.SoundFile(path) as file:
        channels, rate = file.read(dtype="float32", always_2d=True), file.samplerate
        promised = file.frames
    if len(channels) == 0:
        raise UserError("holds no samples")
    check_decoded(promised, len(channels))
    if not np.isfinite(channels).all():
        raise UserError("holds NaN or infinity")
    if not 1_000 <= rate <= 768_000:  # nobody records so: the header is damaged
        raise UserError(f"sample rate must be 1000 .. 768000 Hz, but got {rate}")
    return torch.from_numpy(np.ascontiguousarray(channels.T)), rate


def mono(channels: Tensor) -> Tensor:
    """(channels, n) -> (1, n): their mean, as ffmpeg and librosa make it. One of them may be silent."""
    return channels.mean(0, keepdim=True) if len(channels) > 1 else channels


def read_clip(path: Path, sample_rate: int, num_samples: int) -> Tensor:
    """(num_samples,) of a file at `sample_rate`, Hz, the mean of its channels; a short one is zero-padded at its
    end, a long one keeps its middle. Raises what `read_wave` does."""
    channels, rate = read_wave(path)
    wave = resample(mono(channels), rate, sample_rate)[0]
    surplus = len(wave) - num_samples
    if surplus > 0:
        wave = wave[surplus // 2 : surplus // 2 + num_samples]
    return F.pad(wave, (0, max(0, -surplus)))


def resample(wave: Tensor, rate: int, new_rate: int) -> Tensor:
    """(channels, n) at `rate` Hz -> (channels, ceil(n * new_rate / rate)) at `new_rate` Hz.

    Band-limited interpolation by a windowed sinc (Smith, "Digital audio resampling"), with the defaults of
    `torchaudio.functional.resample`: Hann window, 6 zero crossings, roll-off 0.99. Ratios with terms above 1,000
    (44,101 Hz) are taken to the nearest one without, which is off by a millionth: no filter of millions of taps.
    """
    if rate == new_rate:
        return wave
    ratio = Fraction(new_rate, rate)
    if max(ratio.numerator, ratio.denominator) > 1000:
        ratio = ratio.limit_denominator(1000) if ratio < 1 else 1 / (1 / ratio).limit_denominator(1000)
    new, old = ratio.numerator, ratio.denominator
    kernel, width = _sinc_kernel(old, new)
    length = wave.shape[-1]
    padded = F.pad(wave, (width, width + old))
    steps = F.conv1d(padded[:, None], kernel, stride=old)  # (channels, new, steps): one phase per row
    return steps.transpose(1, 2).reshape(len(wave), -1)[:, : math.ceil(new * length / old)]


@functools.lru_cache(maxsize=16)
def _sinc_kernel(old: int, new: int) -> tuple[Tensor, int]:
    """(new, 1, 2 * width + old): the filter of each of the `new` phases, in the precision that torchaudio takes."""
    cutoff = min(old, new) * ROLLOFF
    width = math.ceil(ZERO_CROSSINGS * old / cutoff)
    taps = torch.arange(-width, width + old, dtype=torch.float32)[None, None] / old
    phases = torch.arange(0, -new, -1, dtype=torch.float32)[:, None, None] / new
    time = ((phases + taps) * cutoff).clamp(-ZERO_CROSSINGS, ZERO_CROSSINGS)
    window = torch.cos(time * math.pi / ZERO_CROSSINGS / 2) ** 2
    angle = time * math.pi
    sinc = torch.where(angle == 0, torch.tensor(1.0), angle.sin() / angle)
    return sinc * (window * (cutoff / old)), width


def power_of_mel(
    filters: Tensor,  # (mels, bins), non-negative
    mel: Tensor,  # (mels, frames), non-negative
    iterations: int = 100,
) -> Tensor:
    """(bins, frames) of non-negative power that the filters turn into about `mel`.

    Non-negative deconvolution: multiplicative updates for the KL divergence (Lee & Seung 2001), which fit what is quiet
    as well as what is loud; least squares does not.
    """
    weight = filters.sum(0)[:, None].clamp(min=1e-12)  # (bins, 1)
    power = filters.T @ mel
    for _ in range(iterations):
        power = power * (filters.T @ (mel / (filters @ power).clamp(min=1e-12))) / weight
    return power


def griffin_lim(
    magnitude: Tensor,  # (bins, frames)
    stft: Callable[[Tensor], Tensor],  # (n,) -> (bins, frames) complex
    istft: Callable[[Tensor], Tensor],  # its inverse
    iterations: int = 60,
    momentum: float = 0.99,
) -> Tensor:
    """A wave (n,) whose short-time Fourier transform has about this magnitude; phases start from a fixed seed.

    Griffin & Lim 1984, with momentum (Perraudin, Balazs, Sondergaard 2013).
    """
    generator = torch.Generator().manual_seed(0)
    phase = torch.polar(torch.ones_like(magnitude), 2 * math.pi * torch.rand(magnitude.shape, generator=generator))
    previous = torch.zeros_like(phase)
    for _ in range(iterations):
        rebuilt = stft(istft(magnitude * phase))
        ahead = rebuilt - momentum / (1 + momentum) * previous
        phase = ahead / ahead.abs().clamp(min=1e-12)
        previous = rebuilt
    return istft(magnitude * phase)
