"""How the score answers to the hyperparameters: one at a time, with the model's curve, and two at a time as maps."""

from __future__ import annotations

import html as entities
import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from search.report import axes, html, text
from search.report.figures import (
    ACCENT,
    BAND,
    FAINT,
    INK,
    LINE,
    MUTED,
    PAGE,
    PALETTE,
    Trial,
    comparable,
    crowd,
    escape,
    hover,
    is_log,
    layout,
    marks,
    searched,
    short,
)

VEIL = "30"  # opacity of a curve's band, as the last two digits of its colour
Curve = dict[str, list[float]]


def section(report: Mapping[str, Any], trials: Sequence[Trial]) -> str:
    """The section of responses; says so where nothing was varied."""
    names = searched(trials)
    drawn = [html.figure(response(trials, name, report), f"Score over {name}", title=name) for name in names]
    drawn = [figure for figure in drawn if figure]
    intro = (
        "Dots: trials, mean over seeds ± one standard deviation (open: pruned, so after fewer steps), which differ in all "
        "hyperparameters at once. Dotted line and diamond: the recommended value and its score on fresh seeds; shaded: "
        "its robust range. The paper's default is left out: its weights act in another scaling."
    )
    if any(curve(report, name) for name in names):
        intro = f"Curve: the model's mean and two of its standard deviations, all else as recommended. {intro}"
    body = f'{html.note(intro)}<div class="small">{"".join(drawn)}</div>' if drawn else ""
    return html.section(
        "response",
        "Response to each hyperparameter",
        body,
        _maps(report, trials),
        missing="No hyperparameter was varied in a scored trial.",
    )


def curve(report: Mapping[str, Any], name: str) -> Curve | None:
    """The model's `values`, `mean`, `low` and `high` over one hyperparameter, without gaps; None where unknown."""
    known = (report.get("response") or {}).get(name)
    if not isinstance(known, Mapping):
        return None
    keys = ("values", "mean", "low", "high")
    rows = zip(*(known.get(key) or known.get("mean") or [] for key in keys))
    whole = [row for row in (tuple(map(text.finite, row)) for row in rows) if None not in row]
    found = {key: [float(row[i] or 0.0) for row in whole] for i, key in enumerate(keys)}
    return found if len(whole) > 1 else None


def response(trials: Sequence[Trial], name: str, report: Mapping[str, Any]) -> go.Figure | None:
    """Score over one hyperparameter, bars of one std over seeds, the model's curve; the recommended value and its range."""
    points = [t for t in comparable(trials) if (t.get("params") or {}).get(name) is not None]
    if not points:
        return None
    values = [t["params"][name] for t in points]
    numeric = all(text.finite(value) is not None for value in values)
    figure = go.Figure()
    line = curve(report, name) if numeric else None
    if line:
        _draw_curve(figure, line)
        values += line["values"]
    log = numeric and is_log(values)
    for status, colour in (("pruned", FAINT), ("completed", MUTED)):
        some = [t for t in points if t.get("status") == status]
        if some:
            means = [t["score"] if text.finite(t.get("score_mean")) is None else t["score_mean"] for t in some]
            figure.add_scatter(
                x=[t["params"][name] if numeric else escape(t["params"][name]) for t in some],
                y=means,
                mode="markers",
                name=status,
                marker=marks(status, colour, len(points)),
                error_y={
                    "array": [text.finite(t.get("score_std")) or 0.0 for t in some],
                    "color": colour,
                    "thickness": crowd(len(points)),
                    "width": 0,
                },
                hovertext=[hover(t) for t in some],
                hoverinfo="text",
            )
    layout(figure, 220, showlegend=False, margin={"l": 8, "r": 8, "t": 6, "b": 8})
    figure.update_yaxes(range=score_range(trials, report), nticks=5)
    figure.update_xaxes(showgrid=False)
    if not numeric:
        categories = sorted({escape(value) for value in values})
        return figure.update_xaxes(
            type="category",
            tickvals=categories,
            ticktext=[short(entities.unescape(c)) for c in categories],
            tickangle=0,
        )
    _mark_recommended(figure, name, report, log)
    value = text.finite((report.get("recommended") or {}).get(name))
    axis = _axis([*values, *([value] if value is not None else [])], log)
    return figure.update_xaxes(**axis)


