"""What the data recipes write beside their files: the manifest, and a task that is ready to run."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from condense.recipes.folder import write_file

NEXT = "python -m condense run {folder}/task.yaml --output condensed"
SPLITS = ("train", "validation", "test")


def write_manifest(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
    """A CSV of these columns; of each row those that are named."""
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_file(path, text.getvalue().encode())


def write_task(folder: Path, title: str, task: Mapping[str, Any]) -> None:
    """task.yaml: one condensation; its paths are relative to the folder."""
    text = yaml.safe_dump(dict(task), sort_keys=False, default_flow_style=None, width=100)
    write_file(folder / "task.yaml", f"# {title}\n{text}".encode())


def count(rows: Sequence[Mapping[str, Any]]) -> str:
    """How many items, classes and groups each split has, in one line. Rows have `split`, `label` and `group`."""
    items = Counter(row["split"] for row in rows)
    groups = {split: len({row["group"] for row in rows if row["split"] == split}) for split in SPLITS}
    classes = len({row["label"] for row in rows})
    parts = [f"{split} {items[split]:,} of {groups[split]:,} groups" for split in SPLITS]
    return f"{len(rows):,} items in {classes} classes: {', '.join(parts)}"
