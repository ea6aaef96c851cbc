"""Texts that are longer than what is read are told."""

from __future__ import annotations

from condense.data.cut_texts import cut_texts
from condense.inputs.spec import TextSpec

SPEC = TextSpec.of(16, 4)


def test_what_is_cut_and_what_becomes_the_same_is_counted() -> None:
    texts = ["short", "x" * 15, "a photograph of a cat", "a photograph of a dog", "", "another long text, alone"]
    (told,) = cut_texts("items.csv", SPEC, ((f"row {i}", text) for i, text in enumerate(texts)))
    assert told == (
        "items.csv: column `text`: 3 items have a text longer than what is read (15 bytes), whose end is left out, such as "
        "row 2: 'a photograph of a cat' ...; 2 different texts are then the same as another"
    )


def test_the_same_text_twice_is_not_two() -> None:
    (told,) = cut_texts("items.csv", SPEC, [("row 2", "a photograph of a cat"), ("row 3", "a photograph of a cat")])
    assert "the same as another" not in told


def test_of_texts_that_fit_nothing_is_said() -> None:
    assert cut_texts("items.csv", SPEC, [("row 2", "ä" * 7), ("row 3", "")]) == ()
    (told,) = cut_texts("items.csv", SPEC, [("row 2", "ä" * 8)])  # 16 bytes, of which 15 are room
    assert "1 item has a text" in told
