"""The embedded dataset: handwritten digits paired with the same digit spoken in one of three languages.

Images are scikit-learn's handwritten digits (Alpaydin & Kaynak 1998, 8x8), each shown several times under small
rotations, shifts and changes of size. Speech is made by espeak-ng, with noise. Every image and every speaker
(voice variant) belongs to one split only; an item's group is its speaker.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from scipy.signal import firwin, resample_poly
from torch import Tensor

from condense.config.models import SpokenDigits
from condense.data.dataset import Dataset, MemorySplit
from condense.inputs.spec import ImageSpec, InputSpec, WaveSpec
from condense.storage.store import Store, hash_of
from condense.system.errors import UserError

if TYPE_CHECKING:
    from condense.data.speech import Speaker

VERSION = 3  # increase it with any change that alters the content
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORDS = {
    "en-us": NAMES,
    "de": ("null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"),
    "es": ("cero", "uno", "dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho", "nueve"),
}
IMAGES = {"condense": 1000, "validation": 300, "test": 497}
SPEAKERS = {"condense": 0.6, "validation": 0.2, "test": 0.2}
NOISE_DB = (5.0, 20.0)  # signal-to-noise ratio of speech
PIXEL_NOISE = 0.1  # standard deviation, of a range of 1


def load_spoken_digits(config: SpokenDigits, specs: Mapping[str, InputSpec], store: Store | None = None) -> Dataset:
    """The dataset, made at first use (about 10 seconds) and then read from the store.

    Raises:
        UserError: the encoder takes no images or no sound.
    """
    vision, audio = specs.get("vision"), specs.get("audio")
    if not isinstance(vision, ImageSpec) or not isinstance(audio, WaveSpec):
        raise UserError("spoken_digits: needs an encoder that takes vision as images and audio as sound")
    key = {
        "version": VERSION,
        "config": config.model_dump(mode="json"),
        "specs": [vision.describe(), audio.describe()],
        "made_with": {name: importlib.metadata.version(name) for name in ("espeakng-loader", "scikit-learn")},
    }
    content = (store or Store()).get_or_make("spoken_digits", key, lambda: _make(config, vision, audio))
    splits = {
        name: MemorySplit(
            {"vision": content[f"{name}/vision"], "audio": content[f"{name}/audio"]},
            content[f"{name}/label"],
            groups=content[f"{name}/speaker"],
        )
        for name in IMAGES
    }
    return Dataset(
        name="spoken_digits",
        specs={"vision": vision, "audio": audio},
        class_names=NAMES,
        condense=splits["condense"],
        validation=splits["validation"],
        _test=splits["test"],
        fingerprint=hash_of(key),
    )


def _make(config: SpokenDigits, vision: ImageSpec, audio: WaveSpec) -> dict[str, Tensor]:
    raw = _in_new_process(config, vision.shape, audio.sample_rate, audio.num_samples)
    content: dict[str, Tensor] = {}
    for split in IMAGES:
        content[f"{split}/vision"] = vision.normalize(raw.pop(f"{split}/vision"))
        content[f"{split}/audio"] = audio.from_wave(raw.pop(f"{split}/wave"))
        content |= {f"{split}/{name}": raw.pop(f"{split}/{name}") for name in ("label", "speaker")}
    return content


def _in_new_process(config: SpokenDigits, *sizes: Any) -> dict[str, Tensor]:
    """`draw` in a fresh process: espeak-ng's first utterance depends on uninitialised memory, which is all zeros only
    there."""
    request = {"config": config.model_dump(mode="json"), "sizes": sizes, "images": IMAGES}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "raw.safetensors"
        done = subprocess.run(
            [sys.executable, "-m", "condense.data.spoken_digits", str(file)],
            input=json.dumps(request),
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        if done.returncode != 0:
            raise RuntimeError(f"the digits could not be spoken: {done.stderr.strip()[-2000:]}")
        return load_file(file)


def draw(
    config: SpokenDigits, shape: tuple[int, ...], sample_rate: int, num_samples: int, images: Mapping[str, int] = IMAGES
) -> dict[str, Tensor]:
    """Per split (`images` of them): `vision` (n, *shape) in [0, 1], `wave` (n, num_samples) in [-1, 1], `label` (n,), and
    `speaker` (n,), the same number in all splits."""
    from sklearn.datasets import load_digits  # imported here: reading the cache needs neither

    from condense.data.speech import Speaker

    speaker = Speaker()
    digits = load_digits()
    rng = np.random.default_rng(config.seed)
    order = rng.permutation(len(digits.target))
    speakers = rng.permutation(_variants())
    content: dict[str, Tensor] = {}
    number = {voice: i for i, voice in enumerate(speakers.tolist())}
    first, first_speaker = 0, 0
    for split, count in images.items():
        chosen = np.repeat(order[first : first + count], config.pairs_per_image)
        first += count
        many = round(SPEAKERS[split] * len(speakers))
        own = speakers[first_speaker : first_speaker + many]
        first_speaker += many
        labels = torch.from_numpy(digits.target[chosen])
        pixels = torch.from_numpy(digits.images[chosen]).float()[:, None] / 16.0
        content[f"{split}/vision"] = _draw(pixels, shape, rng)
        said = _speak(speaker, labels.tolist(), own.tolist(), sample_rate, num_samples, rng)
        content[f"{split}/wave"], voices = said
        content[f"{split}/label"] = labels
        content[f"{split}/speaker"] = torch.tensor([number[voice] for voice in voices], dtype=torch.int64)
    return content


def _variants() -> list[str]:
    """espeak-ng's voice variants, without the whispering ones (whispered digits are hard even for people)."""
    import espeakng_loader

    folder = Path(espeakng_loader.get_data_path()) / "voices" / "!v"
    return sorted(path.name for path in folder.iterdir() if "whisper" not in path.name)


