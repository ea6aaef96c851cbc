"""How good a condensed set is."""

__all__ = [
    "augmentation",
    "base_rate",
    "comparison",
    "convnet",
    "coresets",
    "dd_ranking",
    "diagnostics",
    "item_values",
    "linear_probe",
    "network_protocol",
    "networks",
    "replica_scores",
    "resnet",
    "retrieval",
    "retrieval_metric",
    "secondary_scores",
    "soft_labels",
    "task_warnings",
]
