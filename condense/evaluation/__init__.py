"""How good a condensed set is."""

__all__ = [
    "comparison",
    "convnet",
    "coresets",
    "dd_ranking",
    "diagnostics",
    "linear_probe",
    "replica_scores",
    "retrieval",
    "retrieval_metric",
    "secondary_scores",
    "soft_labels",
]
