"""A whole search judged by the probability that probes give to the right class."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
import safetensors.torch
import yaml
from search_process import SearchProcess
from small_search import NO_CONFIRMATION, SMALL, small_tensors

pytestmark = pytest.mark.faults  # a variant


def test_a_search_by_log_loss(tmp_path: Path) -> None:
    safetensors.torch.save_file(small_tensors(), tmp_path / "data.safetensors")
    task = {**SMALL["tasks"][0], "metric": "log_loss"}
    space = {**SMALL, "tasks": [task], "trials": 4, "confirmation": {**NO_CONFIRMATION, "seeds": 3}}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space))
    search = SearchProcess(tmp_path, "--space", "space.yaml", "--output", "out")
    assert search.finish() == 0, search.said()
    assert "full-data validation log_loss" in search.said()
    assert "probability of the right class" in " ".join(search.said().split())
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["metric"] == "log_loss"
    assert report["verdict"]["covers"] == ["seeds", "items"]
    full, herding = (report["test"][name]["mean"] for name in ("full_data", "herding"))
    assert 0 < herding < full < 1
    low, high = report["test"]["recommended"]["ci95"]
    assert low < report["test"]["recommended"]["mean"] < high
    with open(tmp_path / "out" / "trials.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["status"] == "completed"]
    scores = [float(row["log_loss/seed_1"]) for row in rows]
    assert scores and all(0 < score < 1 and not math.isclose(score * 60, round(score * 60)) for score in scores)
