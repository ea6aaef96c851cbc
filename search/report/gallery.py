"""The report's gallery: synthetic items to look at and to listen to, inside the page."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

MAX_CARDS = 60  # more would make the page heavy; all items are in condensed/
MAX_STAGES = 6  # of one item's way across training steps
WAY_BYTES = 6_000_000  # that all ways may take together, beside first and last
Stage = tuple[str, Mapping[str, Any]]  # what it is called, modality -> {png, wav, txt}


def gallery_cards(gallery: Sequence[Mapping[str, Any]], task: str = "") -> str:
    """One card per synthetic item, in order of class, first those with their way across training; empty without items.

    `task`: its name, where the search has others.
    """
    shown = _shown(gallery)
    if not shown:
        return ""
    note = f"Synthetic items of the recommended setting{f' on {task}' if task else ''}, in order of class."
    if len(shown) < len(gallery):
        note += f" {len(shown)} of {len(gallery):,} are shown; all are in condensed/."
    ways = _ways(shown)
    if ways:
        note += " From left to right: the same item across training steps."
    wide = "".join(_way_card(shown[i], way) for i, way in ways.items())
    rest = [item for i, item in enumerate(shown) if i not in ways]
    parts = [f'<p class="note">{escape(note)}</p>']
    parts += [f'<div class="cards ways">{wide}</div>'] if wide else []
    cards = f'<div class="cards">{"".join(map(_card, rest))}</div>' if rest else ""
    if wide and rest:
        cards = f"<details><summary>{len(rest):,} more item{'s' if len(rest) != 1 else ''}</summary>{cards}</details>"
    return "".join([*parts, cards])


def across_steps(stages: Sequence[tuple[int, list[dict[str, Any]]]]) -> list[dict[str, Any]]:
    """The last stage's cards, each with what it was like before: `start`, and `steps` in between."""
    cards = [dict(card) for card in stages[-1][1]]
    for i, card in enumerate(cards):
        card["start"] = stages[0][1][i]["items"]
        card["steps"] = [{"step": step, "items": earlier[i]["items"]} for step, earlier in stages]
    return cards


def _ways(shown: Sequence[Mapping[str, Any]]) -> dict[int, list[Stage]]:
    """position -> stages, for the first item of each class that has them, as far as they do not make the page huge."""
    found: dict[int, list[Stage]] = {}
    classes: set[str] = set()
    room = WAY_BYTES
    for position, item in enumerate(shown):
        stages = _stages(item)
        label = str(item.get("label"))
        size = sum(len(content.get("png") or b"") for _, items in stages for content in items.values() if content)
        if len(stages) > 2 and label not in classes and size <= room:
            found[position] = stages
            classes.add(label)
            room -= size
    return found


def _stages(item: Mapping[str, Any]) -> list[Stage]:
    """An item's way from its start to its end, at most MAX_STAGES of it, evenly spread."""
    known = [step for step in item.get("steps") or [] if isinstance(step, Mapping) and step.get("items")]
    stages: list[Stage] = [(f"step {step.get('step', '?')}", step["items"]) for step in known]
    if not stages:
        return []
    start, end = item.get("start"), item.get("items")
    if known[0].get("step") == 0:
        stages[0] = ("start", stages[0][1])
    elif start and start != stages[0][1]:
        stages.insert(0, ("start", start))
    if end and end != stages[-1][1]:
        stages.append(("condensed", end))
    count = min(len(stages), MAX_STAGES)
    return [stages[round(i * (len(stages) - 1) / max(count - 1, 1))] for i in range(count)]


def _way_card(item: Mapping[str, Any], stages: Sequence[Stage]) -> str:
    modalities = dict.fromkeys(name for _, items in stages for name in items)
    titles = "".join(f"<b>{escape(title)}</b>" for title, _ in stages)
    blocks = [f'<div class="way">{titles}</div>']
    for modality in modalities:
        contents = [(title, items.get(modality) or {}) for title, items in stages]
        stills = "".join(f"<div>{_still(content, f'{modality}, {title}')}</div>" for title, content in contents)
        heard = [(title, content) for title, content in (contents[0], contents[-1]) if content.get("wav")]
        sounds = "".join(_sound(content, f"{modality}, {title}", title) for title, content in heard)
        blocks.append(f'<div class="way">{stills}</div>' + (f'<div class="sounds">{sounds}</div>' if sounds else ""))
    return f'<div class="card">{_title(item)}{"".join(blocks)}</div>'


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
    return f'<div class="card">{_title(item)}{"".join(blocks)}</div>'


def _title(item: Mapping[str, Any]) -> str:
    return f"<h3>{escape(str(item.get('label')))} <small>#{escape(str(item.get('index', '')))}</small></h3>"


def _still(content: Mapping[str, Any], alternative: str) -> str:
    picture = content.get("png")
    shown = f'<img src="{_data("image/png", picture)}" alt="{escape(alternative)}">' if picture else ""
    return shown + (f"<p>{escape(str(content['txt']))}</p>" if content.get("txt") else "")


def _sound(content: Mapping[str, Any], alternative: str, title: str) -> str:
    if not content.get("wav"):
        return ""
    shown = f"<span>{escape(title)}</span>" if title else ""
    player = 'audio controls controlslist="nodownload noplaybackrate" preload="metadata"'
    source = _data("audio/wav", content["wav"])
    return f'<div class="sound">{shown}<{player} src="{source}" aria-label="{escape(alternative)}"></audio></div>'


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
