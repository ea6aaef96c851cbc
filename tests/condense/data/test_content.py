"""What has changed between two versions of a dataset."""

from __future__ import annotations

import pytest

from condense.data.content import changes, content_of

ROWS = [("train", "a", f"item {i}") for i in range(8)] + [("test", "b", f"item {i}") for i in range(8, 12)]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([*ROWS], None),
        ([("train", "b", d) if s == "train" else (s, y, d) for s, y, d in ROWS], "8 of 12 items have another label"),
        ([*ROWS[:-1], ("test", "b", "other")], "1 of 12 items hold something else"),
        ([("test", "a", "item 0"), *ROWS[1:]], "1 of 12 items are in another split"),
        (
            [("train", "b", "other"), *ROWS[1:]],
            "1 of 12 items hold something else, 1 of 12 items have another label",
        ),
        ([ROWS[1], ROWS[0], *ROWS[2:]], "2 of 12 items have another place in the order"),
        (ROWS[3:], "there were 12 items, now there are 9: 9 of them are as they were"),
        ([*ROWS, ("test", "b", "more")], "there were 12 items, now there are 13: 12 of them are as they were"),
    ],
)
def test_changes_are_counted(rows: list[tuple[str, str, str]], told: str | None) -> None:
    assert changes(content_of(ROWS), content_of(rows)) == told


def test_of_what_is_not_known_nothing_is_said() -> None:
    assert changes({}, content_of(ROWS)) is None
    assert changes(content_of(ROWS), {}) is None
