"""docs/keys.md and spaces/space.schema.json: every key of a space, from the models that check them.

python -m search.space.reference    writes both
"""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from condense.config.models import (
    CondensationConfig,
    Hyperparameters,
    ImageBindEncoder,
    ManifestDataset,
    PythonEncoder,
    SpokenDigits,
    TaskConfig,
    TensorsDataset,
    TinyEncoder,
    TransformersEncoder,
)
from search.space.model import Confirmation, Dimension, Racing, Resources, Robust, Sampler, Scheduler, Space

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "keys.md"
SCHEMA = ROOT / "spaces" / "space.schema.json"  # beside the spaces, whose first line names it

SECTIONS: list[tuple[str, str, type[BaseModel]]] = [
    ("A space", "What `search/run.py --space FILE.yaml` reads, and `--set KEY=VALUE` overrides.", Space),
    ("`tasks`, each", "Also the first keys of what `python -m condense run` reads.", TaskConfig),
    ("`dataset`: spoken_digits", "", SpokenDigits),
    ("`dataset`: manifest", "", ManifestDataset),
    (
        "`dataset`: tensors",
        "A safetensors file has `train/vision`, `train/audio`, ... of shape (n, *an item's shape in the encoder*), `train/label` "
        "(n,) of integers, the same with `test/` and, if there is one, `validation/`; `train/present/audio` (n,) of bool says "
        "which items have a modality that some lack. uint8 and uint16 become 0 .. 1, floats stay as they are.",
        TensorsDataset,
    ),
    ("`encoder`: tiny", "", TinyEncoder),
    ("`encoder`: imagebind", "", ImageBindEncoder),
    ("`encoder`: transformers", "", TransformersEncoder),
    ("`encoder`: python", "See `docs/encoders.md`.", PythonEncoder),
    ("`search`, each hyperparameter", "", Dimension),
    ("Hyperparameters", "Keys of `search` and `fixed`, and of a condensation's `hyperparameters`.", Hyperparameters),
    ("`robust`", "See `docs/robust.md`, also for `racing` and `confirmation`.", Robust),
    ("`racing`", "", Racing),
    ("`sampler`", "", Sampler),
    ("`scheduler`", "", Scheduler),
    ("`confirmation`", "", Confirmation),
    ("`resources`", "", Resources),
    (
        "A condensation",
        "Beside the keys of a task, what `python -m condense run CONFIG.yaml` reads.",
        CondensationConfig,
    ),
]


def document() -> str:
    """The whole page, as Markdown."""
    parts = [
        "# All keys",
        "Made by `python -m search.space.reference`, with `spaces/space.schema.json` for editors. "
        "An unknown key, or a value outside its rule, is one line and status 2.",
    ]
    for title, note, model in SECTIONS:
        inherited = set(TaskConfig.model_fields) if model is CondensationConfig else set()
        rows = [_row(name, field) for name, field in model.model_fields.items() if name not in inherited]
        table = "\n".join(["| key | values | default | |", "| --- | --- | --- | --- |", *rows])
        parts += [f"## {title}", *([note] if note else []), table]
    return "\n\n".join(parts) + "\n"


def schema() -> str:
    """The JSON schema of a space, for editors: pydantic's own, with the draft that it follows."""
    draft = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps(draft | Space.model_json_schema(), indent=2, ensure_ascii=False) + "\n"


def _row(name: str, field: FieldInfo) -> str:
    default = "" if field.is_required() else _default(field.get_default(call_default_factory=True))
    meaning = (field.description or "").replace("|", "\\|")
    return f"| `{name}` | {_values(field)} | {default} | {meaning} |"


def _values(field: FieldInfo) -> str:
    annotation, rules = field.annotation, list(field.metadata)
    optional = get_origin(annotation) in (Union, types.UnionType) and type(None) in get_args(annotation)
    if optional:
        (inner,) = [each for each in get_args(annotation) if each is not type(None)]
        annotation, rules = (
            (inner.__origin__, [*rules, *inner.__metadata__]) if hasattr(inner, "__metadata__") else (inner, rules)
        )
    rules = [rule for each in rules for rule in (each.metadata if isinstance(each, FieldInfo) else [each])]
    told = _kind(annotation)
    limits = [limit for rule in rules if (limit := _limit(rule))]
    return f"{told} {', '.join(limits)}".strip()


def _kind(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    names = {int: "whole number", float: "number", bool: "`true`, `false`", str: "text", Path: "path"}
    if annotation in names:
        return names[annotation]
    if get_origin(annotation) is list:
        return "list"
    if get_origin(annotation) is dict:
        return "keys"
    return "see its own table"


def _limit(rule: Any) -> str:
    known = {
        annotated_types.Ge: ("≥", "ge"),
        annotated_types.Gt: (">", "gt"),
        annotated_types.Le: ("≤", "le"),
        annotated_types.Lt: ("<", "lt"),
    }
    if type(rule) in known:
        sign, name = known[type(rule)]
        value = getattr(rule, name)
        return f"{sign} 2^{value.bit_length() - 1}" if value > 2**31 else f"{sign} {value}"
    return f"a multiple of {rule.multiple_of}" if isinstance(rule, annotated_types.MultipleOf) else ""


def _default(value: Any) -> str:
    if value is None or isinstance(value, BaseModel) or value in ({}, []):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    PAGE.write_text(document(), encoding="utf-8")
    SCHEMA.write_text(schema(), encoding="utf-8")