def _draw(images: Tensor, shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
    """(n, 1, 8, 8) in [0, 1] -> (n, *shape) in [0, 1], each under a small random similarity and pixel noise."""
    n, (channels, height, width) = len(images), shape
    angle = torch.from_numpy(rng.uniform(-20, 20, n)).float() * math.pi / 180
    zoom = torch.from_numpy(rng.uniform(1.0, 1.35, n)).float()  # > 1: the digit gets smaller
    shift = torch.from_numpy(rng.uniform(-0.15, 0.15, (n, 2))).float()
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).reshape(n, 2, 2) * zoom[:, None, None]
    grid = F.affine_grid(torch.cat([turn, shift[:, :, None]], 2), [n, 1, height, width], align_corners=False)
    drawn = F.grid_sample(images, grid, mode="bicubic", padding_mode="zeros", align_corners=False)
    noise = torch.from_numpy(rng.normal(0, PIXEL_NOISE, drawn.shape)).float()
    return (drawn + noise).clamp(0, 1).expand(n, channels, height, width).contiguous()


def _speak(
    speaker: Speaker,
    labels: list[int],
    variants: list[str],
    sample_rate: int,
    num_samples: int,
    rng: np.random.Generator,
) -> tuple[Tensor, list[str]]:
    """(n, num_samples) float32: each label spoken by one of the variants in one of the languages, with noise; and by which."""
    languages = rng.choice(list(WORDS), len(labels))
    voices = rng.choice(variants, len(labels))
    rates = rng.integers(130, 230, len(labels))
    pitches = rng.integers(20, 80, len(labels))
    waves = np.zeros((len(labels), num_samples), np.float32)
    common = math.gcd(sample_rate, speaker.sample_rate)
    up, down = sample_rate // common, speaker.sample_rate // common
    # resample_poly would design this filter at every call, half of the total time.
    low_pass = firwin(20 * max(up, down) + 1, 1 / max(up, down), window=("kaiser", 5.0))
    # Changing the voice is slow, so utterances are made voice by voice; random numbers are drawn in item order.
    for i in np.lexsort((voices, languages)):
        word = WORDS[languages[i]][labels[i]]
        said = speaker.say(word, f"{languages[i]}+{voices[i]}", rate=int(rates[i]), pitch=int(pitches[i]))
        loud = np.flatnonzero(np.abs(said) > 0.02 * np.abs(said).max())
        said = said[loud[0] : loud[-1] + 1]
        said = resample_poly(said, up, down, window=low_pass)[:num_samples]
        waves[i, : len(said)] = said
    for wave in waves:
        spoken = np.flatnonzero(wave)[-1] + 1
        wave[:] = np.roll(wave, rng.integers(0, num_samples - spoken + 1))
        level = np.sqrt(np.mean(np.square(wave))) / 10 ** (rng.uniform(*NOISE_DB) / 20)
        wave += level * _coloured_noise(len(wave), rng)
        wave *= rng.uniform(0.3, 0.9) / np.abs(wave).max()
    return torch.from_numpy(waves), voices.tolist()


def _coloured_noise(length: int, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise of unit power whose spectrum falls as 1/f^a, a uniform in [0, 2] (white to brown)."""
    spectrum = np.fft.rfft(rng.normal(size=length))
    spectrum[1:] /= np.arange(1, len(spectrum)) ** (rng.uniform(0, 2) / 2)
    spectrum[0] = 0
    noise = np.fft.irfft(spectrum, length)
    return noise / noise.std()


def _main(file: str) -> None:
    request = json.load(sys.stdin)
    shape, sample_rate, num_samples = request["sizes"]
    config = SpokenDigits.model_validate(request["config"])
    save_file(draw(config, tuple(shape), sample_rate, num_samples, request["images"]), file)


if __name__ == "__main__":
    _main(sys.argv[1])
