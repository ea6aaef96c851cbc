"""A small ImageBind of the official classes, for the tests that need one; skips them where its packages are missing.

They are those of the extra `imagebind` and, installed with --no-deps, imagebind-packaged.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from torch import Tensor

from condense.config.models import MODALITIES, ImageBindEncoder
from condense.data.dataset import Dataset, MemorySplit
from condense.encoders import build_encoder, encoder_specs

for package in ("einops", "ftfy", "regex"):
    pytest.importorskip(package)
if importlib.util.find_spec("imagebind") is None:  # asked for, not imported: by itself it cannot be
    pytest.skip("imagebind is not installed", allow_module_level=True)


def dataset_of(config: ImageBindEncoder, modalities: tuple[str, ...]) -> Dataset:
    """No items: only what they would look like."""
    specs = {m: encoder_specs(config)[m] for m in modalities}
    empty = MemorySplit({}, torch.zeros(0, dtype=torch.int64))
    return Dataset("empty", specs, ("a",), empty, empty, empty, "empty")


def built(modalities: tuple[str, ...] = MODALITIES, **options: Any) -> Any:
    config = ImageBindEncoder(**{"size": "small", **options})
    return build_encoder(config, dataset_of(config, modalities))


def items(m: str, n: int, seed: int = 0) -> Tensor:
    shape = encoder_specs(ImageBindEncoder(size="small"))[m].shape
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))
