"""What a user may configure: models, files and overrides, published settings, command-line arguments."""

__all__ = [
    "arguments",
    "files",
    "hyperparameters",
    "modalities",
    "models",
    "places",
    "published",
    "strict",
    "towers",
]
