"""The folder that a recipe makes: finished, interrupted, another's; and archives that would write elsewhere."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from small_packages import SPEAKERS, emoji_packages, known, mnist_package, png, spoken_archive, write_tar, write_wheel

from condense.__main__ import main
from condense.recipes import av_mnist, emoji, folder, minilm, tables
from condense.recipes.catalog import DATA
from condense.recipes.folder import inside, make, write_file
from condense.recipes.recipe import Recipe
from condense.recipes.unpack import members, read_members
from condense.system.errors import UserError


def content_of(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    emoji_packages(tmp_path / "got")
    return known(emoji.RECIPE, tmp_path / "got")


def test_a_finished_folder_is_left_alone(recipe: Recipe, tmp_path: Path) -> None:
    to = tmp_path / "to"
    first = make(recipe, to, tmp_path / "got")
    facts = json.loads((to / "recipe.json").read_text())
    assert facts["licence"] == recipe.licence
    assert facts["sha256"] == {archive.file: archive.sha256 for archive in recipe.archives}
    (to / "manifest.csv").write_text("mine")
    assert make(recipe, to) == [f"{to}: is there already", *first[1:]]  # with no archive at all
    assert (to / "manifest.csv").read_text() == "mine"


@pytest.mark.parametrize("after", ["manifest.csv", "task.yaml", "recipe.json", "images/1f30a.png"])
def test_an_interrupted_run_goes_on_to_the_same(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    make(recipe, tmp_path / "whole", tmp_path / "got")
    to = tmp_path / "to"

    def interrupted(path: Path, content: bytes) -> None:
        if path == to / after:
            path.with_name(f".{path.name}.1.part").write_bytes(content[:3])
            raise KeyboardInterrupt
        write_file(path, content)

    with monkeypatch.context() as patch:
        for module in (emoji, tables, folder):
            patch.setattr(module, "write_file", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make(recipe, to, tmp_path / "got")
    assert not (to / after).exists()
    before = {path: path.stat().st_mtime_ns for path in to.rglob("*.png") if not path.name.startswith(".")}
    make(recipe, to, tmp_path / "got")
    assert {path: path.stat().st_mtime_ns for path in before} == before  # what is right is not written again
    for part in to.rglob(".*.part"):
        part.unlink()
    assert content_of(to) == content_of(tmp_path / "whole")


def test_a_folder_of_something_else_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(UserError, match="mine: holds something else: choose a new folder"):
        make(recipe, tmp_path / "mine", tmp_path / "got")
    with pytest.raises(UserError, match=r"notes\.txt: holds something else"):
        make(recipe, tmp_path / "mine/notes.txt", tmp_path / "got")
    write_file(tmp_path / "begun/.archives/begun", b"hapt")
    with pytest.raises(UserError, match="begun: holds something else"):
        make(recipe, tmp_path / "begun", tmp_path / "got")


def test_a_folder_with_other_options_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "got").mkdir()
    mnist_package(tmp_path / "got", 240, 110)
    spoken_archive(tmp_path / "got/fsdd.tar.xz", each=1)
    monkeypatch.setitem(DATA, "av_mnist", known(av_mnist.RECIPE, tmp_path / "got"))
    command = ["data", "av_mnist", "--to", str(tmp_path / "to"), "--from", str(tmp_path / "got")]
    assert main([*command, "--label", "parity"]) == 0
    assert main([*command, "--label", "parity"]) == 0
    capsys.readouterr()
    assert main([*command, "--pairs", "300", "--words"]) == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path}/to: holds av_mnist 1 (pairs: None, label: parity, words: False), but av_mnist 1 (pairs: 300, label: "
        "digit, words: True) is asked for: choose another folder\n"
    )


@pytest.mark.parametrize(
    "options", [["--pairs", "299"], ["--pairs", "70001"], ["--pairs", "x"], ["--label", "speaker"]]
)
def test_options_are_checked_first(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["data", "av_mnist", "--to", str(tmp_path / "to"), *options])
    assert raised.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: argument {options[0]}: ")


def links(name: str, target: str) -> list[tarfile.TarInfo]:
    found = []
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        found.append(info)
    return found


def everything(tmp_path: Path) -> set[str]:
    return {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "to")}


@pytest.mark.parametrize("image", ["../../../evil.png", "/evil.png", "a/../../../evil.png", ""])
def test_an_archive_cannot_write_outside(tmp_path: Path, image: str) -> None:
    """emoji: the names of pictures come from a list in the archive."""
    emoji_packages(tmp_path / "got")
    (listed,) = read_members(tmp_path / "got/emoji-datasource-twitter-16.0.0.tgz", "package/emoji.json")
    entries = json.loads(listed)
    entries[0]["image"] = f"{tmp_path}{image}" if image.startswith("/") else image
    files: Mapping[str, Any] = {
        "package/emoji.json": json.dumps(entries).encode(),
        emoji.PICTURES + entries[0]["image"]: png(1),
    }
    write_tar(tmp_path / "got/emoji-datasource-twitter-16.0.0.tgz", files)
    before = everything(tmp_path)
    with pytest.raises(UserError, match="leads out of"):
        make(known(emoji.RECIPE, tmp_path / "got"), tmp_path / "to", tmp_path / "got")
    assert everything(tmp_path) == before


def test_recordings_and_models_elsewhere_are_not_written(tmp_path: Path) -> None:
    (tmp_path / "got").mkdir()
    mnist_package(tmp_path / "got")
    bad = ("../0_theo_77.wav", "a/../../1_theo_../x.wav", "/2_theo_5.txt")
    spoken_archive(tmp_path / "got/fsdd.tar.xz", extra=dict.fromkeys(bad, b"x"))
    before = everything(tmp_path)
    make(known(av_mnist.RECIPE, tmp_path / "got"), tmp_path / "to", tmp_path / "got")
    assert everything(tmp_path) == before
    sounds = {path.name for path in (tmp_path / "to/sounds").iterdir()}
    assert sounds == {f"{d}_{s}_{i}.wav" for d in range(10) for s in SPEAKERS for i in range(2)} | {"0_theo_77.wav"}
    wheel = tmp_path / "got" / minilm.RECIPE.archives[0].file
    files = {minilm.MODEL + name: b"" for name in minilm.FILES}
    write_wheel(wheel, {**files, minilm.MODEL + "../../../evil": b"evil"})
    before = everything(tmp_path)
    make(known(minilm.RECIPE, tmp_path / "got"), tmp_path / "to/minilm", tmp_path / "got")
    assert everything(tmp_path) == before
    assert {path.name for path in (tmp_path / "to/minilm").iterdir()} == {*minilm.FILES, "recipe.json"}


def test_links_in_an_archive_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    write_tar(tmp_path / "a.tgz", {"file": b"content"}, links("link", str(tmp_path / "secret")))
    assert list(members(tmp_path / "a.tgz", lambda _: True)) == [("file", b"content")]
    with pytest.raises(UserError, match=r"a\.tgz: has no link"):
        read_members(tmp_path / "a.tgz", "link")


def test_a_damaged_archive_is_one_line(tmp_path: Path) -> None:
    write_tar(tmp_path / "whole.tgz", {"file": b"content" * 1000})
    for content in (b"no archive", b"", (tmp_path / "whole.tgz").read_bytes()[:60]):
        (tmp_path / "a.tgz").write_bytes(content)
        with pytest.raises(UserError, match=r"a\.tgz: is damaged, or is no zip or tar file"):
            list(members(tmp_path / "a.tgz", lambda _: True))


def test_inside(tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "to/link").symlink_to(tmp_path)
    assert inside(tmp_path / "to", "a/../b") == tmp_path / "to/a/../b"
    for name in ("..", ".", "../to2", str(tmp_path / "x"), "link/x"):
        with pytest.raises(UserError, match="leads out of"):
            inside(tmp_path / "to", name)
