"""How far one may stray: real runs with every hyperparameter moved at random, and the robust ranges."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import plotly.graph_objects as go

from search.report import html, text
from search.report.figures import ACCENT, FAINT, INK, LINE, MUTED, PAGE, PALETTE, Trial, comparable, is_log, layout
from search.report.figures import escape as plain

ROW = 60  # pixels between two ranges


def section(report: Mapping[str, Any], trials: Sequence[Trial]) -> str:
    """The section on robustness; says so where neither runs nor ranges are known."""
    told = sentence(report)
    lead = f'<p class="lead">{escape(told)}</p>' if told else ""
    caption = (
        "A thin mark is a run with every hyperparameter moved at once; the bar is the quantile, the dot the setting itself "
        "on fresh seeds."
    )
    strip = html.figure(moved_runs(report), "Scores of runs with all hyperparameters moved", caption)
    caption = (
        "Blue: the range in which one hyperparameter may lie, the others as recommended, before the modelled score falls "
        "by more than a standard error. Dot: recommended; ring: normalised default. Grey: the searched range."
    )
    spans = html.figure(ranges(report, trials), "Robust range of each hyperparameter", caption)
    strip = f"<h3>All at once: real runs</h3>{strip}" if strip else ""
    spans = f"<h3>One at a time: robust ranges</h3>{spans}" if spans else ""
    return html.section(
        "robustness",
        "How far one may stray",
        lead,
        strip,
        spans,
        missing="No robust range was estimated in this search.",
    )


def sentence(report: Mapping[str, Any]) -> str:
    """What runs with all hyperparameters moved at once have shown; empty where there were none."""
    known = report.get("perturbation") or {}
    own = _entry(known, "recommended")
    kept = text.finite(own.get("quantile"))
    if kept is None:
        return ""
    count = len(_values(own))
    told = f"With {text.moved(report)}"
    lost = int(own.get("diverged") or 0)
    told += f" ({count} runs{f', {lost} of which diverged' if lost else ''})" if count else ""
    told += f", {text.most(known.get('quantile'))} score at least {text.score(kept)}"
    worst = text.finite(own.get("worst"))
    told += f" and the worst {text.score(worst)}" if worst is not None else ""
    confirmed = text.measurement((report.get("confirmation") or {}).get("recommended"))
    told += f", against {text.score(confirmed[0])} unmoved" if confirmed else ""
    predicted = text.finite(known.get("predicted"))
    told += f"; the model had predicted {text.score(predicted)}" if predicted is not None else ""
    best = text.finite(_entry(known, "best").get("quantile"))
    if best is not None:
        told += f". Around the search's best trial, {text.most(known.get('quantile'))} keep {text.score(best)}"
    return told + "."


def _entry(known: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    entry = known.get(key)
    return entry if isinstance(entry, Mapping) else {}


def _values(entry: Mapping[str, Any]) -> list[float]:
    return [value for value in map(text.finite, entry.get("values") or []) if value is not None]


def moved_runs(report: Mapping[str, Any]) -> go.Figure | None:
    """A strip of scores for the recommended setting and the best trial: every run, the quantile, the setting itself."""
    known = report.get("perturbation") or {}
    rows = [key for key in ("recommended", "best") if _values(_entry(known, key))]
    if not rows:
        return None
    figure = go.Figure()
    for row, key in enumerate(rows):
        entry, colour = _entry(known, key), ACCENT if key == "recommended" else MUTED
        values = _values(entry)
        figure.add_scatter(
            x=values,
            y=[row] * len(values),
            mode="markers",
            marker={"symbol": "line-ns-open", "size": 15, "color": colour, "line": {"width": 1.5}, "opacity": 0.6},
            hovertemplate="%{x:.3f}<extra>moved</extra>",
        )
        quantile = text.finite(entry.get("quantile"))
        if quantile is not None:
            figure.add_scatter(
                x=[quantile],
                y=[row],
                mode="markers",
                marker={"symbol": "line-ns-open", "size": 30, "color": colour, "line": {"width": 4}},
                hovertemplate=f"{text.most(known.get('quantile'))} score more than %{{x:.3f}}<extra></extra>",
            )
            figure.add_annotation(
                x=quantile,
                y=row,
                yshift=-27,
                showarrow=False,
                text=text.score(quantile),
                font={"size": 12, "color": ACCENT if key == "recommended" else INK},
            )
        confirmed = text.measurement((report.get("confirmation") or {}).get(key))
        if confirmed is not None:
            figure.add_scatter(
                x=[confirmed[0]],
                y=[row],
                mode="markers",
                marker={"size": 12, "color": colour, "line": {"color": PAGE, "width": 2}},
                hovertemplate="not moved, on fresh seeds: %{x:.3f}<extra></extra>",
            )
    labels = [f"<b>{text.label(key)}</b>" if key == "recommended" else text.label(key) for key in rows]
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


def searched_range(report: Mapping[str, Any], trials: Sequence[Trial], name: str) -> Searched | None:
    """From the search space, else from the trials; None for choices and for what is not known."""
    space = report.get("space")
    given = (space.get("search") or {}).get(name) if isinstance(space, Mapping) else None
    if isinstance(given, Mapping):
        low, high, log = text.finite(given.get("low")), text.finite(given.get("high")), bool(given.get("log"))
    else:
        values = [text.finite((trial.get("params") or {}).get(name)) for trial in comparable(trials)]
        known = [value for value in values if value is not None]
        low, high, log = min(known, default=None), max(known, default=None), is_log(known)
    if low is None or high is None or low >= high or (log and low <= 0):
        return None
    return Searched(low, high, log)


def ranges(report: Mapping[str, Any], trials: Sequence[Trial]) -> go.Figure | None:
    """A row per hyperparameter: the searched range, in it the robust one, the recommended value and the default."""
    region = report.get("robust_region") or {}
    rows = []
    for name, bounds in region.items():
        whole = searched_range(report, trials, name)
        if whole is not None and isinstance(bounds, list | tuple) and len(bounds) == 2:
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
    for row, (name, whole, bounds, (low, high)) in enumerate(rows):
        told = " – ".join(map(text.number, bounds))
        shapes += [
            {**bar, "x0": 0, "x1": 1, "y0": row - 0.05, "y1": row + 0.05, "fillcolor": LINE},
            {**bar, "x0": low, "x1": high, "y0": row - 0.1, "y1": row + 0.1, "fillcolor": PALETTE["shade_2"][0]},
        ]
        notes += [
            {**title, "x": 0, "xanchor": "left", "y": row, "text": f"<b>{plain(name)}</b>"},
            {**title, "x": 1, "xanchor": "right", "y": row, "text": f"good from {told}".replace(" – ", " to ")},
            {**end, "x": 0, "xanchor": "left", "y": row, "text": text.number(whole.low)},
            {**end, "x": 1, "xanchor": "right", "y": row, "text": text.number(whole.high)},
        ]
    _mark(figure, rows, report.get("default") or {}, "normalised default", {"symbol": "circle-open", "color": INK})
    edge = {"color": PAGE, "width": 2}
    _mark(figure, rows, report.get("recommended") or {}, "recommended", {"size": 15, "color": ACCENT, "line": edge})
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
