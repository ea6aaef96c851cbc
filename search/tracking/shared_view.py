"""The page of MLflow's UI that compares a search's trials: charts, columns and order, prepared.

MLflow keeps a shared view as JSON in a tag of the experiment; the parameter `viewStateShareKey` of a page's address names it
(MLflow 3: the UI's "Share" button does the same). A server that knows none of it shows the page as it is without one.

Charts in MLflow have linear axes, and lambdas vary over decades: of each hyperparameter that is searched on a log scale, trials
log the decimal logarithm as the metric `log10/NAME`, which the charts use.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from search.space.model import Space
from search.space.plan import Plan

TAG = "mlflow.sharedViewState."
LONGEST = 5000  # characters of a tag of an experiment
LOG10 = "log10/"
COLLAPSED = (
    "Model metrics",
    "loss",
    "diagnostics",
    "diagnostics/alone",
    "diagnostics/gradient_share",
    "signature",
    "log10",
)


@dataclass(frozen=True)
class SharedView:
    """What a link shows.

    Attributes:
        key: its name among those of the experiment.
        state: what MLflow's UI takes up from it.
        log_scaled: hyperparameters of which trials log the decimal logarithm, too.
    """

    key: str
    state: Mapping[str, Any]
    log_scaled: frozenset[str] = frozenset()

    @property
    def tag(self) -> tuple[str, str] | None:
        """Name and value of the experiment's tag; None if it is too long for one."""
        text = json.dumps(self.state, separators=(",", ":"))
        return (TAG + self.key, text) if len(text) <= LONGEST else None


def view_of(space: Space, plan: Plan, search_id: str) -> SharedView:
    """The view of a search's trials."""
    searched = {name: dimension.choices is None and dimension.log for name, dimension in space.search.items()}
    always = [name for name, dimension in space.search.items() if dimension.when is None]
    return shared_view(search_id, searched, plan.judged[0], plan.places, always)


def shared_view(
    search_id: str,
    searched: Mapping[str, bool],
    metric: str,
    places: Iterable[str],
    always: Sequence[str] | None = None,
) -> SharedView:
    """Parallel coordinates of the searched hyperparameters by score, the score over two of them, and curves of score and loss.

    `searched`: hyperparameter -> whether it is searched on a log scale. `metric`: what scores are made of. `places`: how metrics
    name tasks and folds (`Plan.places`), whose curves are put away. `always`: those of `searched` that all trials have, by
    default all of them: MLflow leaves a trial out of parallel coordinates that lacks one.
    """
    always = list(searched) if always is None else always
    logs = frozenset(name for name, log in searched.items() if log)
    axes = {name: _metric(LOG10 + name) if name in logs else {"key": name, "type": "PARAM"} for name in searched}
    charts = [_parallel(always, logs)]
    if len(pair := _pair({name: searched[name] for name in always})) == 2:
        charts.append(_card("CONTOUR", xaxis=axes[pair[0]], yaxis=axes[pair[1]], zaxis=_metric("score")))
    charts += [_line("score", "linear"), _line("loss", "log")]
    each = [f"{name}/{place}".rstrip("/") for name in (metric, "share") for place in places]
    state = {
        "searchFilter": trials_of(search_id),
        "orderByKey": "metrics.`score`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "ALL",
        "selectedColumns": [
            "metrics.`score`",
            *(f"params.`{name}`" for name in searched),
            f"metrics.`{metric}`",
            "attributes.`Duration`",
            "tags.`status`",
        ],
        "columnOrder": [],
        "runsHiddenMode": "SHOW_ALL",  # else ten of them
        "isAccordionReordered": True,  # else sections are sorted by name
        "compareRunSections": [
            {**_section("Search", display=True), "columns": 2, "cardHeight": 420},
            *(_section(name, display=False) for name in dict.fromkeys([*COLLAPSED, *each])),
        ],
        "compareRunCharts": charts,
    }
    return SharedView(f"search-{search_id[:12]}", state, logs)


def log10_of(params: Mapping[str, Any], log_scaled: Iterable[str]) -> dict[str, float]:
    """`log10/NAME` -> decimal logarithm, of those that are positive."""
    known = {name: params.get(name) for name in log_scaled}
    return {
        LOG10 + name: math.log10(value) for name, value in known.items() if isinstance(value, int | float) and value > 0
    }


def trials_of(search_id: str) -> str:
    """MLflow's filter for the trials of a search."""
    return f"tags.search_id = '{search_id}' AND tags.trial_number LIKE '%'"


def comparison_link(base: str, experiment: str | None, search_id: str, view: str | None = None) -> str:
    """The page that shows a search's trials, best first, with their charts side by side. `view`: key of a `SharedView`."""
    query = {"viewStateShareKey": view, "compareRunsMode": "CHART"}
    if view is None:
        order = {"orderByKey": "metrics.`score`", "orderByAsc": "false"}
        query = {"searchFilter": trials_of(search_id), **order, "compareRunsMode": "CHART"}
    return f"{base}/#/experiments/{experiment}/runs?{urlencode(query, quote_via=quote)}"


def _pair(searched: Mapping[str, bool]) -> Sequence[str]:
    """The two hyperparameters whose interplay is drawn: lambdas of the terms between modalities, if they are searched."""
    wanted = ("lambda_cross", "lambda_joint", "lambda_uni", "frequency_scale")
    known = [name for name in wanted if name in searched]
    return [*known, *(name for name, log in searched.items() if log and name not in known)][:2]


def _parallel(names: Sequence[str], logs: Iterable[str]) -> dict[str, Any]:
    params = [name for name in names if name not in logs]
    metrics = [*(LOG10 + name for name in names if name in logs), "score"]
    return _card("PARALLEL", selectedParams=params, selectedMetrics=metrics, showAllRuns=True)


def _line(metric: str, scale: str) -> dict[str, Any]:
    return _card("LINE", metric, metricKey=metric, selectedMetricKeys=[metric], xAxisKey="step", scaleType=scale)


def _card(kind: str, name: str = "", **more: Any) -> dict[str, Any]:
    uuid = f"{kind.lower()}-{name}".rstrip("-")
    own = {"uuid": uuid, "type": kind, "metricSectionId": "Search", "deleted": False, "isGenerated": False}
    return {**own, "runsCountToCompare": 100, **more}


def _section(name: str, display: bool) -> dict[str, Any]:
    return {"uuid": name, "name": name, "display": display, "isReordered": True}


def _metric(key: str) -> dict[str, str]:
    return {"key": key, "type": "METRIC"}
