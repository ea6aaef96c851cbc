"""Parallel coordinates as plain Plotly lines: one horizontal axis per hyperparameter, the score at the bottom.

Plotly's own `parcoords` trace is drawn through WebGL, has no logarithmic axes, does not print and cannot be read
on a phone (its names run into each other). Rows below each other fit any width, and lines are the same SVG as
every other figure here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from search.report import axes, text
from search.report.figures import (
    ACCENT,
    FAINT,
    INK,
    LINE,
    MUTED,
    PAGE,
    PALETTE,
    crowd,
    escape,
    is_log,
    layout,
    pointed,
    short,
)
from search.report.trials import Trial, comparable, drawn, varied

ROW = 62  # pixels between two axes
Line = tuple[Trial, float]  # a trial and its score


class Axis:
    """One row: where a value lies in [0, 1], and the values worth a tick."""

    def __init__(self, name: str, values: Sequence[Any]) -> None:
        self.name = name
        numbers = [value for value in map(text.finite, values) if value is not None]
        self.numeric = len(numbers) == len(values)
        if self.numeric:
            self.log = is_log(numbers)
            self.low, self.high = self._scale(min(numbers)), self._scale(max(numbers))
            marks = axes.ticks(min(numbers), max(numbers), self.log)
            self.ticks = [(self.place(mark), text.number(mark)) for mark in marks]
        else:
            self.choices = sorted({str(value) for value in values})
            self.ticks = [(self.place(choice), short(choice)) for choice in self.choices]

    def _scale(self, value: float) -> float:
        return math.log10(value) if self.log else float(value)

    def place(self, value: Any) -> float:
        """Position of a value in [0, 1]."""
        if not self.numeric:
            return (self.choices.index(str(value)) + 0.5) / len(self.choices)
        return 0.5 if self.high == self.low else (self._scale(value) - self.low) / (self.high - self.low)

    def find(self, value: Any) -> float | None:
        """Position of a value, or None where it is not on this axis."""
        if not self.numeric:
            return self.place(value) if str(value) in self.choices else None
        known = text.finite(value)
        if known is None or (self.log and known <= 0):
            return None
        place = self.place(known)
        return place if -0.02 <= place <= 1.02 else None


def parallel(trials: Sequence[Trial], recommended: Mapping[str, Any]) -> go.Figure | None:
    """Every scored trial as a line through its hyperparameters down to its score; the better, the stronger.

    A diamond marks the `recommended` value where it lies within the values tried.
    """
    names = varied(trials)
    lines = comparable(drawn(trials))
    # A line passes by the axis of what its trial has no value of: it was not searched there.
    own = {name: [t.params[name] for t, _ in lines if t.params.get(name) is not None] for name in names}
    names = [name for name in names if own[name]]
    if not names:
        return None
    axes = [Axis(name, own[name]) for name in names]
    axes.append(Axis("robust score", [score for _, score in lines]))
    figure = go.Figure()
    fine = crowd(len(lines))
    for label, colour, dash, group in _groups(lines):
        xs: list[float | None] = []
        ys: list[float | None] = []
        numbers: list[int | None] = []
        for trial, score in group:
            values = enumerate([*(trial.params.get(name) for name in names), score])
            places = [(axes[row].place(value), row) for row, value in values if value is not None]
            xs += [*(place for place, _ in places), None]
            ys += [*(row for _, row in places), None]
            numbers += [trial.number] * len(places) + [None]
        figure.add_scatter(
            x=xs,
            y=ys,
            mode="lines+markers",
            name=label,
            **pointed(numbers),
            line={"color": colour, "width": fine * (2.2 if colour == ACCENT else 1.3), "dash": dash},
            marker={"size": 5 * fine, "symbol": "circle-open" if dash == "dot" else "circle", "color": colour},
        )
    marked = [(row, axis.find(recommended.get(axis.name))) for row, axis in enumerate(axes)]
    figure.add_scatter(
        x=[place for _, place in marked if place is not None],
        y=[row for row, place in marked if place is not None],
        mode="markers",
        name="recommended",
        marker={"symbol": "diamond", "size": 13, "color": ACCENT, "line": {"color": PAGE, "width": 2}},
        hoverinfo="skip",
        showlegend=any(place is not None for _, place in marked),
    )
    # filled by the page with the trial under the pointer
    figure.add_scatter(
        x=[], y=[], mode="lines", line={"color": INK, "width": 3}, hoverinfo="skip", showlegend=False, meta="highlight"
    )
    _draw_axes(figure, axes)
    layout(figure, ROW * len(axes) + 60, margin={"l": 14, "r": 18, "t": 40, "b": 26})
    figure.update_xaxes(visible=False, range=[-0.02, 1.02], fixedrange=True)
    figure.update_yaxes(visible=False, range=[len(axes) - 0.9, -0.45], fixedrange=True)
    return figure


def _groups(lines: Sequence[Line]) -> list[tuple[str, str, str, Sequence[Line]]]:
    """(legend, colour, dash, trials): pruned ones, then completed ones from the worst quarter to the best."""
    completed = sorted((line for line in lines if line[0].status == "completed"), key=lambda line: line[1])
    pruned = [line for line in lines if line[0].status == "pruned"]
    groups: list[tuple[str, str, str, Sequence[Line]]] = [("pruned", FAINT, "dot", pruned)]
    shades = [PALETTE["shade_1"][0], PALETTE["shade_2"][0], PALETTE["shade_3"][0], ACCENT]
    legends = ["worst quarter", "third quarter", "second quarter", "best quarter"]
    for index, (legend, shade) in enumerate(zip(legends, shades, strict=True)):
        part = completed[len(completed) * index // 4 : len(completed) * (index + 1) // 4]
        groups.append((legend, shade, "solid", part))
    return [group for group in groups if group[3]]


def _draw_axes(figure: go.Figure, axes: Sequence[Axis]) -> None:
    # all at once: Plotly checks every annotation again each time one is added
    name = {
        "x": 0,
        "xanchor": "left",
        "yanchor": "bottom",
        "xshift": -6,
        "yshift": 6,
        "font": {"size": 12, "color": INK},
    }
    tick = {"xanchor": "center", "yanchor": "top", "yshift": -6, "font": {"size": 11, "color": MUTED}, "borderpad": 0}
    back = {"showarrow": False, "bgcolor": PAGE, "opacity": 0.9}
    line = {"type": "line", "x0": 0, "x1": 1, "line": {"color": LINE, "width": 2}, "layer": "below"}
    notes = [{**name, **back, "y": row, "text": f"<b>{escape(axis.name)}</b>"} for row, axis in enumerate(axes)]
    notes += [
        {**tick, **back, "x": place, "y": row, "text": mark}
        for row, axis in enumerate(axes)
        for place, mark in axis.ticks
    ]
    figure.update_layout(annotations=notes, shapes=[{**line, "y0": row, "y1": row} for row in range(len(axes))])
