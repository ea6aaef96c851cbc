"""The data recipes, on small packages: what they write, and that no group is in two splits."""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import safetensors
import soundfile
import yaml
from PIL import Image
from small_packages import (
    emoji_packages,
    hapt_package,
    known,
    mnist_package,
    old_pickle,
    png,
    spoken_archive,
    write_tar,
)

from condense.recipes import av_mnist, emoji, hapt
from condense.recipes.folder import make
from condense.recipes.splits import split_groups
from condense.system.errors import UserError


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def check_grouped(rows: Sequence[dict[str, str]], classes: int) -> None:
    """No group is in two splits, and every class is in all three."""
    splits, labels = defaultdict(set), defaultdict(set)
    for row in rows:
        splits[row["group"]].add(row["split"])
        labels[row["split"]].add(row["label"])
    assert {len(found) for found in splits.values()} == {1}
    assert {split: len(found) for split, found in labels.items()} == dict.fromkeys(
        ("train", "validation", "test"), classes
    )


def test_emoji(tmp_path: Path) -> None:
    emoji_packages(tmp_path / "got")
    said = make(known(emoji.RECIPE, tmp_path / "got"), tmp_path / "to", tmp_path / "got")
    rows = rows_of(tmp_path / "to")
    assert list(rows[0]) == ["split", "label", "group", "vision", "text"]
    assert len(rows) == 60  # 24 things, 12 x 3 people, and no skin tone
    check_grouped(rows, 3)
    assert said[1].startswith("60 items in 3 classes: train ")
    by_text = {row["text"]: row for row in rows}
    woman = by_text["woman thing 1, a word, another, c, d, e, f"]
    assert (woman["label"], woman["group"]) == ("People & Body", "thing 1")
    assert {by_text[f"{who}thing 1, a word, another, c, d, e, f"]["split"] for who in ("", "man ")} == {woman["split"]}
    for row in rows:
        with Image.open(tmp_path / "to" / row["vision"]) as image:
            assert image.size == (64, 64)
    task = yaml.safe_load((tmp_path / "to/task.yaml").read_text())
    assert task["dataset"] == {"name": "manifest", "path": "manifest.csv"}
    assert said[-1] == f"next: python -m condense run {tmp_path}/to/task.yaml --output condensed"


def test_what_is_transparent_becomes_white() -> None:
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0] = (10, 20, 30, 255)
    pixels[1, 1] = (0, 0, 0, 128)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    with Image.open(io.BytesIO(emoji.on_white(file.getvalue()))) as image:
        assert image.mode == "RGB"
        found = np.asarray(image)
    assert found[0, 0].tolist() == [10, 20, 30]
    assert found[0, 1].tolist() == [255, 255, 255]
    assert found[1, 1].tolist() == [127, 127, 127]


def test_emoji_that_look_the_same_are_one_group(tmp_path: Path) -> None:
    pictures = {f"package/img/twitter/64/{0x1F300 + number:x}.png": png(200) for number in (0, 8, 16)}
    emoji_packages(tmp_path / "got", pictures)
    make(known(emoji.RECIPE, tmp_path / "got"), tmp_path / "to", tmp_path / "got")
    rows = {row["vision"]: row for row in rows_of(tmp_path / "to")}
    same = [rows[f"images/{0x1F300 + number:x}.png"] for number in (0, 8, 16)]
    assert len({row["group"] for row in same}) == 1
    check_grouped(list(rows.values()), 3)


@pytest.mark.parametrize(
    ("names", "group"),
    [
        (("man health worker", "woman health worker", "health worker"), "health worker"),
        (("person walking", "man walking facing right", "woman walking"), "walking"),
        (("family man woman girl", "family adult, adult, child"), "family"),
        (("man", "woman", "boy", "person", "child"), "person"),
        (("old man", "older person"), "old"),
        (("mermaid", "merman"), "mermaid"),
    ],
)
def test_variants_are_one_concept(names: Sequence[str], group: str) -> None:
    assert {emoji.concept(name) for name in names} == {group}


def test_groups_are_shared_out_class_by_class() -> None:
    groups = [f"group {index}" for index in range(400)]
    labels = [("often", "rare")[index % 20 == 0] for index in range(400)]
    split_of = split_groups(groups, labels)
    for label, total in (("often", 380), ("rare", 20)):
        mine = [split_of[group] for group, of in zip(groups, labels, strict=True) if of == label]
        assert [round(mine.count(split) / total, 2) for split in ("train", "validation", "test")] == [0.6, 0.15, 0.25]
    assert split_groups(groups[::-1], labels[::-1]) == split_of  # not by the order of the items


