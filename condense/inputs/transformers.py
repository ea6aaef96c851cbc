"""Inputs of the transformers library's CLIP, SigLIP and CLAP models, from a saved model's preprocessor settings.

A model is a folder of the user's or in the Hugging Face cache. It is downloaded only with `download: true`.

- vision: as the model's image processor has it (Pillow's resampling).
- audio: as CLAP's feature extractor has it, but of a recording that is too long the middle is taken, where it takes a
  part at random; a model trained with feature fusion sees it as short.
- text: the embeddings of its tokens (`TokenSpec`), padded to the length that the model was trained with.
"""

from __future__ import annotations

import functools
import json
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor

from condense.config.models import TransformersEncoder
from condense.config.towers import TransformersTower
from condense.inputs.media import spectrogram_picture, wav_file
from condense.inputs.spec import FileSpec, ImageSpec, InputSpec, WaveSpec
from condense.inputs.tokens import TokenSpec
from condense.inputs.waves import griffin_lim, mono, power_of_mel, read_wave, resample
from condense.system.errors import UserError

TABLES = {  # model type -> name of its token embeddings among the weights
    "clip": "text_model.embeddings.token_embedding.weight",
    "siglip": "text_model.embeddings.token_embedding.weight",
    "clap": "text_model.embeddings.word_embeddings.weight",
}
TEXT_LIMIT = 10.0  # no row of a table comes near it
CLAP_TOKENS = 77  # what CLAP was trained with; its text model would take 512
SETTINGS = ("*.json", "*.txt", "*.model")  # files of a model beside its weights


def transformers_specs(config: TransformersEncoder) -> dict[str, InputSpec]:
    """modality -> input of the model. Raises UserError if the model is missing or of an unknown type."""
    folder = model_folder(config)
    transformers = import_transformers()
    kind = check_model_type(folder)
    try:
        specs: dict[str, InputSpec] = {}
        if kind == "clap":
            specs["audio"] = _clap_audio(transformers.ClapFeatureExtractor.from_pretrained(folder))
        else:
            images = transformers.CLIPImageProcessorPil if kind == "clip" else transformers.SiglipImageProcessorPil
            specs["vision"] = processed_image(images.from_pretrained(folder))
        specs["text"] = _text(folder, kind)
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{folder}: the model's preprocessor cannot be read: {reason}") from None
    return specs


def import_transformers(key: str = "encoder transformers") -> Any:
    """The library. Raises UserError if it is not installed; `key`: what needs it."""
    try:
        import transformers
    except ImportError as error:
        raise UserError(
            f"{key}: the package {error.name} is missing: pip install 'condense-search[transformers]'"
        ) from None
    return transformers


def model_folder(config: TransformersEncoder | TransformersTower, key: str = "encoder") -> Path:
    """The folder of the model on this machine. `key`: where the model is configured, for messages. Raises UserError."""
    folder = Path(config.model)
    if folder.is_dir():
        return folder
    import_transformers(f"{key}.model")  # brings huggingface_hub
    from huggingface_hub import snapshot_download

    try:
        if not config.download:
            return Path(snapshot_download(config.model, local_files_only=True))
        found = Path(snapshot_download(config.model, allow_patterns=[*SETTINGS, "*.safetensors"]))
        if not any(found.glob("*.safetensors")):
            found = Path(snapshot_download(config.model, allow_patterns=[*SETTINGS, "pytorch_model*.bin"]))
        return found
    except Exception as error:  # the hub's own classes, those of its HTTP client, ValueError for what is no name
        if not config.download:
            raise UserError(
                f"{key}.model: {config.model}: no such folder, and not in the Hugging Face cache: "
                "give a folder, or set `download: true`"
            ) from None
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{key}.model: {config.model}: cannot be downloaded: {reason}") from None


def model_type(folder: Path) -> str:
    """`model_type` of a saved model. Raises UserError if the folder has no configuration of one."""
    path = folder / "config.json"
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["model_type"])
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: is not the configuration of a model: `model_type` is missing") from None


def check_model_type(folder: Path) -> str:
    """clip, siglip or clap. Raises UserError for any other."""
    kind = model_type(folder)
    if kind not in TABLES:
        raise UserError(f"{folder / 'config.json'}: `model_type` must be {', '.join(TABLES)}, but got {kind!r}")
    return kind


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files, or else PyTorch's."""
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise UserError(f"{folder}: holds no weights: a file model.safetensors is needed")
    return files


def model_files(folder: Path) -> list[Path]:
    """All files that a model's output depends on."""
    return sorted({*weight_files(folder), *(path for pattern in SETTINGS for path in folder.glob(pattern))})


