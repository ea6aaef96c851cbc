"""A user's CSV of files: what is read, how it is split, and what each mistake is answered with."""

from __future__ import annotations

import csv
import random
import wave
from collections.abc import Sequence
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from condense.config.models import ManifestDataset
from condense.data import load_dataset
from condense.data.dataset import Dataset
from condense.data.manifest import ManifestSplit, hold_out, load_manifest, sort_labels
from condense.data.manifest_rows import read_rows
from condense.inputs.media import read_item
from condense.inputs.pictures import FILE_TYPES
from condense.inputs.spec import ArraySpec, ImageSpec, InputSpec, LogMelSpec, TextSpec
from condense.system.errors import UserError

SPECS: dict[str, InputSpec] = {
    "vision": ImageSpec.of("vision", 1, 8, (0.5,), (0.5,)),
    "audio": LogMelSpec.of(8, 5),
    "text": TextSpec.of(16, 4),
    "depth": ArraySpec("depth", (1, 2, 2), 0.0, 1.0),
}
Table = list[list[str]]


def write_csv(path: Path, table: Sequence[Sequence[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(table)
    return path


def load(path: Path, specs: dict[str, InputSpec] = SPECS, **options: float) -> Dataset:
    return load_manifest(ManifestDataset(name="manifest", path=path, **options), specs)


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """Two labels, four train items and one test item of each, images and sounds that all differ."""
    (tmp_path / "files").mkdir()
    rows = [["split", "label", "vision", "audio"]]
    for label in ("cat", "dog"):
        for index, split in enumerate(["train"] * 4 + ["test"]):
            rng = np.random.default_rng([index, len(rows)])
            name = f"files/{label}{index}"
            Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(tmp_path / f"{name}.png")
            soundfile.write(tmp_path / f"{name}.wav", rng.uniform(-0.5, 0.5, 1600), 16_000)
            rows.append([split, label, f"{name}.png", f"{name}.wav"])
    return rows


def names(split: object) -> set[str]:
    assert isinstance(split, ManifestSplit)
    return {row.cells[0] for row in split.rows}


# --- what is read


def test_manifest_is_read(tmp_path: Path, table: Table) -> None:
    dataset = load(write_csv(tmp_path / "mine.csv", table))
    assert dataset.name == "mine.csv"
    assert dataset.modalities == ("vision", "audio")
    assert dataset.class_names == ("cat", "dog")
    assert [len(s) for s in (dataset.condense, dataset.validation, dataset.open_test())] == [6, 2, 2]
    assert dataset.condense.labels.tolist() == [0, 0, 0, 1, 1, 1]
    batch = dataset.open_test().load([1, 0, 1])
    assert {m: tuple(t.shape) for m, t in batch.items()} == {"vision": (3, 1, 8, 8), "audio": (3, 1, 8, 5)}
    torch.testing.assert_close(batch["vision"][1], read_item(SPECS["vision"], "files/cat4.png", tmp_path))
    torch.testing.assert_close(batch["audio"][0], read_item(SPECS["audio"], "files/dog4.wav", tmp_path))


def test_load_takes_a_tensor_of_indices_and_none_at_all(tmp_path: Path, table: Table) -> None:
    split = load(write_csv(tmp_path / "mine.csv", table)).condense
    assert torch.equal(split.load(torch.tensor([4, 2]))["vision"], split.load([4, 2])["vision"])
    assert split.load([])["vision"].shape == (0, 1, 8, 8)


def test_load_dataset_takes_a_manifest(tmp_path: Path, table: Table) -> None:
    config = ManifestDataset(name="manifest", path=write_csv(tmp_path / "mine.csv", table))
    assert load_dataset(config, SPECS).fingerprint == load(config.path).fingerprint


def test_modalities_come_in_imagebinds_order(tmp_path: Path, table: Table) -> None:
    turned = [[audio, vision, label, split] for split, label, vision, audio in table]
    dataset = load(write_csv(tmp_path / "mine.csv", turned))
    assert dataset.modalities == ("vision", "audio")
    assert dataset.fingerprint == load(write_csv(tmp_path / "other.csv", table)).fingerprint


def test_text_is_in_the_csv_itself(tmp_path: Path) -> None:
    rows = [["train", "a", f"text, {i}\nof two lines"] for i in range(3)] + [["test", "a", ' "quoted" ']]
    dataset = load(write_csv(tmp_path / "mine.csv", [["split", "label", "text"], *rows]))
    expected = read_item(SPECS["text"], ' "quoted" ', tmp_path)
    torch.testing.assert_close(dataset.open_test().load([0])["text"][0], expected)


def test_a_spreadsheets_export_is_read(tmp_path: Path, table: Table) -> None:
    """Byte order mark, CRLF, spaces around names and paths, lines of commas at the end."""
    lines = [" , ".join(row) for row in table] + [",,,", ""]
    (tmp_path / "mine.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert load(tmp_path / "mine.csv").fingerprint == load(write_csv(tmp_path / "other.csv", table)).fingerprint


def test_rows_of_validation_are_taken_as_they_are(tmp_path: Path, table: Table) -> None:
    table[1][0] = table[6][0] = "validation"
    dataset = load(write_csv(tmp_path / "mine.csv", table))
    assert names(dataset.validation) == {"files/cat0.png", "files/dog0.png"}
    assert len(dataset.condense) == 6


def test_one_train_item_is_enough_with_validation_rows(tmp_path: Path, table: Table) -> None:
    table[1][0] = "validation"
    dataset = load(
        write_csv(tmp_path / "mine.csv", [row for row in table if row[2] not in ("files/cat1.png", "files/cat2.png")])
    )
    assert torch.bincount(dataset.condense.labels).tolist() == [1, 4]


def test_absolute_paths_are_read(tmp_path: Path, table: Table) -> None:
    for row in table[1:]:
        row[2] = str(tmp_path / row[2])
    (tmp_path / "elsewhere").mkdir()
    table = [[split, label, vision] for split, label, vision, _ in table]
    assert len(load(write_csv(tmp_path / "elsewhere" / "mine.csv", table)).condense) == 6


@given(st.lists(st.integers(-50, 50), min_size=1), st.lists(st.text(min_size=1), min_size=1))
def test_labels_are_sorted(numbers: list[int], words: list[str]) -> None:
    assert sort_labels(map(str, numbers)) == tuple(map(str, sorted(set(numbers))))
    assert sort_labels([*words, "x"]) == tuple(sorted({*words, "x"}))


# Cells that survive: no NUL, no control characters that end a line for csv, something besides spaces.
CELL = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(lambda cell: cell.strip() != "")


@settings(max_examples=50, deadline=None)
@example([("train", "\uf900", "0", "0")])  # which is another letter when it is composed
@given(st.lists(st.tuples(st.sampled_from(["train", "test", "validation"]), CELL, CELL, CELL), min_size=1))
def test_rows_survive_a_csv(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str, str]]) -> None:
    path = write_csv(tmp_path_factory.getbasetemp() / "any.csv", [("split", "label", "text", "vision"), *rows])
    modalities, read = read_rows(path)
    expected = [(split, normalize("NFC", label.strip()), text, vision.strip()) for split, label, text, vision in rows]
    assert [(row.split, row.label, *row.cells) for row in read] == expected
    assert list(modalities) == ["text", "vision"] and [row.line for row in read] == list(range(2, len(rows) + 2))


# --- items that lack a modality


def test_an_empty_cell_is_a_missing_modality(tmp_path: Path, table: Table) -> None:
    table[1][3], table[5][2] = "", " "  # a cat to train without sound, one to test without an image
    validation = [["validation", *row[1:3], ""] for row in (table[4], table[9])]
    del table[9], table[4]
    dataset = load(write_csv(tmp_path / "mine.csv", [*table, *validation]))
    condense, test = dataset.condense, dataset.open_test()
    assert {m: x.tolist() for m, x in condense.present.items()} == {"audio": [False, True, True, True, True, True]}
    assert {m: x.tolist() for m, x in dataset.validation.present.items()} == {"audio": [False, False]}
    assert {m: x.tolist() for m, x in test.present.items()} == {"vision": [False, True]}
    batch = condense.load([1, 0])
    assert not batch["audio"][1].any()
    torch.testing.assert_close(batch["audio"][0], read_item(SPECS["audio"], "files/cat1.wav", tmp_path))
    torch.testing.assert_close(batch["vision"][1], read_item(SPECS["vision"], "files/cat0.png", tmp_path))
    assert not test.load([0])["vision"].any()


def test_an_empty_cell_is_content(tmp_path: Path, table: Table) -> None:
    """Which cells are empty changes the fingerprint; what has a part of another item's content is another item."""
    whole = load(write_csv(tmp_path / "mine.csv", table))
    assert all(not split.present for split in (whole.condense, whole.validation, whole.open_test()))
    seen = {whole.fingerprint}
    for row, column in ((1, 2), (1, 3), (5, 3)):
        holes = [list(cells) for cells in table]
        holes[row][column] = ""
        seen.add(load(write_csv(tmp_path / "mine.csv", holes)).fingerprint)
    assert len(seen) == 4
    table[5] = ["test", "cat", table[1][2], ""]  # the image of a train item, without its sound
    assert len(load(write_csv(tmp_path / "mine.csv", table)).open_test()) == 2


def test_fingerprints_of_complete_datasets_are_what_they_were(tmp_path: Path) -> None:
    """Embeddings that users have in their cache stay valid."""
    (tmp_path / "mine.csv").write_text("split,label,text\ntrain,a,x\nvalidation,a,y\ntest,a,z\n")
    known = "8f59f3356d406e65"
    assert load(tmp_path / "mine.csv").fingerprint[:16] == known


@pytest.mark.parametrize(
    ("rate", "known"),
    [(16_000, "38fc11904dcf4465"), (44_100, "4bb22a82581672a2")],  # before `RESAMPLING` 2: 528c8b027f9e2dc6
)
def test_fingerprints_cover_how_sounds_are_resampled(tmp_path: Path, rate: int, known: str) -> None:
    """Those of sounds that have the encoder's rate are what they were before."""
    lines = ["split,label,audio"]
    for number, split in enumerate(["train", "train", "validation", "test"]):
        with wave.open(str(tmp_path / f"{number}.wav"), "wb") as file:
            file.setparams((1, 2, rate, 1600, "NONE", ""))
            file.writeframes(bytes([number, 0]) * 1600)
        lines.append(f"{split},a,{number}.wav")
    (tmp_path / "mine.csv").write_text("\n".join(lines))
    assert load(tmp_path / "mine.csv").fingerprint[:16] == known


def test_every_class_needs_every_modality_to_condense(tmp_path: Path, table: Table) -> None:
    for row in table[1:]:
        if row[1] == "dog" and row[0] == "train":
            row[3] = ""
    path = write_csv(tmp_path / "mine.csv", table)
    with pytest.raises(UserError) as raised:
        load_dataset(ManifestDataset(name="manifest", path=path), SPECS)
    assert str(raised.value) == (
        "mine.csv: class 'dog' has no item with audio to condense: each class needs at least one with each modality in "
        "train, besides what is held out for validation"
    )


# --- how it is split, and the fingerprint


def test_validation_does_not_depend_on_row_order_or_file_names(tmp_path: Path, table: Table) -> None:
    dataset = load(write_csv(tmp_path / "mine.csv", table))
    shuffled = table[1:]
    random.Random(0).shuffle(shuffled)
    other = load(write_csv(tmp_path / "other.csv", [table[0], *shuffled]))
    assert names(other.validation) == names(dataset.validation)
    (tmp_path / "files").rename(tmp_path / "moved")
    moved = [[cell.replace("files/", "moved/") for cell in row] for row in table]
    again = load(write_csv(tmp_path / "moved.csv", moved))
    assert {name.replace("moved/", "files/") for name in names(again.validation)} == names(dataset.validation)
    assert again.fingerprint == dataset.fingerprint


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 30)), min_size=1), st.randoms(use_true_random=False))
def test_hold_out_depends_on_content_only(items: list[tuple[str, int]], rng: random.Random) -> None:
    for label in sorted({label for label, _ in items}):
        items += [(label, 31), (label, 32)]
    shuffled = list(items)
    rng.shuffle(shuffled)

    def held(order: list[tuple[str, int]]) -> set[tuple[str, int]]:
        chosen = hold_out([label for label, _ in order], [str(digest) for _, digest in order], 0.2)
        inside = {item for item, is_held in zip(order, chosen, strict=True) if is_held}
        assert not inside & {item for item, is_held in zip(order, chosen, strict=True) if not is_held}
        return inside

    assert held(items) == held(shuffled)
    assert {label for label, _ in held(items)} == {label for label, _ in items}


