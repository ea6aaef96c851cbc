"""A whole search over data without classes, judged by retrieval."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml
from search_process import SearchProcess
from small_search import SMALL

pytestmark = pytest.mark.faults  # a variant


def write_data(path: Path) -> None:
    """Pairs of an image and a text-like sequence that share a hidden code; one label for all."""
    generator = torch.Generator().manual_seed(0)
    views = {
        "vision": torch.randn(6, 1 * 16 * 16, generator=generator),
        "text": torch.randn(6, 64 * 16, generator=generator),
    }
    shapes = {"vision": (1, 16, 16), "text": (64, 16)}
    content = {}
    for split, count in (("train", 120), ("validation", 40), ("test", 40)):
        code = torch.randn(count, 6, generator=generator)
        for m, view in views.items():
            noise = 0.3 * torch.randn(count, view.shape[1], generator=generator)
            content[f"{split}/{m}"] = ((code @ view + noise) / 3).clamp(-1, 1).view(count, *shapes[m])
        content[f"{split}/label"] = torch.zeros(count, dtype=torch.int64)
    safetensors.torch.save_file(content, path)


def test_a_search_without_classes(tmp_path: Path) -> None:
    write_data(tmp_path / "pairs.safetensors")
    encoder = {"name": "tiny", "epochs": 3, "width": 8, "dim": 16, "image_size": 16, "image_channels": 1}
    task = {
        "dataset": {"name": "tensors", "path": "pairs.safetensors"},
        "encoder": encoder,
        "dpc": 8,
        "metric": "retrieval",
    }
    space: dict[str, Any] = {**SMALL, "name": "pairs", "tasks": [task], "steps": 12, "report_every": 6, "trials": 4}
    space["confirmation"] = {"top_k": 1, "seeds": 3, "perturbations": 0, "reported_perturbations": 0, "tuned_rates": 0}
    (tmp_path / "pairs.yaml").write_text(yaml.safe_dump(space))
    search = SearchProcess(tmp_path, "--space", "pairs.yaml", "--output", "out")
    assert search.finish() == 0, search.said()
    assert "full-data validation retrieval" in search.said()
    assert "of full-data retrieval recall" in " ".join(search.said().split())
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["metric"] == "retrieval"
    assert report["verdict"]["covers"] == ["seeds", "items"]
    for name in ("recommended", "mmd"):
        low, high = report["test"][name]["ci95"]
        assert low < report["test"][name]["mean"] < high
    assert 0 < report["test"]["full_data"]["mean"] < 1
    assert {"recommended", "default", "random", "herding", "k_center", "k_means", "mmd"} <= report["test"].keys()
    with open(tmp_path / "out" / "trials.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    recalls = [float(row["retrieval/seed_1"]) for row in rows if row["status"] == "completed"]
    assert recalls and all(0 < recall < 1 for recall in recalls)
    assert "Test retrieval recall" in (tmp_path / "out" / "report.html").read_text()

    command = [sys.executable, "-m", "condense", "evaluate", "out/condensed", "--json", "scores.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "pairs.safetensors: no classes, vision + text; 8 items in all; test: 40 items" in done.stdout
    scores = json.loads((tmp_path / "scores.json").read_text())["results"]
    for method, of in (("condensed", "recommended"), ("herding", "herding"), ("full_data", "full_data")):
        assert scores[method]["probe"] is None and scores[method]["convnet"] is None
        assert scores[method]["retrieval"]["values"][0] == pytest.approx(report["test"][of]["values"][0], abs=0.005)
