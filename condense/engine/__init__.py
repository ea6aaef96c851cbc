"""Many condensations in one pass."""

__all__ = [
    "engine",
    "replica_batch",
]
