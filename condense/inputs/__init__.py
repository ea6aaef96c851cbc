"""What ONE item looks like to an encoder: its shape and range, how it is read, how it is shown."""

__all__ = [
    "cut_sounds",
    "formation",
    "imagebind",
    "kaldi",
    "media",
    "pictures",
    "series",
    "series_plot",
    "single_models",
    "spec",
    "tokens",
    "transformations",
    "transformers",
    "waves",
    "whisper",
]
