"""report.json as a model: what a search of an earlier version wrote, and what the tests of the page make up."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_search import fake_search
from pydantic import ValidationError
from report_page import Page

from search.ledger.ledger import Report as Reported
from search.ledger.ledger import TrialRecord
from search.report.model import Report
from search.report.page import write_html
from search.report.trials import Trial
from search.report.verdict import Verdict

EARLIER = Path(__file__).with_name("earlier_report.json")  # of a quickstart of 10 trials; longer lists are cut
NAMES = ("diagnostics", "differences", "versions", "fingerprints", "seeds", "test")  # keys in them depend on the search


def keys(content: Any, path: str = "") -> Iterator[str]:
    """`confirmation/recommended/mean`, ...: the paths to all leaves; an element of a list is `*`, as is a hyperparameter."""
    if isinstance(content, dict) and content:
        named = path.rpartition("/")[2] in NAMES or "lambda_cross" in content
        for key, value in content.items():
            yield from keys(value, f"{path}/{'*' if named else key}")
    elif isinstance(content, list) and content:
        for value in content:
            yield from keys(value, f"{path}/*")
    else:
        yield path


@pytest.fixture
def earlier(tmp_path: Path) -> dict[str, Any]:
    """The content of an earlier report.json, which lies in `tmp_path` as well."""
    (tmp_path / "report.json").write_bytes(EARLIER.read_bytes())
    return dict(json.loads(EARLIER.read_text()))


def test_a_report_of_an_earlier_version_is_read_and_written_as_it_was(earlier: dict[str, Any], tmp_path: Path) -> None:
    report = Report.load(tmp_path)
    assert report == Report.model_validate_json(EARLIER.read_text())
    written = report.as_json()
    assert written.keys() == earlier.keys()
    assert {k: v for k, v in written.items() if k != "space"} == {k: v for k, v in earlier.items() if k != "space"}
    for own, other in zip(written["space"].pop("tasks"), earlier["space"].pop("tasks"), strict=True):
        assert other.items() <= own.items()
    assert earlier["space"].pop("confirmation").items() <= written["space"].pop("confirmation").items()
    for name, dimension in earlier["space"].pop("search").items():
        assert dimension.items() <= written["space"]["search"][name].items()
    assert earlier["space"].items() <= written["space"].items()  # keys that were added since have their default
    assert report.confirmation.recommended.mean == earlier["confirmation"]["recommended"]["mean"]
    assert report.chosen is not None and report.chosen.label == "trial 6"
    assert report.space.search["frequency_scale"].high == 4.0


def test_a_report_of_an_earlier_version_is_drawn(earlier: dict[str, Any], tmp_path: Path) -> None:
    report = Report.load(tmp_path)
    params = [{name: value * (1 + n) for name, value in report.recommended.items()} for n in range(3)]  # type: ignore[operator]
    trials = [Trial(n, "completed", own, score=0.9 - n / 100, steps=60) for n, own in enumerate(params)]
    page = Page(write_html(tmp_path, report, trials, []))
    told = (
        "0.929 ± 0.002 of full-data accuracy on 20 fresh seeds; nine runs in ten",
        "0.005 [0.002, 0.007] below the paper's default; +0.020 [0.019, 0.023] over the project's default",
        "accuracy 0.891, 94.3 % of full data (0.945); 0.008 below the best baseline, MMD",
        "5 settings were compared on 20 fresh seeds of their own.",
    )
    for line in told:
        assert line in page.text
    assert page.source.count('class="missing"') == 3  # the two hidden lines, and that there are no synthetic items
    assert page.figures > 15


def test_what_the_tests_make_up_has_every_key_of_a_real_report(earlier: dict[str, Any]) -> None:
    made_up = set(keys(fake_search()[0].as_json()))
    real = set(keys(earlier)) - {"/transfer", "/racing", "/pareto", "/perturbation/best"}  # null, and made up
    real = {path.replace("/warnings/*", "/warnings") for path in real if not path.startswith("/space/")}
    assert real - made_up == set()


def test_a_key_that_is_not_known_is_refused(earlier: dict[str, Any]) -> None:
    earlier["confirmation"]["recommended"]["median"] = 0.9
    with pytest.raises(ValidationError, match="median"):
        Report.model_validate(earlier)


def test_what_is_not_finite_is_null(earlier: dict[str, Any]) -> None:
    earlier["confirmation"]["default"] |= {"mean": math.nan, "values": [0.9, math.inf]}
    earlier["confirmation"]["differences"]["default"] |= {"mean": math.nan, "ci95": [-math.inf, math.inf]}
    earlier["robust_region"]["lambda_cross"] = [math.nan, 1.0]
    written = Report.model_validate(earlier).as_json()
    json.dumps(written, allow_nan=False)
    assert written["confirmation"]["default"]["mean"] is None
    assert written["confirmation"]["default"]["values"] == [0.9, None]
    assert written["confirmation"]["differences"]["default"]["ci95"] == [None, None]
    assert written["robust_region"]["lambda_cross"] == [None, 1.0]


def test_hyperparameters_keep_their_type(earlier: dict[str, Any]) -> None:
    earlier["recommended"] = {"a": 1, "b": 1.0, "c": True, "d": "sgd", "e": None}
    written = json.dumps(Report.model_validate(earlier).as_json()["recommended"])
    assert written == json.dumps(earlier["recommended"])


def test_an_ablation_is_in_the_report_only_where_there_was_one(earlier: dict[str, Any]) -> None:
    assert "ablation" not in Report.model_validate(earlier).as_json()
    row = {"terms": "uni", "validation": {"mean": 0.9, "std": 0.1, "n": 3}, "difference": None}
    row["test"] = row["validation"]
    report = Report.model_validate(earlier | {"ablation": [row]})
    assert report.as_json()["ablation"] == [row]


def test_the_verdict_of_a_report_without_candidates_is_the_same(earlier: dict[str, Any]) -> None:
    """They came into the report later than the rest."""
    verdict = Verdict.of(Report.model_validate(earlier))
    del earlier["candidates"]
    assert Verdict.of(Report.model_validate(earlier)) == verdict


def test_a_trial_is_what_the_ledger_has_of_it() -> None:
    metrics = {
        "score": 0.8,
        "score_mean": 0.9,
        "score_std": 0.1,
        "accuracy/seed_0": 0.7,
        "retrieval/seed_0": 0.6,
        "loss": 3.0,
    }
    reports = (Reported(2, 1.0, 0.5, {"score": math.nan}), Reported(4, 2.0, 1.5, metrics))
    record = TrialRecord(3, "default", {"a": 1.0}, {"a": 1.0}, [0], 0.0, "completed", 4, math.nan, None, 1.0, reports)
    assert Trial.of(record) == Trial(
        3, "completed", {"a": 1.0}, "default", None, None, 0.9, 0.1, 4, record.seconds, [0.7, 0.6], [(4, 0.8)]
    )
