"""report.html: one file that answers "which lambdas should I use?", offline, on a phone, in a talk and in print.

Figures: `report_figures.py`, `report_parallel.py`. Tables and gallery: `report_tables.py`, `report_gallery.py`.
Words and numbers: `report_text.py`. Style and script: `report_template.html`. What a search has not produced (no
confirmation yet, no robust range, ...) is said, not skipped in silence. Labels, errors and names are a user's data:
whatever reaches the page is escaped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from search import report_figures as figures
from search import report_text as text
from search.report_figures import Trial
from search.report_gallery import gallery_cards
from search.report_parallel import parallel
from search.report_tables import breakable, settings_table, trials_table


def write_html(
    output: Path, report: dict[str, Any], trials: list[dict[str, Any]], gallery: list[dict[str, Any]]
) -> Path:
    """Write `output`/report.html, replaced in one step, and return its path.

    `report`: report.json, where any part may be missing or None.
    `trials`: {`number`, `name` (None, 'default' or 'paper_default'), `status` (completed, pruned or failed), `error`,
    `params` {hyperparameter: value}, `score`, `score_mean`, `score_std`, `steps`, `seconds`,
    `accuracies` (one per seed), `progress` [{`step`, `score`}]}.
    `gallery`: {`label`, `index`, `items` {modality: {`png`: bytes, `wav`: bytes, `txt`: str}}} and, where known,
    `start` like `items`: what the synthetic item started from.
    Raises OSError if the file cannot be written.
    """
    body = "\n".join(
        [
            _header(report, trials),
            "<main>",
            _what_to_use(report, trials),
            _test(report),
            _history(trials),
            _response(report, trials),
            _parallel(report, trials),
            _importance(report),
            _section("gallery", "Synthetic items", gallery_cards(gallery), missing="No synthetic items were exported."),
            _section("trials", "All trials", trials_table(trials), missing="No trial has ended yet."),
            _provenance(report),
            "</main>",
        ]
    )
    pairs = any(item.get("start") for item in gallery)
    light, dark = (" ".join(f"--{role}: {both[i]};" for role, both in figures.PALETTE.items()) for i in (0, 1))
    template = resources.files("search").joinpath("report_template.html").read_text(encoding="utf-8")
    page = Template(template).substitute(
        title=escape(f"{report.get('name') or 'Search'}: report"),
        body=body,
        light=light,
        dark=dark,
        font=figures.FONT,
        card="188px" if pairs else "168px",
        card_phone="150px",
        swap=_script(json.dumps({both[0]: both[1] for both in figures.PALETTE.values()})),
        plotly=get_plotlyjs(),
    )
    output.mkdir(parents=True, exist_ok=True)
    path = output / "report.html"
    unfinished = output / "report.html.unfinished"
    unfinished.write_text(page, encoding="utf-8")
    os.replace(unfinished, path)
    return path


def _script(code: str) -> str:
    """JSON that may stand inside a script element, whatever strings it holds."""
    return code.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _figure(figure: go.Figure | None, alternative: str, caption: str = "", title: str = "") -> str:
    """A figure and the data it is drawn from; nothing where there is no figure."""
    if figure is None:
        return ""
    note = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    head = f"<h3>{breakable(title)}</h3>" if title else ""
    return (
        f'<figure>{head}<div class="plot" role="img" aria-label="{escape(alternative)}" '
        f'style="height:{int(figure.layout.height)}px"></div>'
        f'<script type="application/json">{_script(str(figure.to_json()))}</script>{note}</figure>'
    )


def _section(key: str, title: str, *parts: str, missing: str = "") -> str:
    """A section; where all its parts are empty, the sentence that says why."""
    content = "\n".join(part for part in parts if part) or f'<p class="missing">{escape(missing)}</p>'
    return f'<section id="{key}"><h2>{escape(title)}</h2>\n{content}\n</section>'


def _counts(report: Mapping[str, Any], trials: Sequence[Trial]) -> dict[str, int]:
    given = report.get("trials")
    known = given if isinstance(given, Mapping) else {}
    return {
        status: int(known.get(status, sum(trial.get("status") == status for trial in trials)) or 0)
        for status in ("completed", "pruned", "failed")
    }


def _header(report: Mapping[str, Any], trials: Sequence[Trial]) -> str:
    counts = _counts(report, trials)
    told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    total = sum(counts.values())
    kind = f"Hyperparameter search for dataset condensation · {total:,} trial{'s' if total != 1 else ''}"
    links = {
        "use": "What to use",
        "test": f"Test {text.metric(report)}",
        "history": "History",
        "response": "Response",
        "parallel": "Parallel coordinates",
        "importance": "Importance",
        "gallery": "Gallery",
        "trials": "Trials",
        "provenance": "Provenance",
    }
    menu = "".join(f'<a href="#{key}">{title}</a>' for key, title in links.items())
    return (
        f'<header><p class="kind">{escape(kind)}{escape(f" ({told})" if told else "")}</p>'
        f"<h1>{escape(str(report.get('name') or 'Search'))}</h1><nav>{menu}</nav>"
        '<p class="missing" id="broken" role="alert"></p>'
        '<noscript><p class="missing">The figures need JavaScript; the text and tables do not.</p></noscript></header>'
    )


def _what_to_use(report: Mapping[str, Any], trials: Sequence[Trial]) -> str:
    chart = figures.confirmation(report)
    right = ""
    if chart is not None:
        caption = (
            f"Share of full-data {text.metric(report)}: mean ± one standard deviation over fresh seeds (thin marks), "
        )
        caption += "which the search has not seen."
        right = "<div><h3>Confirmed score</h3>" + _figure(chart, "Confirmed scores", caption) + "</div>"
    table = settings_table(report, trials)
    left = f"<div><h3>Recommended hyperparameters</h3>{table}</div>" if table else ""
    use = ""
    if table:
        use = "<h3>Use it</h3><pre><code>python -m condense run best.yaml --output my_condensed</code></pre>"
    columns = f'<div class="columns">{left}{right}</div>' if left and right else left + right
    lead = f'<p class="lead">{escape(text.verdict(report))}</p>'
    return _section("use", "What to use", lead, _tiles(report), columns, use)


def _tiles(report: Mapping[str, Any]) -> str:
    """The few figures of the verdict, large."""
    confirmation = report.get("confirmation") or {}
    recommended = text.measurement(confirmation.get("recommended"))
    if recommended is None or not report.get("recommended"):
        return ""
    mean, std, n = recommended
    seeds = "fresh seeds" if n is None else f"{n} fresh seed{'s' if n != 1 else ''}"
    around = f"± {text.score(std)} over {seeds}" if std is not None else f"over {seeds}"
    tiles = [f'<div class="first"><dt>confirmed score</dt><dd>{text.score(mean)}<small>{around}</small></dd></div>']
    for setting, entry in text.differences(confirmation).items():
        bounds = text.interval(entry)
        told = f"95 % interval [{text.score(bounds[0])}, {text.score(bounds[1])}]" if bounds else "no interval known"
        sign = "+" if entry["mean"] >= 0 else ""
        tiles.append(
            f"<div><dt>over the {escape(text.label(setting))}</dt>"
            f"<dd>{sign}{text.score(entry['mean'])}<small>{told}</small></dd></div>"
        )
    return f'<dl class="tiles">{"".join(tiles)}</dl>'


def _test(report: Mapping[str, Any]) -> str:
    told = text.verdict_on_test(report.get("test"), str(report.get("metric") or "accuracy"))
    lead = f'<p class="lead">{escape(told)}</p>' if told else ""
    caption = (
        "The test split was opened once, after the search. All but full data have the same number of items per class."
    )
    word = text.metric(report)
    figure = _figure(figures.scores_on_test(report.get("test"), word), f"Test {word} of the condensed set", caption)
    return _section("test", f"Test {word}", lead, figure, missing="The test split has not been opened yet.")


def _history(trials: Sequence[Trial]) -> str:
    first = _figure(
        figures.history(trials),
        "Score of each trial over trial number",
        "Robust score: mean minus k standard deviations over seeds, on validation data. A pruned trial shows the score "
        "at which it was stopped, after fewer steps.",
    )
    second = _figure(
        figures.progress(trials), "Score over steps within each trial", "The same trials over their steps."
    )
    return _section("history", "How the search went", first, second, missing="No trial has ended yet.")


def _response(report: Mapping[str, Any], trials: Sequence[Trial]) -> str:
    drawn = [
        _figure(figures.response(trials, name, report), f"Score over {name}", title=name)
        for name in figures.searched(trials)
    ]
    drawn = [figure for figure in drawn if figure]
    intro = (
        '<p class="note">Score (mean over seeds, bars: ± one standard deviation) over one hyperparameter at a time. '
        "Filled: completed; open: pruned, so after fewer steps. Blue line: recommended; diamond: its score on fresh "
        "seeds; shaded: its robust range. Without the paper's default, whose weights act in another scaling.</p>"
    )
    body = f'{intro}<div class="small">{"".join(drawn)}</div>' if drawn else ""
    return _section(
        "response", "Response to each hyperparameter", body, missing="No hyperparameter was varied in a scored trial."
    )


def _parallel(report: Mapping[str, Any], trials: Sequence[Trial]) -> str:
    figure = _figure(
        parallel(trials, report.get("recommended")),
        "Parallel coordinates of all trials",
        "A line is a trial, from its hyperparameters down to its score; diamonds: the recommended setting. "
        "Point at or tap one to bring it forward.",
    )
    return _section(
        "parallel", "Parallel coordinates", figure, missing="No hyperparameter was varied in a scored trial."
    )


def _importance(report: Mapping[str, Any]) -> str:
    caption = "Share of the score's variation over the searched ranges that each hyperparameter explains."
    figure = _figure(figures.importance(report.get("importance")), "Hyperparameter importance", caption)
    return _section("importance", "What mattered", figure, missing="No importance was estimated in this search.")


def _provenance(report: Mapping[str, Any]) -> str:
    mlflow = report.get("mlflow") or {}
    cost = report.get("cost") or {}
    space = report.get("space")
    facts: dict[str, Any] = {
        "name": report.get("name"),
        "search": report.get("search_id"),
        "created": report.get("created"),
        "space": space if isinstance(space, str) else None,
        "seeds": _listed(report.get("seeds")),
        "time": text.duration(cost["seconds"]) if cost.get("seconds") is not None else None,
        "replica-steps": text.number(cost["replica_steps"]) if cost.get("replica_steps") is not None else None,
        "replica-steps per second": text.number(cost.get("replica_steps_per_second"))
        if cost.get("replica_steps_per_second") is not None
        else None,
        "MLflow tracking": text.safe_uri(mlflow.get("tracking_uri")),
        "MLflow experiment": mlflow.get("experiment"),
        "MLflow run": mlflow.get("run_id"),
        "versions": _listed(report.get("versions")),
    }
    told = "".join(f"<dt>{escape(key)}</dt><dd>{escape(str(value))}</dd>" for key, value in facts.items() if value)
    command = text.mlflow_command(mlflow.get("tracking_uri"))
    parts = [f'<dl class="facts">{told}</dl>' if told else ""]
    if command:
        parts.append(f"<h3>Compare the trials in MLflow</h3><pre><code>{escape(command)}</code></pre>")
    if isinstance(space, Mapping):
        shown = escape(json.dumps(space, indent=2, default=str, ensure_ascii=False))
        parts.append(f"<details><summary>search space</summary><pre><code>{shown}</code></pre></details>")
    return _section("provenance", "Where this comes from", *parts, missing="Nothing is known about this search.")


def _listed(value: Any) -> str:
    """`0, 1, 2` or `torch 2.9, ray 2.52`."""
    if isinstance(value, Mapping):
        return "; ".join(f"{key} {_listed(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value)
    return "" if value is None else str(value)
