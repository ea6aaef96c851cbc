"""MLflow."""

__all__ = [
    "store",
    "tracker",
    "writer",
]
