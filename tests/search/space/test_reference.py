"""docs/keys.md: it is what the models say now, and says something of every key."""

from __future__ import annotations

from pathlib import Path

from search.space.reference import SECTIONS, document

PAGE = Path(__file__).parents[3] / "docs" / "keys.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == document(), "python -m search.space.reference > docs/keys.md"


def test_every_key_is_explained() -> None:
    for title, _, model in SECTIONS:
        for name, field in model.model_fields.items():
            assert name == "name" or field.description, f"{title}: {name}"
