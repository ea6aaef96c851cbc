"""The folder that a recipe makes: begun, interrupted, gone on with, finished."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condense.recipes.fetch import KEPT, fetch, find_sources
from condense.recipes.recipe import Recipe
from condense.system.errors import UserError
from condense.system.interruption import Interruption

if TYPE_CHECKING:
    from torch import Tensor

FINISHED = "recipe.json"  # written last: what the folder was made of, with its licence


def make(recipe: Recipe, to: Path, given: Path | None = None, options: Mapping[str, Any] | None = None) -> list[str]:
    """Makes the folder `to`, or finishes it; a finished one is left alone. Returns the lines to print.

    `given`: a folder with archives that the user has downloaded. `options`: those that are not at their default.

    Raises UserError for anything that the user can mend. After an interruption the same call goes on.
    """
    chosen = {**recipe.options, **(options or {})}
    made_of = {"recipe": recipe.name, "version": recipe.version, "options": chosen}
    if (before := _finished(to)) is not None:
        if {key: before.get(key) for key in made_of} != made_of:
            raise UserError(
                f"{to}: holds {_spelled(before)}, but {_spelled(made_of)} is asked for: choose another folder"
            )
        return [f"{to}: is there already", *before["lines"], f"next: {recipe.next.format(folder=to)}"]
    begun = to / KEPT / "begun"
    if to.exists() and not (
        to.is_dir() and (not any(to.iterdir()) or (begun.is_file() and begun.read_text() == recipe.name))
    ):
        raise UserError(f"{to}: holds something else: choose a new folder")
    print(f"{recipe.name}: {recipe.what}\n  from {recipe.source}; {recipe.size}; {recipe.licence}", file=sys.stderr)
    try:
        with Interruption():
            sources, missing = find_sources(recipe, to, given)
            write_file(begun, recipe.name.encode())
            sources |= {archive.package: fetch(archive, to) for archive in missing}
            lines = recipe.write(sources, to, chosen)
            facts = {
                **made_of,
                "what": recipe.what,
                "source": recipe.source,
                "licence": recipe.licence,
                "sha256": {archive.file: archive.sha256 for archive in recipe.archives},
                "lines": lines,
            }
            write_file(to / FINISHED, json.dumps(facts, indent=1).encode())
            begun.unlink()
            with contextlib.suppress(OSError):  # it holds archives
                (to / KEPT).rmdir()
    except PermissionError as error:
        raise UserError(f"{error.filename or to}: cannot be written: {error.strerror}") from None
    return [str(to), *lines, f"next: {recipe.next.format(folder=to)}"]


def write_file(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all; one that has this content already is left alone."""
    if path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)  # without fsync: thousands of small files, made again at will
    finally:
        part.unlink(missing_ok=True)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file whole or not at all."""
    from safetensors.torch import save  # here: `--help` needs no torch

    write_file(path, save(dict(tensors), dict(metadata)))


def inside(folder: Path, name: str) -> Path:
    """`folder / name`. Raises UserError if an archive's name leads out of the folder."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()) or path.resolve() == folder.resolve():
        raise UserError(f"{name!r}, a name in an archive, leads out of {folder}: the archive is not what it should be")
    return path


def _finished(to: Path) -> dict[str, Any] | None:
    try:
        content = json.loads((to / FINISHED).read_bytes())
        return content if isinstance(content, dict) and isinstance(content.get("lines"), list) else None
    except (OSError, ValueError):
        return None


def _spelled(facts: Mapping[str, Any]) -> str:
    options = facts.get("options") or {}
    said = ", ".join(f"{name}: {value}" for name, value in options.items())
    return f"{facts.get('recipe')} {facts.get('version')}{f' ({said})' if said else ''}"
