"""A condensation's configuration from a YAML file and `key=value` overrides."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from condense.config.models import CondensationConfig, parse_yaml, read_yaml, validate
from condense.config.places import places
from condense.system.errors import UserError


def load_config(path: Path, overrides: Sequence[str] = ()) -> CondensationConfig:
    """`path` with `key=value` overrides (`dpc=5`, `hyperparameters.learning_rate=3`; values are YAML).

    Dataset and checkpoint paths are relative to the YAML's folder; in overrides, to the current folder.
    Raises UserError, one line, for anything wrong in the file or in an override.
    """
    content = read_yaml(path)
    make_paths_absolute(content, path.parent)
    for override in overrides:
        _apply(content, override)
    make_paths_absolute(content, Path.cwd())
    return validate(CondensationConfig, content, " ".join([str(path), *(["with", *overrides] if overrides else [])]))


def with_overrides(content: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A recorded configuration's keys, overridden as in `load_config`. Raises UserError for an override that is not one."""
    kept = copy.deepcopy(dict(content))
    for override in overrides:
        _apply(kept, override)
    make_paths_absolute(kept, Path.cwd())
    return kept


def make_paths_absolute(content: dict[str, Any], folder: Path) -> None:
    """Makes the dataset and encoder paths of a task absolute, in place. A model name counts as a path if the folder exists."""
    for node, key in places(content):
        path = Path(node[key])
        # Not resolved: a manifest's files are relative to the path that the user gave, which may be a link.
        path = Path(os.path.abspath(folder / (path.expanduser() if path.parts[:1] == ("~",) else path)))
        if key != "model" or path.is_dir():
            node[key] = str(path)


def _apply(content: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *parents, last = key.strip().split(".")
    if not equals or not last:
        raise UserError(f"override {override!r}: must be key=value, for example dpc=5")
    node: Any = content
    for depth, part in enumerate(parents):
        if node.get(part) is None:
            node[part] = {}
        node = node[part]
        if not isinstance(node, dict):
            raise UserError(f"override {override!r}: `{'.'.join(parents[: depth + 1])}` is {node!r}, which has no keys")
    node[last] = parse_yaml(text, f"override {override!r}")
