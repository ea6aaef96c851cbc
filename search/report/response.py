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
    crowd,
    escape,
    is_log,
    layout,
    marks,
    pointed,
    short,
)
from search.report.model import Report, ResponsePair
from search.report.trials import Trial, comparable, drawn, varied

VEIL = "30"  # opacity of a curve's band, as the last two digits of its colour
Curve = list[tuple[float, float, float, float]]  # (value, mean, low, high), by value


def section(report: Report, trials: Sequence[Trial]) -> str:
    """The section of responses; says so where nothing was varied."""
    names = varied(trials)
    drawn = [html.figure(response(trials, name, report), f"Score over {name}", title=name) for name in names]
    drawn = [figure for figure in drawn if figure]
    intro = (
        "Dots: trials, mean over seeds ± one standard deviation (open: pruned, so after fewer steps), which differ in all "
        "hyperparameters at once. "
    )
    marked, fixed_at = text.marked(report)[0], "as recommended"
    if report.best_tried is not None:
        fixed_at = f"as in {text.best_tried(report.best_tried.trial)}; what is kept lies outside of what was searched"
        intro += f"Dotted line and diamond: {marked}, and its score on fresh seeds; shaded: its robust range."
    elif text.has_own_scaling(report):
        intro += "The setting that is kept is left out, and the paper's default: they act in another loss scaling."
    else:
        intro += (
            "Dotted line and diamond: the recommended value and its score on fresh seeds; shaded: its robust range. "
        )
        intro += "The paper's default is left out: its weights act in another scaling."
    if any(curve(report, name) for name in names):
        intro = f"Curve: the model's mean and two of its standard deviations, all else {fixed_at}. {intro}"
    elif report.surrogate is not None and not report.surrogate.trusted:
        intro = f"No curve is drawn: {text.not_trusted(report.surrogate)}. {intro}"
    elif text.is_kept(report):
        intro = f"No curve is drawn: the setting that is kept lies outside of what was searched. {intro}"
    body = f'{html.note(intro)}<div class="small">{"".join(drawn)}</div>' if drawn else ""
    return html.section(
        "response",
        "Response to each hyperparameter",
        body,
        _maps(report, trials),
        missing="No hyperparameter was varied in a scored trial.",
    )


def curve(report: Report, name: str) -> Curve:
    """The model over one hyperparameter, without gaps; empty where there are not two points of it."""
    known = report.modelled.response.get(name)
    if known is None:
        return []
    whole = [
        (value, mean, low, high)
        for value, mean, low, high in zip(known.values, known.mean, known.low, known.high, strict=True)
        if value is not None and mean is not None and low is not None and high is not None
    ]
    return whole if len(whole) > 1 else []


