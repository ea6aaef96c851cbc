"""The report's gallery: synthetic items to look at and to listen to, inside the page."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

MAX_CARDS = 60  # more would make the page heavy; all items are in condensed/


def gallery_cards(gallery: Sequence[Mapping[str, Any]]) -> str:
    """One card per synthetic item, in order of class; empty without items."""
    shown = _shown(gallery)
    if not shown:
        return ""
    note = "Synthetic items of the recommended setting, one card each, in order of class."
    if len(shown) < len(gallery):
        note += f" {len(shown)} of {len(gallery):,} are shown; all are in condensed/."
    pairs = " pairs" if any(item.get("start") for item in shown) else ""
    return f'<p class="note">{escape(note)}</p><div class="cards{pairs}">{"".join(map(_card, shown))}</div>'


def _shown(gallery: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """At most MAX_CARDS items, grouped by class: every class's first item, then every second one, and so on."""
    classes: dict[str, list[Mapping[str, Any]]] = {}
    for item in gallery:
        classes.setdefault(str(item.get("label")), []).append(item)
    kept = dict.fromkeys(classes, 0)
    for depth in range(max(map(len, classes.values()), default=0)):
        for name, items in classes.items():
            if depth < len(items) and sum(kept.values()) < MAX_CARDS:
                kept[name] += 1
    return [item for name, items in classes.items() for item in items[: kept[name]]]


def _card(item: Mapping[str, Any]) -> str:
    start = item.get("start") or {}
    blocks: list[str] = []
    for modality, content in (item.get("items") or {}).items():
        after, before = content or {}, start.get(modality) or {}
        if start:
            titles = ("", "") if blocks else ("<b>start</b>", "<b>condensed</b>")
            left, right = _still(before, f"{modality}, at the start"), _still(after, f"{modality}, condensed")
            block = f'<div class="pair"><div>{titles[0]}{left}</div><div>{titles[1]}{right}</div></div>'
            block += _sound(before, f"{modality}, at the start", "start")
            block += _sound(after, f"{modality}, condensed", "condensed")
        else:
            block = _still(after, str(modality)) + _sound(after, str(modality), "")
        blocks.append(f'<div class="mode">{block}</div>')
    title = f"{escape(str(item.get('label')))} <small>#{escape(str(item.get('index', '')))}</small>"
    return f'<div class="card"><h3>{title}</h3>{"".join(blocks)}</div>'


def _still(content: Mapping[str, Any], alternative: str) -> str:
    picture = content.get("png")
    shown = f'<img src="{_data("image/png", picture)}" alt="{escape(alternative)}">' if picture else ""
    return shown + (f"<p>{escape(str(content['txt']))}</p>" if content.get("txt") else "")


def _sound(content: Mapping[str, Any], alternative: str, title: str) -> str:
    if not content.get("wav"):
        return ""
    shown = f"<span>{title}</span>" if title else ""
    player = 'audio controls controlslist="nodownload noplaybackrate" preload="metadata"'
    source = _data("audio/wav", content["wav"])
    return f'<div class="sound">{shown}<{player} src="{source}" aria-label="{escape(alternative)}"></audio></div>'


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
