"""The report's page: one file, complete, escaped, and tolerant of what is missing."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_search import fake_content, fake_search
from report_page import Page

from search.report.gallery import MAX_CARDS, MAX_STAGES
from search.report.model import Report
from search.report.page import MENU, write_html
from search.report.trials import Trial

ALWAYS = [
    "use",
    "robustness",
    "test",
    "response",
    "parallel",
    "importance",
    "gallery",
    "history",
    "trials",
    "provenance",
]
REPORT, _, _ = fake_search(4)
HOSTILE = "</script><script>alert('x')</script><img src=x onerror=alert(1)> & \"quoted\""


def test_page_is_one_file_that_fetches_nothing(page: Page) -> None:
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert len([address for address in page.addresses if address.startswith("data:image/png;base64,")]) == 160
    assert len([address for address in page.addresses if address.startswith("data:audio/wav;base64,")]) == 40
    assert "link" not in page.tags and "iframe" not in page.tags
    style = page.source[page.source.index("<style>") : page.source.index("</style>")]
    assert "url(" not in style and "@import" not in style
    packed = re.findall(r'id="plotly">([^<]+)</script>', page.source)
    assert len(packed) == 1 and b"* plotly.js v" in gzip.decompress(base64.b64decode(packed[0]))[:200]
    assert "default-src 'none'" in page.source  # the browser refuses whatever this test overlooked


def test_page_has_all_sections_in_order(page: Page) -> None:
    assert page.sections == list(MENU)
    assert page.source.count('class="missing"') == 2  # the hidden lines for a broken figure and for no JavaScript
    for line in (
        "recommended the plateau's setting, from a model of all trials (33 completed, 6 stopped early, 1 failed) how sure",
        "0.931 ± 0.009 of full-data accuracy on 10 fresh seeds; nine runs in ten (of 24) reach 0.919 with every value",
        "+0.119 [0.104, 0.133] over the paper's default; +0.063 [0.051, 0.075] over the project's default; +0.012",
        "on test accuracy 0.924 [0.912, 0.936], 95.7 % of full data (0.966); +0.121 [0.101, 0.141] over the paper's default",
    ):
        assert line in page.text
    assert "0.06 – 1.4" in page.text and "learning_<wbr>rate_<wbr>vision" in page.source
    assert "mlflow ui --backend-store-uri 'sqlite:////data/results/quick start/mlflow.db'" in page.text
    assert "loss/joint became NaN at step 20" in page.text
    assert "torch 2.9.1" in page.text
    assert "2026-03-02 10:14 UTC" in page.text
    assert "search 0, 1, 2; choosing 1000, 1001" in page.text


def test_page_says_what_stands_behind_the_recommendation(page: Page) -> None:
    for told in (
        "Of the 0.063 over the project's default, tuning the learning rates alone gives 0.044; the lambdas and the frequency",
        "5 settings were compared on 10 fresh seeds of their own. 3 of them cannot be told apart",
        "and of these “plateau” keeps the most when every value is moved at random",
        "With every hyperparameter moved at random by up to a factor of 2 either way (24 runs), nine runs in ten score at",
        "The most that is lost by taking another task's setting is 0.049.",
        "5 of 38 trials are on the front",
        "PED-ANOVA among good trials, fANOVA over the whole searched range",
        "24 on 1 seed, 9 on 2 seeds and 7 on 4 seeds; that took 6,120 replica-steps instead of 14,800 (41 %)",
        "−0.013 [−0.021, −0.005]",
        "spoken_digits, 1 per class vision, audio · 10 classes · 4,000 items 0.893 ± 0.013",
        "Looked for and not seen: copies.",
    ):
        assert told in page.text
    assert '<a href="#trial-7">7</a>' in page.source and 'id="trial-7"' in page.source


def test_page_replaces_an_older_one(tmp_path: Path) -> None:
    content, trials, _ = fake_content(8)
    for name in ("older", "newer"):
        path = write_html(tmp_path / "new", Report.model_validate(content | {"name": name}), trials, [])
    assert Page(path).text.startswith("newer: report")
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["report.html"]


def test_text_of_users_is_escaped(page: Page, tmp_path: Path) -> None:
    content, trials, gallery = fake_content()
    content |= {"name": HOSTILE, "search_id": HOSTILE, "versions": {HOSTILE: HOSTILE}}
    content["space"]["tasks"][0]["dataset"] = {"name": "tensors", "path": HOSTILE}
    content["mlflow"] = {"tracking_uri": HOSTILE, "experiment": HOSTILE, "run_id": HOSTILE}
    content["recommended"][HOSTILE] = HOSTILE
    content["test"][HOSTILE] = {"mean": 0.5, "std": 0.1, "n": 3}
    content["importance"][HOSTILE] = 0.5
    content["confirmation"]["differences"][HOSTILE] = {"mean": 0.1, "ci95": [0.0, 0.2]}
    for key in ("tasks", "candidates", "response_pairs", "transfer", "pareto", "diagnostics", "ablation"):
        content[key] = leaves(content[key], lambda value: HOSTILE if isinstance(value, str) else value)
    content["diagnostics"][HOSTILE] = content["diagnostics"]["diverging"]
    trials = [
        replace(
            trial,
            params={**trial.params, HOSTILE: HOSTILE * (1 + trial.number % 2)},
            error=HOSTILE if trial.status == "failed" else None,
        )
        for trial in trials
    ]
    for number, item in enumerate(gallery):
        item["label"], item["index"] = f"{number // 2} {HOSTILE}", HOSTILE
        for step in item["steps"]:
            step["step"] = HOSTILE
        item["steps"][-1]["items"][HOSTILE] = {"png": None, "wav": None, "txt": HOSTILE}
    hostile = Page(write_html(tmp_path, Report.model_validate(content), trials, gallery))
    assert hostile.tags.count("img") == page.tags.count("img")
    assert hostile.tags.count("script") == page.tags.count("script") + 1  # the data of one more response
    assert "<script>alert" not in hostile.source
    assert all(address.startswith(("data:", "#")) for address in hostile.addresses)


def leaves(content: Any, change: Callable[[Any], Any]) -> Any:
    """The same lists and mappings with every value in them changed."""
    if isinstance(content, dict):
        return {key: leaves(value, change) for key, value in content.items()}
    if isinstance(content, list):
        return [leaves(value, change) for value in content]
    return change(content)


def single_task_without_extras() -> dict[str, Any]:
    """The content of report.json as the plainest search leaves it: one task, too few trials for a model."""
    content, _, _ = fake_content(4)
    confirmation = content["confirmation"]
    for label in ("tuned_rates", "best_single_seed", "mmd"):
        del confirmation[label]
    for row in confirmation.values():
        if isinstance(row, dict):
            row.pop("tasks", None)
    confirmation["differences"] = {}
    names = ("robust_region", "response", "importance", "importance_fanova", "sensitivity", "diagnostics")
    empty: dict[str, Any] = {name: {} for name in names}
    none = dict.fromkeys(("perturbation", "transfer", "racing", "pareto"))
    del content["ablation"]
    return content | empty | none | {"response_pairs": [], "candidates": [], "tasks": content["tasks"][:1]}


def test_parts_that_not_every_search_has_are_left_out_or_their_absence_is_said(tmp_path: Path) -> None:
    content = single_task_without_extras()
    page = Page(write_html(tmp_path, Report.model_validate(content), [], []))
    assert page.sections == ALWAYS
    for told in (
        "No robust range was estimated in this search.",
        "No importance was estimated in this search.",
        "No hyperparameter was varied in a scored trial.",
        "No synthetic items were exported.",
        "No trial has ended yet.",
        "against nothing: no other setting has a score on test",
    ):
        assert told in page.text
    _, trials, gallery = fake_search(6)
    assert Page(write_html(tmp_path, Report.model_validate(content), trials, gallery[:1])).sections == ALWAYS


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_losses_that_were_not_finite_may_leave_gaps_anywhere(share: float, tmp_path: Path) -> None:
    content, trials, gallery = fake_content(12)
    rng = np.random.default_rng(0)
    fixed = {"name", "space", "created", "recommended", "default", "paper_default", "cost"}
    exact = {key: content["perturbation"][key] for key in ("decades", "quantile")}
    gaps = leaves(
        {key: value for key, value in content.items() if key not in fixed},
        lambda value: float("nan") if isinstance(value, float) and rng.random() < share else value,
    )
    gaps["perturbation"] |= exact
    report = Report.model_validate(content | gaps)
    written = json.dumps(report.as_json(), allow_nan=False)
    assert Report.model_validate_json(written) == report
    sections = Page(write_html(tmp_path, report, trials, gallery[:2])).sections
    assert set(ALWAYS) <= set(sections)


def test_older_reports_are_drawn(tmp_path: Path) -> None:
    content, trials, gallery = fake_content(12)
    newer = ("candidates", "perturbation", "response", "response_pairs", "importance_fanova", "sensitivity", "transfer")
    newer += ("pareto", "diagnostics", "ablation", "racing")
    old = {key: value for key, value in content.items() if key not in newer} | {"tasks": content["tasks"][:1]}
    for entry in old["confirmation"].values():
        if isinstance(entry, dict):
            entry.pop("tasks", None)
    card = {k: v for k, v in gallery[0].items() if k != "steps"}
    page = Page(write_html(tmp_path, Report.model_validate(old), trials, [card]))
    assert page.sections == ALWAYS
    assert "among good trials." in page.text and "fANOVA" not in page.text


def test_trials_with_gaps_are_tolerated(tmp_path: Path) -> None:
    content, _, _ = fake_content(4)
    trials = [
        Trial(0, "completed", {"lambda_cross": 1.0}),
        Trial(1, "failed", {}),
        Trial(2, "pruned", {"lambda_cross": 0.0, "optimizer": "sgd"}, score=0.4, accuracies=[float("nan")]),
        Trial(3, "completed", {"lambda_cross": 9.0, "optimizer": "adam"}, score=0.5),
        Trial(4, "completed", {}, score=0.6),
    ]
    content["recommended"] = {"lambda_cross": "unknown", "optimizer": "adam"}
    content["robust_region"] = {"lambda_cross": [None, 1.0]}
    page = Page(write_html(tmp_path, Report.model_validate(content), trials, []))
    assert set(ALWAYS) <= set(page.sections)
    assert page.text.count("failed") >= 2
    assert {n for n in range(9) if f'id="trial-{n}"' in page.source} == set(range(5))


def test_trials_table_puts_the_best_first(page: Page) -> None:
    _, trials, _ = fake_search()
    table = page.source[page.source.index('class="sortable"') :]
    numbers = [
        int(float(n)) for n in re.findall(r'<tr class="\w+" id="trial-\d+"><td class=n data-value="([0-9.]+)"', table)
    ]
    scores = {t.number: t.score if t.score is not None else -1.0 for t in trials}
    assert numbers == sorted(scores, key=lambda number: -scores[number])


def test_gallery_shows_every_class_before_it_repeats_one(tmp_path: Path) -> None:
    gallery = [{"label": f"class {c}", "index": i, "items": {}} for c in range(40) for i in range(3)]
    page = Page(write_html(tmp_path, REPORT, [], gallery))
    labels = re.findall(r"<h3>(class \d+) ", page.source)
    assert len(labels) == MAX_CARDS and len(set(labels)) == 40
    assert labels == sorted(labels, key=lambda name: int(name.split()[1]))
    assert f"{MAX_CARDS} of 120 are shown" in page.text


def test_gallery_shows_the_way_of_the_first_item_of_each_class(page: Page, tmp_path: Path) -> None:
    assert page.source.count('<div class="sounds">') == 10 and "10 more items" in page.text
    assert page.text.count("start step 20 step 40 step 60 step 80 step 100") == 10
    picture = {"vision": {"png": b"png", "wav": b"wav"}}
    ways = [{"step": step, "items": {"vision": {"png": b"png %d" % step}}} for step in range(10, 210, 10)]
    item = {"label": "a", "index": 0, "items": picture, "start": picture, "steps": ways}
    long = Page(write_html(tmp_path, REPORT, [], [item, item | {"index": 1}]))
    assert long.tags.count("img") == MAX_STAGES + 2 and long.tags.count("audio") == 4
    assert "start step 40 step 80 step 130 step 170 condensed" in long.text


def test_gallery_leaves_out_ways_that_would_make_the_page_huge(tmp_path: Path) -> None:
    heavy = {"vision": {"png": b"x" * 1_000_000}}
    steps = [{"step": step, "items": heavy} for step in (1, 2, 3)]
    gallery = [{"label": f"class {i}", "index": i, "items": heavy, "steps": steps} for i in range(4)]
    page = Page(write_html(tmp_path, REPORT, [], gallery))
    assert page.source.count('class="way"') == 2 * 2 and "2 more items" in page.text
