"""Labels that look like one another, or like a missing value."""

from __future__ import annotations

import csv
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from condense.config.models import ManifestDataset
from condense.data.alike_labels import alike_labels, folded
from condense.data.dataset import Dataset
from condense.data.manifest import load_manifest
from condense.inputs.spec import TextSpec


def load(folder: Path, labels: list[str]) -> Dataset:
    """Texts that all differ, three of each label to train and one to test."""
    rows = [
        [split, label, f"{i} {j}"] for i, label in enumerate(labels) for j, split in enumerate(["train"] * 3 + ["test"])
    ]
    with (folder / "mine.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["split", "label", "text"], *rows])
    return load_manifest(ManifestDataset(name="manifest", path=folder / "mine.csv"), {"text": TextSpec.of(16, 4)})


def test_unicode_forms_of_a_label_are_one_class(tmp_path: Path) -> None:
    dataset = load(tmp_path, ["caf\u00e9", "cafe\u0301", "tea"])
    assert dataset.class_names == ("caf\u00e9", "tea")
    assert dataset.warnings == ()


def test_labels_that_look_alike_are_told(tmp_path: Path) -> None:
    dataset = load(tmp_path, ["Cat", "cat", "dog", " NaN"])
    assert dataset.class_names == ("Cat", "NaN", "cat", "dog")
    source = str(tmp_path / "mine.csv")
    assert dataset.warnings == (
        f"{source}: 2 labels differ only in case, width or spaces, and are classes of their own: 'Cat' (4) and 'cat' (4)",
        f"{source}: taken as a class, though it looks like a missing value: 'NaN' (4)",
    )


@pytest.mark.parametrize(
    "pair", [("stra\u00dfe", "STRASSE"), ("big  dog", "big dog"), ("a\u00a0b", "a b"), ("\uff21", "a")]
)
def test_what_looks_alike(pair: tuple[str, str]) -> None:
    assert len(alike_labels("x", pair)) == 1


@pytest.mark.parametrize("labels", [["a", "b"], ["1", "01"], ["nano", "nullify"], ["caf\u00e9", "cafe"]])
def test_what_does_not(labels: list[str]) -> None:
    assert alike_labels("x", labels) == ()


def test_only_some_are_shown() -> None:
    (line,) = alike_labels("x", [f"{case}{i}" for i in range(9) for case in "aA"])
    assert line.endswith("'A2' (1) and 'a2' (1) and 6 more")
    assert "18 labels" in line


@given(st.text())
def test_forms_of_a_text_are_alike(text: str) -> None:
    assert len({folded(unicodedata.normalize(form, text)) for form in ("NFC", "NFD", "NFKC", "NFKD")}) == 1