@functools.lru_cache(maxsize=2)
def token_table(folder: Path, *names: str) -> Tensor:
    """(vocabulary, width) float32: the token embeddings, read without the rest of the weights.

    `names`: what they may be called; others, such as a whole model's, begin with more. Raises UserError if there are none.
    """
    endings = tuple(f".{name}" for name in names)
    for path in weight_files(folder):
        try:
            if path.suffix == ".safetensors":
                with safe_open(path, framework="pt") as file:
                    found = [key for key in file.keys() if f".{key}".endswith(endings)]  # noqa: SIM118
                    tensors = {key: file.get_tensor(key) for key in found}
            else:
                whole = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
                tensors = {key: whole[key] for key in whole if f".{key}".endswith(endings)}
        except (OSError, RuntimeError, SafetensorError) as error:
            raise UserError(f"{path}: cannot be read as weights: {' '.join(str(error).split())}") from None
        for tensor in tensors.values():
            return tensor.float()
    raise UserError(f"{folder}: the weights have no `{names[0]}`")


# Images ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ProcessedImageSpec(ImageSpec):
    """An image as a Hugging Face image processor prepares it. shape = (3, height, width).

    `resize` is the length of the short side, after which the centre is cut out, or (height, width), whatever the aspect.
    """

    resize: tuple[int, ...] = ()
    resampling: int = 3  # Pillow's number

    def fit(self, image: Image.Image) -> Image.Image:
        _, height, width = self.shape
        short = min(image.size)
        if len(self.resize) == 2:
            size = (self.resize[1], self.resize[0])
        else:
            across, down = (int(self.resize[0] * length / short) for length in image.size)
            size = (across, down)
        image = image.resize(size, self.resampling)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return image.crop((left, top, left + width, top + height))


def processed_image(processor: Any) -> ProcessedImageSpec:
    """From the attributes of an image processor, in which the library has filled in its defaults."""
    if not (processor.do_resize and processor.do_rescale) or not math.isclose(processor.rescale_factor, 1 / 255):
        raise UserError("only image processors that resize, and scale pixels to 0 .. 1, are supported")
    size, crop = processor.size, processor.crop_size if processor.do_center_crop else None
    short = size.shortest_edge
    resize = (short,) if short else (size.height, size.width)
    if short and not crop:
        raise UserError("an image processor that keeps the aspect must cut the centre out")
    height, width = (crop.height, crop.width) if crop else (size.height, size.width)
    mean = tuple(processor.image_mean) if processor.do_normalize else (0.0,) * 3
    std = tuple(processor.image_std) if processor.do_normalize else (1.0,) * 3
    base = ImageSpec.of("vision", 3, height, mean, std)
    return ProcessedImageSpec(
        "vision", (3, height, width), base.low, base.high, mean, std, resize, int(processor.resample)
    )


