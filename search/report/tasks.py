"""Task by task: what the recommended setting does on each, and whether a setting found for one holds on another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import plotly.graph_objects as go

from search.report import html, text
from search.report.figures import ACCENT, FAINT, INK, LINE, MUTED, layout
from search.report.figures import escape as plain
from search.report.model import Confirmation, Measured, Report, TaskDescription, Transfer

SETTINGS = {  # setting: its mark, from the most to the least important
    "recommended": {"symbol": "circle", "color": ACCENT, "size": 12},
    "tuned_rates": {"symbol": "circle", "color": MUTED, "size": 9},
    "default": {"symbol": "circle-open", "color": MUTED, "size": 9},
    "paper_default": {"symbol": "diamond-open", "color": MUTED, "size": 9},
}
LOST = 0.1  # share of full-data accuracy: what is lost of a task, from none to this, is shown as a shade


def section(report: Report) -> str:
    """The section on tasks; nothing where there is one only."""
    measured = per_task(report.confirmation, len(report.tasks))
    several = len(report.tasks) > 1 and bool(measured)
    caption = "Share of full-data score on each task, mean ± one standard deviation over fresh seeds."
    names = [task.name for task in report.tasks]
    drawn = html.figure(by_task(names, measured), "Share of full-data score per task", caption) if several else ""
    table = _table(report.tasks, measured) if several else ""
    return html.section("tasks", "Task by task", drawn, table, transfer(report.transfer))


def per_task(confirmation: Confirmation, count: int) -> dict[str, list[Measured]]:
    """setting -> its runs on each task, for settings that were measured on all of them."""
    rows = confirmation.rows()
    return {
        key: rows[key].tasks
        for key in ("recommended", "best", *SETTINGS, "mmd")
        if key in rows and len(rows[key].tasks) == count and any(task.mean is not None for task in rows[key].tasks)
    }


def by_task(names: Sequence[str], measured: Mapping[str, Sequence[Measured]]) -> go.Figure:
    """A row per task, in it a mark per setting, a little below each other."""
    figure = go.Figure()
    shown = [key for key in SETTINGS if key in measured]
    for rank, key in enumerate(shown):
        points = [(row, value) for row, value in enumerate(measured[key]) if value.mean is not None]
        mark = SETTINGS[key]
        offset = 0.15 * (rank - (len(shown) - 1) / 2)
        figure.add_scatter(
            x=[value.mean for _, value in points],
            y=[row + offset for row, _ in points],
            mode="markers",
            name=text.label(key),
            marker={**mark, "line": {"width": 2, "color": mark["color"]}},
            error_x={
                "array": [value.std or 0.0 for _, value in points],
                "color": ACCENT if key == "recommended" else FAINT,
                "thickness": 2,
                "width": 0,
            },
            hovertext=[f"{plain(names[row])}<br>{text.label(key)} {text.measured(value)}" for row, value in points],
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


def _table(tasks: Sequence[TaskDescription], measured: Mapping[str, Sequence[Measured]]) -> str:
    columns = [("task", [_described(task) for task in tasks])]
    for key, values in measured.items():
        title = "tuned rates only" if key == "tuned_rates" else text.label(key)
        columns.append((title, [text.measured(value) for value in values]))
    told = "Share of full-data score, mean ± standard deviation over fresh seeds."
    if any(task.full_score is not None for task in tasks):
        columns.append(("full data", [text.score(task.full_score) for task in tasks]))
        told += " Full data: the score itself, with all items."
    rows = [[cells[i] for _, cells in columns] for i in range(len(tasks))]
    return html.table([escape(title) for title, _ in columns], rows) + html.note(told)


def _described(task: TaskDescription) -> str:
    """A task's name and in small print what it is made of."""
    facts = [
        ", ".join(task.modalities),
        f"{len(task.class_names):,} classes",
        f"{text.number(task.items.condense)} items",
    ]
    return f"{escape(task.name)}<br><small>{escape(' · '.join(facts))}</small>"


def transfer(known: Transfer | None) -> str:
    """A table: the best setting for each task alone, and what share of full data it keeps on the others."""
    if known is None or len(known.tasks) < 2:
        return ""
    columns = [[value for value in column if value is not None] for column in zip(*known.share, strict=True)]
    best = [max(column, default=None) for column in columns]
    rows, styles, losses = [], [], []
    for entry, row in zip(known.settings, known.share, strict=True):
        label = f"best for {escape(entry.task)} <small>trial {entry.trial}</small>"
        rows.append([label, *(text.score(value) for value in row)])
        styles.append([""])
        for value, top in zip(row, best, strict=True):
            loss = None if value is None or top is None else top - value
            losses += [loss] if loss else []
            shade = 0.0 if loss is None else 1 - min(max(loss / LOST, 0.0), 1.0)
            styles[-1].append(f"--kept:{100 * shade:.0f}%")
    told = (
        "Each row is the setting that is best for one task alone, each column a task: share of full data it reaches "
        "there on fresh seeds, the darker, the nearer to the best of that column."
    )
    if len({entry.trial for entry in known.settings}) == 1:
        told += " Here it is the same trial for all of them."
    elif losses:
        told += f" The most that is lost by taking another task's setting is {text.score(max(losses))}."
    return (
        f"<h3>Does a recommendation for one task hold on another?</h3>{html.note(told)}"
        f'<div class="heat">{html.table(["", *map(escape, known.tasks)], rows, styles=styles)}</div>'
    )
