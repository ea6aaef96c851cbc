"""The report: one file, complete, escaped, tolerant of what is missing, and drawn without an error in a browser."""

from __future__ import annotations

import html
import io
import json
import math
import re
import shutil
import struct
import subprocess
import wave
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search import report_figures as figures
from search import report_text as text
from search.report import write_html
from search.report_gallery import MAX_CARDS
from search.report_parallel import parallel

SECTIONS = ["use", "test", "history", "response", "parallel", "importance", "gallery", "trials", "provenance"]
SEARCHED = ["lambda_cross", "lambda_joint", "frequency_scale", "learning_rate_vision", "learning_rate_audio"]
HOSTILE = "</script><script>alert('x')</script><img src=x onerror=alert(1)> & \"quoted\""


def fake_search(num_trials: int = 24) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """(report, trials, gallery) as a search on spoken digits would leave them; the same at every call."""
    rng = np.random.default_rng(0)
    low_high = {
        "lambda_cross": (1e-2, 1e2),
        "lambda_joint": (1e-2, 1e2),
        "frequency_scale": (0.1, 4.0),
        "learning_rate_vision": (0.1, 100.0),
        "learning_rate_audio": (0.1, 100.0),
    }
    best = dict(zip(SEARCHED, (0.3, 0.1, 0.9, 8.0, 5.0), strict=True))
    trials: list[dict[str, Any]] = []
    for number in range(num_trials):
        name = {0: "paper_default", 1: "default"}.get(number)
        params: dict[str, Any] = {
            key: float(np.exp(rng.uniform(math.log(low), math.log(high)))) for key, (low, high) in low_high.items()
        }
        if number > 10:  # as if the sampler had learnt
            params = {key: best[key] * (params[key] / best[key]) ** 0.4 for key in params}
        if name:
            params = dict(zip(SEARCHED, (10.0, 10.0, 1.0, *((0.5, 0.5) if number == 0 else (3.16, 3.16))), strict=True))
        distance = sum((math.log10(params[key]) - math.log10(best[key])) ** 2 for key in SEARCHED)
        final = 0.945 - 0.022 * distance + rng.normal(0, 0.008)
        seeds = final + rng.normal(0, 0.01 + 0.006 * distance, 3)
        status = "failed" if number == 7 else "pruned" if not name and number > 2 and final < 0.82 else "completed"
        steps = {"failed": 20, "pruned": 40, "completed": 100}[status]
        progress = [
            {"step": step, "score": float(0.45 + (final - 0.45) * (1 - math.exp(-step / 18)) + rng.normal(0, 0.006))}
            for step in range(20, steps + 1, 20)
        ]
        mean, std = float(seeds.mean()), float(seeds.std(ddof=1))
        trial = {
            "number": number,
            "name": name,
            "status": status,
            "error": None,
            "params": params,
            "score": mean - 0.5 * std,
            "score_mean": mean,
            "score_std": std,
            "steps": steps,
            "seconds": 7.3 + number / 7,
            "accuracies": [float(seed) for seed in seeds],
            "progress": progress,
        }
        if status == "pruned":
            trial["score"], trial["score_mean"] = progress[-1]["score"] - 0.5 * std, progress[-1]["score"]
        if status == "failed":
            trial |= {"score": None, "score_mean": None, "score_std": None, "accuracies": [], "progress": []}
            trial["error"] = (
                "loss/joint became NaN at step 20 (replica spoken_digits dpc 5 seed 2), learning_rate_audio 88.1"
            )
        trials.append(trial)

    def entry(mean: float, std: float, n: int = 10) -> dict[str, Any]:
        return {"mean": mean, "std": std, "n": n, "values": [float(v) for v in rng.normal(mean, std, n)]}

    report = {
        "name": "spoken digits, 5 per class: which lambdas?",
        "space": "spaces/quickstart.yaml",
        "seeds": {"search": [0, 1, 2], "confirmation": list(range(1000, 1010))},
        "trials": {status: sum(t["status"] == status for t in trials) for status in ("completed", "pruned", "failed")},
        "recommended": {"lambda_uni": 1.0, **best, "scaling": "normalized", "optimizer": "sgd", "momentum": 0.5},
        "default": {"lambda_uni": 1.0, **trials[1]["params"], "scaling": "normalized"},
        "confirmation": {
            "recommended": entry(0.931, 0.009),
            "best": entry(0.927, 0.012),
            "default": entry(0.868, 0.016),
            "paper_default": entry(0.812, 0.019),
            "difference": {"mean": 0.119, "ci95": [0.104, 0.133], "against": "paper_default"},
            "differences": {
                "default": {"mean": 0.063, "ci95": [0.051, 0.075]},
                "paper_default": {"mean": 0.119, "ci95": [0.104, 0.133]},
            },
            "shrinkage": 0.014,
        },
        "robust_region": dict(
            zip(SEARCHED, ([0.06, 1.4], [0.02, 0.5], [0.5, 1.6], [2.1, 31.0], [1.4, 19.0]), strict=True)
        ),
        "importance": dict(zip(SEARCHED, (0.12, 0.21, 0.38, 0.2, 0.09), strict=True)),
        "test": {
            "recommended": {"mean": 0.924, "std": 0.006, "n": 10},
            "default": {"mean": 0.861, "std": 0.014, "n": 10},
            "random": {"mean": 0.736, "std": 0.019, "n": 10},
            "herding": {"mean": 0.895, "std": 0.0, "n": 10},
            "k_center": {"mean": 0.842, "std": 0.004, "n": 10},
            "mmd": {"mean": 0.911, "std": 0.005, "n": 10},
            "full_data": 0.966,
        },
        "cost": {"seconds": 214.3, "replica_steps": 6120, "replica_steps_per_second": 37.42},
        "mlflow": {
            "tracking_uri": "sqlite:////data/results/quick start/mlflow.db",
            "experiment": "quickstart",
            "run_id": "4e0c2f7a9b1d4c7f8a52f3b1f0a7c9de",
        },
        "versions": {"condense": "0.1.0", "torch": "2.9.1", "ray": "2.52.0", "optuna": "4.6.0", "mlflow": "3.6.0"},
    }
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    gallery = [
        {"label": name, "index": index, "items": _items(rng, index, 0.06), "start": _items(rng, index, 0.0)}
        for index, name in enumerate(names)
    ]
    return report, trials, gallery


