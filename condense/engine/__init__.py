"""Many condensations in one pass."""

__all__ = [
    "engine",
    "group",
    "replica_batch",
    "spread",
]
