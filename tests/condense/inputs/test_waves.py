"""Kaldi's filter bank and resampling, against float64 numpy as their documentation has it, and torchaudio where it is."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import scipy.fft
import scipy.signal
import torch

from condense.inputs.kaldi import fbank, mel_bank
from condense.inputs.waves import resample


def importable(name: str) -> Any:
    """A module, or a skipped test: torchaudio and torchvision of another build of torch fail with more than ImportError."""
    try:
        return __import__(name, fromlist=["_"])
    except Exception as error:
        pytest.skip(f"{name} cannot be imported: {error}")


def sound(seconds: float, rate: int = 16_000, channels: int = 1, seed: int = 0) -> np.ndarray:
    """(n, channels) float32: a chirp, a hum with an offset that drifts, and noise; channels differ."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    mono = 0.3 * np.sin(2 * np.pi * (200 * t + 300 * t**2)) + 0.1 * np.sin(2 * np.pi * 50 * t) + 0.05 * t
    wave = mono[:, None] * np.linspace(1, 0.3, channels) + 0.02 * rng.normal(size=(len(t), channels))
    return wave.astype(np.float32)


# --- the filter bank, in float64 numpy, as Kaldi's documentation has it


def kaldi_reference(wave: np.ndarray, num_mels: int = 128) -> np.ndarray:
    """(n,) -> (T, num_mels); every step by its definition, frame by frame."""
    window = scipy.signal.windows.hann(400, sym=True)
    edges = np.linspace(1127 * np.log(1 + 20 / 700), 1127 * np.log(1 + 8000 / 700), num_mels + 2)
    mel_of_bin = 1127 * np.log(1 + np.arange(257) * 16_000 / 512 / 700)
    rows = []
    for start in range(0, len(wave) - 400 + 1, 160):
        frame = wave[start : start + 400].astype(np.float64)
        frame = frame - frame.mean()
        emphasized = frame.copy()
        emphasized[1:] -= 0.97 * frame[:-1]
        emphasized[0] -= 0.97 * frame[0]
        power = np.abs(scipy.fft.rfft(emphasized * window, 512)) ** 2
        energies = []
        for left, centre, right in zip(edges, edges[1:], edges[2:]):
            triangle = np.interp(mel_of_bin, [left, centre, right], [0, 1, 0])
            triangle[256] = 0  # Kaldi leaves the Nyquist bin out
            energies.append(triangle @ power)
        rows.append(np.log(np.maximum(energies, np.finfo(np.float32).eps)))
    return np.array(rows)


def test_fbank_is_kaldis() -> None:
    wave = sound(2)[:, 0]
    bank = fbank(torch.from_numpy(wave), 128)
    assert bank.shape == (198, 128)
    np.testing.assert_allclose(bank, kaldi_reference(wave), atol=2e-3)


def test_fbank_of_silence_is_the_floor_of_float32() -> None:
    assert (fbank(torch.zeros(400), 128) == math.log(2.0**-23)).all()


def test_a_sine_peaks_in_its_mel_bin() -> None:
    t = torch.arange(32_000) / 16_000
    for hz in (500.0, 1000.0, 4000.0):
        peak = int(fbank(0.5 * torch.sin(2 * math.pi * hz * t), 128).mean(0).argmax())
        expected = (math.log(1 + hz / 700) - math.log(1 + 20 / 700)) / math.log((1 + 8000 / 700) / (1 + 20 / 700)) * 129
        assert peak + 1 == pytest.approx(expected, abs=1)


def test_mel_bank_adds_up_to_one_between_the_outer_centres() -> None:
    bank = mel_bank(128)
    mel = [math.log(1 + hz / 700) for hz in (20, 8000)]
    first, last = (700 * (math.exp(mel[0] + (mel[1] - mel[0]) * k / 129) - 1) / (16_000 / 512) for k in (1, 128))
    covered = bank.sum(0)[math.ceil(first) : math.floor(last) + 1]
    torch.testing.assert_close(covered, torch.ones_like(covered), atol=1e-4, rtol=0)


def test_fbank_of_a_batch_is_that_of_its_items() -> None:
    waves = torch.from_numpy(np.stack([sound(1, seed=seed)[:, 0] for seed in range(3)]))
    torch.testing.assert_close(fbank(waves, 128), torch.stack([fbank(wave, 128) for wave in waves]))


