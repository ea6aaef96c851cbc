"""report.html: one file that answers "which lambdas should I use?", offline, on a phone, in a talk and in print.

A module per section: `confirmation.py` (what to use, test), `robustness.py`, `response.py`, `parallel.py`, `importance.py`,
`pareto.py`, `tasks.py`, `failure_signatures.py`, `gallery.py`; the look of figures: `figures.py`; blocks of HTML: `html.py`;
tables: `tables.py`; words and numbers: `text.py`; style and script: `template.html`. What a search has not produced (no
confirmation yet, no robust range, ...) is said, or its section left out. Labels, errors and names are a user's data: whatever
reaches the page is escaped.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from plotly.offline import get_plotlyjs

from search.report import (
    confirmation,
    failure_signatures,
    figures,
    html,
    importance,
    links,
    pareto,
    response,
    robustness,
    text,
)
from search.report import tasks as task_sections
from search.report.figures import Trial
from search.report.gallery import gallery_cards
from search.report.parallel import parallel
from search.report.tables import trials_table

MENU = {  # section: its name in the menu, which is shorter than its title
    "use": "What to use",
    "robustness": "How far one may stray",
    "test": "Test",
    "response": "Response",
    "parallel": "Parallel coordinates",
    "importance": "Importance",
    "ablation": "Loss terms",
    "pareto": "Pareto front",
    "tasks": "Tasks",
    "gallery": "Gallery",
    "history": "History",
    "signatures": "Failure signatures",
    "trials": "Trials",
    "provenance": "Provenance",
}


def write_html(
    output: Path, report: dict[str, Any], trials: list[dict[str, Any]], gallery: list[dict[str, Any]]
) -> Path:
    """Write `output`/report.html, replaced in one step, and return its path.

    `report`: report.json, where any part may be missing or None.
    `trials`: {`number`, `name` (None, 'default' or 'paper_default'), `status` (completed, pruned or failed), `error`,
    `params` {hyperparameter: value}, `score`, `score_mean`, `score_std`, `steps`, `seconds`,
    `accuracies` (one per seed), `progress` [{`step`, `score`}]}.
    `gallery`: {`label`, `index`, `items` {modality: {`png`: bytes, `wav`: bytes, `txt`: str}}} and, where known,
    `start` like `items`: what the synthetic item started from, and `steps` [{`step`, `items`}]: its way from there.
    Raises OSError if the file cannot be written.
    """
    signatures = failure_signatures.of_trials(report)
    sections = [
        confirmation.what_to_use(report, trials),
        robustness.section(report, trials),
        confirmation.on_test(report),
        response.section(report, trials),
        _parallel(report, trials),
        importance.section(report),
        importance.ablation_section(report),
        pareto.section(report),
        task_sections.section(report),
        html.section(
            "gallery",
            "Synthetic items",
            gallery_cards(gallery, _first_task(report)),
            missing="No synthetic items were exported.",
        ),
        _history(report, trials),
        failure_signatures.section(report),
        html.section("trials", "All trials", trials_table(trials, signatures), missing="No trial has ended yet."),
        _provenance(report),
    ]
    body = "\n".join([_header(report, trials, sections), "<main>", *filter(None, sections), "</main>"])
    pairs = any(item.get("start") for item in gallery)
    palette = figures.PALETTE
    light, dark = (" ".join(f"--{role}: {both[i]};" for role, both in palette.items()) for i in (0, 1))
    template = resources.files("search.report").joinpath("template.html").read_text(encoding="utf-8")
    page = Template(template).substitute(
        title=escape(f"{report.get('name') or 'Search'}: report"),
        body=body,
        light=light,
        dark=dark,
        font=figures.FONT,
        card="188px" if pairs else "168px",
        card_phone="150px",
        swap=html.script(json.dumps({both[0]: both[1] for both in palette.values()})),
        plotly=get_plotlyjs(),
    )
    output.mkdir(parents=True, exist_ok=True)
    path = output / "report.html"
    unfinished = output / "report.html.unfinished"
    unfinished.write_text(page, encoding="utf-8")
    os.replace(unfinished, path)
    return path


def _counts(report: Mapping[str, Any], trials: Sequence[Trial]) -> dict[str, int]:
    given = report.get("trials")
    known = given if isinstance(given, Mapping) else {}
    return {
        status: int(known.get(status, sum(trial.get("status") == status for trial in trials)) or 0)
        for status in ("completed", "pruned", "failed")
    }


def _header(report: Mapping[str, Any], trials: Sequence[Trial], sections: Sequence[str]) -> str:
    counts = _counts(report, trials)
    told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    total = sum(counts.values())
    kind = f"Hyperparameter search for dataset condensation · {total:,} trial{'s' if total != 1 else ''}"
    present = [match.group(1) for match in (re.match(r'<section id="(\w+)"', part) for part in sections) if match]
    menu = "".join(f'<a href="#{key}">{escape(MENU[key])}</a>' for key in present)
    return (
        f'<header><p class="kind">{escape(kind)}{escape(f" ({told})" if told else "")}</p>'
        f"<h1>{escape(str(report.get('name') or 'Search'))}</h1><nav>{menu}</nav>"
        '<p class="missing" id="broken" role="alert"></p>'
        '<noscript><p class="missing">The figures need JavaScript; the text and tables do not.</p></noscript></header>'
    )


def _progress_told(report: Mapping[str, Any]) -> str:
    told = "The same trials over their steps."
    space = report.get("space")
    steps = text.finite(space.get("steps")) if isinstance(space, Mapping) else None
    if steps is not None and text.racing(report.get("racing")):
        told += f" Beyond {text.number(steps)} steps: the same trial on more seeds."
    return told


def _first_task(report: Mapping[str, Any]) -> str:
    """The name of the task that the gallery is of; empty where there is only one."""
    tasks = report.get("tasks") or []
    return task_sections.name_of(tasks[0], 0) if len(tasks) > 1 else ""


def _history(report: Mapping[str, Any], trials: Sequence[Trial]) -> str:
    first = html.figure(
        figures.history(trials),
        "Score of each trial over trial number",
        f"{text.robust_rule(report)} A pruned trial shows the score at which it was stopped, after fewer steps.",
    )
    second = html.figure(figures.progress(trials), "Score over steps within each trial", _progress_told(report))
    raced = html.note(text.racing(report.get("racing"))) if first else ""
    return html.section("history", "How the search went", raced, first, second, missing="No trial has ended yet.")


def _parallel(report: Mapping[str, Any], trials: Sequence[Trial]) -> str:
    figure = html.figure(
        parallel(trials, report.get("recommended")),
        "Parallel coordinates of all trials",
        "A line is a trial, from its hyperparameters down to its score; diamonds: the recommended setting. "
        "Point at or tap one to bring it forward.",
    )
    return html.section(
        "parallel", "Parallel coordinates", figure, missing="No hyperparameter was varied in a scored trial."
    )


def _provenance(report: Mapping[str, Any]) -> str:
    mlflow = report.get("mlflow") or {}
    cost = report.get("cost") or {}
    space = report.get("space")
    facts: dict[str, Any] = {
        "name": report.get("name"),
        "search": report.get("search_id"),
        "created": _date(report.get("created")),
        "space": space if isinstance(space, str) else None,
        "seeds": _listed(report.get("seeds")),
        "time": text.duration(cost["seconds"]) if cost.get("seconds") is not None else None,
        "replica-steps": text.number(cost["replica_steps"]) if cost.get("replica_steps") is not None else None,
        "replica-steps per second": text.number(cost.get("replica_steps_per_second"))
        if cost.get("replica_steps_per_second") is not None
        else None,
        "MLflow tracking": links.safe_uri(mlflow.get("tracking_uri")),
        "MLflow experiment": mlflow.get("experiment"),
        "MLflow run": mlflow.get("run_id"),
        "versions": _listed(report.get("versions")),
    }
    told = "".join(f"<dt>{escape(key)}</dt><dd>{escape(str(value))}</dd>" for key, value in facts.items() if value)
    command = links.mlflow_command(mlflow.get("tracking_uri"))
    parts = [f'<dl class="facts">{told}</dl>' if told else ""]
    if command:
        parts.append(f"<h3>Compare the trials in MLflow</h3><pre><code>{escape(command)}</code></pre>")
    if isinstance(space, Mapping):
        shown = escape(json.dumps(space, indent=2, default=str, ensure_ascii=False))
        parts.append(f"<details><summary>search space</summary><pre><code>{shown}</code></pre></details>")
    return html.section("provenance", "Where this comes from", *parts, missing="Nothing is known about this search.")


def _date(seconds: Any) -> Any:
    """Of seconds since 1970, in UTC; anything else as it is."""
    known = text.finite(seconds)
    return seconds if known is None else f"{datetime.fromtimestamp(known, UTC):%Y-%m-%d %H:%M} UTC"


def _listed(value: Any) -> str:
    """`0, 1, 2` or `torch 2.9, ray 2.52`."""
    if isinstance(value, Mapping):
        return "; ".join(f"{key} {_listed(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value)
    return "" if value is None else str(value)
