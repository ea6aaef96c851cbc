"""report.html: one file that answers "which lambdas should I use?", offline, on a phone, in a talk and in print.

What is drawn: `model.py` (report.json) and `trials.py`. A module per section: `confirmation.py` (what to use, test),
`robustness.py`, `response.py`, `parallel.py`, `importance.py`, `pareto.py`, `tasks.py`, `failure_signatures.py`, `gallery.py`;
the verdict: `verdict.py`, and what stands behind it: `grounds.py`; the look of figures: `figures.py`; blocks of HTML: `html.py`;
tables: `tables.py`; words and numbers: `text.py`; style and script: `template.html`. What a search has not produced (no robust
range, several tasks, ...) is said, or its section left out. Labels, errors and names are a user's data: whatever reaches the
page is escaped.
"""

from __future__ import annotations

import base64
import functools
import gzip
import json
import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from plotly.offline import get_plotlyjs

from search.report import (
    confirmation,
    ended,
    failure_signatures,
    figures,
    html,
    importance,
    links,
    pareto,
    response,
    robustness,
    tasks,
    text,
)
from search.report.gallery import gallery_cards
from search.report.model import Report
from search.report.parallel import parallel
from search.report.tables import listed, trials_table
from search.report.trials import BEST, Trial, drawn

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


def write_html(output: Path, report: Report, trials: Sequence[Trial], gallery: list[dict[str, Any]]) -> Path:
    """Write `output`/report.html, replaced in one step, and return its path.

    `gallery`: {`label`, `index`, `items` {modality: {`png`: bytes, `wav`: bytes, `txt`: str}}} and, where known,
    `start` like `items`: what the synthetic item started from, and `steps` [{`step`, `items`}]: its way from there.
    Raises OSError if the file cannot be written.
    """
    signatures = failure_signatures.of_trials(report)
    sections = [
        confirmation.what_to_use(report, trials),
        robustness.section(report),
        confirmation.on_test(report),
        response.section(report, trials),
        _parallel(report, trials),
        importance.section(report),
        importance.ablation_section(report),
        pareto.section(report),
        tasks.section(report),
        html.section(
            "gallery",
            "Synthetic items",
            gallery_cards(gallery, report.tasks[0].name if len(report.tasks) > 1 else ""),
            missing="No synthetic items were exported.",
        ),
        _history(report, trials),
        failure_signatures.section(report, {trial.number for trial in listed(trials)}),
        html.section("trials", "All trials", trials_table(trials, signatures), missing="No trial has ended yet."),
        _provenance(report),
    ]
    body = "\n".join([_header(report, sections), "<main>", *filter(None, sections), "</main>"])
    return write_page(output, f"{report.name}: report", body, any(item.get("start") for item in gallery), trials)


def write_page(output: Path, title: str, body: str, pairs: bool = False, trials: Sequence[Trial] = ()) -> Path:
    """Write `output`/report.html around `body` (HTML), replaced in one step. `pairs`: items are shown with their start. `trials`:
    what its figures draw."""
    palette = figures.PALETTE
    light, dark = (" ".join(f"--{role}: {both[i]};" for role, both in palette.items()) for i in (0, 1))
    template = resources.files("search.report").joinpath("template.html").read_text(encoding="utf-8")
    page = Template(template).substitute(
        title=escape(title),
        body=body,
        light=light,
        dark=dark,
        font=figures.FONT,
        card="188px" if pairs else "168px",
        card_phone="150px",
        swap=html.script(json.dumps({both[0]: both[1] for both in palette.values()})),
        said=html.script(json.dumps({t.number: figures.hover(t).replace("<br>", "\n") for t in drawn(trials)})),
        plotly=_plotly(),
    )
    output.mkdir(parents=True, exist_ok=True)
    path = output / "report.html"
    unfinished = output / "report.html.unfinished"
    unfinished.write_text(page, encoding="utf-8")
    os.replace(unfinished, path)
    return path


