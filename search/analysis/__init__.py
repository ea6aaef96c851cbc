"""What trials say: statistics and models, without Ray."""

__all__ = [
    "coordinates",
    "cost",
    "failure_regions",
    "failure_signatures",
    "importance",
    "metrics",
    "paired",
    "pareto",
    "ranking",
    "robustness",
    "saturation",
    "scores",
    "sequential",
    "statistics",
    "surrogate",
    "transfer",
]
