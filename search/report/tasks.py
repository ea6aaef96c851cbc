"""Task by task: what the recommended setting does on each, and whether a setting found for one holds on another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from search.report import html, text
from search.report.figures import ACCENT, FAINT, INK, LINE, MUTED, layout
from search.report.figures import escape as plain

SETTINGS = {  # setting: its mark, from the most to the least important
    "recommended": {"symbol": "circle", "color": ACCENT, "size": 12},
    "tuned_rates": {"symbol": "circle", "color": MUTED, "size": 9},
    "default": {"symbol": "circle-open", "color": MUTED, "size": 9},
    "paper_default": {"symbol": "diamond-open", "color": MUTED, "size": 9},
}
LOST = 0.1  # share of full-data accuracy: what is lost of a task, from none to this, is shown as a shade


def name_of(task: Any, number: int) -> str:
    """`spoken_digits, 5 per class`."""
    known = task if isinstance(task, Mapping) else {}
    if known.get("name"):
        return str(known["name"])
    dataset = known.get("dataset")
    dataset = dataset.get("name") if isinstance(dataset, Mapping) else dataset
    budget = text.finite(known.get("dpc"))
    return f"{dataset or f'task {number + 1}'}" + (f", {budget:g} per class" if budget is not None else "")


def section(report: Mapping[str, Any]) -> str:
    """The section on tasks; nothing where there is one only."""
    tasks = [(name_of(task, i), task) for i, task in enumerate(report.get("tasks") or [])]
    measured = per_task(report, len(tasks))
    several = len(tasks) > 1 and bool(measured)
    caption = "Share of full-data score on each task, mean ± one standard deviation over fresh seeds."
    names = [name for name, _ in tasks]
    drawn = html.figure(by_task(names, measured), "Share of full-data score per task", caption) if several else ""
    return html.section(
        "tasks",
        "Task by task",
        drawn,
        _table(tasks, measured) if several else "",
        transfer(report),
    )


def per_task(report: Mapping[str, Any], count: int) -> dict[str, list[tuple[float, float | None] | None]]:
    """setting -> (mean, std) on each task, for settings that were measured on all of them."""
    found = {}
    for key, entry in (report.get("confirmation") or {}).items():
        own = entry.get("tasks") if isinstance(entry, Mapping) else None
        if isinstance(own, list | tuple) and len(own) == count and key in text.SETTINGS:
            known = [text.measurement(value) for value in own]
            if any(known):
                found[key] = [value[:2] if value else None for value in known]
    return {key: found[key] for key in ("recommended", "best", *SETTINGS, "mmd") if key in found}


def by_task(names: Sequence[str], measured: Mapping[str, Sequence[tuple[float, float | None] | None]]) -> go.Figure:
    """A row per task, in it a mark per setting, a little below each other."""
    figure = go.Figure()
    shown = [key for key in SETTINGS if key in measured]
    for rank, key in enumerate(shown):
        points = [(row, value) for row, value in enumerate(measured[key]) if value is not None]
        mark = SETTINGS[key]
        offset = 0.15 * (rank - (len(shown) - 1) / 2)
        figure.add_scatter(
            x=[mean for _, (mean, _) in points],
            y=[row + offset for row, _ in points],
            mode="markers",
            name=text.label(key),
            marker={**mark, "line": {"width": 2, "color": mark["color"]}},
            error_x={
                "array": [std or 0.0 for _, (_, std) in points],
                "color": ACCENT if key == "recommended" else FAINT,
                "thickness": 2,
                "width": 0,
            },
            hovertext=[f"{plain(names[row])}<br>{text.label(key)} {text.spread(*value)}" for row, value in points],
            hoverinfo="text",
        )
    layout(figure, 100 + 62 * len(names), margin={"l": 8, "r": 16, "t": 8, "b": 8})
    rows = list(range(len(names)))
    figure.update_yaxes(tickvals=rows, ticktext=[_broken(name) for name in names], range=[len(names) - 0.5, -0.5])
    figure.update_yaxes(tickfont={"color": INK}, showgrid=False)
    figure.update_layout(
        shapes=[
            {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": row + 0.5, "y1": row + 0.5, "layer": "below"}
            | {"line": {"color": LINE, "width": 1}}
            for row in rows[:-1]
        ]
    )
    return figure.update_xaxes(title_text="share of full data", nticks=6)


def _broken(name: str) -> str:
    """A task's name as a tick label: what comes after a comma on a second line, long words cut."""
    parts = [part if len(part) <= 24 else part[:23] + "…" for part in name.split(", ")]
    return "<br>".join(map(plain, parts[:3]))


