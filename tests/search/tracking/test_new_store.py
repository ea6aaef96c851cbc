"""A SQLite store that several searches make at once, and one that was left half-made."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from condense.system.errors import UserError
from search.tracking.store import check_tracking, connect

FIRST = "import sys; from search.tracking.store import check_tracking; check_tracking(sys.argv[1])"


@pytest.mark.slow
def test_of_several_first_searches_one_makes_the_store(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    searches = [
        subprocess.Popen([sys.executable, "-c", FIRST, uri], stderr=subprocess.PIPE, text=True) for _ in range(4)
    ]
    for search in searches:
        _, said = search.communicate(timeout=120)
        assert search.returncode == 0, said
    assert connect(uri).create_experiment("one")
    assert {path.name for path in tmp_path.iterdir()} <= {"mlflow.db", ".mlflow.db.lock"}


@pytest.mark.parametrize("table", ["_alembic_tmp_tags", "experiments"])
def test_a_half_made_store_is_told(tmp_path: Path, table: str) -> None:
    path = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"CREATE TABLE {table} (key TEXT)")
    with pytest.raises(UserError, match="did not come to its end: delete it") as raised:
        check_tracking(f"sqlite:///{path}")
    assert "\n" not in str(raised.value) and str(path) in str(raised.value)