def _draw_curve(figure: go.Figure, line: Curve) -> None:
    figure.add_scatter(
        x=[*line["values"], *reversed(line["values"])],
        y=[*line["high"], *reversed(line["low"])],
        mode="lines",
        name="band",
        fill="toself",
        fillcolor=ACCENT + VEIL,
        line={"width": 0, "color": ACCENT},
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=line["values"],
        y=line["mean"],
        mode="lines",
        name="model",
        line={"color": ACCENT, "width": 2.2},
        hovertemplate="model: %{y:.3f} at %{x:.3g}<extra></extra>",
    )


def _mark_recommended(figure: go.Figure, name: str, report: Mapping[str, Any], log: bool) -> None:
    region = (report.get("robust_region") or {}).get(name)
    edges = [text.finite(edge) for edge in region] if isinstance(region, list | tuple) else []
    if len(edges) == 2 and all(edge is not None and (edge > 0 or not log) for edge in edges):
        figure.add_vrect(x0=edges[0], x1=edges[1], fillcolor=BAND, line_width=0, layer="below")
    value = text.finite((report.get("recommended") or {}).get(name))
    if value is None or (log and value <= 0):
        return
    figure.add_vline(x=value, line={"color": ACCENT, "width": 1.5, "dash": "dot"})
    confirmed = text.measurement((report.get("confirmation") or {}).get("recommended"))
    if confirmed is not None:
        figure.add_scatter(
            x=[value],
            y=[confirmed[0]],
            mode="markers",
            marker={"symbol": "diamond", "color": ACCENT, "size": 11, "line": {"color": PAGE, "width": 1.5}},
            error_y={"array": [confirmed[1] or 0.0], "color": ACCENT, "thickness": 2, "width": 0},
            hovertemplate=f"recommended, on fresh seeds {text.spread(*confirmed[:2])}<extra></extra>",
        )


def _axis(values: Sequence[float], log: bool) -> dict[str, Any]:
    """Range and ticks of an axis that shows all `values`."""
    position = math.log10 if log else float
    shown = [value for value in values if not log or value > 0]
    low, high = position(min(shown)), position(max(shown))
    pad = 0.05 * (high - low) or 0.5
    ticks = axes.ticks(min(shown), max(shown), log)
    axis = {"range": [low - pad, high + pad], "tickvals": ticks, "ticktext": [text.number(tick) for tick in ticks]}
    return {**axis, "type": "log"} if log else axis


def score_range(trials: Sequence[Trial], report: Mapping[str, Any]) -> list[float]:
    """One range of scores for all responses, so that their slopes can be compared by eye."""
    lows, highs = [], []
    for trial in comparable(trials):
        mean, std = text.finite(trial.get("score_mean")), text.finite(trial.get("score_std")) or 0.0
        middle = float(trial["score"]) if mean is None else mean
        lows.append(middle - std)
        highs.append(middle + std)
    for name in searched(trials):
        line = curve(report, name)
        if line:
            lows.append(min(line["mean"]))
            highs.append(max(line["high"]))
    low, high = min(lows, default=0.0), max(highs, default=1.0)
    pad = 0.05 * (high - low) or 0.05
    return [low - pad, high + pad]


def _maps(report: Mapping[str, Any], trials: Sequence[Trial]) -> str:
    known = [grid for grid in map(_grid, report.get("response_pairs") or []) if grid]
    shared = levels(known)
    drawn = "".join(
        html.figure(
            pair_map(grid, shared, report, trials),
            f"Modelled score over {grid['x']} and {grid['y']}",
        )
        for grid in known
    )
    if not drawn:
        return ""
    told = (
        "The model's mean score over two hyperparameters, the others at their recommended values: the darker, the better, "
        "with lines of equal score. Dots: trials, whose other hyperparameters differ; diamond: recommended."
    )
    return f'<h3>Two at a time</h3>{html.note(told)}<div class="small maps">{drawn}</div>'


