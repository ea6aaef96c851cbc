"""Splits that are larger than what a device is to hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from condense.data.dataset import Split
from condense.embeddings.task import Task
from condense.evaluation.comparison import Comparison
from condense.storage.store import Store


class Counting:
    """A split that keeps count of how many items it is asked for at a time."""

    def __init__(self, split: Split) -> None:
        self.split, self.labels, self.present = split, split.labels, split.present
        self.most = 0

    def __len__(self) -> int:
        return len(self.split)

    def load(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        self.most = max(self.most, len(indices))
        return self.split.load(indices)


def test_a_large_split_is_read_a_batch_at_a_time(
    small_task: Callable[..., Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same result: the ConvNets of large datasets held all of their inputs on the device."""
    whole = small_task(per_class=100)
    dataset = whole.dataset
    splits = [Counting(dataset.condense), Counting(dataset.validation)]
    task = replace(whole, dataset=replace(dataset, condense=splits[0], validation=splits[1]))
    found = []
    for device, host in ((1 << 31, 0), (0, 1 << 40), (0, 0)):
        monkeypatch.setattr("condense.data.dataset.HELD", device)
        monkeypatch.setattr("condense.data.dataset.host_memory", lambda host=host: host)
        comparison = Comparison(task, Store(tmp_path / f"{device} {host}"), convnet_steps=8, held_out="validation")
        for split in splits:
            split.most = 0
        found.append(comparison.full_convnet([0, 1]))
        assert all((split.most == len(split)) == (device + host > 0) for split in splits)
    assert found[0] == found[1] == found[2]
    assert torch.tensor(found[0]).isfinite().all()