# --- resampling


def sinc_reference(wave: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Each output by the definition, a sum over inputs: sinc at 0.99 of the lower Nyquist, under Hann of 6 crossings."""
    cutoff = 0.99 * min(rate, new_rate)
    outputs = np.zeros(math.ceil(len(wave) * new_rate / rate))
    for index in range(len(outputs)):
        middle, reach = index * rate // new_rate, math.ceil(6 * rate / cutoff) + 1
        n = np.arange(max(0, middle - reach), min(len(wave), middle + reach + 1))
        t = (n / rate - index / new_rate) * cutoff
        window = np.where(np.abs(t) < 6, np.cos(np.pi * t / 12) ** 2, 0)
        outputs[index] = (np.sinc(t) * window * wave[n]).sum() * cutoff / rate
    return outputs


@pytest.mark.parametrize("rate", [44_100, 48_000, 8_000, 22_050])
def test_resampling_is_band_limited_interpolation(rate: int) -> None:
    wave = sound(0.05, rate)[:, 0]
    ours = resample(torch.from_numpy(wave)[None], rate, 16_000)[0]
    np.testing.assert_allclose(ours, sinc_reference(wave, rate, 16_000), atol=1e-5)


@pytest.mark.parametrize("rate", [44_100, 48_000, 44_101])
def test_resampling_keeps_what_is_in_the_band(rate: int) -> None:
    """Against a polyphase filter of another design, away from the edges."""
    wave, expected = sound(0.5, rate)[:, 0], sound(0.5)[:, 0]
    rng = np.random.default_rng(0)
    wave -= 0.02 * rng.normal(size=len(wave)).astype(np.float32)  # without the noise, which is beyond the band
    expected -= 0.02 * np.random.default_rng(0).normal(size=len(expected)).astype(np.float32)
    ours = resample(torch.from_numpy(wave)[None], rate, 16_000)[0].numpy()
    assert len(ours) == 8000
    np.testing.assert_allclose(ours[200:-200], expected[200:-200], atol=3e-3)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize(("share", "tolerance"), [(0.02, 2e-3), (0.12, 2e-3), (0.37, 2e-3), (0.75, 2e-2)])
def test_a_sine_is_the_same_sine_at_another_rate(rate: int, share: float, tolerance: float) -> None:
    """In closed form and as scipy has it, away from the edges. `share`: its frequency, of the lower Nyquist frequency, at
    three quarters of which the filter begins to fall; `tolerance`: of its amplitude, which is 1."""
    hz = share * min(rate, 16_000) / 2
    wave, expected = (np.sin(2 * np.pi * hz * np.arange(r) / r).astype(np.float32) for r in (rate, 16_000))
    ours = resample(torch.from_numpy(wave)[None], rate, 16_000)[0].numpy()
    ratio = Fraction(16_000, rate)
    theirs = scipy.signal.resample_poly(wave, ratio.numerator, ratio.denominator)
    assert len(ours) == len(theirs) == 16_000
    np.testing.assert_allclose(ours[200:-200], expected[200:-200], atol=tolerance)
    np.testing.assert_allclose(ours[200:-200], theirs[200:-200], atol=2 * tolerance)


def test_resampling_is_torchaudios() -> None:
    torchaudio = importable("torchaudio")
    wave = torch.from_numpy(sound(1, 44_100, 2).T.copy())
    torch.testing.assert_close(
        resample(wave, 44_100, 16_000), torchaudio.functional.resample(wave, 44_100, 16_000), atol=0, rtol=0
    )


def test_fbank_is_torchaudios() -> None:
    kaldi = importable("torchaudio.compliance.kaldi")
    wave = torch.from_numpy(sound(2).T.copy())
    options = {"window_type": "hanning", "num_mel_bins": 128, "htk_compat": True, "use_energy": False, "dither": 0.0}
    expected = kaldi.fbank(wave, sample_frequency=16_000, frame_length=25, frame_shift=10, **options)
    torch.testing.assert_close(fbank(wave[0], 128), expected, atol=1e-6, rtol=0)
