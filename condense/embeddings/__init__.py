"""Real data through an encoder, once per dataset and encoder."""

__all__ = [
    "embeddings",
    "encoding",
    "features",
    "initialization_cache",
    "statistics",
    "task",
    "views",
]
