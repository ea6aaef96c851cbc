"""Kaldi's log-mel filter bank ("fbank"), forwards and back, in pure PyTorch.

Povey et al. 2011, "The Kaldi speech recognition toolkit": `compute-fbank-feats` with a Hann window and without dither.
Operations and their order are those of `torchaudio.compliance.kaldi.fbank`, so that float32 rounds the same way.

Notation: T frames, W = 400 samples of a window, H = 160 of a hop, N = 512 of the FFT, M mel bins.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from condense.inputs.waves import griffin_lim, power_of_mel

SAMPLE_RATE = 16_000  # Hz
WINDOW, HOP, FFT = 400, 160, 512  # samples: 25 ms, 10 ms, and the next power of two
PREEMPHASIS = 0.97
LOW_HZ, HIGH_HZ = 20.0, 8000.0
EPSILON = torch.finfo(torch.float32).eps  # floor of a mel bin's energy


def fbank(
    wave: Tensor,  # (..., n), n >= 400
    num_mels: int,
) -> Tensor:
    """(..., T, M) natural logarithms of mel energies, T = 1 + (n - 400) // 160: only whole frames."""
    frames = wave.unfold(-1, WINDOW, HOP)  # (..., T, W)
    frames = frames - frames.mean(-1, keepdim=True)
    before = torch.cat([frames[..., :1], frames[..., :-1]], -1)
    frames = frames - PREEMPHASIS * before
    frames = frames * torch.hann_window(WINDOW, periodic=False)
    spectrum = torch.fft.rfft(F.pad(frames, (0, FFT - WINDOW))).abs().pow(2.0)  # (..., T, N / 2 + 1)
    energies = spectrum @ mel_bank(num_mels).T
    return energies.clamp(min=EPSILON).log()


@functools.lru_cache(maxsize=4)
def mel_bank(num_mels: int) -> Tensor:
    """(M, N / 2 + 1) triangles of height 1 that are equally spaced, and straight, on the scale 1127 ln(1 + f / 700).

    The Nyquist bin belongs to none of them.
    """
    low, high = (1127.0 * math.log(1.0 + hz / 700.0) for hz in (LOW_HZ, HIGH_HZ))
    step = (high - low) / (num_mels + 1)
    index = torch.arange(num_mels)[:, None]
    left, centre, right = (low + (index + place) * step for place in (0.0, 1.0, 2.0))
    mel = 1127.0 * (1.0 + SAMPLE_RATE / FFT * torch.arange(FFT / 2) / 700.0).log()  # (N / 2,)
    rise, fall = (mel - left) / (centre - left), (right - mel) / (right - centre)
    return F.pad(torch.minimum(rise, fall).clamp(min=0), (0, 1))


def wave_of_fbank(logmel: Tensor) -> Tensor:
    """A wave (n,) whose filter bank is close to `logmel` (T, M); the subtracted means and the floor are lost."""
    frames, num_mels = logmel.shape
    mel = (logmel.T.exp() - EPSILON).clamp(min=0)
    power = power_of_mel(mel_bank(num_mels), mel)  # (N / 2 + 1, T), of the pre-emphasised frames
    angle = torch.linspace(0, math.pi, FFT // 2 + 1)
    # |1 - 0.97 exp(-i angle)|; the lowest bins, below the first filter, stay quiet
    emphasis = (1 + PREEMPHASIS**2 - 2 * PREEMPHASIS * angle.cos()).sqrt()[:, None]
    window = torch.hann_window(WINDOW, periodic=False)
    length = WINDOW + HOP * (frames - 1)

    def overlap_add(pieces: Tensor) -> Tensor:  # (W, T) -> (n,)
        return F.fold(pieces[None], (1, length), (1, WINDOW), stride=(1, HOP)).flatten()

    weight = overlap_add(window.square()[:, None].expand(-1, frames)).clamp(min=1e-2)

    def stft(wave: Tensor) -> Tensor:
        return torch.fft.rfft(wave.unfold(0, WINDOW, HOP) * window, FFT).T

    def istft(spectrum: Tensor) -> Tensor:  # least squares (Griffin & Lim 1984, equation 6)
        return overlap_add(torch.fft.irfft(spectrum.T, FFT)[:, :WINDOW].T * window[:, None]) / weight

    return griffin_lim(power.sqrt() / emphasis, stft, istft)
