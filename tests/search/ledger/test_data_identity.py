"""A search knows its data by what they hold, and its folder does not mind where they lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from condense.data.content import content_of
from condense.system.errors import UserError
from search.ledger.data_identity import check_data, check_encoders, record_data
from search.ledger.ledger import Ledger
from search.ledger.run_folder import check_folder

ROWS = [("train", "cat", f"{i}") for i in range(6)]


def identity(rows: list[tuple[str, str, str]], fingerprint: str = "") -> dict[str, Any]:
    return {"name": "items.csv", "fingerprint": fingerprint or str(hash(tuple(rows))), "content": content_of(rows)}


def task(folder: str) -> dict[str, Any]:
    encoder = {"name": "python", "path": f"{folder}/encoder.py"}
    return {"dataset": {"name": "manifest", "path": f"{folder}/items.csv"}, "encoder": encoder, "dpc": 1}


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Of a search that has begun a trial."""
    ledger = Ledger.open(tmp_path / "out", {"tasks": [task("/a")]}, resume=False)
    record_data(ledger.output, [identity(ROWS)], [{"dataset": "1", "encoder": "2"}], [task("/a")])
    ledger.new_trial(0, "default", {}, {}, [0])
    ledger.close()
    return ledger.output


def test_changed_data_are_refused_with_what_has_changed(output: Path) -> None:
    check_data(output, [identity(ROWS)], [task("/b")])
    relabelled = [(split, "dog", item) if item in "012" else (split, label, item) for split, label, item in ROWS]
    with pytest.raises(UserError, match=r"/b/items.csv: 3 of 6 items have another label: put them back"):
        check_data(output, [identity(relabelled)], [task("/b")])
    with pytest.raises(UserError, match="its items are the same, but they are split or read in another way"):
        check_data(output, [identity(ROWS, "split otherwise")], [task("/a")])


def test_an_encoder_may_move_but_not_change(output: Path) -> None:
    check_encoders(output, [{"dataset": "1", "encoder": "2"}], [task("/b")])
    with pytest.raises(UserError, match=r"its encoder .*/a/encoder.py.* is not the one in /b/encoder.py"):
        check_encoders(output, [{"dataset": "1", "encoder": "3"}], [task("/b")])


def test_a_moved_folder_is_the_same_search(output: Path) -> None:
    there = {"tasks": [task("/a")]}
    check_folder(output, {"tasks": [task("/b")]}, True, {"space": there})
    with pytest.raises(UserError, match=r"`tasks.0.dpc` is 1 there but 2 here"):
        check_folder(output, {"tasks": [{**task("/b"), "dpc": 2}]}, True, {"space": there})
    (output / "data.json").unlink()  # of an earlier version, which cannot tell whether the data are the same
    with pytest.raises(UserError, match=r"`tasks.0.dataset.path`"):
        check_folder(output, {"tasks": [task("/b")]}, True, {"space": there})


def test_without_a_trial_nothing_is_compared(tmp_path: Path) -> None:
    for rows in (ROWS, ROWS[1:]):
        check_data(tmp_path, [identity(rows)], [task("/a")])
        record_data(tmp_path, [identity(rows)], [{"dataset": "1", "encoder": "2"}], [task("/a")])
