"""Cells of a manifest: paths from the home folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from condense.data.manifest_rows import read_rows


def test_a_path_may_begin_at_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "mine.csv").write_text("split,label,vision,text\ntrain,a, ~/a.png,~/stays\ntrain,a,b/~/c.png,d\n")
    _, rows = read_rows(tmp_path / "mine.csv")
    assert [row.cells for row in rows] == [(f"{tmp_path}/home/a.png", "~/stays"), ("b/~/c.png", "d")]
