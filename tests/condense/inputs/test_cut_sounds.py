"""Sound files that were cut are refused; whole ones, and those whose header leaves their length open, are read."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from condense.inputs.media import read_item
from condense.inputs.spec import LogMelSpec
from condense.inputs.waves import read_wave
from condense.system.errors import UserError

SOUND = LogMelSpec.of(32, 33)
RATE = 16_000
NOISE = (0.3 * np.random.default_rng(0).standard_normal((2 * RATE, 2))).astype(np.float32)


def written(folder: Path, suffix: str, samples: np.ndarray = NOISE) -> Path:
    path = folder / f"whole.{suffix}"
    soundfile.write(path, samples, RATE)
    return path


@pytest.mark.parametrize("suffix", ["wav", "aiff", "mp3", "flac", "ogg"])
def test_a_whole_file_is_read(tmp_path: Path, suffix: str) -> None:
    assert read_wave(written(tmp_path, suffix))[0].shape == (2, 2 * RATE)


@pytest.mark.parametrize("suffix", ["wav", "aiff", "mp3", "flac"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_a_cut_file_is_refused_and_named(tmp_path: Path, suffix: str, share: float) -> None:
    whole = written(tmp_path, suffix).read_bytes()
    (tmp_path / f"cut.{suffix}").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match=rf"^cut\.{suffix}: (was cut: its header says|cannot be read)"):
        read_item(SOUND, f"cut.{suffix}", tmp_path)


def test_how_much_is_there_is_said(tmp_path: Path) -> None:
    whole = written(tmp_path, "wav", NOISE[:, 0]).read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[: len(whole) // 2])
    there = len(whole) // 2 - 44  # the header of a plain WAV
    expected = rf"its header says 64,000 bytes of sound, but only {there:,} are there \(50%\)"
    with pytest.raises(UserError, match=expected):
        read_item(SOUND, "cut.wav", tmp_path)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF])
def test_a_wav_from_a_pipe_is_read(tmp_path: Path, size: int) -> None:
    content = bytearray(written(tmp_path, "wav").read_bytes())
    at = content.index(b"data")
    content[at + 4 : at + 8] = struct.pack("<I", size)
    (tmp_path / "piped.wav").write_bytes(content)
    assert read_wave(tmp_path / "piped.wav")[0].shape == (2, 2 * RATE)


@settings(max_examples=40, deadline=None)
@given(
    length=st.integers(1, 3000),
    channels=st.integers(1, 3),
    cut=st.floats(0, 1),
    suffix=st.sampled_from(["wav", "aiff"]),
)
def test_a_wav_is_refused_exactly_if_a_hundredth_is_missing(
    tmp_path_factory: pytest.TempPathFactory, length: int, channels: int, cut: float, suffix: str
) -> None:
    folder = tmp_path_factory.mktemp("wav")
    samples = np.random.default_rng(length).uniform(-0.5, 0.5, (length, channels))
    whole = written(folder, suffix, samples).read_bytes()
    missing = int(cut * length * channels * 2)
    path = folder / f"cut.{suffix}"
    path.write_bytes(whole[: len(whole) - missing])
    try:
        read_wave(path)
        refused = False
    except UserError as error:
        refused = "was cut" in str(error) or "holds no samples" in str(error)
    size = length * channels * 2 + 8 * (suffix == "aiff")  # SSND begins with an offset and a block size
    assert refused == (missing > 0.01 * size or missing == length * channels * 2)