@pytest.mark.parametrize(
    "name", ["fsdd.tar.xz", "free-spoken-digit-dataset-1.0.10.tar.gz", "free-spoken-digit-dataset-master.zip"]
)
def test_av_mnist(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "got").mkdir()
    mnist_package(tmp_path / "got")
    spoken_archive(tmp_path / "got" / name)
    make(known(av_mnist.RECIPE, tmp_path / "got"), tmp_path / "to", tmp_path / "got")
    rows = rows_of(tmp_path / "to")
    assert list(rows[0]) == ["split", "label", "group", "vision", "audio"]
    check_grouped(rows, 10)
    assert {
        split: len([row for row in rows if row["split"] == split]) for split in ("train", "validation", "test")
    } == {
        "train": 60,
        "validation": 20,
        "test": 40,
    }
    assert {row["group"] for row in rows if row["split"] == "test"} == {"theo", "yweweler"}
    for column in ("vision", "audio"):  # each once
        assert len({row[column] for row in rows}) == 120
    for row in rows:
        with Image.open(tmp_path / "to" / row["vision"]) as image:
            pixels = np.asarray(image)
        assert pixels.shape == (28, 28)
        assert pixels[0, 0] % 10 == int(row["label"])
        assert (pixels[0, 1] == 1) == (row["split"] == "test")  # MNIST's own test images
        wave, rate = soundfile.read(tmp_path / "to" / row["audio"])
        assert rate == 8000
        assert int(10 * wave[0] + 0.01) == int(row["label"])
    assert "has 120 recordings; the version known here has 3,000" in capsys.readouterr().err


def test_av_mnist_of_other_sizes_and_labels(tmp_path: Path) -> None:
    (tmp_path / "got").mkdir()
    mnist_package(tmp_path / "got", train=240, test=110)
    spoken_archive(tmp_path / "got/fsdd.tar.xz", each=1)
    recipe = known(av_mnist.RECIPE, tmp_path / "got")
    options = {"pairs": 300, "label": "parity", "words": True}
    make(recipe, tmp_path / "to", tmp_path / "got", options)
    rows = rows_of(tmp_path / "to")
    assert [len([row for row in rows if row["split"] == split]) for split in ("train", "validation", "test")] == [
        150,
        50,
        100,
    ]
    check_grouped(rows, 2)
    assert len({row["vision"] for row in rows}) == 300
    for row in rows:
        digit = int(Path(row["audio"]).name[0])
        assert row["label"] == ("even", "odd")[digit % 2]
        assert row["text"] == av_mnist.WORDS[digit]
    with pytest.raises(UserError, match="but is 10"):
        make(recipe, tmp_path / "other", tmp_path / "got", {"pairs": 10})


@pytest.mark.parametrize(
    ("total", "parts"), [(300, (150, 50, 100)), (60_000, (37_500, 12_500, 10_000)), (70_000, (45_000, 15_000, 10_000))]
)
def test_pairs_are_split_as_far_as_there_are_images(total: int, parts: tuple[int, ...]) -> None:
    assert tuple(av_mnist.split_pairs(total).values()) == parts


def test_av_mnist_without_the_recordings(tmp_path: Path) -> None:
    (tmp_path / "got").mkdir()
    mnist_package(tmp_path / "got")
    recipe = known(av_mnist.RECIPE, tmp_path / "got")
    with pytest.raises(UserError, match=r"which no package has: download it .* name its folder with --from FOLDER"):
        make(recipe, tmp_path / "to")
    assert not (tmp_path / "to").exists()
    write_tar(tmp_path / "got/fsdd.tar.gz", {"recordings/1_theo_0.wav": b""})
    with pytest.raises(UserError, match=r"has no recordings DIGIT_SPEAKER_INDEX\.wav of all six speakers"):
        make(recipe, tmp_path / "to", tmp_path / "got")


def test_hapt(tmp_path: Path) -> None:
    hapt_package(tmp_path / "got")
    said = make(known(hapt.RECIPE, tmp_path / "got"), tmp_path / "to", tmp_path / "got")
    with safetensors.safe_open(tmp_path / "to/hapt.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key).numpy() for key in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    people = {split: set(tensors[f"{split}/group"].tolist()) for split in ("train", "validation", "test")}
    assert {split: len(found) for split, found in people.items()} == {"train": 15, "validation": 5, "test": 10}
    assert set.union(*people.values()) == set(range(1, 31))
    for split in people:
        count = len(tensors[f"{split}/label"])
        assert count == 2 * 6 * len(people[split])  # 200 samples: two windows of 128, the second 64 later
        for sensor in ("accelerometer", "gyroscope"):
            signal = tensors[f"{split}/{sensor}"]
            assert (signal.shape, signal.dtype) == ((count, 3, 128), np.float32)
        first = tensors[f"{split}/accelerometer"][:, 0, 0] - 0.5  # the index in its experiment
        assert ((first - 30) // 200 == tensors[f"{split}/label"]).all()  # within one activity
        assert set((first - 30) % 200) == {0, 64}
        assert sorted(set(tensors[f"{split}/label"].tolist())) == [0, 1, 2, 3, 4, 5]
    kinds = json.loads(metadata["modalities"])
    assert kinds["gyroscope"] == {"kind": "series", "channels": 3, "length": 128, "rate": 50}
    assert json.loads(metadata["class_names"])[0] == "walking"
    task = yaml.safe_load((tmp_path / "to/task.yaml").read_text())
    assert task["dataset"] == {"name": "tensors", "path": "hapt.safetensors", "modalities": kinds}
    assert said[1] == "360 items in 6 classes: train 180 of 15 groups, validation 60 of 5 groups, test 120 of 10 groups"


@pytest.mark.parametrize(
    ("content", "message"), [({1: [2]}, "is no dict of person -> tables"), ({}, "has no window of a person in train")]
)
def test_hapt_of_another_layout(tmp_path: Path, content: object, message: str) -> None:
    hapt_package(tmp_path / "got", old_pickle(content))
    with pytest.raises(UserError, match=message):
        make(known(hapt.RECIPE, tmp_path / "got"), tmp_path / "to", tmp_path / "got")
