"""Real data through an encoder, once per dataset and encoder."""

__all__ = [
    "embeddings",
    "encoding",
    "features",
    "initialization_cache",
    "input_figures",
    "statistics",
    "task",
    "views",
]
