"""How far one may stray: real runs with every hyperparameter moved at random, and the robust ranges."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from search.report import html, text
from search.report.figures import ACCENT, FAINT, INK, LINE, MUTED, PAGE, PALETTE, layout
from search.report.figures import escape as plain
from search.report.model import Report
from search.space.model import Space

ROW = 60  # pixels between two ranges


def section(report: Report) -> str:
    """The section on robustness; says so where neither runs nor ranges are known."""
    caption = (
        "A thin mark is a run with every hyperparameter moved at once; the bar is the quantile, the dot the setting itself "
        "on fresh seeds."
    )
    strip = html.figure(moved_runs(report), "Scores of runs with all hyperparameters moved", caption)
    others = "as recommended" if report.best_tried is None else f"as in {text.best_tried(report.best_tried.trial)}"
    caption = (
        f"Blue: the range in which one hyperparameter may lie, the others {others}, before the modelled score falls by more than "
        f"a standard error. Dot: {text.marked(report)[0]}; ring: the project's default. Grey: the searched range."
    )
    spans = html.figure(ranges(report), "Robust range of each hyperparameter", caption)
    return html.section(
        "robustness",
        "How far one may stray",
        html.paragraph(sentence(report), "lead"),
        f"<h3>All at once: real runs</h3>{strip}" if strip else "",
        f"<h3>One at a time: robust ranges</h3>{spans}{html.note(text.trusted(report))}" if spans else "",
        html.note(text.no_range(report)) if (strip and not spans) or report.best_tried else "",
        missing=text.no_range(report),
    )


def sentence(report: Report) -> str:
    """What runs with all hyperparameters moved at once have shown; empty where there were none."""
    known = report.perturbation
    if known is None or known.recommended.quantile is None:
        return ""
    own, most = known.recommended, text.most(known.quantile)
    told = f"With {text.moved(known.decades, report)} ({text.count(len(own.values), 'run')}"
    told += f", {own.diverged} of which diverged" if own.diverged else ""
    told += f"), {most} score at least {text.score(own.quantile)} and the worst {text.score(own.worst)}"
    confirmed = report.confirmation.recommended.mean
    told += f", against {text.score(confirmed)} unmoved" if confirmed is not None else ""
    told += f"; the model had predicted {text.score(known.predicted)}" if known.predicted is not None else ""
    if known.best is not None and known.best.quantile is not None:
        told += f". Around the search's best trial, {most} keep {text.score(known.best.quantile)}"
    return told + "."


def moved_runs(report: Report) -> go.Figure | None:
    """A strip of scores for the recommended setting and the best trial: every run, the quantile, the setting itself."""
    known, confirmation = report.perturbation, report.confirmation
    if known is None:
        return None
    around = {"recommended": (known.recommended, confirmation.recommended), "best": (known.best, confirmation.best)}
    rows = [
        (key, moved, confirmed)
        for key, (moved, confirmed) in around.items()
        if moved is not None and any(value is not None for value in moved.values)
    ]
    if not rows:
        return None
    figure = go.Figure()
    for row, (key, moved, confirmed) in enumerate(rows):
        colour = ACCENT if key == "recommended" else MUTED
        values = [value for value in moved.values if value is not None]
        figure.add_scatter(
            x=values,
            y=[row] * len(values),
            mode="markers",
            marker={"symbol": "line-ns-open", "size": 15, "color": colour, "line": {"width": 1.5}, "opacity": 0.6},
            hovertemplate="%{x:.3f}<extra>moved</extra>",
        )
        if moved.quantile is not None:
            figure.add_scatter(
                x=[moved.quantile],
                y=[row],
                mode="markers",
                marker={"symbol": "line-ns-open", "size": 30, "color": colour, "line": {"width": 4}},
                hovertemplate=f"{text.most(known.quantile)} score more than %{{x:.3f}}<extra></extra>",
            )
            figure.add_annotation(
                x=moved.quantile,
                y=row,
                yshift=-27,
                showarrow=False,
                text=text.score(moved.quantile),
                font={"size": 12, "color": ACCENT if key == "recommended" else INK},
            )
        if confirmed.mean is not None:
            figure.add_scatter(
                x=[confirmed.mean],
                y=[row],
                mode="markers",
                marker={"size": 12, "color": colour, "line": {"color": PAGE, "width": 2}},
                hovertemplate="not moved, on fresh seeds: %{x:.3f}<extra></extra>",
            )
    labels = [f"<b>{text.label(key)}</b>" if key == "recommended" else text.label(key) for key, _, _ in rows]
    layout(figure, 70 + 76 * len(rows), showlegend=False, margin={"l": 8, "r": 16, "t": 4, "b": 8})
    figure.update_yaxes(
        tickvals=list(range(len(rows))), ticktext=labels, range=[len(rows) - 0.4, -0.5], tickfont={"color": INK}
    )
    return figure.update_xaxes(title_text="score with all hyperparameters moved", nticks=6)


@dataclass(frozen=True)
class Searched:
    """The range in which a hyperparameter was searched."""

    low: float
    high: float
    log: bool

    def place(self, value: Any) -> float | None:
        """Where a value lies, 0 at the low end and 1 at the high one; None for what has no place."""
        known = text.finite(value)
        if known is None or (self.log and known <= 0):
            return None
        low, high, at = (math.log(v) if self.log else v for v in (self.low, self.high, known))
        return (at - low) / (high - low)


def searched_range(space: Space, name: str) -> Searched | None:
    """From the search space; None for choices."""
    dimension = space.search.get(name)
    if dimension is None or dimension.low is None or dimension.high is None:
        return None
    return Searched(dimension.low, dimension.high, dimension.log)


def ranges(report: Report) -> go.Figure | None:
    """A row per hyperparameter: the searched range, in it the robust one, the recommended value and the default."""
    rows = []
    for name, bounds in report.modelled.robust_region.items():
        whole = searched_range(report.space, name)
        if whole is not None:
            low, high = map(whole.place, bounds)
            if low is not None and high is not None:
                rows.append((name, whole, bounds, (low, high)))
    if not rows:
        return None
    figure = go.Figure()
    notes: list[dict[str, Any]] = []
    shapes: list[dict[str, Any]] = []
    title = {"showarrow": False, "yanchor": "bottom", "yshift": 9, "font": {"size": 12, "color": INK}}
    end = {"showarrow": False, "yanchor": "top", "yshift": -8, "font": {"size": 11, "color": MUTED}}
    bar = {"type": "rect", "line": {"width": 0}, "layer": "below"}
    for row, (name, whole, _, (low, high)) in enumerate(rows):
        shapes += [
            {**bar, "x0": 0, "x1": 1, "y0": row - 0.05, "y1": row + 0.05, "fillcolor": LINE},
            {**bar, "x0": low, "x1": high, "y0": row - 0.1, "y1": row + 0.1, "fillcolor": PALETTE["shade_2"][0]},
        ]
        notes += [
            {**title, "x": 0, "xanchor": "left", "y": row, "text": f"<b>{plain(name)}</b>"},
            {**title, "x": 1, "xanchor": "right", "y": row, "text": text.good_range(report, name)},
            {**end, "x": 0, "xanchor": "left", "y": row, "text": text.number(whole.low)},
            {**end, "x": 1, "xanchor": "right", "y": row, "text": text.number(whole.high)},
        ]
    _mark(figure, rows, report.default, "project's default", {"symbol": "circle-open", "color": INK})
    edge = {"color": PAGE, "width": 2}
    marked = ("recommended", report.recommended) if report.best_tried is None else text.marked(report)[:2]
    _mark(figure, rows, marked[1], marked[0], {"size": 15, "color": ACCENT, "line": edge})
    layout(figure, ROW * len(rows) + 50, margin={"l": 14, "r": 14, "t": 38, "b": 4}, annotations=notes, shapes=shapes)
    figure.update_xaxes(visible=False, range=[-0.015, 1.015], fixedrange=True)
    return figure.update_yaxes(visible=False, range=[len(rows) - 0.55, -0.5], fixedrange=True)


def _mark(
    figure: go.Figure, rows: Sequence[tuple[str, Searched, Any, Any]], values: Mapping[str, Any], name: str, marker: Any
) -> None:
    """One mark per row at a setting's value; outside of the searched range an arrow at its end."""
    found = [(row, whole.place(values.get(key)), values.get(key)) for row, (key, whole, *_) in enumerate(rows)]
    known = [(row, place, value) for row, place, value in found if place is not None]
    if not known:
        return
    beyond = ["triangle-left-open" if place < 0 else "triangle-right-open" for _, place, _ in known]
    symbols = [
        marker.get("symbol", "circle") if 0 <= place <= 1 else beyond[i] for i, (_, place, _) in enumerate(known)
    ]
    line = {"width": 2, "color": FAINT, **marker.get("line", {"color": marker["color"]})}
    figure.add_scatter(
        x=[min(max(place, 0.0), 1.0) for _, place, _ in known],
        y=[row for row, _, _ in known],
        mode="markers",
        name=name,
        marker={"size": 12, **marker, "symbol": symbols, "line": line},
        hovertext=[f"{name} {text.number(value)}" for _, _, value in known],
        hoverinfo="text",
    )
