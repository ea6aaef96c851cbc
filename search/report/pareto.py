"""The Pareto front of a search with several objectives."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product

import plotly.graph_objects as go

from search.report import html, text
from search.report.figures import ACCENT, FAINT, MUTED, crowd, escape, layout
from search.report.model import Pareto, Report
from search.report.trials import evenly

MOST = 500  # trials behind the front that are drawn
Point = tuple[int, list[float], bool]  # number, values, on the front


def section(report: Report) -> str:
    """The section on objectives that pull apart; nothing where there was one only."""
    if report.pareto is None:
        return ""
    names = [text.label(name) for name in report.pareto.objectives]
    known = _points(report.pareto)
    on, off = ([point for point in known if point[2] is front] for front in (True, False))
    points = sorted([*on, *evenly(off, MOST)])
    if len(names) < 2 or not points:
        return ""
    count = len(on)
    told = (
        f"{count} of {text.count(len(known), 'trial')} {'are' if count != 1 else 'is'} on the front: no other trial is at least "
        "as good in every objective and better in one."
    )
    chosen = report.confirmation.recommended.trial
    if len(names) == 2:
        drawn = html.figure(scatter(names, points, (0, 1), chosen), "Pareto front")
        return html.section("pareto", "Pareto front", html.note(told), drawn)
    drawn = "".join(
        html.figure(scatter(names, points, pair, chosen, 260), f"{names[pair[1]]} over {names[pair[0]]}")
        for pair in combinations(range(len(names)), 2)
    )
    return html.section("pareto", "Pareto front", html.note(told), f'<div class="small">{drawn}</div>')


def _points(known: Pareto) -> list[Point]:
    found: list[Point] = []
    for trial in known.trials:
        values = [value for value in trial.values if value is not None]
        if len(values) == len(known.objectives):
            found.append((trial.number, values, trial.front))
    return found


def scatter(
    names: Sequence[str], points: Sequence[Point], pair: tuple[int, int], chosen: int | None = None, height: int = 380
) -> go.Figure:
    """Two objectives: every trial, those on the front in blue; with only two objectives the front is a step line."""
    x, y = pair
    figure = go.Figure()
    if len(names) == 2:
        front = sorted((values[0], values[1]) for _, values, on in points if on)
        figure.add_scatter(
            x=[value for value, _ in front],
            y=[value for _, value in front],
            mode="lines",
            name="front",
            showlegend=False,
            line={"color": ACCENT, "width": 2, "shape": step_shape(points)},
            hoverinfo="skip",
        )
    groups = (("other trials", False, FAINT), ("on the front", True, ACCENT))
    for name, on, colour in groups:
        some = [(number, values) for number, values, front in points if front is on]
        figure.add_scatter(
            x=[values[x] for _, values in some],
            y=[values[y] for _, values in some],
            mode="markers",
            name=name,
            marker={"color": colour, "size": 9 if on else 3 + 5 * crowd(len(points))},
            hovertext=[_hover_text(names, number, values) for number, values in some],
            hoverinfo="text",
        )
    own = [values for number, values, _ in points if number == chosen]
    if own:
        figure.add_scatter(
            x=[own[0][x]],
            y=[own[0][y]],
            mode="markers",
            name="recommended",
            marker={"symbol": "diamond-open", "size": 17, "color": MUTED, "line": {"width": 2.5}},
            hoverinfo="skip",
        )
    layout(figure, height, showlegend=len(names) == 2)
    figure.update_xaxes(title_text=escape(names[x]), nticks=6)
    return figure.update_yaxes(title_text=escape(names[y]), nticks=6)


def _hover_text(names: Sequence[str], number: int, values: Sequence[float]) -> str:
    lines = [f"{escape(name)} {text.number(value)}" for name, value in zip(names, values, strict=True)]
    return "<br>".join([f"<b>trial {number}</b>", *lines])


def step_shape(points: Sequence[Point]) -> str:
    """`hv` or `vh`: how the front's line turns, from the directions under which most trials are rightly on it or off."""

    def agreement(signs: tuple[int, int]) -> int:
        values = [(signs[0] * v[0], signs[1] * v[1]) for _, v, _ in points]
        beaten = [any(a >= x and b >= y and (a, b) != (x, y) for a, b in values) for x, y in values]
        return sum(front is not lost for (_, _, front), lost in zip(points, beaten, strict=True))

    directions = max(((a, b) for a, b in product((1, -1), repeat=2)), key=agreement)  # 1: the larger, the better
    return "vh" if directions[0] > 0 else "hv"