def test_fingerprint_is_of_content_and_split(tmp_path: Path, table: Table) -> None:
    path = write_csv(tmp_path / "mine.csv", table)
    before = load(path).fingerprint
    assert load(path).fingerprint == before
    assert load(path, validation_fraction=0.4).fingerprint != before
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "files/cat0.png")
    assert load(path).fingerprint != before
    changed = load(path).fingerprint
    table[1][1] = "dog"
    assert load(write_csv(path, table)).fingerprint not in (before, changed)


# --- what a user may get wrong: one line that names CSV, row and file


def message_of(path: Path, specs: dict[str, InputSpec] = SPECS) -> str:
    with pytest.raises(UserError) as raised:
        load(path, specs)
    text = str(raised.value)
    assert "\n" not in text
    assert text.startswith(f"{path}: ")
    return text.removeprefix(f"{path}: ")


KINDS = "image, sound, text, series, depth, thermal"
ALLOWED = f"split, label, group, vision, audio, text, depth, thermal, imu, or NAME:KIND with a kind of {KINDS}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty: a header with `split`, `label` and modalities is needed"),
        ("split,label,picture\n", f"unknown column `picture`: must be {ALLOWED}"),
        ("split;label;vision\n", f"unknown column `split;label;vision`: must be {ALLOWED}"),
        ("split,label,vision,vision\n", "column `vision` is there twice"),
        ("label,text\n", "column `split` is missing"),
        ("split,text\n", "column `label` is missing"),
        (
            "split,label\n",
            "has no modality: a column of vision, audio, text, depth, thermal, imu or NAME:KIND is needed",
        ),
        ("split,label,imu\ntrain,a,x.npy\n", "column `imu`: the encoder takes only vision, audio, text, depth"),
        ("split,label,text\ntrain,a\n", "row 2: has 2 values, but the header has 3"),
        ("split,label,text\n\ntrain,a,x\ntrain,a,b,c\n", "row 4: has 4 values, but the header has 3"),
        ("split,label,text\nTrain,a,x\n", "row 2: `split` must be train, validation or test, but got 'Train'"),
        ("split,label,text\ntrain,a,x\ntrain, ,y\n", "row 3: `label` is empty"),
        ('split,label,text\ntrain,a,"x\ny"\ntrain,a,\n', "row 4, column `text`: is empty"),
        ('split,label,text\ntrain,a,x\ntrain,a,"x\n', "row 3: is not valid CSV: unexpected end of data"),
        (
            "split,label,text,vision\ntrain,a,x,\ntrain,a, , \n",
            "row 3, columns `text`, `vision`: all are empty: an item needs at least one modality",
        ),
        (
            "split,label,text,vision\ntrain,a,x,\ntrain,a,x,\ntest,a,x,\n",
            "row 2 and row 4: the same item is in train and in test",
        ),
        ("split,label,text\ntest,a,x\n", "has no row whose `split` is train"),
        ("split,label,text\ntrain,a,x\ntrain,a,y\n", "has no row whose `split` is test"),
        (
            "split,label,text\ntrain,a,x\ntrain,a,y\ntest,b,z\n",
            "row 4: label 'b' is in test, but not in train",
        ),
        (
            "split,label,text\ntrain,a,x\nvalidation,b,y\ntest,a,z\n",
            "row 3: label 'b' is in validation, but not in train",
        ),
        (
            "split,label,text\ntrain,a,x\ntrain,a,y\ntrain,b,z\ntest,a,w\n",
            "row 4: label 'b' has only 1 distinct train item: at least 2 are needed to split off validation",
        ),
        (
            "split,label,text\ntrain,a,x\ntrain,a,x\ntest,a,w\n",
            "row 2: label 'a' has only 1 distinct train item: at least 2 are needed to split off validation",
        ),
        (
            "split,label,text\ntrain,a,x\ntrain,a,y\ntest,a,z\ntest,a,y\n",
            "row 3 and row 5: the same item is in train and in test",
        ),
        (
            "split,label,text\nvalidation,a,x\ntrain,a,y\ntrain,b,x\ntest,a,z\n",
            "row 2 and row 4: the same item is in validation and in train",
        ),
    ],
)
def test_a_mistake_in_the_csv(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "mine.csv").write_text(content)
    assert message_of(tmp_path / "mine.csv") == message


