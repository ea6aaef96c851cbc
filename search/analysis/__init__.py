"""What trials say: statistics and models, without Ray."""

__all__ = [
    "cost",
    "failure_regions",
    "failure_signatures",
    "importance",
    "metrics",
    "pareto",
    "ranking",
    "robustness",
    "scores",
    "statistics",
    "surrogate",
    "transfer",
]
