"""Which candidates are shown to be better than the published settings: on few seeds, then on more where that is open.

At each look (`search/analysis/sequential.py`) every candidate that is still in question is compared with the best published
setting. One whose answer more seeds would not change gets no more of them; nor does a published setting that is behind for
good. It ends as soon as something can be recommended, or nothing can be any more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

from search.analysis.paired import Paired
from search.analysis.sequential import Standing, as_compared, may_turn, spent, standing

Stopped = Literal["decided", "items", "budget", "time", "seeds"]
"""Why a comparison got no more seeds: a setting is shown to be better; no number of seeds would show one, because the held-out
items vary; the budget, or the time, is spent; as many as are allowed would not show one, or did not."""


class Contender(Protocol):
    """A setting on the choosing seeds; `search.confirmation.selection.Candidate`."""

    label: str

    @property
    def mean(self) -> float:
        """What settings are compared by; minus infinity if a loss was not finite."""


C = TypeVar("C", bound=Contender)


@dataclass(frozen=True)
class Settled:
    """What looks at candidates came to.

    Attributes:
        stopped: why there were no more of them.
        seeds: of the last one.
        best: label of the best published setting; None if all of them diverged.
        shown: labels of what is better than that one.
        found: label of a candidate -> its difference to the best published setting, when it was last compared.
    """

    stopped: Stopped
    seeds: int
    best: str | None
    shown: list[str] = field(default_factory=list)
    found: dict[str, Paired] = field(default_factory=dict)


def compare_in_looks(
    candidates: Sequence[C],
    published: Sequence[C],
    preferred: str | None,
    looks: Sequence[int],
    compared: int,
    run: Callable[[Sequence[C], int], None],
    compare: Callable[[C, C, int, int], Paired],
    affords: Callable[[int], bool] = lambda _: True,
) -> Settled:
    """`preferred`: label of the candidate that is recommended over others that are shown to be better, too; while its answer is
    open, they do not end the looks. `run` settings on the first n choosing seeds. `compare` two on so many, the first being the
    best of so many settings. `affords`: whether so many more runs are within the budget; the first look is not asked for.
    """
    active, kept, found = list(candidates), list(published), dict[str, Paired]()
    stands: dict[str, Standing] = {}
    most, penultimate = looks[-1], looks[-2] if len(looks) > 1 else 0
    last = as_compared(compared, 1 - spent(penultimate, most))
    for i, n in enumerate(looks):
        before = spent(looks[i - 1], most) if i else 0.0
        run([*active, *kept], n)
        ran = [p for p in kept if math.isfinite(p.mean)]
        active = [c for c in active if math.isfinite(c.mean)]
        if not ran:
            return Settled("decided", n, None)
        best = max(ran, key=lambda p: p.mean)
        for c in active:
            found[c.label] = compare(c, best, n, as_compared(compared, spent(n, most) - before))
            stands[c.label] = standing(found[c.label], most, last)
        shown = [c for c in active if stands[c.label] == "shown"]
        unsure = [c for c in active if stands[c.label] == "open"]
        apart = {p.label: compare(best, p, n, 1) for p in ran if p is not best}
        rivals = [label for label, own in apart.items() if standing(own, most, 1, 0.5) == "open"]
        stopped: Stopped | None = None
        if shown and preferred not in {c.label for c in unsure}:
            stopped = "decided"
        elif not shown and not unsure and not rivals:
            ends = {stands[c.label] for c in candidates if c.label in stands}
            reasons: tuple[tuple[Standing, Stopped], ...] = (("open", "budget"), ("seeds", "seeds"), ("items", "items"))
            stopped = next((why for stands_at, why in reasons if stands_at in ends), "decided")
        else:
            if unsure:  # they have to be above whichever published setting turns out to be the best
                rivals += [label for label, own in apart.items() if may_turn(own, most) and label not in rivals]
            active, kept = [*shown, *unsure], [p for p in ran if p is best or p.label in rivals]
            # Those that lead, if there is no budget for all.
            active.sort(key=lambda c: (c.label != preferred, -c.mean))
            kept.sort(key=lambda p: -p.mean)
            more = looks[i + 1] - n
            while not shown and not affords(more * (len(active) + len(kept))) and max(len(active), len(kept)) > 1:
                (active if len(active) > 1 else kept).pop()
            if not affords(more * (len(active) + len(kept))):
                stopped = "decided" if shown else "budget"
        if stopped is not None:
            return Settled(stopped, n, best.label, [c.label for c in shown], found)
    raise AssertionError("nothing is open at the last look")
