"""Each loss term alone and left out: the settings, the table, and the command after a real search."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from search_process import SearchProcess, report

from condense.config.models import Hyperparameters
from search.confirmation.ablation import FULL, ablation_table, ablations, lines
from search.report.part import finite

CONFIG = Hyperparameters(lambda_cross=0.05, lambda_joint=4.0, frequency_scale=0.3).model_dump(mode="json")


def weights(config: dict[str, float]) -> tuple[float, ...]:
    return tuple(config[f"lambda_{term}"] for term in ("uni", "cross", "joint"))


def test_settings() -> None:
    found = ablations(CONFIG)
    assert {terms: weights(config) for terms, config in found.items()} == {
        "uni + cross + joint": (1.0, 0.05, 4.0),
        "uni + cross": (1.0, 0.05, 0.0),
        "uni + joint": (1.0, 0.0, 4.0),
        "cross + joint": (0.0, 0.05, 4.0),
        "uni": (1.0, 0.0, 0.0),
        "cross": (0.0, 1.0, 0.0),  # at 0.05 it would hardly move anything
        "joint": (0.0, 0.0, 4.0),
    }
    for config in found.values():
        assert {k: v for k, v in config.items() if not k.startswith("lambda")} == {
            k: v for k, v in CONFIG.items() if not k.startswith("lambda")
        }


def test_table() -> None:
    rows = ablation_table(
        {FULL: [0.9, 0.92, 0.91], "uni": [0.8, 0.81, 0.82]}, {FULL: [0.88, 0.9, 0.89], "uni": [0.7, 0.7, 0.7]}
    )
    assert rows[0]["terms"] == FULL and rows[0]["difference"] is None
    assert rows[1]["difference"]["mean"] == pytest.approx(-0.1)
    assert rows[1]["difference"]["ci95"][1] < 0
    assert rows[1]["test"] == {"mean": pytest.approx(0.7), "std": pytest.approx(0, abs=1e-9), "n": 3}
    assert lines(rows)[2].startswith("uni                  0.810 ± 0.010     0.700 ± 0.000     -0.100 [")


def test_terms_that_diverge_are_told_as_such() -> None:
    rows = ablation_table({FULL: [0.9, 0.92], "uni": [0.8, math.nan]}, {FULL: [0.88, 0.9], "uni": [0.7, math.nan]})
    told = lines(finite(rows))  # as report.json has them
    assert told[2].split() == ["uni", "diverged", "diverged"]
    assert lines(rows) == told


@pytest.mark.faults
def test_the_command(
    whole_search: tuple[Path, SearchProcess], start: Callable[..., SearchProcess], tmp_path: Path
) -> None:
    output, _ = whole_search
    space = next(output.parent.glob("*.yaml"))
    before = report(output)
    search = start("--space", space, "--output", output, "--ablate")
    assert search.finish() == 0, search.said()
    after = report(output)
    assert {k: v for k, v in after.items() if k != "ablation"} == before
    assert [row["terms"] for row in after["ablation"]] == list(ablations(CONFIG))
    # All terms, on the same seeds: what the confirmation has measured.
    assert after["ablation"][0]["validation"]["mean"] == pytest.approx(after["confirmation"]["recommended"]["mean"])
    assert after["ablation"][0]["test"]["mean"] == pytest.approx(after["test"]["recommended"]["mean"])
    with (output / "ablation.csv").open() as file:
        assert len(list(csv.reader(file))) == 8
    assert "uni + cross + joint" in search.said()


def test_it_needs_a_search_that_is_complete(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], write_space: Callable[..., Path]
) -> None:
    from search.command import main

    assert main(["--space", str(write_space(tmp_path)), "--output", str(tmp_path / "none"), "--ablate"]) == 2
    assert "--ablate needs a finished search" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