# Sound -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClapSpec(FileSpec, WaveSpec):
    """CLAP's log-mel spectrogram, in decibels. shape = (1, frames, mels), time running down.

    Power of a Hann-windowed short-time Fourier transform (centred, mirrored at the ends), mel filters, 10 log10.
    """

    file_types: ClassVar[str] = "WAV or FLAC"
    sample_rate: int = 48_000  # Hz
    seconds: float = 10.0
    n_fft: int = 1024
    hop: int = 480
    low_hz: float = 0.0
    high_hz: float = 14_000.0
    slaney: bool = True  # mel scale and areas of Slaney's filters; else HTK's
    padding: str = "repeatpad"  # of a short recording: repeatpad, repeat or pad

    @property
    def num_samples(self) -> int:
        return round(self.seconds * self.sample_rate)

    @property
    def filters(self) -> Tensor:
        """(mels, bins) float64."""
        return library_filters(self.n_fft, self.shape[2], self.low_hz, self.high_hz, self.sample_rate, self.slaney)

    def stft(self, wave: Tensor) -> Tensor:
        """(n, num_samples) -> (n, bins, frames) complex."""
        window = torch.hann_window(self.n_fft, dtype=wave.dtype)
        return torch.stft(wave, self.n_fft, self.hop, window=window, pad_mode="reflect", return_complex=True)

    def from_wave(self, wave: Tensor) -> Tensor:
        flat = wave.reshape(-1, wave.shape[-1])
        items = []
        for part in flat.split(16):  # in float64, as the feature extractor; ten seconds of it are large
            energies = self.filters @ self.stft(part.double()).abs().square()
            items.append((10 * energies.clamp(min=1e-10).log10()).float().transpose(1, 2))
        return torch.cat(items).reshape(*wave.shape[:-1], *self.shape)

    def read(self, path: Path) -> Tensor:
        channels, rate = read_wave(path)
        wave = resample(mono(channels), rate, self.sample_rate)[0]
        surplus = len(wave) - self.num_samples
        if surplus > 0:
            wave = wave[surplus // 2 : surplus // 2 + self.num_samples]
        elif surplus < 0:
            times = self.num_samples // len(wave)
            if self.padding == "repeat":
                wave = wave.repeat(times + 1)[: self.num_samples]
            elif self.padding == "repeatpad":
                wave = wave.repeat(times)
            wave = torch.nn.functional.pad(wave, (0, self.num_samples - len(wave)))
        return self.from_wave(wave)

    def picture(self, item: Tensor) -> Image.Image:
        return spectrogram_picture(item[0].T, self.low)

    def preview(self, item: Tensor) -> dict[str, bytes]:
        mel = 10 ** (item[0].T / 10)  # (mels, frames)
        magnitude = power_of_mel(self.filters.float(), mel).sqrt()
        window = torch.hann_window(self.n_fft)

        def istft(frames: Tensor) -> Tensor:
            return torch.istft(frames, self.n_fft, self.hop, window=window, length=self.num_samples)

        wave = griffin_lim(magnitude, lambda wave: self.stft(wave[None])[0], istft)
        return {".wav": wav_file(wave, self.sample_rate)}


@functools.lru_cache(maxsize=4)
def library_filters(n_fft: int, mels: int, low_hz: float, high_hz: float, sample_rate: int, slaney: bool) -> Tensor:
    """(mels, n_fft // 2 + 1) float64, as the library's feature extractors have them."""
    from transformers.audio_utils import mel_filter_bank

    norm, scale = ("slaney", "slaney") if slaney else (None, "htk")
    filters = mel_filter_bank(n_fft // 2 + 1, mels, low_hz, high_hz, sample_rate, norm=norm, mel_scale=scale)
    return torch.from_numpy(filters).T.contiguous()


def _clap_audio(extractor: Any) -> ClapSpec:
    frames = extractor.nb_max_samples // extractor.hop_length + 1
    return ClapSpec(
        "audio",
        (1, frames, extractor.feature_size),
        -100.0,  # dB: the floor of 1e-10
        60.0,
        sample_rate=extractor.sampling_rate,
        seconds=extractor.max_length_s,
        n_fft=extractor.fft_window_size,
        hop=extractor.hop_length,
        low_hz=extractor.frequency_min,
        high_hz=extractor.frequency_max,
        slaney=extractor.truncation != "fusion",
        padding=extractor.padding,
    )


# Text ------------------------------------------------------------------------------------------------------------------


class ModelTokenizer:
    """The tokenizer of a saved model (see `Tokenizer`)."""

    def __init__(self, folder: Path) -> None:
        try:
            self._own = import_transformers().AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{folder}: the model's tokenizer cannot be read: {' '.join(str(error).split())}") from None
        self._lock = threading.Lock()  # its truncation setting is state
        framed = self._own("").input_ids
        if len(framed) not in (1, 2):
            raise UserError(f"{folder}: a tokenizer must put an end after a text, and at most a start before it")
        self.start: int | None = framed[0] if len(framed) == 2 else None
        self.end: int = framed[-1]
        self.padding: int | None = self._own.pad_token_id

    def encode(self, text: str) -> list[int]:
        with self._lock:
            return list(self._own(text, add_special_tokens=False, truncation=False, verbose=False).input_ids)

    def decode(self, tokens: Sequence[int]) -> str:
        with self._lock:
            return str(self._own.decode(list(tokens), skip_special_tokens=True))


@functools.lru_cache(maxsize=2)
def model_tokenizer(folder: Path) -> ModelTokenizer:
    return ModelTokenizer(folder)


def _text(folder: Path, kind: str) -> TokenSpec:
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("text_config") or {}
    longest = settings.get("max_position_embeddings", {"clip": 77, "siglip": 64, "clap": 514}[kind])
    length = min(CLAP_TOKENS, longest - 2) if kind == "clap" else longest  # RoBERTa counts positions from 2
    width = token_table(folder, TABLES[kind]).shape[1]
    tokenizer = model_tokenizer(folder)  # raises now if it is missing
    padding = tokenizer.padding or 0
    if kind == "clip" and padding == tokenizer.end:
        padding = 0  # any other will do, since attention is causal; then the end can be told from what comes after it
    return TokenSpec(
        "text",
        (length, width),
        -TEXT_LIMIT,
        TEXT_LIMIT,
        source=f"transformers {kind}",  # the encoder's fingerprint covers the files
        start=tokenizer.start,
        end=tokenizer.end,
        padding=padding,
        open_table=functools.partial(token_table, folder, TABLES[kind]),
        open_tokenizer=functools.partial(model_tokenizer, folder),
    )
