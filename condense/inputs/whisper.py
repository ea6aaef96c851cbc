"""The input of Whisper's encoder: a log-mel spectrogram of a short clip (Radford et al. 2022, arXiv:2212.04356).

Whisper pads every clip to 30 s. Here it keeps the length that it has, since an encoder without the positions after its end
is as good for short sounds and far cheaper.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from condense.inputs.media import spectrogram_picture, wav_file
from condense.inputs.spec import FileSpec, WaveSpec
from condense.inputs.transformers import library_filters
from condense.inputs.waves import griffin_lim, power_of_mel, read_clip

FLOOR = 1e-10  # of the mel power, before the logarithm
RANGE = 8.0  # decades below a clip's loudest value at which it is cut off
HIGHEST = 2.0  # a full-scale sine has 1.6
FRAMES_PER_POSITION = 2


@dataclass(frozen=True)
class WhisperSpec(FileSpec, WaveSpec):
    """(log10(mel power) + 4) / 4 of a mono clip. shape = (1, mels, frames), time running right.

    A recording is cut off 8 decades below its own loudest value, as Whisper does it. That depends on the whole clip, so it is
    done when it is read: a synthetic item is the spectrogram itself, and may have any values of the range.
    """

    file_types: ClassVar[str] = "WAV or FLAC"
    sample_rate: int = 16_000  # Hz
    n_fft: int = 400
    hop: int = 160

    @staticmethod
    def of(extractor: Any, seconds: float, modality: str = "audio") -> WhisperSpec:
        """As the library's `WhisperFeatureExtractor` says, for clips of about `seconds`."""
        rate, hop = int(extractor.sampling_rate), int(extractor.hop_length)
        frames = FRAMES_PER_POSITION * max(1, round(seconds * rate / hop / FRAMES_PER_POSITION))
        low = (torch.tensor(FLOOR).log10().item() + 4) / 4
        shape = (1, int(extractor.feature_size), frames)
        return WhisperSpec(modality, shape, low, HIGHEST, sample_rate=rate, n_fft=int(extractor.n_fft), hop=hop)

    @property
    def num_samples(self) -> int:
        return self.hop * self.shape[2]

    @property
    def filters(self) -> Tensor:
        """(mels, bins) float32."""
        return library_filters(self.n_fft, self.shape[1], 0.0, 8000.0, self.sample_rate, True).float()

    def stft(self, wave: Tensor) -> Tensor:
        """(n, num_samples) -> (n, bins, frames) complex; the last frame, centred on the end, is left out."""
        return torch.stft(wave, self.n_fft, self.hop, window=torch.hann_window(self.n_fft), return_complex=True)[
            ..., :-1
        ]

    def from_wave(self, wave: Tensor) -> Tensor:
        power = self.stft(wave.reshape(-1, wave.shape[-1])).abs().square()
        levels = (self.filters @ power).clamp(min=FLOOR).log10()
        levels = levels.maximum(levels.amax((1, 2), keepdim=True) - RANGE)
        return ((levels + 4) / 4).reshape(*wave.shape[:-1], *self.shape)

    def read(self, path: Path) -> Tensor:
        return self.from_wave(read_clip(path, self.sample_rate, self.num_samples))

    def picture(self, item: Tensor) -> Image.Image:
        return spectrogram_picture(item[0], max(self.low, float(item.max()) - RANGE / 4))

    def preview(self, item: Tensor) -> dict[str, bytes]:
        mel = 10 ** (4 * item[0] - 4)  # (mels, frames)
        magnitude = power_of_mel(self.filters, mel).sqrt()
        magnitude = F.pad(magnitude, (0, 1), mode="replicate")  # the frame that `stft` leaves out
        window = torch.hann_window(self.n_fft)

        def stft(wave: Tensor) -> Tensor:
            return torch.stft(wave, self.n_fft, self.hop, window=window, return_complex=True)

        def istft(frames: Tensor) -> Tensor:
            return torch.istft(frames, self.n_fft, self.hop, window=window, length=self.num_samples)

        return {".wav": wav_file(griffin_lim(magnitude, stft, istft), self.sample_rate)}
