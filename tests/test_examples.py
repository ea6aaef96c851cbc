"""Each script in examples/ runs as its docstring says, on the data that it names."""

from __future__ import annotations

import ast
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SECONDS = 600
# Those that read a search come after those that run it.
FIRST = ("own_data", "own_encoder", "one_condensation", "search_from_python", "read_results")
MORE = ("several_tasks", "compare_searches", "ablation")


def command_of(path: Path) -> list[str]:
    """What its docstring says, with its optional arguments left out."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    (line,) = [line for line in docstring.splitlines() if line.startswith("python examples/")]
    return [part for part in shlex.split(line) if not part.startswith("[")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where they run: with `examples/` in it, and their results, which later ones read."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "examples").symlink_to(ROOT / "examples")
    return folder


def test_all_are_here() -> None:
    assert {path.stem for path in EXAMPLES} == {*FIRST, *MORE}
    for path in EXAMPLES:
        assert command_of(path)[:2] == ["python", f"examples/{path.name}"]
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 60


def run(name: str, folder: Path) -> str:
    arguments = command_of(ROOT / "examples" / f"{name}.py")[1:]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "token", "PYTHONWARNINGS": "default"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.mark.slow
def test_they_run_one_after_the_other(folder: Path) -> None:
    """In one test: later ones read what earlier ones have left."""
    said = {name: run(name, folder) for name in FIRST}
    assert (folder / "results/own_data/condensed/overview.png").is_file()
    assert "full data: 1.000" in said["own_data"]
    assert "full data" in said["own_encoder"]
    assert "the paper's default" in said["one_condensation"]
    assert (folder / "results/one_condensation/condensed.safetensors").is_file()
    assert "on test" in said["search_from_python"]
    assert "rank correlation with the score" in said["read_results"]
    assert "Optuna: 8 trials" in said["read_results"]


@pytest.mark.faults
def test_those_of_several_searches(folder: Path) -> None:
    said = {name: run(name, folder) for name in ("search_from_python", *MORE)}
    assert "quickstart" in said["compare_searches"]
    assert "several_tasks" in said["compare_searches"]
    assert "uni + joint: " in said["ablation"]
