"""When to stop adding seeds to a comparison: looks at growing numbers of them, and what more of them could still change.

**Looks and their error.** A comparison is looked at with a fifth of the seeds, and so on (`FRACTIONS`) up to all of them, and
ends once the lower end of its interval is above 0. To be right at all looks together, each has a share of the error: what the
power family of Kim and DeMets (1987, "Design and analysis of group sequential tests based on the type I error spending rate
function") spends up to there, (n / most)^`POWER`, minus what was spent before: little at first, so that the last look is nearly
as sharp as if it were the only one. Errors at most add up (Bonferroni), whatever the correlation of the looks. The
intervals are repeated confidence intervals (Jennison and Turnbull 1989): they hold at whichever look the comparison ends.
To spend by information instead, nearly all at the first look where items dominate, loses more (`benchmarks/LOG.md`).

**Futility.** Seeds narrow their own part of an interval, not that of items. A comparison is over when all seeds would not bring
its lower end above 0, even if the rest of them were as lucky as one time in ten. This stop can only lose
recommendations, so it costs no error.

`tests/search/confirmation/test_elimination.py` counts both on simulated searches.
"""

from __future__ import annotations

import math
from typing import Literal

from search.analysis.paired import Paired, student
from search.analysis.statistics import LEVEL

FIRST_LOOK = 4  # seeds: with fewer, their variance is hardly known
FRACTIONS = (0.2, 0.35, 0.6, 1.0)  # of all seeds, at each look
POWER = 3.0
LUCK = 0.9  # quantile of what the seeds that are left may bring

Standing = Literal["shown", "open", "items", "seeds"]
"""`shown`: the lower end is above 0. `open`: more seeds may bring it there. `items`: no number of seeds would. `seeds`: more
would than are allowed."""


def looks(most: int) -> list[int]:
    """Numbers of seeds up to `most`; a single one where these are few. None is followed by one with less than half more."""
    counts = sorted({max(FIRST_LOOK, round(most * fraction)) for fraction in FRACTIONS})
    return [*(n for n in counts if 1.5 * n <= most), most]


def spent(seeds: int, most: int) -> float:
    """The share of the error that may be made up to a look, in [0, 1]."""
    return float((seeds / most) ** POWER)


def as_compared(settings: int, share: float) -> int:
    """How many settings an interval is to hold for at once, so that with only this share of the error it holds for `settings` of
    them."""
    error = share * -math.expm1(math.log(LEVEL) / max(1, settings))
    return math.ceil(math.log(LEVEL) / math.log1p(-error) - 1e-9)


def standing(found: Paired, most: int, compared: int, luck: float = LUCK) -> Standing:
    """What a comparison has come to. `most`: the seeds of the last look; `compared`: `as_compared` there; `luck`: 0.5 where only
    what is likely to be shown is worth more seeds."""
    if found.low > 0:
        return "shown"
    if found.variance is None or not math.isfinite(found.mean):
        return "open" if math.isfinite(found.mean) and 1 < found.n < most else "seeds"
    own, quantile = found.variance, max((1 + LEVEL) / 2, LEVEL ** (1 / compared))
    by_luck = student(luck, max(1, found.n - 1)) * math.sqrt(own.seeds)
    last = found.mean + by_luck * math.sqrt(max(0.0, 1 / found.n - 1 / most)) - own.half(quantile, most)
    if found.n < most and last > 0:
        return "open"
    return "items" if found.mean + by_luck / math.sqrt(found.n) - own.half(quantile, None) <= 0 else "seeds"


def may_turn(found: Paired, most: int) -> bool:
    """Whether the seeds that are left up to `most` may turn the sign of a difference on these items."""
    if found.variance is None or found.n < 2:
        return found.n < most
    left = max(0.0, 1 / found.n - 1 / most)
    return found.mean < student(LUCK, found.n - 1) * math.sqrt(found.variance.seeds * left)


def seeds_to_report(found: Paired, fewest: int, most: int) -> int:
    """With how many seeds an interval is at most a quarter wider than with any number of them, from `fewest` to `most`."""
    own = found.variance
    if own is None or own.items <= 0 or not math.isfinite(found.mean):
        return most if own is None or own.seeds > 0 else fewest
    return min(most, max(fewest, math.ceil(2 * own.seeds / own.items)))