def _grid(entry: Any) -> dict[str, Any] | None:
    """A map with numbers on both axes and a row of means for each y; None where it is not whole."""
    if not isinstance(entry, Mapping):
        return None
    xs, ys = ([text.finite(value) for value in entry.get(key) or []] for key in ("xs", "ys"))
    mean = [[text.finite(value) for value in row or []] for row in entry.get("mean") or []]
    whole = len(xs) > 1 and len(ys) > 1 and len(mean) == len(ys) and all(len(row) == len(xs) for row in mean)
    if not whole or None in xs or None in ys:
        return None
    return {"x": str(entry.get("x")), "y": str(entry.get("y")), "xs": xs, "ys": ys, "mean": mean}


def levels(grids: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Contours at round scores, the same in all maps."""
    values = [value for grid in grids for row in grid["mean"] for value in row if value is not None]
    if not values:
        return {}
    marks = axes.ticks(min(values), max(values), log=False)
    step = (marks[1] - marks[0]) / 5 if len(marks) > 1 else 0.01
    return {"start": math.floor(min(values) / step) * step, "end": math.ceil(max(values) / step) * step, "size": step}


def pair_map(
    grid: Mapping[str, Any], contours: Mapping[str, float], report: Mapping[str, Any], trials: Sequence[Trial]
) -> go.Figure:
    """Contours of the modelled score over two hyperparameters; trials as dots, the recommended setting as diamond."""
    figure = go.Figure()
    shades = [PALETTE[role][0] for role in ("panel", "band", "shade_2", "shade_3")]
    figure.add_contour(
        x=grid["xs"],
        y=grid["ys"],
        z=grid["mean"],
        colorscale=[[i / (len(shades) - 1), shade] for i, shade in enumerate(shades)],
        contours={**contours, "showlabels": True, "labelfont": {"size": 10, "color": INK}, "labelformat": ".3~g"},
        line={"width": 0.8, "color": LINE},
        showscale=False,
        hovertemplate=f"{escape(grid['x'])} %{{x:.3g}}<br>{escape(grid['y'])} %{{y:.3g}}<br>model %{{z:.3f}}<extra></extra>",
    )
    logs = {axis: is_log(grid[f"{axis}s"]) for axis in "xy"}
    inside = []
    for trial in comparable(trials):
        at = [text.finite((trial.get("params") or {}).get(grid[axis])) for axis in "xy"]
        if all(value is not None and (value > 0 or not logs[axis]) for value, axis in zip(at, "xy")):
            inside.append((trial, at))
    figure.add_scatter(
        x=[at[0] for _, at in inside],
        y=[at[1] for _, at in inside],
        mode="markers",
        name="trials",
        marker={"color": MUTED, "size": 2 + 4 * crowd(len(inside)), "line": {"color": PAGE, "width": 1}},
        hovertext=[hover(trial) for trial, _ in inside],
        hoverinfo="text",
    )
    chosen = [text.finite((report.get("recommended") or {}).get(grid[axis])) for axis in "xy"]
    if None not in chosen:
        figure.add_scatter(
            x=[chosen[0]],
            y=[chosen[1]],
            mode="markers",
            name="recommended",
            marker={"symbol": "diamond", "color": ACCENT, "size": 13, "line": {"color": PAGE, "width": 2}},
            hovertemplate="recommended<extra></extra>",
        )
    layout(figure, 300, showlegend=False, margin={"l": 8, "r": 18, "t": 10, "b": 8})
    for axis, update in (("x", figure.update_xaxes), ("y", figure.update_yaxes)):
        shape = _axis(grid[f"{axis}s"], logs[axis])
        edges = [math.log10(value) if logs[axis] else value for value in grid[f"{axis}s"]]
        update(**{**shape, "range": [min(edges), max(edges)]}, title_text=escape(grid[axis]), showgrid=False, ticks="")
    return figure
