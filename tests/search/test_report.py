"""The report: one file, complete, escaped, tolerant of what is missing, and drawn without an error in a browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_page import SEARCHED, Page, fake_search

from search import report_figures as figures
from search import report_text as text
from search.report import write_html
from search.report_gallery import MAX_CARDS
from search.report_parallel import parallel

SECTIONS = ["use", "test", "history", "response", "parallel", "importance", "gallery", "trials", "provenance"]
HOSTILE = "</script><script>alert('x')</script><img src=x onerror=alert(1)> & \"quoted\""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(write_html(tmp_path_factory.mktemp("report"), *fake_search()))


def test_page_is_one_file_that_fetches_nothing(page: Page) -> None:
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert len([address for address in page.addresses if address.startswith("data:image/png;base64,")]) == 40
    assert len([address for address in page.addresses if address.startswith("data:audio/wav;base64,")]) == 20
    assert "link" not in page.tags and "iframe" not in page.tags
    style = page.source[page.source.index("<style>") : page.source.index("</style>")]
    assert "url(" not in style and "@import" not in style
    assert page.source.count("* plotly.js v") == 1
    assert "default-src 'none'" in page.source  # the browser refuses whatever this test overlooked


def test_page_has_all_sections_in_order(page: Page) -> None:
    assert page.sections == SECTIONS
    assert page.source.count('class="missing"') == 2  # the hidden lines for a broken figure and for no JavaScript
    assert "On 10 fresh seeds the recommended setting scores 0.931 ± 0.009" in page.text
    assert "0.119 [0.104, 0.133] above the paper's default" in page.text
    assert "0.06 – 1.4" in page.text and "learning_<wbr>rate_<wbr>vision" in page.source
    assert "mlflow ui --backend-store-uri 'sqlite:////data/results/quick start/mlflow.db'" in page.text
    assert "loss/joint became NaN at step 20" in page.text
    assert "torch 2.9.1" in page.text


def test_page_replaces_an_older_one(tmp_path: Path) -> None:
    report, trials, _ = fake_search()
    write_html(tmp_path / "new", {}, [], [])
    path = write_html(tmp_path / "new", report, trials, [])
    assert "Not confirmed" not in path.read_text(encoding="utf-8")
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["report.html"]


def test_text_of_users_is_escaped(tmp_path: Path) -> None:
    report, trials, gallery = fake_search()
    harmless = Page(write_html(tmp_path, report, trials, gallery))
    report |= {"name": HOSTILE, "space": {HOSTILE: HOSTILE}, "versions": {HOSTILE: HOSTILE}, "seeds": HOSTILE}
    report["mlflow"] = {"tracking_uri": HOSTILE, "experiment": HOSTILE, "run_id": HOSTILE}
    report["recommended"][HOSTILE] = HOSTILE
    report["test"][HOSTILE] = 0.5
    report["importance"][HOSTILE] = 0.5
    report["confirmation"]["differences"][HOSTILE] = {"mean": 0.1, "ci95": [0.0, 0.2]}
    for trial in trials:
        trial["params"] |= {HOSTILE: HOSTILE * (1 + trial["number"] % 2)}
        trial["error"] = HOSTILE if trial["status"] == "failed" else None
    for item in gallery:
        item["label"] = item["index"] = HOSTILE
        item["items"]["text"] = {"png": None, "wav": None, "txt": HOSTILE}
    hostile = Page(write_html(tmp_path, report, trials, gallery))
    assert hostile.tags.count("img") == harmless.tags.count("img")
    assert hostile.tags.count("script") == harmless.tags.count("script") + 1  # the data of one more response
    assert "<script>alert" not in hostile.source
    assert all(address.startswith(("data:", "#")) for address in hostile.addresses)


@pytest.mark.parametrize("part", ["recommended", "robust_region", "every part", "report", "trials", "gallery"])
def test_missing_parts_are_tolerated(part: str, tmp_path: Path) -> None:
    report, trials, gallery = fake_search(6)
    parts = list(report) if part == "every part" else [part] if part in report and part != "trials" else []
    nothing: dict[str, Any] = {}
    for absent in (None, nothing) if parts else (None,):
        given = {} if part == "report" else report | dict.fromkeys(parts, absent)
        shown = ([] if part == "trials" else trials, [] if part == "gallery" else gallery[:1])
        assert Page(write_html(tmp_path, given, *shown)).sections == SECTIONS


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    report, trials, _ = fake_search(8)
    page = Page(write_html(tmp_path, report | {"confirmation": None, "test": None, "robust_region": None}, trials, []))
    assert "Not confirmed yet" in page.text
    assert "The test split has not been opened yet." in page.text
    assert "No robust range was estimated" in page.text
    assert "No synthetic items were exported." in page.text


def test_trials_with_gaps_are_tolerated(tmp_path: Path) -> None:
    trials: list[dict[str, Any]] = [
        {"number": 0, "status": "completed", "score": float("nan"), "params": {"lambda_cross": 1.0}},
        {"number": 1, "status": "failed", "error": None},
        {"number": 2, "status": "pruned", "score": 0.4, "params": {"lambda_cross": 0.0, "optimizer": "sgd"}},
        {"number": 3, "status": "completed", "score": 0.5, "params": {"lambda_cross": 9.0, "optimizer": "adam"}},
        {"number": 4, "status": "completed", "score": 0.6, "progress": [{"step": None, "score": 0.1}]},
    ]
    recommended = {"lambda_cross": "unknown", "optimizer": "adam"}
    page = Page(write_html(tmp_path, {"recommended": recommended, "robust_region": {"lambda_cross": None}}, trials, []))
    assert page.sections == SECTIONS
    assert page.text.count("failed") >= 2


def confirmed(mean: float, low: float, high: float, **more: Any) -> dict[str, Any]:
    difference = {"mean": mean, "ci95": [low, high], "against": "paper_default"}
    recommended = {"mean": 0.9, "std": 0.01, "n": 8}
    return {"recommended": {"a": 1}, "confirmation": {"recommended": recommended, "difference": difference, **more}}


@pytest.mark.parametrize(
    ("report", "told"),
    [
        (confirmed(0.1, 0.05, 0.15), "0.100 [0.050, 0.150] above the paper's default (95 % interval of"),
        (confirmed(0.1, -0.05, 0.25), "0.100 [−0.050, 0.250] above the paper's default (the interval includes 0: no"),
        (confirmed(-0.1, -0.15, -0.05), "0.100 [0.050, 0.150] below the paper's default"),
        (confirmed(-0.1, -0.25, 0.05), "0.100 [−0.050, 0.250] below the paper's default (the interval includes 0: no"),
        (confirmed(0.1, 0.05, 0.15, shrinkage=0.02), "its score in the search was 0.020 higher, because"),
        (confirmed(0.1, 0.05, 0.15, shrinkage={"mean": -0.02}), "its score in the search was 0.020 lower, so"),
        ({"recommended": {"a": 1}, "confirmation": {"recommended": {"mean": 0.9, "n": 1}}}, "On 1 fresh seed the"),
        ({"recommended": {"a": 1}, "confirmation": {"recommended": {"mean": None}}}, "Not confirmed yet"),
        (confirmed(0.1, 0.05, 0.15, default={"mean": None}), "; the normalised default has no score: not every loss"),
        ({"recommended": None}, "There is no recommendation"),
    ],
)
def test_verdict_says_what_the_data_says(report: dict[str, Any], told: str) -> None:
    assert told in text.verdict(report)


def test_differences_name_what_they_are_against() -> None:
    known = text.differences({"difference": {"mean": 0.1}, "differences": {"paper_default": {"mean": 0.2}, "x": {}}})
    assert list(known) == ["paper_default", "default"]


def test_test_verdict_names_the_best_baseline() -> None:
    test = {"recommended": 0.9, "default": 0.95, "random": 0.5, "mmd": {"mean": 0.92}, "full_data": 1.0}
    assert "90 % of what full data gives (1.000); that is 0.020 below the best baseline, MMD" in text.verdict_on_test(
        test
    )
    assert text.verdict_on_test({"random": 0.5}) == "" and text.verdict_on_test(None) == ""


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.12345, "0.123"), (1234.5, "1,234"), (12, "12"), (6120, "6,120"), (0.00012345, "0.000123"), (-0.5, "−0.5"),
        (1e-7, "1.00e−07"), (99.96, "100"), (0, "0"), (None, "–"), ("sgd", "sgd"), (True, "True"), (float("nan"), "nan"),
    ],
)  # fmt: skip
def test_numbers_have_three_significant_digits(value: Any, shown: str) -> None:
    assert text.number(value) == shown


@pytest.mark.parametrize(
    ("low", "high", "log", "expected"),
    [(0.01, 100, True, [0.01, 0.1, 1, 10, 100]), (0.1, 4, True, [0.1, 0.2, 0.5, 1, 2]), (0, 1, False, [0, 0.5, 1]),
     (1e-6, 1e6, True, [1e-6, 1e-3, 1, 1e3, 1e6]), (3, 3, False, [3])],
)  # fmt: skip
def test_ticks_are_round(low: float, high: float, log: bool, expected: list[float]) -> None:
    found = text.ticks(low, high, log)
    assert set(np.round(np.log10(expected), 6) if log else expected) <= set(
        np.round(np.log10(found), 6) if log else found
    )
    assert len(found) <= 6


def test_durations() -> None:
    assert [text.duration(s) for s in (1.234, 214.3, 7300, None)] == ["1.23 s", "3 min 34 s", "2 h 1 min", "–"]


def test_mlflow_command_hides_passwords() -> None:
    assert text.mlflow_command("sqlite:///a b.db") == "mlflow ui --backend-store-uri 'sqlite:///a b.db'"
    assert text.mlflow_command("postgresql://me:secret@host/db") == "mlflow ui --backend-store-uri postgresql://host/db"
    assert text.mlflow_command("https://me:secret@host/") is None and text.mlflow_command(None) is None
    assert text.safe_uri("https://me:secret@host:5000/x") == "https://host:5000/x"


def test_history_tells_ways_of_ending_apart() -> None:
    _, trials, _ = fake_search()
    figure = figures.history(trials)
    assert figure is not None
    traces = {trace.name: trace for trace in figure.data}
    assert traces["completed"].marker.symbol == "circle" and traces["pruned"].marker.symbol == "circle-open"
    assert list(traces["failed (no score)"].x) == [7]
    best = list(traces["best so far"].y)
    assert best == sorted(best) and best[-1] == max(t["score"] for t in trials if t["status"] == "completed")
    assert any(str(name).startswith("paper's default") for name in traces)


def test_response_is_logarithmic_marks_the_recommendation_and_leaves_out_the_papers_scaling() -> None:
    report, trials, _ = fake_search()
    figure = figures.response(trials, "lambda_cross", report)
    assert figure is not None and figure.layout.xaxis.type == "log"
    shown = {trace.name: trace for trace in figure.data}
    paper = next(trial for trial in trials if trial["name"] == "paper_default")
    completed = [t for t in trials if t["status"] == "completed" and t is not paper]
    assert list(shown["completed"].y) == [t["score_mean"] for t in completed]
    assert list(shown["completed"].error_y.array) == [t["score_std"] for t in completed]
    assert [shape.x0 for shape in figure.layout.shapes] == [0.06, 0.3]  # the robust range, the recommended value
    narrow = [{"number": n, "status": "completed", "score": 0.5, "params": {"x": 1.0 + n}} for n in range(4)]
    linear = figures.response(narrow, "x", {})
    assert linear is not None and linear.layout.xaxis.type is None


def test_parallel_coordinates_draw_every_scored_trial_once() -> None:
    report, trials, _ = fake_search()
    figure = parallel(trials, report["recommended"])
    assert figure is not None
    numbers = {
        n for trace in figure.data for n in (trace.customdata if trace.customdata is not None else ()) if n is not None
    }
    assert numbers == {t["number"] for t in trials if t["score"] is not None and t["name"] != "paper_default"}
    places = [x for trace in figure.data for x in trace.x if x is not None]
    assert min(places) == 0 and max(places) == 1


def test_trials_table_puts_the_best_first(page: Page) -> None:
    _, trials, _ = fake_search()
    table = page.source[page.source.index('class="sortable"') :]
    numbers = [int(float(n)) for n in re.findall(r'<tr class="\w+"><td class=n data-value="([0-9.]+)"', table)]
    scores = {t["number"]: t["score"] if t["score"] is not None else -1.0 for t in trials}
    assert numbers == sorted(scores, key=lambda number: -scores[number])


def test_gallery_shows_every_class_before_it_repeats_one(tmp_path: Path) -> None:
    gallery = [{"label": f"class {c}", "index": i, "items": {}} for c in range(40) for i in range(3)]
    page = Page(write_html(tmp_path, {}, [], gallery))
    labels = re.findall(r"<h3>(class \d+) ", page.source)
    assert len(labels) == MAX_CARDS and len(set(labels)) == 40
    assert labels == sorted(labels, key=lambda name: int(name.split()[1]))
    assert f"{MAX_CARDS} of 120 are shown" in page.text


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PROBE = """<script>
setTimeout(async () => {
  const plots = [...document.querySelectorAll(".plot")];
  const rows = document.querySelector("table.sortable").tBodies[0].rows;
  const button = document.querySelector("table.sortable th button");
  const order = () => [...rows].map((row) => Number(row.cells[0].textContent));
  button.click(); const falling = order();
  button.click(); const rising = order();
  const lines = plots.find((plot) => plot.data.some((trace) => trace.meta === "highlight"));
  lines.scrollIntoView({ behavior: "instant", block: "center" });
  const box = lines.querySelector(".scatterlayer .trace:last-of-type .point, .scatterlayer .point").getBoundingClientRect();
  const at = { clientX: box.x + box.width / 2, clientY: box.y + box.height / 2, bubbles: true };
  lines.querySelector(".nsewdrag").dispatchEvent(new MouseEvent("mousemove", at));
  await new Promise((done) => setTimeout(done, 300)); // Plotly waits a little before it answers a pointer
  const marked = lines.data.find((trace) => trace.meta === "highlight").x.length;
  window.dispatchEvent(new Event("beforeprint"));
  window.dispatchEvent(new Event("afterprint"));
  parent.postMessage({
    width: window.innerWidth, error: document.documentElement.dataset.error || null, plots: plots.length,
    drawn: plots.filter((plot) => plot.querySelector("svg.main-svg .plot, svg.main-svg .shapelayer")).length,
    overflow: document.documentElement.scrollWidth - window.innerWidth, falling, rising, marked,
  }, "*");
}, 300);
</script></body>"""
FRAMES = """<body><iframe src="probe.html" width="375" height="700"></iframe><iframe src="probe.html" width="1280" height="700">
</iframe><script>window.addEventListener("message", (event) => {
  const result = document.body.appendChild(document.createElement("pre"));
  result.textContent = JSON.stringify(event.data);
});</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: the report is not tested in a browser")
def test_browser_draws_every_figure_on_a_phone_and_on_a_desktop(page: Page, tmp_path: Path) -> None:
    (tmp_path / "probe.html").write_text(page.source.replace("</body>", PROBE), encoding="utf-8")
    (tmp_path / "frames.html").write_text(FRAMES, encoding="utf-8")
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr",
        f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=8000", "--dump-dom",
        (tmp_path / "frames.html").as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    found = [json.loads(html.unescape(result)) for result in re.findall(r"<pre>(.*?)</pre>", done.stdout)]
    assert [result["width"] for result in sorted(found, key=lambda result: int(result["width"]))] == [375, 1280]
    for result in found:
        assert result["error"] is None
        assert result["plots"] == result["drawn"] == 5 + len(SEARCHED) + 1
        assert result["overflow"] <= 0
        assert result["rising"] == sorted(result["rising"]) and result["falling"] == result["rising"][::-1]
        assert result["marked"] == len(SEARCHED) + 1
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not [line for line in console if "Uncaught" in line or "Content Security Policy" in line]
