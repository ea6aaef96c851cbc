"""Round numbers along an axis."""

from __future__ import annotations

import math


def ticks(low: float, high: float, log: bool) -> list[float]:
    """Round values inside [low, high] for an axis, at most about six; decades, or 1-2-5 or 1-3, where `log`."""
    if log:
        decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
        inside: list[float] = []
        for digits in ((1,), (1, 3), (1, 2, 5)):
            marks = [digit * 10.0**power for power in decades for digit in digits]
            candidate = [mark for mark in marks if low * 0.999 <= mark <= high * 1.001]
            if not inside or len(candidate) <= 6:
                inside = candidate
        return inside[:: math.ceil(len(inside) / 6)] if inside else [low, high]
    if high <= low:
        return [low]
    rough = (high - low) / 4
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * 0.999)
    return [step * k for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
