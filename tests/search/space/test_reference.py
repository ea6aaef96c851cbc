"""docs/keys.md and the JSON schema: they are what the models say now, and say something of every key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from search.space.reference import PAGE, SCHEMA, SECTIONS, document, schema

SPACES = sorted(SCHEMA.parent.glob("*.yaml"))
QUICKSTART = SCHEMA.parent / "quickstart.yaml"


def _mistakes(space: dict[str, Any]) -> list[Any]:
    return list(Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8"))).iter_errors(space))


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == document(), "python -m search.space.reference"


def test_the_schema_is_current() -> None:
    assert SCHEMA.read_text(encoding="utf-8") == schema(), "python -m search.space.reference"


def test_every_key_is_explained() -> None:
    for title, _, model in SECTIONS:
        for name, field in model.model_fields.items():
            assert name == "name" or field.description, f"{title}: {name}"


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_the_schema_accepts_each_shipped_space(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"# yaml-language-server: $schema={SCHEMA.name}\n")
    assert not _mistakes(yaml.safe_load(text))


@pytest.mark.parametrize("mistake", [{"trails": 10}, {"trials": "many"}, {"sampler": {"name": "tpe", "trials": 3}}])
def test_the_schema_rejects_an_unknown_key_and_a_wrong_type(mistake: dict[str, Any]) -> None:
    space = yaml.safe_load(QUICKSTART.read_text(encoding="utf-8"))
    assert _mistakes(space | mistake)