def _table(
    tasks: Sequence[tuple[str, Any]], measured: Mapping[str, Sequence[tuple[float, float | None] | None]]
) -> str:
    columns: list[tuple[str, list[str]]] = [("task", [_described(name, task) for name, task in tasks])]
    for key, values in measured.items():
        title = "tuned rates only" if key == "tuned_rates" else text.label(key)
        columns.append((title, [text.spread(*value) if value else "–" for value in values]))
    told = "Share of full-data score, mean ± standard deviation over fresh seeds."
    full = [task.get("full_score") if isinstance(task, Mapping) else None for _, task in tasks]
    if any(text.finite(score) is not None for score in full):
        columns.append(("full data", [text.score(score) for score in full]))
        told += " Full data: the score itself, with all items."
    rows = [[cells[i] for _, cells in columns] for i in range(len(tasks))]
    return html.table([escape(title) for title, _ in columns], rows) + html.note(told)


def _described(name: str, task: Any) -> str:
    """A task's name and in small print what it is made of."""
    known = task if isinstance(task, Mapping) else {}
    facts = []
    if isinstance(known.get("modalities"), list | tuple):
        facts.append(", ".join(map(str, known["modalities"])))
    if isinstance(known.get("class_names"), list | tuple):
        facts.append(f"{len(known['class_names']):,} classes")
    items = known.get("items")
    items = items.get("condense") if isinstance(items, Mapping) else items
    if text.finite(items) is not None:
        facts.append(f"{text.number(items)} items")
    small = f"<br><small>{escape(' · '.join(facts))}</small>" if facts else ""
    return f"{escape(name)}{small}"


def transfer(report: Mapping[str, Any]) -> str:
    """A table: the best setting for each task alone, and what share of full data it keeps on the others."""
    known = report.get("transfer") or {}
    names = [str(name) for name in known.get("tasks") or []]
    settings = [entry if isinstance(entry, Mapping) else {} for entry in known.get("settings") or []]
    shares = [[text.finite(value) for value in row or []] for row in known.get("share") or []]
    if len(names) < 2 or len(settings) != len(shares) or any(len(row) != len(names) for row in shares):
        return ""
    labels = []
    for entry in settings:
        trial = f" <small>trial {escape(str(entry['trial']))}</small>" if entry.get("trial") is not None else ""
        labels.append(f"best for {escape(str(entry.get('task')))}{trial}")
    columns = [[value for value in column if value is not None] for column in zip(*shares, strict=True)]
    best = [max(column, default=None) for column in columns]
    rows, styles = [], []
    for label, row in zip(labels, shares, strict=True):
        rows.append([label, *(text.score(value) for value in row)])
        styles.append([""])
        for value, top in zip(row, best, strict=True):
            lost = 1.0 if value is None or top is None else min(max((top - value) / LOST, 0.0), 1.0)
            styles[-1].append(f"--kept:{100 * (1 - lost):.0f}%")
    losses = [
        top - value
        for row in shares
        for value, top in zip(row, best)
        if value is not None and top is not None and top > value
    ]
    told = (
        "Each row is the setting that is best for one task alone, each column a task: share of full data it reaches "
        "there on fresh seeds, the darker, the nearer to the best of that column."
    )
    if len({entry.get("trial") for entry in settings}) == 1:
        told += " Here it is the same trial for all of them."
    elif losses:
        told += f" The most that is lost by taking another task's setting is {text.score(max(losses))}."
    return (
        f"<h3>Does a recommendation for one task hold on another?</h3>{html.note(told)}"
        f'<div class="heat">{html.table(["", *map(escape, names)], rows, styles=styles)}</div>'
    )
