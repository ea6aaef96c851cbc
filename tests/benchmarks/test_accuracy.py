"""The benchmark runs, and its arithmetic is right."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "accuracy.py"


def write_problem(folder: Path, spread: float = 1.0) -> Path:
    """A setting on two classes of tensors, items apart from their class's pattern by `spread` times its size."""
    generator = torch.Generator().manual_seed(0)
    patterns = {
        "vision": torch.randn(2, 1, 8, 8, generator=generator),
        "text": torch.randn(2, 64, 16, generator=generator),
    }
    content = {}
    for split in ("train", "test"):
        labels = torch.arange(2).repeat(6)
        content[f"{split}/label"] = labels
        for modality, pattern in patterns.items():
            noise = torch.randn(len(labels), *pattern.shape[1:], generator=generator)
            content[f"{split}/{modality}"] = pattern[labels] + spread * noise
    safetensors.torch.save_file(content, folder / "data.safetensors")
    settings = {
        "dataset": {"name": "tensors", "path": "data.safetensors"},
        "encoder": {"pretraining": "none", "dim": 8, "width": 4, "image_size": 8},
        "dpc": 3,
        "hyperparameters": {
            "num_frequencies": 8,
            "frequency_pool": 16,
            "scaling": "normalized",
            "learning_rate": 100.0,
        },
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(settings))
    return folder / "mine.yaml"


def figures_of(script: str, problem: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    """What a smoke run of a benchmark writes with --json, and what it prints."""
    file = problem.with_name("figures.json")
    command = [sys.executable, str(SCRIPT.with_name(script)), "--quick", "--threads", "1", *arguments]
    command += ["--settings", str(problem), "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(file.read_text()), done.stdout


def test_smoke(tmp_path: Path) -> None:
    found, printed = figures_of("accuracy.py", write_problem(tmp_path, 6.0))
    assert "| **ours** |" in printed
    assert "| share of full-data accuracy at 1 per class |" in printed
    methods = {"random", "herding", "k_center", "k_means", "mmd", "avdd", "paper_default", "ours", "full_data"}
    assert set(found["results"]["dpc_1"]) == methods
    assert found["results"]["dpc_1"]["ours"]["probe"]["n"] == 2
    means = {name: found["results"]["dpc_1"][name]["probe"]["mean"] for name in ("ours", "mmd")}
    apart = found["against_mmd_over_test_items"]["dpc_1"]
    assert apart["mean"] == pytest.approx(means["ours"] - means["mmd"], abs=1e-6) != 0
    assert apart["ci95"][0] <= apart["mean"] <= apart["ci95"][1]
    assert [point["step"] for point in found["runs"]["dpc_1"]["avdd"]["curve"]] == [0, 5, 10]
    assert {"commit", "machine", "headlines", "tuned", "settings", "seeds"} <= set(found)


def test_speed_is_that_of_the_best_length_of_each(tmp_path: Path) -> None:
    figures, _ = figures_of("speed.py", write_problem(tmp_path), "--seeds", "2")
    found = figures["speed"]["dpc_1"]
    assert set(found["finals"]["ours"]) == set(found["finals"]["avdd"]) == {"1", "2", "5", "10"}
    assert found["avdd"]["seconds"] > 0
    if found["ours"]["steps"]:
        assert found["ratio"] == found["avdd"]["seconds"] / found["ours"]["seconds"]
    else:
        assert found["ratio"] == 0


def test_frequencies_of_both_samplings_are_compared_on_the_same_seeds(tmp_path: Path) -> None:
    figures, _ = figures_of("frequencies.py", write_problem(tmp_path), "--seeds", "3")
    rows = figures["frequencies"]
    assert [(row["setting"], row["num_frequencies"]) for row in rows] == [("ours", 256), ("paper_default", 256)]
    for row in rows:
        assert row["independent"]["n"] == row["orthogonal"]["n"] == 3
        apart = row["orthogonal"]["mean"] - row["independent"]["mean"]
        assert row["difference"]["mean"] == pytest.approx(apart, abs=1e-6)


def test_claims_are_read_off_the_figures() -> None:
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        import accuracy
    finally:
        sys.path.remove(str(SCRIPT.parent))
    from condense.config.models import Hyperparameters
    from condense.evaluation.comparison import Sample

    def run(*points: tuple[float, float]) -> accuracy.Run:
        curve = [{"step": float(i), "seconds": s, "accuracy": a} for i, (s, a) in enumerate(points)]
        return accuracy.Run(Hyperparameters(), [], [], curve)

    found = accuracy.over_items(torch.tensor([1.0, 1.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 0.0, 1.0]))
    assert found["mean"] == 0.25
    assert found["ci95"] == pytest.approx([0.25 - 1.96 * 0.25, 0.25 + 1.96 * 0.25])  # std of 1, 0, 0, 0 is 0.5

    avdd = run((0.1, 0.5), (2.0, 0.8), (4.0, 0.7))
    assert accuracy.speed_claim(run((0.1, 0.5), (0.5, 0.85)), avdd)["ratio"] == 4.0
    never = accuracy.speed_claim(run((0.1, 0.5), (0.5, 0.75)), avdd)
    assert (never["ratio"], never["ours_seconds"], never["avdd_seconds"]) == (0.0, None, 2.0)

    def scores(**of: float) -> dict[str, dict[str, Sample]]:
        return {name: {"probe": Sample((value,)), "convnet": Sample(())} for name, value in of.items()}

    others = {"random": 0.5, "herding": 0.6, "k_means": 0.65, "mmd": 0.7, "avdd": math.nan, "paper_default": 0.9}
    results = {
        1: scores(ours=0.78, k_center=0.4, full_data=0.8, **others),
        20: scores(ours=0.76, k_center=0.75, full_data=0.8, **others),
    }
    found = accuracy.headlines(results, {1: {"ours": avdd, "avdd": avdd}, 20: {"ours": avdd, "avdd": avdd}})
    assert round(found["share_of_full"]["probe"]["dpc_20"], 6) == 0.95
    assert found["lead"]["probe"]["dpc_20"]["over"] == "k_center"
    table = accuracy.headlines_table(found)
    assert "| 95.0 % |" in table
    assert "+8.0 points (at 1 per class, over MMD)" in table
    assert "1: 1.0 x, 20: 1.0 x" in table
    assert "| **78.0** | **76.0** |" not in accuracy.results_table(results, "probe", {})
    assert "| the paper's default setting | **90.0** | **90.0** |" in accuracy.results_table(results, "probe", {})
