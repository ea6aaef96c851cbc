"""What trials say: statistics and models, without Ray."""

__all__ = [
    "coordinates",
    "cost",
    "deadline",
    "failure_regions",
    "failure_signatures",
    "importance",
    "metrics",
    "paired",
    "pareto",
    "patience",
    "ranking",
    "robustness",
    "saturation",
    "scores",
    "sequential",
    "statistics",
    "surrogate",
    "transfer",
]
