"""report.html of a search that goes on: its trials so far, and that nothing is confirmed yet."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from search.report import figures, html, text
from search.report.page import MENU, write_page
from search.report.parallel import parallel
from search.report.tables import trials_table
from search.report.trials import Trial, comparable
from search.space.model import Space


def write_running_html(output: Path, space: Space, trials: Sequence[Trial], running: int, at: float) -> Path:
    """Write `output`/report.html, replaced in one step. `trials`: those that have ended. `running`: how many are under way. `at`:
    unix time. Raises OSError if the file cannot be written."""
    sections = [
        html.section(
            "history",
            "How the search goes",
            html.figure(figures.history(trials), "Score of each trial over trial number"),
            html.figure(
                figures.progress(trials), "Score over steps within each trial", "The same trials over their steps."
            ),
        ),
        html.section(
            "parallel", MENU["parallel"], html.figure(parallel(trials, {}), "Parallel coordinates of all trials")
        ),
        html.section("trials", "Trials that have ended", trials_table(trials, {})),
    ]
    menu = "".join(f'<a href="#{key}">{escape(MENU[key])}</a>' for key in ("history", "parallel", "trials"))
    header = (
        '<header><p class="kind">Hyperparameter search for dataset condensation</p>'
        f"<h1>{escape(space.name)}</h1><nav>{menu}</nav>"
        f'<p class="lead">{escape(goes_on(space, trials, running, at))}</p>'
        '<p class="missing" id="broken" role="alert"></p></header>'
    )
    body = "\n".join([header, "<main>", *filter(None, sections), "</main>"])
    return write_page(output, f"{space.name}: goes on", body)


def goes_on(space: Space, trials: Sequence[Trial], running: int, at: float) -> str:
    """What the page says first."""
    told = f"This search goes on: {len(trials):,} of at most {text.count(space.trials, 'trial')} have ended"
    told += f", {running} are under way ({datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC). "
    whole = comparable(trials, "completed")
    if whole:
        best, score = max(whole, key=lambda pair: pair[1])
        name = text.label(best.name) if best.name else f"trial {best.number}"
        told += f"The best so far is {name}, {text.score(score)}. "
    return (
        told
        + "Nothing is confirmed yet: the best of many trials is partly luck. The report at the end says what to use."
    )
