"""What a search prints at its end: the recommendation, how sure, and the commands that show more."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from search.cluster.nodes import bootstrap_file, from_home
from search.report import text
from search.report.model import Report
from search.report.verdict import INDENT, Verdict
from search.tracking.shared_view import comparison_link
from search.tracking.tracker import MlflowTracker


def say_results(
    report: Report, output: Path, tracker: MlflowTracker, search_id: str, say: Callable[[str], None]
) -> None:
    """Says the verdict and the recommended values, then the commands."""
    say("")
    for label, line in Verdict.of(report).wrapped(shutil.get_terminal_size((100, 24)).columns).items():
        say(line)
        if label == "recommended":
            for value in values(report):
                say(" " * INDENT + value)
    say("")
    python = command("python")
    say(f"report     {python} -m webbrowser {shlex.quote(str(output / 'report.html'))}")
    say(f"condense   {python} -m condense run {shlex.quote(str(output / 'best.yaml'))} --output DIR")
    served = tracker.where.startswith("http")
    if not served:
        uri = shlex.quote(tracker.where)
        say(f"MLflow UI  {command('mlflow')} ui --backend-store-uri {uri}   and then open")
    base = tracker.where.rstrip("/") if served else "http://127.0.0.1:5000"
    say(f"{'MLflow UI' if served else '':<9}  {comparison_link(base, tracker.experiment_id, search_id, tracker.view)}")
    if bootstrap_file().exists():
        for line in from_home(output, served):
            say(line)


def values(report: Report) -> list[str]:
    """A line per recommended hyperparameter, with the range in which it is as good."""
    width = max(map(len, report.recommended))
    lines = []
    for name, value in report.recommended.items():
        good = "" if report.best_tried else f"   {text.good_range(report, name)}".rstrip()
        shown = "no effect" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
        lines.append(f"{name:<{width}}  {shown:<8}{good}".rstrip())
    if text.has_own_scaling(report):
        lines.append("in a loss scaling of its own: best.yaml has the whole setting")
    return lines


def command(name: str) -> str:
    """How a shell in the current folder finds a program of this environment, also where it is not activated."""
    own = Path(sys.executable).with_name(name)
    found = shutil.which(name)
    if (found is not None and Path(found).parent == own.parent) or not own.exists():
        return name
    return shlex.quote(str(own.relative_to(Path.cwd()) if own.is_relative_to(Path.cwd()) else own))
