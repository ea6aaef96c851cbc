"""Embeddings of folds: what an encoder makes of their items, at one pass for all folds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from test_encoding import MODALITIES, Projection, make_split

from condense.config.models import Fold
from condense.data.dataset import Dataset
from condense.data.folds import fold_of
from condense.embeddings.embeddings import embed_split, load_embedded
from condense.encoders.tower_features import split_features
from condense.storage.store import Store

CPU = torch.device("cpu")
SPLITS: tuple[Literal["condense", "validation"], ...] = ("condense", "validation")


@pytest.fixture
def folds() -> list[Dataset]:
    splits = [make_split(count, missing=True) for count in (50, 31, 20)]
    base = Dataset("pairs", Projection().specs, ("only",), *splits, "f")
    return [fold_of(base, Fold(index=index, of=3)) for index in range(3)]


def test_an_encoder_sees_each_item_once(folds: list[Dataset], tmp_path: Path) -> None:
    encoder, store = Projection(), Store(tmp_path)
    for fold in folds:
        for split in SPLITS:
            found, part = load_embedded(fold, encoder, split, store, CPU), getattr(fold, split)
            direct = embed_split(Projection(), part, CPU)
            assert torch.equal(found.labels, part.labels)
            for m in MODALITIES:
                torch.testing.assert_close(found.embeddings[m], direct.embeddings[m])
                assert found.present.keys() == direct.present.keys()
                assert m not in found.present or torch.equal(found.present[m], direct.present[m])
        assert len(load_embedded(fold, encoder, "test", store, CPU).labels) == 20
    splits = [make_split(count, missing=True) for count in (50, 31, 20)]
    assert encoder.items == {m: sum(int(split.present[m].sum()) for split in splits) for m in MODALITIES}


def test_another_encoder_sees_them_anew(folds: list[Dataset], tmp_path: Path) -> None:
    """One that was trained on a fold has a fingerprint of its own."""
    store = Store(tmp_path)
    load_embedded(folds[0], Projection(), "condense", store, CPU)
    trained = Projection()
    trained.fingerprint = "on fold 1"
    load_embedded(folds[1], trained, "condense", store, CPU)
    assert trained.items["vision"] > 70


def test_so_does_a_tower(folds: list[Dataset], tmp_path: Path) -> None:
    class Tower(torch.nn.Module):
        width, fingerprint, trained_with_heads = 7, "tower", False
        seen = 0

        def forward(self, inputs: Any) -> Any:
            type(self).seen += len(inputs)
            return 2 * inputs

    towers: dict[str, Any] = {"vision": Tower()}
    for fold in folds:
        for split in SPLITS:
            part = getattr(fold, split)
            found = split_features(towers, fold, split, Store(tmp_path), CPU)["vision"]
            torch.testing.assert_close(found, 2 * part.load(range(len(part)))["vision"])
        assert len(split_features(towers, fold, "test", Store(tmp_path), CPU)["vision"]) == 20
    assert Tower.seen == 49 + 30 + 19  # item 10 of each split has nothing to be seen
