"""What a whole search leaves behind: the contract of its output folder and of MLflow, and what one failed trial means."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import mlflow
import pytest
import yaml
from report_page import Page
from search_process import SearchProcess, report, results, table
from small_search import NO_CONFIRMATION, SMALL

import search as search_api
from condense.config.models import CondensationConfig, read_yaml, validate
from condense.export.export import read_export
from search.analysis.failure_signatures import MEANING
from search.ledger.ledger import Ledger
from search.ledger.run_folder import lock_folder
from search.report.grounds import grounds
from search.report.model import Report
from search.report.page import MENU
from search.report.text import has_no_effect, label, number, score
from search.report.verdict import Verdict
from search.tracking.store import connect

STATUS = {"completed": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}
LOSSES = ("loss", "loss/uni", "loss/cross", "loss/joint")


class Logged:
    """What MLflow has of the one search in the database beside an output folder."""

    def __init__(self, output: Path) -> None:
        self.client = connect(f"sqlite:///{output.parent}/mlflow.db")
        experiment = self.client.get_experiment_by_name("condensation")
        assert experiment is not None
        runs = self.client.search_runs([experiment.experiment_id])
        (self.parent,) = [run for run in runs if run.data.tags.get("role") == "search"]
        children = [run for run in runs if run is not self.parent]
        assert {run.data.tags["mlflow.parentRunId"] for run in children} == {self.parent.info.run_id}
        self.trials = {int(run.data.tags["trial_number"]): run for run in children}
        assert len(self.trials) == len(children), "a trial is there twice"

    def points(self, number: int, metric: str) -> dict[int, float]:
        history = self.client.get_metric_history(self.trials[number].info.run_id, metric)
        assert len({point.step for point in history}) == len(history), f"a point of {metric} is there twice"
        return {point.step: point.value for point in history}

    def text(self, run: Any, path: str) -> str:
        return str(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/{path}"))


def check_mlflow(output: Path, report_every: int = SMALL["report_every"]) -> Logged:
    """Every trial of the ledger is in MLflow exactly once, ended as it did, with its whole curve."""
    logged, rows = Logged(output), table(output)
    assert rows
    assert (logged.parent.info.status, logged.parent.data.tags["status"]) == ("FINISHED", "completed")
    assert sorted(logged.trials) == [row["number"] for row in rows]
    for row in rows:
        run = logged.trials[int(row["number"])]
        assert (run.info.status, run.data.tags["status"]) == (STATUS[row["status"]], row["status"])
        assert {name: float(run.data.params[name]) for name in SMALL["search"]} == {
            name: pytest.approx(row[name]) for name in SMALL["search"]
        }
        if row["status"] == "failed":
            assert run.data.tags["error"] == row["error"]
            continue
        assert row["steps"] >= report_every
        for name in LOSSES:
            assert sorted(logged.points(int(row["number"]), name)) == list(range(1, int(row["steps"]) + 1))
        scores = logged.points(int(row["number"]), "score")
        assert sorted(scores) == list(range(report_every, int(row["steps"]) + 1, report_every))
        assert scores[max(scores)] == pytest.approx(row["score"])
        config = yaml.safe_load(logged.text(run, "config.yaml"))
        assert config["lambda_cross"] == pytest.approx(row["lambda_cross"])
    return logged


@pytest.mark.slow
def test_the_output_folder(whole_search: tuple[Path, SearchProcess]) -> None:
    output, search = whole_search
    assert search.finish() == 0, search.said()
    assert search.err.read_text() == ""
    assert str(output / "report.html") in search.out.read_text()
    commands = {line.split()[0]: line.split() for line in search.out.read_text().splitlines() if line.strip()}
    assert commands["MLflow"][3:5] == ["ui", "--backend-store-uri"]
    for program in (commands["MLflow"][2], commands["report"][1], commands["condense"][1]):
        assert shutil.which(program, path=f"{search.out.parent}:{os.environ['PATH']}") is not None

    rows = table(output)
    assert [row["number"] for row in rows] == list(range(10)) == [int(number) for number in results(output)]
    assert [row["name"] for row in rows][:3] == ["paper_default", "default", ""]
    content = report(output)
    assert sum(content["trials"].values()) == 10 and content["trials"]["completed"] > 0
    assert content["trials"] == {
        status: sum(row["status"] == status for row in rows) for status in ("completed", "pruned", "failed")
    }
    assert content["name"] == "small"
    assert content["space"]["search"].keys() == SMALL["search"].keys()
    assert content["seeds"]["search"] == [0, 1]
    choosing, reporting = {*content["seeds"]["choosing"]}, {*content["seeds"]["reporting"]}
    assert choosing and len(reporting) == 3
    assert not {0, 1} & (choosing | reporting) and not choosing & reporting
    for setting in ("recommended", "default"):
        assert content[setting].keys() == SMALL["search"].keys()
    chosen = content["confirmation"]["recommended"]["trial"]
    if chosen is not None:  # else it is the plateau's
        assert content["recommended"] == {name: pytest.approx(rows[chosen][name]) for name in SMALL["search"]}
    for setting in ("recommended", "best", "default"):
        confirmed = content["confirmation"][setting]
        assert confirmed["n"] == len(confirmed["values"]) == 3
        assert all(0 < share < 3 for share in confirmed["values"])
        assert confirmed["mean"] == pytest.approx(fmean(confirmed["values"]))
        assert confirmed["std"] == pytest.approx(stdev(confirmed["values"]))
    single = content["confirmation"]["best_single_seed"]  # the mean over what each seed of the search would have chosen
    trials = [r for r in Ledger(output).trials() if r.status == "completed" and r.name != "paper_default"]
    chosen_by = [max(trials, key=lambda r, name=f"share/seed_{i}": r.metrics[name]) for i in range(2)]  # type: ignore[misc]
    assert single["trials"] == [r.number for r in chosen_by]
    confirmed = [json.loads(file.read_text()) for file in (output / "confirmation").glob("*.json")]
    runs = [next(of["runs"] for of in confirmed if of.get("hyperparameters") == r.config) for r in chosen_by]
    means = [fmean(of[str(seed)]["shares"][0] for of in runs) for seed in content["seeds"]["reporting"]]
    assert single["values"] == pytest.approx(means)
    difference = content["confirmation"]["difference"]
    ours, default = (content["confirmation"][setting]["values"] for setting in ("recommended", "default"))
    assert difference["mean"] == pytest.approx(fmean(a - b for a, b in zip(ours, default, strict=True)))
    low, high = difference["ci95"]
    assert low <= difference["mean"] <= high and (low < high or ours == default)
    assert isinstance(content["confirmation"]["shrinkage"], float)
    # The model may not be trusted, and a published setting outside of the space may be kept, of which it knows nothing.
    assert content["surrogate"].keys() == {"trials", "loo_rmse", "loo_r2", "coverage", "trusted"}
    assert content["robust_region"].keys() in (SMALL["search"].keys(), set())
    assert content["surrogate"]["trusted"] or not content["robust_region"]
    assert (
        content["surrogate"]["trusted"]
        or all(row["label"] != "plateau" for row in content["candidates"])
        or (
            content["surrogate"]["trials"] > len(rows) - 1  # trusted until the candidates' runs
        )
    )
    verdict = content["verdict"]
    assert verdict["text"] == Verdict.of(Report.load(output)).what
    assert verdict["keep_default"] or content["perturbation"]
    assert verdict["saturated"] is False and verdict["covers"] == ["seeds", "items"]
    assert content["validation"] == {"groups": None, "by": "class", "folds": None}
    for setting in ("best", "default", "paper_default", "mmd"):
        gain = content["confirmation"][setting]["difference"]
        own = content["confirmation"]["recommended"]["mean"] - content["confirmation"][setting]["mean"]
        assert gain["mean"] == pytest.approx(own, abs=1e-6)
        assert gain["ci95"][0] < gain["ci95"][1]
    for method, found in content["test"].items():
        assert found["ci95"][0] < found["ci95"][1], method
        assert found["difference"].keys() == {"paper_default", "best_baseline"} - {method}
    # Of a published setting outside of the space nothing is known: then ranges are those of the best setting tried.
    outside = verdict["keep_default"] and not content["robust_region"] and content["surrogate"]["trusted"]
    assert ("best_tried" in content) == outside
    around = content["best_tried"] if outside else {**content, "params": content["recommended"]}
    for name, (low, high) in around["robust_region"].items():
        bounds = SMALL["search"][name]
        assert bounds["low"] <= low <= around["params"][name] <= high <= bounds["high"] * (1 + 1e-9)
    assert content["importance"].keys() == SMALL["search"].keys()
    assert sum(content["importance"].values()) == pytest.approx(1)
    for name, found in content["diagnostics"].items():
        assert found["trials"] == [row["number"] for row in rows if name in row["signatures"].split(",")]
        assert (found["of"], found["meaning"]) == (10, MEANING[name])
        assert found["region"] is None or " trials there, " in found["region"]
    assert content["diagnostics"].keys() == MEANING.keys()
    methods = {"recommended", "default", "random", "herding", "k_center", "k_means", "mmd", "full_data"}
    assert methods <= content["test"].keys()
    assert content["cost"].keys() >= {"seconds", "replica_steps", "replica_steps_per_second"}
    assert content["cost"]["replica_steps"] == 2 * sum(row["steps"] for row in rows)

    config = validate(CondensationConfig, read_yaml(output / "best.yaml"), "best.yaml")
    assert config.hyperparameters.lambda_cross == content["recommended"]["lambda_cross"]
    if verdict["keep_default"]:
        assert verdict["published"] in ("paper_default", "default", "mmd")
        assert (config.hyperparameters.discrepancy == "mmd") == (verdict["published"] == "mmd")
    assert config.seed not in (0, 1)
    assert config.steps == SMALL["steps"]
    inputs, labels, record = read_export(output / "condensed")
    assert labels.tolist() == [0, 1, 2]
    assert {name: tuple(x.shape) for name, x in inputs.items()} == {"vision": (3, 1, 8, 8), "audio": (3, 1, 32, 32)}
    assert record["search_id"] == content["search_id"]


@pytest.mark.slow
def test_the_report_of_a_real_search(whole_search: tuple[Path, SearchProcess]) -> None:
    """The model reads it, the terminal says its verdict, and the page shows it all."""
    output, search = whole_search
    content, rows = Report.load(output), table(output)
    assert content.as_json() == report(output)
    said = " ".join(search.out.read_text().split())
    page = Page(output / "report.html")
    verdict = Verdict.of(content)
    assert (verdict.n, verdict.score) == (3, content.confirmation.recommended.mean)
    for name, line in verdict.lines().items():
        assert f"{name} {line}" in page.text
        assert line in said
    assert verdict.lines()["recommended"].startswith(("trial ", "the plateau's", "keep "))
    assert verdict.lines()["against"].count("the p") + verdict.lines()["against"].count("MMD") >= 2
    region = content.modelled.robust_region
    assert grounds(content) and grounds(content) in page.text

    settings = page.source[page.source.index('<table class="setting">') :].partition("</table>")[0]
    shown = re.findall(r"<tr><td><code>(.*?)</code></td>(.*?)</tr>", settings.replace("<wbr>", ""))
    assert {name for name, _ in shown} == SMALL["search"].keys() and len(shown) == len(SMALL["search"])
    for name, cells in shown:
        value = [content.recommended[name], content.default[name], content.paper_default[name]]
        told = list(map(number, value))
        if region:
            bounds = f"{number(region[name][0])} – {number(region[name][1])}"
            told.insert(1, "no effect seen" if has_no_effect(content, name) else bounds)
        if content.best_tried is not None:
            told.insert(1, number(content.best_tried.params[name]))
        assert re.findall(r">([^<]+)</td>", cells) == told

    trials = re.findall(r'<tr class="(\w+)" id="trial-(\d+)">(.*?)</tr>', page.source)
    assert {int(n): status for status, n, _ in trials} == {int(row["number"]): row["status"] for row in rows}
    assert len(trials) == len(rows)
    for _, n, cells in trials:
        row = rows[int(n)]
        assert f">{score(row['score'])}</td>" in cells
        assert all(f'data-value="{row[name]}"' in cells for name in SMALL["search"])

    absent = {"tasks", "pareto"} | (set() if content.ablation else {"ablation"})  # another test may have asked for one
    assert page.sections == [section for section in MENU if section not in absent]
    assert page.source.count('class="missing"') == 2 + (
        not region and content.perturbation is None
    )  # the hidden lines for a broken figure and for no JavaScript
    parts = dict(re.findall(r'<section id="(\w+)">(.*?)</section>', page.source, re.DOTALL))
    figures = {"use": 1, "test": 1, "response": 4 if region else 3, "parallel": 1, "history": 2}
    figures["robustness"] = bool(region) + (content.perturbation is not None)
    figures["importance"] = 1 + bool(content.sensitivity)
    assert {name: parts[name].count('<div class="plot"') for name in figures} == figures
    assert parts["gallery"].count("<img") >= 3 * 2  # classes x modalities
    for name, found in content.diagnostics.items():
        assert label(name) in parts["signatures"]
        assert all(f'href="#trial-{n}"' in parts["signatures"] for n in found.trials[:10])
    for seed in content.seeds.reporting:
        assert str(seed) in parts["provenance"]


@pytest.mark.slow
def test_mlflow_has_every_trial_once_and_whole(whole_search: tuple[Path, SearchProcess]) -> None:
    output, _ = whole_search
    logged = check_mlflow(output)
    content = report(output)
    assert content["mlflow"] == {
        "tracking_uri": f"sqlite:///{output.parent}/mlflow.db",
        "experiment": "condensation",
        "run_id": logged.parent.info.run_id,
    }
    assert len(table(output)) == 10
    for row in table(output):
        run = logged.trials[int(row["number"])].data
        assert run.tags["failure_signatures"] == (row["signatures"] or "none")
        shown = [name for name in MEANING if run.metrics[f"signature/{name}"] == 1]
        assert ",".join(shown) == row["signatures"]
        points = logged.points(int(row["number"]), "diagnostics/gradient_share/vision")
        assert sorted(points) == list(range(2, int(row["steps"]) + 1, 2))
    assert logged.trials[0].data.tags["default"] == "paper_default"
    assert logged.trials[1].data.tags["default"] == "default"
    assert yaml.safe_load(logged.text(logged.trials[0], "config.yaml"))["scaling"] == "paper"
    metrics = logged.parent.data.metrics
    assert metrics["confirmed/recommended"] == pytest.approx(content["confirmation"]["recommended"]["mean"])
    assert json.loads(logged.text(logged.parent, "report.json"))["search_id"] == content["search_id"]


@pytest.mark.slow
def test_a_loss_that_is_not_finite_fails_its_trial_only(
    tmp_path: Path, start: Callable[..., SearchProcess], write_space: Callable[..., Path]
) -> None:
    wide = {**SMALL["search"], "lambda_cross": {"low": 0.01, "high": 1e60, "log": True}}
    output = tmp_path / "out"
    space = write_space(tmp_path, search=wide, confirmation=NO_CONFIRMATION)
    search = start("--space", space, "--output", output)
    assert search.finish() == 0, search.said()
    assert "Traceback" not in search.said()
    rows = table(output)
    failed = [row for row in rows if row["status"] == "failed"]
    assert 0 < len(failed) < len(rows) - 2
    for row in failed:
        assert row["lambda_cross"] > 1e30
        assert row["steps"] == 1
        assert row["score"] == ""
        assert row["error"] == "the total loss was not finite at step 1 (seed 0)"
        ended = json.loads((output / "trials" / f"{int(row['number']):05d}" / "result.json").read_text())
        assert (ended["status"], ended["error"], ended["score"]) == ("failed", row["error"], None)
    assert report(output)["trials"]["failed"] == len(failed)
    assert all(row["signatures"] == "instability" for row in failed)
    assert {row["number"] for row in failed} <= set(report(output)["diagnostics"]["instability"]["trials"])
    check_mlflow(output)


@pytest.mark.slow
def test_a_complete_search_as_python_has_it(whole_search: tuple[Path, SearchProcess]) -> None:
    folder, process = whole_search
    results, there = search_api.load(folder), report(folder)
    assert results.recommended == there["recommended"]
    assert results.report.recommended == there["recommended"]
    assert results.hyperparameters.model_dump()["lambda_cross"] == there["recommended"]["lambda_cross"]
    assert len(results.trials) == 10
    assert results.trials.index.name == "number"
    assert set(results.trials.status) <= {"completed", "pruned", "failed"}
    assert results.trials.loc[0, "name"] == "paper_default"
    assert results.trials.score.dtype == float
    assert len(results.study.trials) == 10
    own = results.trials[(results.trials.status == "completed") & (results.trials.name != "paper_default")]
    assert results.study.best_value == pytest.approx(own.score.max())
    assert [path.is_dir() for path in results.condensed] == [True]
    assert str(results.verdict) in str(results)
    for name, line in results.verdict.lines().items():  # the terminal breaks the lines
        assert name in process.out.read_text()
        assert line.split()[0] in process.out.read_text()
    status = search_api.status(folder)
    assert (status.state, status.ended, status.planned, status.unfinished) == ("complete", 10, 10, 0)
    assert status.best_score == pytest.approx(results.trials.loc[status.best_trial, "score"])
    assert f"trials 10/10, 0 begun, {status.pruned} stopped early" in str(status)
    assert status.seconds > 0
    with_lock = lock_folder(folder)
    assert search_api.status(folder).state == "running"
    with_lock.close()
    assert search_api.status(folder).state == "complete"
