"""A dataset of one modality has no pairs: two terms are 0, which is told."""

from __future__ import annotations

import pytest
import torch

from condense.data.dataset import Dataset, MemorySplit
from condense.evaluation.task_warnings import dataset_warnings
from condense.inputs.spec import ArraySpec


@pytest.mark.parametrize(("modalities", "told"), [(["imu"], 1), (["imu", "depth"], 0)])
def test_terms_of_pairs_are_told_where_there_are_none(modalities: list[str], told: int) -> None:
    split = MemorySplit({m: torch.randn(4, 1, 2) for m in modalities}, torch.tensor([0, 1, 0, 1]))
    specs = {m: ArraySpec(m, (1, 2), -1.0, 1.0) for m in modalities}
    found = dataset_warnings(Dataset("mine.csv", specs, ("a", "b"), split, split, split, "fingerprint"))
    assert len(found) == told
    assert all("mine.csv: has one modality, imu" in line and "`lambda_cross`" in line for line in found)