def response(trials: Sequence[Trial], name: str, report: Report) -> go.Figure | None:
    """Score over one hyperparameter, bars of one std over seeds, the model's curve; the recommended value and its range."""
    points = [(trial, score) for trial, score in comparable(drawn(trials)) if trial.params.get(name) is not None]
    if not points:
        return None
    values = [trial.params[name] for trial, _ in points]
    numeric = all(text.finite(value) is not None for value in values)
    figure = go.Figure()
    line = curve(report, name) if numeric else []
    if line:
        _draw_curve(figure, line)
        values += [value for value, *_ in line]
    log = numeric and is_log(values)
    for status, colour in (("pruned", FAINT), ("completed", MUTED)):
        some = [(trial, score) for trial, score in points if trial.status == status]
        if some:
            figure.add_scatter(
                x=[trial.params[name] if numeric else escape(trial.params[name]) for trial, _ in some],
                y=[score if trial.score_mean is None else trial.score_mean for trial, score in some],
                mode="markers",
                name=status,
                marker=marks(status, colour, len(points)),
                error_y={
                    "array": [trial.score_std or 0.0 for trial, _ in some],
                    "color": colour,
                    "thickness": crowd(len(points)),
                    "width": 0,
                },
                **pointed([trial.number for trial, _ in some]),
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
    value = text.finite(text.marked(report)[1].get(name))
    axis = _axis([*values, *([value] if value is not None else [])], log)
    return figure.update_xaxes(**axis)


def _draw_curve(figure: go.Figure, line: Curve) -> None:
    values, mean, low, high = map(list, zip(*line, strict=True))
    figure.add_scatter(
        x=[*values, *reversed(values)],
        y=[*high, *reversed(low)],
        mode="lines",
        name="band",
        fill="toself",
        fillcolor=ACCENT + VEIL,
        line={"width": 0, "color": ACCENT},
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=values,
        y=mean,
        mode="lines",
        name="model",
        line={"color": ACCENT, "width": 2.2},
        hovertemplate="model: %{y:.3f} at %{x:.3g}<extra></extra>",
    )


def _mark_recommended(figure: go.Figure, name: str, report: Report, log: bool) -> None:
    edges = report.modelled.robust_region.get(name, ())
    if edges and all(edge is not None and (edge > 0 or not log) for edge in edges):
        figure.add_vrect(x0=edges[0], x1=edges[1], fillcolor=BAND, line_width=0, layer="below")
    marked, values, confirmed = text.marked(report)
    value = text.finite(values.get(name))
    if value is None or (log and value <= 0):
        return
    figure.add_vline(x=value, line={"color": ACCENT, "width": 1.5, "dash": "dot"})
    if confirmed is not None and confirmed.mean is not None:
        figure.add_scatter(
            x=[value],
            y=[confirmed.mean],
            mode="markers",
            marker={"symbol": "diamond", "color": ACCENT, "size": 11, "line": {"color": PAGE, "width": 1.5}},
            error_y={"array": [confirmed.std or 0.0], "color": ACCENT, "thickness": 2, "width": 0},
            hovertemplate=f"{marked}, on fresh seeds {text.measured(confirmed)}<extra></extra>",
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


def score_range(trials: Sequence[Trial], report: Report) -> list[float]:
    """One range of scores for all responses, so that their slopes can be compared by eye."""
    lows, highs = [], []
    for trial, score in comparable(trials):
        middle, std = score if trial.score_mean is None else trial.score_mean, trial.score_std or 0.0
        lows.append(middle - std)
        highs.append(middle + std)
    for name in varied(trials):
        line = curve(report, name)
        lows += [mean for _, mean, _, _ in line]
        highs += [high for *_, high in line]
    low, high = min(lows, default=0.0), max(highs, default=1.0)
    pad = 0.05 * (high - low) or 0.05
    return [low - pad, high + pad]


def _maps(report: Report, trials: Sequence[Trial]) -> str:
    known = [grid for grid in report.modelled.response_pairs if None not in grid.xs and None not in grid.ys]
    shared = levels(known)
    drawn = "".join(
        html.figure(pair_map(grid, shared, report, trials), f"Modelled score over {grid.x} and {grid.y}")
        for grid in known
    )
    if not drawn:
        return ""
    others = "their recommended values" if report.best_tried is None else "those of the best setting tried"
    told = (
        f"The model's mean score over two hyperparameters, the others at {others}: the darker, the better, with lines of equal "
        f"score. Dots: trials, whose other hyperparameters differ; diamond: {text.marked(report)[0]}."
    )
    return f'<h3>Two at a time</h3>{html.note(told)}<div class="small maps">{drawn}</div>'


def levels(grids: Sequence[ResponsePair]) -> dict[str, float]:
    """Contours at round scores, the same in all maps."""
    values = [value for grid in grids for row in grid.mean for value in row if value is not None]
    if not values:
        return {}
    marks = axes.ticks(min(values), max(values), log=False)
    step = (marks[1] - marks[0]) / 5 if len(marks) > 1 else 0.01
    return {"start": math.floor(min(values) / step) * step, "end": math.ceil(max(values) / step) * step, "size": step}


def pair_map(grid: ResponsePair, contours: Mapping[str, float], report: Report, trials: Sequence[Trial]) -> go.Figure:
    """Contours of the modelled score over two hyperparameters; trials as dots, the recommended setting as diamond."""
    figure = go.Figure()
    shades = [PALETTE[role][0] for role in ("panel", "band", "shade_2", "shade_3")]
    figure.add_contour(
        x=grid.xs,
        y=grid.ys,
        z=grid.mean,
        colorscale=[[i / (len(shades) - 1), shade] for i, shade in enumerate(shades)],
        contours={**contours, "showlabels": True, "labelfont": {"size": 10, "color": INK}, "labelformat": ".3~g"},
        line={"width": 0.8, "color": LINE},
        showscale=False,
        hovertemplate=f"{escape(grid.x)} %{{x:.3g}}<br>{escape(grid.y)} %{{y:.3g}}<br>model %{{z:.3f}}<extra></extra>",
    )
    sides = {
        axis: (name, [value for value in values if value is not None])
        for axis, name, values in (("x", grid.x, grid.xs), ("y", grid.y, grid.ys))
    }
    logs = {axis: is_log(values) for axis, (_, values) in sides.items()}
    inside = []
    for trial, _ in comparable(drawn(trials)):
        at = [text.finite(trial.params.get(name)) for name, _ in sides.values()]
        if all(value is not None and (value > 0 or not logs[axis]) for value, axis in zip(at, sides)):
            inside.append((trial, at))
    figure.add_scatter(
        x=[at[0] for _, at in inside],
        y=[at[1] for _, at in inside],
        mode="markers",
        name="trials",
        marker={"color": MUTED, "size": 2 + 4 * crowd(len(inside)), "line": {"color": PAGE, "width": 1}},
        **pointed([trial.number for trial, _ in inside]),
    )
    marked, own, _ = text.marked(report)
    chosen = [text.finite(own.get(name)) for name, _ in sides.values()]
    if None not in chosen:
        figure.add_scatter(
            x=[chosen[0]],
            y=[chosen[1]],
            mode="markers",
            name=marked,
            marker={"symbol": "diamond", "color": ACCENT, "size": 13, "line": {"color": PAGE, "width": 2}},
            hovertemplate=f"{marked}<extra></extra>",
        )
    layout(figure, 300, showlegend=False, margin={"l": 8, "r": 18, "t": 10, "b": 8})
    for axis, update in (("x", figure.update_xaxes), ("y", figure.update_yaxes)):
        name, values = sides[axis]
        shape = _axis(values, logs[axis])
        edges = [math.log10(value) if logs[axis] else value for value in values]
        update(**{**shape, "range": [min(edges), max(edges)]}, title_text=escape(name), showgrid=False, ticks="")
    return figure
