"""docs/keys.md and spaces/space.schema.json: every key of a space, from the models that check them.

python -m search.space.reference    writes both
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from condense.config.models import (
    CondensationConfig,
    Fold,
    Hyperparameters,
    ImageBindEncoder,
    ManifestDataset,
    Modality,
    PythonEncoder,
    SpokenDigits,
    TaskConfig,
    TensorsDataset,
    TinyEncoder,
    TransformersEncoder,
)
from condense.config.towers import (
    AlignedEncoder,
    EfficientNetLite0Tower,
    PythonTower,
    TinyTower,
    TransformersTower,
)
from search.space.model import Budget, Confirmation, Dimension, Racing, Robust, Sampler, Scheduler, Space
from search.space.resources import Resources
from search.space.validation import Validation

KINDS = {
    "integer": "whole number",
    "number": "number",
    "boolean": "`true`, `false`",
    "string": "text",
    "array": "list",
    "object": "keys",
}
LIMITS = {
    "minimum": "≥",
    "exclusiveMinimum": ">",
    "maximum": "≤",
    "exclusiveMaximum": "<",
    "multipleOf": "a multiple of",
}
ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "keys.md"
SCHEMA = ROOT / "spaces" / "space.schema.json"  # beside the spaces, whose first line names it

SECTIONS: list[tuple[str, str, type[BaseModel]]] = [
    ("A space", "What `search/run.py --space FILE.yaml` reads, and `--set KEY=VALUE` overrides.", Space),
    ("`tasks`, each", "Also the first keys of what `python -m condense run` reads.", TaskConfig),
    ("`fold`", "", Fold),
    ("`dataset`: spoken_digits", "", SpokenDigits),
    ("`dataset`: manifest", "", ManifestDataset),
    (
        "`dataset`: tensors",
        "A safetensors file has `train/vision`, `train/audio`, ... of shape (n, *an item's shape in the encoder*), `train/label` "
        "(n,) of integers, the same with `test/` and, if there is one, `validation/`; `train/present/audio` (n,) of bool says "
        "which items have a modality that some lack, `train/group` (n,) of int64 which items belong together. uint8 and uint16 "
        "become 0 .. 1, floats stay as they are.",
        TensorsDataset,
    ),
    (
        "`dataset.modalities`, each",
        "`accelerometer: {kind: series, rate: 50}`. ImageBind's six have their kinds. See `docs/your-data.md`.",
        Modality,
    ),
    ("`encoder`: tiny", "", TinyEncoder),
    ("`encoder`: imagebind", "", ImageBindEncoder),
    ("`encoder`: transformers", "", TransformersEncoder),
    ("`encoder`: aligned", "See `docs/encoders.md`, also for its towers.", AlignedEncoder),
    ("`encoder`: aligned, a tower: transformers", "", TransformersTower),
    ("`encoder`: aligned, a tower: efficientnet_lite0", "", EfficientNetLite0Tower),
    ("`encoder`: aligned, a tower: python", "", PythonTower),
    ("`encoder`: aligned, a tower: tiny", "", TinyTower),
    ("`encoder`: python", "See `docs/encoders.md`.", PythonEncoder),
    ("`search`, each hyperparameter", "", Dimension),
    (
        "Hyperparameters",
        "Keys of `search` and `fixed`, and of a condensation's `hyperparameters`. `learning_rate_NAME` is that of any other "
        "modality.",
        Hyperparameters,
    ),
    ("`robust`", "See `docs/robust.md`, also for `racing` and `confirmation`.", Robust),
    ("`validation`", "", Validation),
    ("`racing`", "", Racing),
    ("`sampler`", "", Sampler),
    ("`scheduler`", "", Scheduler),
    ("`budget`", "", Budget),
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
        table = "\n".join(["| key | values | default | |", "| --- | --- | --- | --- |", *_rows(model)])
        parts += [f"## {title}", *([note] if note else []), table]
    return "\n\n".join(parts) + "\n"


def schema() -> str:
    """The JSON schema of a space, for editors: pydantic's own, with the draft that it follows."""
    draft = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps(draft | Space.model_json_schema(), indent=2, ensure_ascii=False) + "\n"


def _rows(model: type[BaseModel]) -> list[str]:
    """A row per key, from pydantic's JSON schema of a model."""
    inherited = set(TaskConfig.model_fields) if model is CondensationConfig else set()
    rows = []
    for name, key in model.model_json_schema()["properties"].items():
        if name not in inherited:
            meaning = key.get("description", "").replace("|", "\\|")
            rows.append(f"| `{name}` | {_values(key)} | {_default(key.get('default'))} | {meaning} |")
    return rows


def _values(key: dict[str, Any]) -> str:
    """What a key takes: a kind, or the words to choose from, and the limits."""
    options = [option for option in key.get("anyOf", [key]) if option.get("type") != "null"]
    if len(options) > 1 or "$ref" in options[0] or "oneOf" in options[0]:
        return "see its own table"
    (option,) = options
    if words := option.get("enum", [option["const"]] if "const" in option else []):
        return ", ".join(f"`{word}`" for word in words)
    kind = "path" if option.get("format") == "path" else KINDS[option["type"]]
    limits = [f"{sign} {_number(option[rule])}" for rule, sign in LIMITS.items() if rule in option]
    return f"{kind} {', '.join(limits)}".strip()


def _number(value: float) -> str:
    return f"2^{int(value).bit_length() - 1}" if value > 2**31 else str(value)


def _default(value: Any) -> str:
    if value is None or isinstance(value, dict) or value == []:
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    PAGE.write_text(document(), encoding="utf-8")
    SCHEMA.write_text(schema(), encoding="utf-8")
