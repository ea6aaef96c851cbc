"""Which cells of the table of helps are made, and what is compared, where only some are asked for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from helps_tables import ADDED, BASELINES, HELPS, JUDGES, METHODS, OVER, Cell, Chosen, leads_of, report

ALL = "formation + views + bank"


def values(chosen: Chosen) -> dict[Cell, list[float]]:
    """Three seeds per cell, each cell's mean its own: later methods and helps are better."""
    order = {(m, h.name): METHODS.index(m) + 10 * HELPS.index(h) for m in chosen.methods for h in chosen.helps}
    return {cell: [at / 100, at / 100 + 0.01, at / 100 - 0.01] for cell, at in order.items()}


def test_all_cells_by_default() -> None:
    chosen = Chosen.named(METHODS, [h.name for h in HELPS])
    assert chosen == Chosen() and set(chosen.added) == set(ADDED)
    assert {m for m, _ in chosen.sources} == set(METHODS)
    assert all((m, h.name) in chosen.sources for m in ("mmd", "ours") for h in HELPS if not h.soft)


def test_a_chosen_cell_needs_the_one_that_it_repeats() -> None:
    chosen = Chosen.named(["herding", "ours"], [ALL, "formation + views + soft labels"])
    assert chosen.sources == {("herding", "formation"), ("ours", ALL), ("ours", "formation + views")}
    assert chosen.added == {}  # not both sides of any


def test_leads_are_over_what_was_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    chosen = Chosen.named(METHODS, ["none", ALL])
    found = values(chosen)
    leads = leads_of(found, ALL, chosen)
    assert list(leads) == list(OVER)
    assert sum(leads[OVER[0]].differences) / 3 == pytest.approx(0.54 - 0.03)  # MMD is the best baseline without help
    assert sum(leads[OVER[1]].differences) / 3 == pytest.approx(0.01)
    of = report(1, dict.fromkeys(JUDGES, found), chosen)
    assert len(of["cells"]) == len(METHODS) * 2 and set(of["leads"]) == {"none", ALL}
    assert "views" not in capsys.readouterr().out.splitlines()[2].replace(ALL, "")


def test_no_lead_over_what_is_not_there() -> None:
    chosen = Chosen.named(["herding", "ours"], [ALL])
    assert list(leads_of(values(chosen), ALL, chosen)) == ["best baseline, same help"]
    chosen = Chosen.named(BASELINES, ["none"])
    assert leads_of(values(chosen), "none", chosen) == {}
