"""A search whose states are too large for the ledger, in an object store: it is killed, and goes on from there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from object_stores import object_store
from safetensors.torch import save_file
from search_process import SearchProcess
from small_search import ENCODER, NO_CONFIRMATION

pytestmark = pytest.mark.slow

ITEMS = 64  # of a class, of which a fifth validates
DPC = 48  # x 3 classes x 2 seeds x 128 x 128 floats and their momentum: 36 MiB
STEPS = 4


def large_tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randn(3, 1, 128, 128, generator=generator)
    tensors = {}
    for split in ("train", "test"):
        labels = torch.arange(3).repeat(ITEMS)
        tensors[f"{split}/label"] = labels
        tensors[f"{split}/vision"] = patterns[labels] + torch.randn(len(labels), 1, 128, 128, generator=generator)
    return tensors


def keys(address: str) -> list[str]:
    import fsspec

    system, path = fsspec.core.url_to_fs(address, skip_instance_cache=True, use_listings_cache=False)
    return list(system.find(path))


def test_a_killed_search_goes_on_from_the_store(
    tmp_path: Path, start: Callable[..., SearchProcess], write_space: Callable[..., Path]
) -> None:
    data, output = tmp_path / "large.safetensors", tmp_path / "out"
    save_file(large_tensors(), data)
    with object_store("s3") as store:
        task = {"dataset": {"name": "tensors", "path": str(data)}, "encoder": {**ENCODER, "image_size": 128}}
        changes: dict[str, Any] = {
            "tasks": [{**task, "dpc": DPC}],
            "fixed": {"lambda_uni": 1.0, "lambda_cross": 0.0, "num_frequencies": 16, "frequency_pool": 64},
            "search": {"learning_rate_vision": {"low": 0.3, "high": 100, "log": True}},
            "steps": STEPS,
            "report_every": 1,
            "trials": 3,
            "max_concurrent": 1,
            "confirmation": NO_CONFIRMATION,
            "storage": f"{store.address}/searches",
            "checkpoint_every": 0,
        }
        arguments = "--space", write_space(tmp_path, **changes), "--output", output
        search = start(*arguments)
        trial = output / "trials" / "00000"
        search.until(lambda: b'{"url"' in content(trial / "checkpoint.bin"))
        search.kill()
        before = (trial / "progress.jsonl").read_bytes().splitlines()
        assert keys(store.address), "the state is in the store"

        search = start(*arguments, "--resume")
        assert search.finish() == 0, search.said()
        assert "starts again" not in search.said()
        assert (trial / "progress.jsonl").read_bytes().splitlines()[: len(before)] == before
        assert keys(store.address) == [], "what is not needed any more is deleted"


def content(file: Path) -> bytes:
    return file.read_bytes() if file.exists() else b""
