"""MLflow."""

__all__ = [
    "shared_view",
    "store",
    "tracker",
    "writer",
]
