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
    "protocols",
    "replica_scores",
    "resnet",
    "retrieval",
    "retrieval_metric",
    "row_blocks",
    "secondary_scores",
    "soft_labels",
    "task_warnings",
]
