"""All files are looked at before any work, and all that is wrong is told at once, or left out."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from condense.config.models import ManifestDataset
from condense.data import file_checks
from condense.data.dataset import Dataset
from condense.data.manifest import load_manifest
from condense.inputs.spec import ImageSpec, InputSpec, LogMelSpec
from condense.system.errors import UserError

SPECS: dict[str, InputSpec] = {"vision": ImageSpec.of("vision", 1, 8, (0.5,), (0.5,)), "audio": LogMelSpec.of(8, 5)}
ITEMS = 20  # of each label


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """40 items; rows 2 to 41."""
    rows = [["split", "label", "vision", "audio"]]
    rng = np.random.default_rng(0)
    for i in range(2 * ITEMS):
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(tmp_path / f"{i}.png")
        soundfile.write(tmp_path / f"{i}.wav", rng.uniform(-0.5, 0.5, 1600), 16_000)
        rows.append(["test" if i % 4 == 3 else "train", "ab"[i % 2 == (i // 4) % 2], f"{i}.png", f"{i}.wav"])
    with (tmp_path / "mine.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return tmp_path / "mine.csv"


def load(path: Path, **options: Any) -> Dataset:
    return load_manifest(ManifestDataset(name="manifest", path=path, **options), SPECS)


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(UserError) as raised:
        load(path, **options)
    return str(raised.value)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])


def test_missing_wrong_and_cut_files_are_told_together(manifest: Path) -> None:
    folder = manifest.parent
    for i in range(3, 13):
        (folder / f"{i}.png").unlink()
    (folder / "1.png").write_text("no picture")
    cut(folder / "0.wav")
    told = refused(manifest)
    assert told.startswith(f"{manifest}: 12 of 80 files cannot be read: row 2, column `audio`: 0.wav: was cut")
    assert "; row 3, column `vision`: 1.png: is not a" in told
    assert told.endswith("row 5, column `vision`: 3.png: no such file, and 9 more")
    assert "\n" not in told


def test_small_files_are_decoded_first(manifest: Path) -> None:
    for i in (2, 4, 6):
        cut(manifest.parent / f"{i}.png")
    told = refused(manifest)
    assert told.startswith(f"{manifest}: 3 of 80 files cannot be read: row 4, column `vision`: 2.png: cannot be")


def test_of_many_files_cut_ones_are_told_together_when_one_is_met(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_checks, "CHEAP_FILES", 10)
    for i in (4, 8, 12, 16):
        cut(manifest.parent / f"{i}.png")
    dataset = load(manifest)
    splits = [dataset.condense, dataset.validation, dataset.open_test()]
    found = []
    for split in splits:
        try:
            split.load(range(len(split)))
        except UserError as error:
            found.append(str(error))
    assert sum(told.count(".png: cannot be read") for told in found) in (3, 4)  # three examples of each split
    assert len(found) <= 2  # condense and validation


def test_headers_alone_tell_what_is_missing_or_wrong(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_checks, "CHEAP_FILES", 10)

    def never(*_: object) -> None:
        raise AssertionError("a file was decoded")

    monkeypatch.setattr(file_checks, "read_item", never)
    (manifest.parent / "5.png").unlink()
    (manifest.parent / "7.wav").write_text("no sound")
    assert refused(manifest).startswith(f"{manifest}: 2 of 80 files cannot be read")


def test_items_that_cannot_be_read_are_left_out_and_counted(manifest: Path) -> None:
    whole = load(manifest)
    cut(manifest.parent / "4.png")
    (manifest.parent / "9.wav").unlink()
    dataset = load(manifest, on_unreadable="skip")
    assert sum(map(len, (dataset.condense, dataset.validation, dataset.open_test()))) == 2 * ITEMS - 2
    (told,) = dataset.warnings
    assert told.startswith(
        f"{manifest}: 2 of 40 items are left out, since a file or text cannot be read, such as row 6"
    )
    assert "row 11, column `audio`: 9.wav: no such file" in told
    assert dataset.fingerprint != whole.fingerprint
    for split in (dataset.condense, dataset.validation, dataset.open_test()):
        split.load(range(len(split)))


def test_no_more_than_the_limit_are_left_out(manifest: Path) -> None:
    for i in (0, 1, 2):
        cut(manifest.parent / f"{i}.png")
    told = refused(manifest, on_unreadable="skip")
    assert (
        "3 of 40 items are unreadable, more than `unreadable_limit` 0.05 allows: row 2, column `vision`: 0.png" in told
    )
    assert load(manifest, on_unreadable="skip", unreadable_limit=0.075).warnings


def test_skipping_changes_nothing_where_all_can_be_read(manifest: Path) -> None:
    assert load(manifest, on_unreadable="skip").fingerprint == load(manifest).fingerprint


def test_rows_that_break_a_rule_are_told_together(manifest: Path) -> None:
    with manifest.open("a") as file:
        file.write("trian,a,0.png,0.wav\ntrain,,0.png,0.wav\ntrain,a,,\ntrain,a\n")
    told = refused(manifest)
    assert told.startswith(f"{manifest}: 4 of 44 rows break a rule: row 42: `split` must be")
    assert told.endswith(", and 1 more")


def test_files_are_looked_at_again_only_if_one_has_changed(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / "cache"))
    first = load(manifest)
    looked: list[str] = []

    def look(spec: InputSpec, value: str, folder: Path) -> None:
        looked.append(value)

    with monkeypatch.context() as context:
        context.setattr(file_checks, "check_item", look)
        context.setattr(file_checks, "read_item", look)
        assert load(manifest).fingerprint == first.fingerprint and not looked
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "5.png")
        assert load(manifest).fingerprint != first.fingerprint and "5.png" in looked
    (tmp_path / "7.wav").unlink()
    assert "7.wav: no such file" in refused(manifest)
