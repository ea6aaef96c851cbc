"""The spaces that come with the project: valid, documented, and honest about what is missing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import spaces
from condense.config.models import MODALITIES
from condense.recipes.catalog import DATA, TOWERS
from search.command import main
from search.preflight import missing_parts
from search.space.files import load_space

FILES = sorted(Path(next(iter(spaces.__path__))).glob("*.yaml"))
RECIPES = [file for file in FILES if "python -m condense data " in file.read_text()]
EMBEDDED = ("quickstart", "robust_digits", "cluster_check")
PAPERS = [file for file in FILES if file.stem not in EMBEDDED and file not in RECIPES]


def test_there_are_spaces_for_the_papers_tasks_and_beyond() -> None:
    assert {file.stem for file in PAPERS} >= {"ave", "clotho", "nyu_v2", "six_modalities", "vggsound"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_is_valid_and_named_as_its_file(file: Path) -> None:
    space = load_space(file.stem)
    assert space.name == file.stem
    assert space.fixed["lambda_uni"] == 1.0
    assert {"lambda_cross", "lambda_joint", "frequency_scale"} <= space.search.keys()


@pytest.mark.parametrize("file", PAPERS, ids=lambda file: file.stem)
def test_it_says_where_the_data_is_and_how_to_lay_it_out(file: Path) -> None:
    comment = re.match(r"(#.*\n)+", file.read_text())
    assert comment is not None
    text = comment[0]
    assert "Data: " in text and "The paper " in text
    header = re.search(r"^#     (split,label,\S+)$", text, re.M)
    assert header is not None
    columns = header[1].split(",")[2:]
    assert set(columns) <= set(MODALITIES) and len(columns) >= 2
    example = text[header.end() :].split("\n")[1].removeprefix("#     ").split(",")
    assert example[0] == "train" and len(example) == 2 + len(columns)
    space = load_space(file.stem)
    rates = {name.removeprefix("learning_rate_") for name in space.search if name.startswith("learning_rate_")}
    assert rates == set(columns)
    assert space.tasks[0].dataset.path.name == f"{file.stem}.csv"  # type: ignore[union-attr]


@pytest.mark.parametrize("file", PAPERS, ids=lambda file: file.stem)
def test_a_dry_run_names_what_is_missing_and_a_run_refuses(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    files = ["--set", "tasks.0.dataset.path=none.csv", "--set", "tasks.0.encoder.checkpoint=none.pth"]
    assert main(["--space", file.stem, *files, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "# missing: none.csv (tasks.0.dataset.path)\n" in printed
    assert (
        "# missing: none.pth (tasks.0.encoder.checkpoint): python -m condense download imagebind --to none.pth\n"
        in printed
    )
    assert main(["--space", file.stem, *files]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: missing: none.csv (tasks.0.dataset.path); none.pth ") and error.count("\n") == 1
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_the_commands_it_names_make_what_it_reads(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text, root = file.read_text(), file.parent.parent
    known = {"data": DATA, "towers": TOWERS}
    made = {}
    for kind, name, to in re.findall(r"python -m condense (data|towers) (\w+).* --to (\S+)", text):
        assert name in known[kind]
        made[to] = name
    space = load_space(file.stem)
    assert str(space.tasks[0].dataset.path.parent.relative_to(root)) in made  # type: ignore[union-attr]
    for path in re.findall(r"\.\./(towers/\w+)", text):
        assert made[path] == Path(path).name
    monkeypatch.chdir(tmp_path)
    assert main(["--space", file.stem, "--set", "tasks.0.dataset.path=none.csv"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: missing: none.csv (tasks.0.dataset.path)")
    assert error.count("\n") == 1


def test_a_missing_package_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "ftfy" else object())
    assert [text for text in missing_parts(load_space("ave")) if "package" in text] == [
        "the package ftfy (tasks.0.encoder): make installs it, README.md says how else"
    ]


def test_a_model_that_is_not_here_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for model, known in (("nobody/nothing", False), (str(tmp_path), True)):
        space = load_space("quickstart", [f"tasks.0.encoder={{name: transformers, model: {model}}}"])
        found = [text for text in missing_parts(space) if "encoder.model" in text]
        assert bool(found) != known
        assert known or "nobody/nothing: no such folder, and not in the Hugging Face cache" in found[0]