@functools.cache
def _plotly() -> str:
    """Plotly's script, gzipped (4.8 MB otherwise), in base64. The page unpacks it, which browsers can since 2023."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def _header(report: Report, sections: Sequence[str]) -> str:
    counts = report.trials
    known = {"completed": counts.completed, "pruned": counts.pruned, "failed": counts.failed}
    told = ", ".join(f"{count} {status}" for status, count in known.items() if count)
    kind = f"Hyperparameter search for dataset condensation · {text.count(counts.total, 'trial')}"
    present = [match.group(1) for match in (re.match(r'<section id="(\w+)"', part) for part in sections) if match]
    menu = "".join(f'<a href="#{key}">{escape(MENU[key])}</a>' for key in present)
    return (
        f'<header><p class="kind">{escape(kind)}{escape(f" ({told})" if told else "")}</p>'
        f"<h1>{escape(report.name)}</h1><nav>{menu}</nav>"
        '<p class="missing" id="broken" role="alert"></p>'
        '<noscript><p class="missing">The figures need JavaScript; the text and tables do not.</p></noscript></header>'
    )


def _history(report: Report, trials: Sequence[Trial]) -> str:
    first = html.figure(
        figures.history(trials),
        "Score of each trial over trial number",
        f"{text.robust_rule(report)} A pruned trial shows the score at which it was stopped, after fewer steps."
        f"{_which(trials)}",
    )
    told, raced = "The same trials over their steps.", text.racing(report.racing)
    if raced:
        told += f" Beyond {text.number(report.space.steps)} steps: the same trial on more seeds."
    second = html.figure(figures.progress(trials), "Score over steps within each trial", told)
    told_end = ended.told(report.ended, report.trials.total, report.space.trials)
    lead = html.note(" ".join(filter(None, [told_end, raced]))) if first else ""
    return html.section("history", "How the search went", lead, first, second, missing="No trial has ended yet.")


def _parallel(report: Report, trials: Sequence[Trial]) -> str:
    diamonds = "; diamonds: the recommended setting" if text.comparable(report) else ""
    figure = html.figure(
        parallel(trials, text.comparable(report)),
        "Parallel coordinates of all trials",
        f"A line is a trial, from its hyperparameters down to its score{diamonds}. Point at or tap one to bring it forward.",
    )
    return html.section(
        "parallel", "Parallel coordinates", figure, missing="No hyperparameter was varied in a scored trial."
    )


def _which(trials: Sequence[Trial]) -> str:
    """A sentence on those that figures show, where these are not all."""
    shown = len(drawn(trials))
    if shown == len(trials):
        return ""
    return f" Figures show {shown:,} of {len(trials):,} trials: the best {BEST}, and evenly many of the others."


def _provenance(report: Report) -> str:
    cost, mlflow = report.cost, report.mlflow
    facts = {
        "name": report.name,
        "search": report.search_id,
        "created": f"{datetime.fromtimestamp(report.created, UTC):%Y-%m-%d %H:%M} UTC",
        "seeds": "; ".join(f"{use} {', '.join(map(str, seeds))}" for use, seeds in report.seeds),
        "time": text.duration(cost.seconds),
        "replica-steps": text.number(cost.replica_steps),
        "replica-steps per second": text.number(cost.replica_steps_per_second),
        "MLflow tracking": links.safe_uri(mlflow.tracking_uri),
        "MLflow experiment": mlflow.experiment,
        "MLflow run": mlflow.run_id,
        "versions": "; ".join(f"{library} {version}" for library, version in report.versions.items()),
    }
    told = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in facts.items() if value)
    command = links.mlflow_command(mlflow.tracking_uri)
    compare = f"<h3>Compare the trials in MLflow</h3><pre><code>{escape(command)}</code></pre>" if command else ""
    space = escape(json.dumps(report.space.model_dump(mode="json"), indent=2, ensure_ascii=False))
    return html.section(
        "provenance",
        "Where this comes from",
        f'<dl class="facts">{told}</dl>',
        compare,
        f"<details><summary>search space</summary><pre><code>{space}</code></pre></details>",
    )
