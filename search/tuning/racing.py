"""Racing: more seeds for the trials that keep up with the best one.

As in intensification (ROAR and SMAC, Hutter et al. 2011), a challenger is compared with the incumbent on the seeds that both
have, and gets more of them (1 -> 2 -> 4 ...) until it has as many, or falls behind. The seeds are paired, so a common effect
(a good or a bad start) cancels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

from search.space.model import Racing


@dataclass(frozen=True)
class Runner:
    """A trial that has all seeds: its robust score, and its value on each seed (mean over tasks)."""

    score: float
    per_seed: Sequence[float]


@dataclass(frozen=True)
class Judgement:
    """Whether a challenger gets more seeds; if not, the score and mean over seeds to record for it."""

    goes_on: bool
    score: float
    mean: float


def stages(racing: Racing | None, seeds: int) -> list[range]:
    """Which seeds (by position) each stage adds; together all `seeds`. One stage without racing."""
    if racing is None:
        return [range(seeds)]
    ends = [racing.start]
    while ends[-1] < seeds:
        ends.append(min(seeds, max(ends[-1] + 1, math.floor(ends[-1] * racing.growth + 1e-9))))
    return [range(low, high) for low, high in zip([0, *ends], ends, strict=False)]


def judge(per_seed: Sequence[float], rivals: Sequence[Runner], tolerance: float) -> Judgement:
    """A challenger with the first `len(per_seed)` seeds against the best of the `rivals`, which have more of the same.

    It continues unless it is behind by more than `tolerance` standard errors, by the typical spread of paired differences
    (median over the other rivals; a single rival's own spread, times sqrt 2). Otherwise it is recorded with the
    incumbent's score, and mean, plus its mean paired difference. That is comparable with trials that have all seeds, and
    does not depend on how lucky its few seeds are for all. Without rivals it continues.
    """
    if not rivals:
        return Judgement(True, math.nan, math.nan)
    incumbent = max(rivals, key=lambda rival: rival.score)
    ahead = fmean(own - other for own, other in zip(per_seed, incumbent.per_seed, strict=False))
    limit = tolerance * _spread(incumbent, rivals) / math.sqrt(len(per_seed))
    return Judgement(ahead >= -limit, incumbent.score + ahead, fmean(incumbent.per_seed) + ahead)


def _spread(incumbent: Runner, rivals: Sequence[Runner]) -> float:
    own = tuple(incumbent.per_seed)
    apart = [_apart(tuple(rival.per_seed), own) for rival in rivals if rival is not incumbent]
    return median(apart) if apart else math.sqrt(2) * stdev(own)


@functools.lru_cache(maxsize=1 << 15)
def _apart(rival: tuple[float, ...], incumbent: tuple[float, ...]) -> float:
    """Standard deviation of the paired differences. Kept, since the same two are compared in each judgement."""
    return stdev(a - b for a, b in zip(rival, incumbent, strict=True))
