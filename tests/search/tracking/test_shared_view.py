"""The prepared page of MLflow's UI: what it holds, that it fits into a tag, and that the installed UI knows its words."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from condense.config.models import Hyperparameters
from search.tracking.shared_view import LONGEST, TAG, comparison_link, log10_of, shared_view

SEARCHED = {"lambda_cross": True, "lambda_joint": True, "frequency_scale": True, "optimizer": False}


def test_what_it_shows() -> None:
    view = shared_view("abc" * 10, SEARCHED, "accuracy", [""])
    name, text = view.tag or ("", "")
    assert name == TAG + view.key
    state = json.loads(text)
    assert state["searchFilter"].startswith(f"tags.search_id = '{'abc' * 10}'")
    parallel, contour, score, loss = state["compareRunCharts"]
    assert parallel["selectedMetrics"] == ["log10/lambda_cross", "log10/lambda_joint", "log10/frequency_scale", "score"]
    assert parallel["selectedParams"] == ["optimizer"]
    assert [contour[axis]["key"] for axis in ("xaxis", "yaxis", "zaxis")] == [
        "log10/lambda_cross",
        "log10/lambda_joint",
        "score",
    ]
    assert (score["metricKey"], loss["metricKey"]) == ("score", "loss")
    first, *others = state["compareRunSections"]
    assert first["display"] and not any(own["display"] for own in others)
    assert {"accuracy", "share"} <= {own["name"] for own in others}
    assert {card["metricSectionId"] for card in state["compareRunCharts"]} == {first["uuid"]}
    assert "params.`lambda_cross`" in state["selectedColumns"]


def test_a_single_hyperparameter_has_no_contour() -> None:
    view = shared_view("abc", {"learning_rate": True}, "retrieval", ["task_0", "task_1"])
    assert [card["type"] for card in view.state["compareRunCharts"]] == ["PARALLEL", "LINE", "LINE"]
    sections = {own["name"] for own in view.state["compareRunSections"]}
    assert {"retrieval/task_0", "share/task_1"} <= sections


@given(st.integers(0, 40))
def test_a_tag_is_never_too_long(folds: int) -> None:
    everything = dict.fromkeys(Hyperparameters.model_fields, True)
    view = shared_view("0" * 32, everything, "accuracy", [f"task_{i}/fold_{i}" for i in range(folds)])
    assert view.tag is None or len(view.tag[1]) <= LONGEST
    few = shared_view(
        "0" * 32, dict(list(everything.items())[:12]), "accuracy", [f"fold_{i}" for i in range(min(folds, 5))]
    )
    assert few.tag is not None


def test_logarithms_of_what_is_positive() -> None:
    params = {"lambda_cross": 100.0, "lambda_joint": 0.0, "optimizer": "sgd", "momentum": None}
    assert log10_of(params, params) == {"log10/lambda_cross": pytest.approx(2)}


def test_links() -> None:
    link = comparison_link("http://127.0.0.1:5000", "3", "abc", "search-abc")
    assert "/#/experiments/3/runs?" in link
    query = parse_qs(urlsplit(link.replace("/#", "")).query)
    assert query == {"viewStateShareKey": ["search-abc"], "compareRunsMode": ["CHART"]}
    assert "searchFilter=tags.search_id%20%3D%20%27abc%27" in comparison_link("http://x", "3", "abc")


def test_the_installed_ui_knows_these_words() -> None:
    """No public interface: a new MLflow may call them differently, and this test then says so."""
    spec = importlib.util.find_spec("mlflow")
    assert spec is not None and spec.origin is not None
    scripts = Path(spec.origin).parent / "server" / "js" / "build" / "static" / "js"
    view = shared_view("abc", SEARCHED, "accuracy", [""])
    words = {"viewStateShareKey", TAG, "SHOW_ALL", *view.state}
    words |= {key for card in view.state["compareRunCharts"] for key in (*card, card["type"])}
    everywhere = "".join(path.read_text(encoding="utf-8") for path in scripts.glob("*.js"))
    assert sorted(word for word in words if word not in everywhere) == []
