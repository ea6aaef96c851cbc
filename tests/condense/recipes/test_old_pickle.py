"""The unpickler of old tables: reads them, and runs nothing that a pickle asks for."""

from __future__ import annotations

import gzip
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_packages import experiment, hapt_package, known, old_pickle

from condense.recipes import hapt
from condense.recipes.folder import make
from condense.recipes.old_pickle import read_frames
from condense.system.errors import UserError


class Calls:
    """Is pickled as a call of anything."""

    def __init__(self, what: Any, *arguments: Any) -> None:
        self.call = what, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def test_a_table_is_read() -> None:
    people = read_frames(old_pickle({7: [experiment([(1, 3), (2, 2)])]}), "here")
    columns = people[7][0].columns()
    assert columns["label"].tolist() == [1, 1, 1, 2, 2]
    assert columns["gyro-z"].tolist() == [0.5, 1.5, 2.5, 3.5, 4.5]
    assert columns["acc-x"].dtype == np.float64


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("what", [os.system, eval, __import__, pickle.loads, np.load, getattr])
def test_nothing_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: Any, protocol: int) -> None:
    trap = tmp_path / "ran"
    argument = {os.system: f"touch {trap}", eval: f"open({str(trap)!r}, 'w')", np.load: str(trap)}.get(what, "os")
    content = gzip.compress(pickle.dumps({1: [Calls(what, argument)]}, protocol))
    with pytest.raises(UserError, match=r"^here: is refused as a pickle of tables: it asks for \w+\.\w+"):
        read_frames(content, "here")
    assert not trap.exists()


def test_known_names_are_called_with_what_they_are_for_only() -> None:
    for code in (
        b"cnumpy\ndtype\n(X\x06\x00\x00\x00V99999tR.",  # a type of any size
        b"ccopy_reg\n_reconstructor\n(c__builtin__\nobject\nc__builtin__\nobject\nNtR.",
        b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00rottR.",
        b"cnumpy\nndarray.tofile\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.",
        b"cnumpy.core.multiarray\nfromfile\n.",
        b"Pelsewhere\n.",
    ):
        with pytest.raises(UserError, match="is refused as a pickle of tables"):
            read_frames(gzip.compress(code), "here")


@pytest.mark.parametrize(
    "damage",
    [b"no gzip", gzip.compress(b"no pickle", mtime=0), gzip.compress(pickle.dumps([1] * 99), mtime=0)[:20]],
    ids=["no gzip", "no pickle", "cut short"],
)
def test_damage_is_one_line(damage: bytes) -> None:
    with pytest.raises(UserError, match=r"^here: ") as raised:
        read_frames(damage, "here")
    assert "\n" not in str(raised.value)


def test_a_package_with_such_a_pickle_is_refused(tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    hapt_package(tmp_path / "got", gzip.compress(pickle.dumps(Calls(os.system, f"touch {trap}"), 2)))
    with pytest.raises(UserError, match=r"HAPT\.pkl\.gz: is refused as a pickle of tables: it asks for posix\.system"):
        make(known(hapt.RECIPE, tmp_path / "got"), tmp_path / "to", tmp_path / "got")
    assert not trap.exists()
    assert not (tmp_path / "to/recipe.json").exists()
