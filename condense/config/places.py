"""Where a task's data and encoders lie, among its keys. Standard library only."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from typing import Any


def without_places(content: Mapping[str, Any]) -> dict[str, Any]:
    """A task's keys without where its data and encoders lie: what they hold tells them apart, and a folder may move."""
    kept = copy.deepcopy(dict(content))
    for node, key in places(kept):
        if key != "model" or os.path.isabs(node[key]):
            node[key] = ""
    return kept


def encoder_places(content: Mapping[str, Any]) -> list[str]:
    """Where a task's encoders lie."""
    return [node[key] for node, key in places(content) if node is not content.get("dataset")]


def places(content: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """The dictionaries of a task that hold a path or a model's name, each with its key."""
    bank = content.get("encoders")
    encoders = [content.get("encoder"), *(bank if isinstance(bank, list) else [])]
    for towers in [e.get("towers") for e in encoders if isinstance(e, dict)]:
        encoders += towers.values() if isinstance(towers, dict) else []
    nodes = [(content.get("dataset"), "path"), *((e, key) for e in encoders for key in ("checkpoint", "path", "model"))]
    yield from ((node, key) for node, key in nodes if isinstance(node, dict) and isinstance(node.get(key), str))
