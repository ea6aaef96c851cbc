"""The embedded dataset: no image and no speaker in two splits, the same bytes in every process."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from condense.config.models import SpokenDigits, TinyEncoder
from condense.data import spoken_digits as module
from condense.data.speech import Speaker
from condense.data.spoken_digits import IMAGES, SPEAKERS, load_spoken_digits
from condense.encoders.tiny import tiny_specs
from condense.inputs.spec import ImageSpec
from condense.storage.store import Store, checksum
from condense.system.errors import UserError

SPECS = tiny_specs(TinyEncoder())
SMALLEST = SpokenDigits(pairs_per_image=1)


def splits_of(dataset):
    return {"condense": dataset.condense, "validation": dataset.validation, "test": dataset.open_test()}


def test_shapes_ranges_and_classes(spoken_digits):
    dataset, _ = spoken_digits
    assert dataset.modalities == ("vision", "audio")
    assert dataset.num_classes == 10
    for name, split in splits_of(dataset).items():
        assert len(split) == IMAGES[name]
        items = split.load(range(len(split)))
        for m, x in items.items():
            assert x.shape == (len(split), *SPECS[m].shape)
            assert x.dtype == torch.float32
            assert x.isfinite().all()
            assert x.min() >= SPECS[m].low
            assert x.max() <= SPECS[m].high
            assert len(x.flatten(1).unique(dim=0)) == len(x)  # no item twice
        assert split.labels.dtype == torch.int64
        counts = torch.bincount(split.labels, minlength=10)
        assert counts.min() > 0.7 * len(split) / 10
        assert counts.max() < 1.3 * len(split) / 10


def test_a_person_would_see_a_digit_and_a_sound(spoken_digits):
    """Brightness in the middle of the picture; sound in some frames and not in others, at audible levels."""
    dataset, _ = spoken_digits
    items = dataset.condense.load(range(200))
    pixels = dataset.specs["vision"].pixels(items["vision"])
    assert pixels[..., 8:24, 8:24].mean() > 2 * pixels[..., :, :4].mean()
    loudness = items["audio"].mean((1, 2))  # (n, frames)
    assert (loudness.amax(1) - loudness.amin(1)).mean() > 0.5
    assert items["audio"].mean().abs() < 0.5  # standardised
    assert 0.5 < items["audio"].std() < 2


def test_classes_can_be_told_apart_in_each_modality(spoken_digits):
    """Nearest class mean: far above chance (0.1), and far from solved."""
    dataset, _ = spoken_digits
    train, held_out = dataset.condense.load(range(1000)), dataset.validation.load(range(300))
    for m in dataset.modalities:
        means = torch.stack([train[m][dataset.condense.labels == c].mean(0).flatten() for c in range(10)])
        nearest = torch.cdist(held_out[m].flatten(1), means).argmin(1)
        share = (nearest == dataset.validation.labels).float().mean()
        assert 0.2 < share < 0.9, m


def test_every_image_and_every_speaker_is_in_one_split(monkeypatch):
    pairs = 2
    drawn: list[Tensor] = []
    voices: list[set[str]] = []

    def draw(images: Tensor, shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
        drawn.append(images)
        return torch.zeros(len(images), *shape)

    def speak(_: Speaker, labels: list[int], variants: list[str], *__: object) -> tuple[Tensor, list[str]]:
        voices.append(set(variants))
        assert len(variants) == len(set(variants))
        return torch.zeros(len(labels), SPECS["audio"].num_samples), variants[:1] * len(labels)

    monkeypatch.setattr(module, "_draw", draw)
    monkeypatch.setattr(module, "_speak", speak)
    audio = SPECS["audio"]
    content = module.draw(
        SpokenDigits(pairs_per_image=pairs), SPECS["vision"].shape, audio.sample_rate, audio.num_samples
    )
    everyone = module._variants()
    assert len(everyone) > 50
    assert voices[0] | voices[1] | voices[2] <= set(everyone)
    assert len(voices[0] | voices[1] | voices[2]) == sum(map(len, voices)) >= len(everyone) - 1  # no voice twice
    for own, (name, share) in zip(voices, SPEAKERS.items(), strict=True):
        assert len(own) == pytest.approx(share * len(everyone), abs=1), name
    distinct = [{image.numpy().tobytes() for image in images} for images in drawn]
    for own, images, (name, count) in zip(distinct, drawn, IMAGES.items(), strict=True):
        assert len(images) == len(content[f"{name}/label"]) == pairs * count
        assert len(own) == count
    assert len(distinct[0] | distinct[1] | distinct[2]) == sum(IMAGES.values()) == 1797


def test_groups_are_speakers(spoken_digits):
    dataset, _ = spoken_digits
    own = [set(split.groups.tolist()) for split in splits_of(dataset).values()]
    assert len(own[0] | own[1] | own[2]) == sum(map(len, own)) > 50  # nobody in two splits
    assert min(map(len, own)) > 10


def test_same_bytes_in_another_process(spoken_digits, tmp_path):
    _, store = spoken_digits
    program = (
        "import sys; from pathlib import Path\n"
        "from condense.config.models import SpokenDigits, TinyEncoder\n"
        "from condense.data.speech import Speaker\n"
        "from condense.data.spoken_digits import load_spoken_digits\n"
        "from condense.encoders.tiny import tiny_specs\n"
        "from condense.storage.store import Store\n"
        "Speaker().say('hello', 'en-us+f3', rate=150, pitch=30, seed=5)  # another past must not matter\n"
        "load_spoken_digits(SpokenDigits(pairs_per_image=1), tiny_specs(TinyEncoder()), Store(Path(sys.argv[1])))\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, timeout=120)
    (here,) = (store.folder / "spoken_digits").glob("*.safetensors")
    (there,) = (tmp_path / "spoken_digits").glob("*.safetensors")
    assert here.name == there.name
    assert checksum(load_file(here)) == checksum(load_file(there))  # headers list their entries in any order


def test_what_this_process_has_said_before_does_not_matter(spoken_digits, tmp_path):
    """The first utterance after another dataset came out different: espeak-ng reads memory that it has not written."""
    _, store = spoken_digits
    module.draw(SMALLEST, (1, 8, 8), 8000, 8000, {"condense": 60, "validation": 20, "test": 20})
    load_spoken_digits(SMALLEST, SPECS, Store(tmp_path))
    (here,) = (store.folder / "spoken_digits").glob("*.safetensors")
    (there,) = (tmp_path / "spoken_digits").glob("*.safetensors")
    assert checksum(load_file(here)) == checksum(load_file(there))


def test_second_load_reads_the_store(spoken_digits, monkeypatch):
    dataset, store = spoken_digits
    monkeypatch.setattr(module, "_make", lambda *_: pytest.fail("made again"))
    started = time.perf_counter()
    again = load_spoken_digits(SMALLEST, SPECS, store)
    assert time.perf_counter() - started < 2
    assert again.fingerprint == dataset.fingerprint
    for a, b in zip(splits_of(again).values(), splits_of(dataset).values(), strict=True):
        assert checksum(a.load(range(len(a)))) == checksum(b.load(range(len(b))))
        assert torch.equal(a.labels, b.labels)


def test_what_changes_the_content_changes_the_fingerprint(monkeypatch, tmp_path):
    stub = {f"{split}/{part}": torch.zeros(1) for split in IMAGES for part in ("vision", "audio", "label", "speaker")}
    monkeypatch.setattr(module, "_make", lambda *_: stub)
    store = Store(tmp_path)
    larger = {**SPECS, "vision": ImageSpec.of("vision", 3, 64, (0.5,) * 3, (0.5,) * 3)}
    prints = [
        load_spoken_digits(config, specs, store).fingerprint
        for config, specs in (
            (SMALLEST, SPECS),
            (SpokenDigits(pairs_per_image=2), SPECS),
            (SpokenDigits(pairs_per_image=1, seed=1), SPECS),
            (SMALLEST, larger),
        )
    ]
    assert len(set(prints)) == 4


def test_an_encoder_without_log_mel_audio_is_the_users_error(tmp_path):
    with pytest.raises(UserError, match="spoken_digits: needs an encoder that takes vision as images"):
        load_spoken_digits(SMALLEST, {"vision": SPECS["vision"]}, Store(tmp_path))


# Speech ---------------------------------------------------------------------------------------------------------------


def test_a_new_speaker_forgets_what_others_said():
    def words() -> list[np.ndarray]:
        speaker = Speaker()
        return [speaker.say(word, "en-us+f2", rate=170, pitch=40) for word in ("seven", "eight")]

    first = words()
    Speaker().say("drei", "de+m1", rate=220, pitch=70, seed=9)
    again = words()
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_rate_pitch_and_loudness_are_sensible():
    speaker = Speaker()
    slow, fast = (speaker.say("seven", "en-us+f2", rate=rate, pitch=40) for rate in (130, 350))
    assert slow.dtype == np.float32
    assert 0.05 < np.abs(slow).max() <= 1
    assert 0.2 < len(fast) / speaker.sample_rate < len(slow) / speaker.sample_rate < 2


def test_an_unknown_voice_is_an_error():
    with pytest.raises(ValueError, match="espeak-ng has no voice 'tlh'"):
        Speaker().say("seven", "tlh", rate=170, pitch=40)
