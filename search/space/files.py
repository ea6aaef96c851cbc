"""`spaces/NAME.yaml` -> `load_space("NAME", ["trials=48"])` -> a validated `Space`; the same from a mapping.

A mistake in the file is one `UserError` line that names file, key, value and rule.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import spaces
from condense.config.files import make_paths_absolute
from condense.config.models import explain, parse_yaml, read_yaml
from condense.system.errors import UserError
from search.space.model import Space, nearest


def load_space(name_or_path: str, overrides: Sequence[str] = ()) -> Space:
    """A space by name (`quickstart`) or file, with `key.key=value` overrides (values are YAML).

    Dataset paths are relative to the YAML's folder; in overrides, to the current folder.
    Raises UserError with one line for anything wrong in the file or in an override.
    """
    path = _find(name_or_path)
    content = read_yaml(path)
    _absolute_paths(content, path.parent)
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return space_of(content, overrides, str(shown))


def space_of(content: Mapping[str, Any], overrides: Sequence[str] = (), source: str = "space") -> Space:
    """A space from the keys of its YAML, with overrides as in `load_space`; relative paths are of the current folder.

    Raises UserError with one line, which begins with `source`.
    """
    keys = copy.deepcopy(dict(content))
    for override in overrides:
        _apply(keys, override)
    _absolute_paths(keys, Path.cwd())
    source = f"{source} with {' '.join(overrides)}" if overrides else source
    try:
        return Space.model_validate(keys)
    except ValidationError as error:
        raise UserError(explain_space(error, " ".join(source.split()))) from None


def _find(name_or_path: str) -> Path:
    path = Path(name_or_path)
    shipped = Path(next(iter(spaces.__path__))) / path.name
    if (
        path == Path("spaces") / path.name and not path.is_file() and shipped.is_file()
    ):  # started from another folder, as on a cluster
        return shipped
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1 or path.is_file():
        return path
    folder = Path(next(iter(spaces.__path__)))
    known = sorted(file.stem for file in folder.glob("*.yaml"))
    if name_or_path not in known:
        hint = nearest(name_or_path, known)
        raise UserError(
            f"no search space is named {name_or_path!r}{hint} (there are: {', '.join(known)}, or give a file)"
        )
    return folder / f"{name_or_path}.yaml"


def _absolute_paths(content: dict[str, Any], folder: Path) -> None:
    tasks = content.get("tasks")
    for task in tasks if isinstance(tasks, list) else []:
        if isinstance(task, dict):
            make_paths_absolute(task, folder)


def _apply(content: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not all(key.strip().split(".")):
        raise UserError(f"override {override!r}: must be key=value, for example trials=48")
    value = parse_yaml(text, f"override {override!r:.100}: the value")
    *parents, last = key.strip().split(".")
    node: Any = content
    for depth, part in enumerate([*parents, last]):
        is_last = depth == len(parents)
        if isinstance(node, list):
            if not part.isdecimal() or int(part) >= len(node):
                raise UserError(f"override {override!r}: {part!r} is no index of a list of {len(node)}")
            if is_last:
                node[int(part)] = value
            else:
                node = node[int(part)]
        elif isinstance(node, dict):
            if is_last:
                node[part] = value
            else:
                if node.get(part) is None:
                    node[part] = {}
                node = node[part]
        else:
            above = ".".join([*parents, last][:depth])
            raise UserError(f"override {override!r}: `{above}` is {node!r}, which has no keys")


def explain_space(error: ValidationError, source: str) -> str:
    """The first thing wrong with a space, as one line."""
    first = error.errors(include_url=False)[0]
    if not first["loc"]:  # a rule between keys: its message names them
        text = f"{source}: {first['msg'].removeprefix('Value error, ')}"
    else:
        text = explain(error, source)
        if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
            text += nearest(str(first["loc"][0]), Space.model_fields)
    return " ".join(text.split())
