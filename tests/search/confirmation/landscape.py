"""A response whose truth is known: a plateau, and a hill of noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from search.space.model import Space

LAMBDA: dict[str, Any] = {"low": 0.01, "high": 100, "log": True}
SPACE = Space.model_validate(
    {
        "name": "known",
        "tasks": [{"dpc": 1}],
        "seeds": 3,
        "search": {
            "lambda_cross": LAMBDA,
            "lambda_joint": LAMBDA,
            "frequency_scale": {"low": 0.1, "high": 4, "log": True},
        },
        "confirmation": {"top_k": 4, "seeds": 10},
    }
)


def truth(params: Mapping[str, Any], ceiling: float = math.inf) -> tuple[float, float]:
    """Mean and std over seeds: a plateau of 0.90, or the ceiling, about lambdas of 0.2, and a hill of noise about 10, where the
    mean is 0.87."""
    a, b, c = (math.log10(params[name]) for name in SPACE.search)
    away = (a + 0.7) ** 2 + (b + 0.7) ** 2 + (2 * (c + 0.3)) ** 2
    plateau = min(0.9 - 0.3 * away**2 / (away + 4) / 4, ceiling)
    noisy = math.exp(-((a - 1) ** 2 + (b - 1) ** 2) / 0.3)
    return plateau * (1 - noisy) + 0.87 * noisy, 0.02 + 0.06 * noisy
