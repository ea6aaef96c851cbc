"""Several objectives: the trials that no other trial beats in all of them (the Pareto front)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from search.analysis.ranking import score_of
from search.ledger.ledger import TrialRecord
from search.space.model import Space


def pareto(space: Space, records: Sequence[TrialRecord]) -> dict[str, Any] | None:
    """The completed trials' objectives, and the Pareto front among them. None for a single objective."""
    if len(space.objectives) < 2:
        return None
    known = []
    for r in records:
        if r.status == "completed" and r.name != "paper_default":
            values = [score_of(r), *(r.metrics.get(f"objective/{name}", math.nan) for name in space.objectives[1:])]
            if all(map(math.isfinite, values)):
                known.append((r.number, values))

    every = np.array([values for _, values in known]).reshape(len(known), len(space.objectives))

    def beaten(values: Sequence[float]) -> bool:
        return bool(((every >= values).all(1) & (every != values).any(1)).any())

    trials = [{"number": number, "values": values, "front": not beaten(values)} for number, values in known]
    return {"objectives": list(space.objectives), "trials": trials}
