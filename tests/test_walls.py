"""What importing a module loads, and the shape of the source files. Which wing may import which: pyproject.toml's contracts."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FRAMEWORKS = {"ray", "optuna", "mlflow"}
NO_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}  # they say nothing of what is inside
MOST_LINES = 420


def sources(*folders: str) -> Iterator[Path]:
    """The Python files of top-level folders and, without arguments, of all of them and the root."""
    if not folders:
        yield from ROOT.glob("*.py")
        folders = tuple(p.name for p in ROOT.iterdir() if p.is_dir() and p.name[0] != "." and p.name != "build")
    for folder in folders:
        yield from (ROOT / folder).rglob("*.py")


def loaded(program: str) -> set[str]:
    """Top-level names of the modules that a fresh interpreter has after `program`."""
    program += "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules})"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def test_the_method_loads_neither_the_search_nor_its_frameworks() -> None:
    names = loaded(
        "import importlib, pkgutil, condense\n"
        "modules = [m.name for m in pkgutil.walk_packages(condense.__path__, 'condense.')]\n"
        "assert len(modules) > 10\n"
        "for name in modules: importlib.import_module(name)"
    )
    assert "torch" in names
    assert names & (FRAMEWORKS | {"search"}) == set()


@pytest.mark.parametrize("module", ["search.tuning.trainable", "search.engine.actor"])
def test_the_process_of_a_trial_is_light(module: str) -> None:
    assert "torch" not in loaded(f"import {module}")


def test_a_wrong_space_costs_no_heavy_import() -> None:
    names = loaded("import search.driver, search.command, search.space.model")
    assert names & {"torch", "ray", "optuna", "mlflow"} == set()


def test_each_wing_says_what_it_is_and_what_is_in_it() -> None:
    folders = [*(ROOT / "condense").iterdir(), *(ROOT / "search").iterdir()]
    wings = [folder for folder in folders if (folder / "__init__.py").exists()]
    assert len(wings) == 21
    for wing in wings:
        package = importlib.import_module(".".join(wing.relative_to(ROOT).parts))
        assert package.__doc__, wing
        assert {file.stem for file in wing.glob("*.py")} - {"__init__"} <= set(package.__all__), wing
        for name in package.__all__:
            assert hasattr(package, name) or (wing / f"{name}.py").exists() or (wing / name).is_dir(), (wing, name)


def test_no_file_has_a_name_that_says_nothing() -> None:
    assert [file for file in sources() if {part.removesuffix(".py") for part in file.parts[-2:]} & NO_NAMES] == []


def test_no_source_file_is_long() -> None:
    lines = {
        str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines())
        for file in sources("condense", "search", "benchmarks")
    }
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}
