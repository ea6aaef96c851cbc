"""How good a condensed set is."""

__all__ = [
    "comparison",
    "convnet",
    "coresets",
    "diagnostics",
    "linear_probe",
    "replica_scores",
    "retrieval",
    "retrieval_metric",
    "secondary_scores",
]