def test_a_csv_that_cannot_be_read(tmp_path: Path) -> None:
    assert message_of(tmp_path / "none.csv") == "cannot be read: No such file or directory"
    (tmp_path / "mine.csv").write_bytes("split,label,text\ntrain,ä,x".encode("latin-1"))
    assert message_of(tmp_path / "mine.csv") == "is not UTF-8 text"


def test_a_missing_and_an_empty_file_are_found_at_once(tmp_path: Path, table: Table) -> None:
    path = write_csv(tmp_path / "mine.csv", table)
    (tmp_path / "files/dog1.wav").write_bytes(b"")
    assert message_of(path) == "row 8, column `audio`: files/dog1.wav: the file is empty"
    (tmp_path / "files/cat2.png").unlink()
    assert message_of(path).startswith(
        "2 of 20 files cannot be read: row 4, column `vision`: files/cat2.png: no such file"
    )


def test_a_file_that_is_damaged_later_is_named_when_it_is_loaded(tmp_path: Path, table: Table) -> None:
    test = load(write_csv(tmp_path / "mine.csv", table)).open_test()
    (tmp_path / "files/dog4.png").write_bytes(b"not an image")
    with pytest.raises(UserError) as raised:
        test.load([0, 1])
    expected = f"{tmp_path}/mine.csv: row 11, column `vision`: files/dog4.png: is not a {FILE_TYPES} file"
    assert str(raised.value) == expected


def test_the_same_file_in_train_and_test(tmp_path: Path, table: Table) -> None:
    table[5][2:] = table[2][2:]
    assert (
        message_of(write_csv(tmp_path / "mine.csv", table)) == "row 3 and row 6: the same item is in train and in test"
    )


def test_the_same_content_under_another_name_in_train_and_test(tmp_path: Path, table: Table) -> None:
    for suffix in ("png", "wav"):
        (tmp_path / f"files/cat4.{suffix}").write_bytes((tmp_path / f"files/cat1.{suffix}").read_bytes())
    assert (
        message_of(write_csv(tmp_path / "mine.csv", table)) == "row 3 and row 6: the same item is in train and in test"
    )


def test_sharing_one_file_is_no_leakage(tmp_path: Path, table: Table) -> None:
    table[5][2] = table[2][2]
    assert len(load(write_csv(tmp_path / "mine.csv", table)).open_test()) == 2


def test_copies_in_train_stay_on_one_side(tmp_path: Path, table: Table) -> None:
    dataset = load(write_csv(tmp_path / "mine.csv", table + [row for row in table[1:] if row[0] == "train"]))
    assert not names(dataset.condense) & names(dataset.validation)
    assert len(dataset.condense) + len(dataset.validation) == 16
