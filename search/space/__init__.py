"""The search space: the model of its YAML, its files, its reference, and what it makes of a trial."""

__all__ = [
    "constraints",
    "dimension",
    "files",
    "model",
    "plan",
    "recorded",
    "reference",
    "resources",
    "validation",
]