def _items(rng: np.random.Generator, kind: int, noise: float) -> dict[str, dict[str, Any]]:
    rows, columns = np.mgrid[0:32, 0:32] / 31 - 0.5
    picture = np.exp(-((np.hypot(rows * (1 + kind / 9), columns) - 0.12 - 0.02 * kind) ** 2) / 0.004)
    mel = np.abs(np.sin(6 * rows * (1 + kind / 4)) * np.exp(-((columns + 0.05 * (kind - 5)) ** 2) / 0.04))
    tone = np.sin(np.arange(4000) * (0.1 + 0.02 * kind)) * np.exp(-np.arange(4000) / 1500)
    return {
        "vision": {"png": _png(picture + rng.normal(0, noise, (32, 32))), "wav": None, "txt": None},
        "audio": {"png": _png(mel + rng.normal(0, noise, (32, 32))), "wav": _wav(tone), "txt": None},
    }


def _png(grey: np.ndarray) -> bytes:
    pixels = (np.clip(grey, 0, 1) * 255).astype(np.uint8)
    height, width = pixels.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def _wav(samples: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes((samples * 20_000).astype("<i2").tobytes())
    return buffer.getvalue()


class Page(HTMLParser):
    """What of a page matters here: its elements, the ids of its sections, and every address it names."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[str] = []
        self.sections: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        known = dict(attrs)
        if tag == "section":
            self.sections.append(known.get("id") or "")
        self.addresses += [known[key] or "" for key in ("src", "href", "srcset", "poster", "action") if key in known]

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] != ["script"] and self.tags[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


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
