"""MLflow."""

__all__ = [
    "answers",
    "artifact_store",
    "shared_view",
    "store",
    "tracker",
    "writer",
]
