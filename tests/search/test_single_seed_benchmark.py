"""The benchmark that lets whoever uses one seed search with it, against a search that has ended."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from search_process import SearchProcess, report

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.faults  # for its time: a search of its own
def test_its_figures_are_those_of_the_search(whole_search: tuple[Path, SearchProcess], tmp_path: Path) -> None:
    against, _ = whole_search
    figures, output = tmp_path / "figures.json", tmp_path / "searches"
    command = [sys.executable, str(ROOT / "benchmarks" / "single_seed.py"), "--against", str(against)]
    command += [
        "--output",
        str(output),
        "--searches",
        "1",
        "--trials",
        "8",
        "--moves",
        "2",
        "--threads",
        "1",
        "--json",
        str(figures),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=against.parent)
    assert done.returncode == 0, done.stderr
    found, other = json.loads(figures.read_text()), report(against)
    assert found["seeds"] == other["seeds"]["reporting"]
    # The same seeds in another process, without Ray: what the search told of its recommendation.
    assert found["recommended"]["values"] == pytest.approx(other["confirmation"]["recommended"]["values"], abs=0.02)
    naive = json.loads((output / "search_0" / "search.json").read_text())["space"]
    assert (naive["seeds"], naive["trials"], naive["seed"]) == (1, 8, other["seeds"]["search"][0] + 1)
    (chosen,) = found["searches"]
    one, mean = found["differences"]
    assert one == mean
    assert one["mean"] == pytest.approx(
        sum(a - b for a, b in zip(found["recommended"]["values"], chosen["values"], strict=True)) / len(found["seeds"])
    )
    apart, same = found["differences_moved"]
    assert apart == same
    assert apart["n"] == len(found["recommended"]["moved"]) == len(chosen["moved"]) == 2
    assert "| mean |" in done.stdout
