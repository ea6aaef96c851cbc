"""Folds: partitions of train and validation, whole groups or stratified, the same in any row order; and their splits."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from condense.config.models import Fold, ManifestDataset
from condense.data.dataset import Dataset, MemorySplit
from condense.data.folds import fold_numbers, fold_of, grouped_folds, stratified_folds
from condense.data.manifest import load_manifest
from condense.inputs.spec import ArraySpec, TextSpec
from condense.system.errors import UserError

ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), min_size=1, max_size=60)


def dataset(counts: tuple[int, int] = (30, 12), groups: int = 7, seed: int = 0) -> Dataset:
    """Items whose single number tells them apart; some of condense have no sound."""
    generator = torch.Generator().manual_seed(seed)
    splits, first = [], 0
    for position, count in enumerate((*counts, 9)):
        value = torch.arange(first, first + count).float()[:, None]
        first += count
        labels = torch.arange(count) % 3
        has = {} if position else {"audio": torch.arange(count) % 4 != 1}
        of = torch.randint(groups, (count,), generator=generator)
        splits.append(MemorySplit({"vision": value, "audio": value + 0.5}, labels, has, of))
    specs = {m: ArraySpec(m, (1,), 0.0, 99.0) for m in ("vision", "audio")}
    return Dataset("made", specs, ("a", "b", "c"), *splits, "original")


@given(ROWS, st.integers(2, 5), st.randoms(use_true_random=False))
def test_no_group_is_divided_in_whatever_order_the_rows_are(
    rows: list[tuple[int, int]], count: int, shuffled: random.Random
) -> None:
    def numbers(of: list[tuple[int, int]]) -> dict[tuple[int, int], int]:
        labels, groups = np.array(of).T
        found = grouped_folds(labels, groups, count)
        fold_of_group: dict[int, int] = {}
        for group, fold in zip(groups.tolist(), found.tolist(), strict=True):
            assert fold_of_group.setdefault(group, fold) == fold
        assert set(found.tolist()) == set(range(count))  # no fold is empty
        return dict(zip(of, found.tolist(), strict=True))

    if len({group for _, group in rows}) < count:
        with pytest.raises(UserError, match="as many groups"):
            numbers(rows)
        return
    turned = list(rows)
    shuffled.shuffle(turned)
    assert numbers(rows) == numbers(turned)


@given(st.integers(0, 10_000), st.integers(2, 5))
def test_folds_of_groups_hold_out_like_shares_of_each_label(seed: int, count: int) -> None:
    """Forty groups of 5 to 15 items, with preferences of their own for labels."""
    rng = np.random.default_rng(seed)
    rows = []
    for group in range(40):
        liking = rng.dirichlet(np.full(3, 2.0))
        rows += [(int(rng.choice(3, p=liking)), group) for _ in range(rng.integers(5, 16))]
    labels, groups = np.array(rows).T
    found = grouped_folds(labels, groups, count)
    for label in range(3):
        shares = np.bincount(found[labels == label], minlength=count) / (labels == label).sum()
        assert np.abs(shares - 1 / count).max() < 0.1


@given(ROWS, st.integers(2, 5), st.randoms(use_true_random=False))
def test_stratified_folds_differ_by_one_item_of_each_label_and_of_all(
    rows: list[tuple[int, int]], count: int, shuffled: random.Random
) -> None:
    """The second number is an item's content: equal ones go together."""

    def numbers(of: list[tuple[int, int]]) -> dict[tuple[int, int], int]:
        found = stratified_folds(np.array([label for label, _ in of]), [str(item) for _, item in of], count).tolist()
        known: dict[tuple[int, int], int] = {}
        for item, fold in zip(of, found, strict=True):
            assert known.setdefault(item, fold) == fold
        return known

    known = numbers(rows)
    for labels in [{label} for label in range(4)] + [set(range(4))]:
        sizes = np.bincount([fold for (label, _), fold in known.items() if label in labels], minlength=count)
        assert sizes.max() - sizes.min() <= 1
    turned = list(rows)
    shuffled.shuffle(turned)
    assert numbers(turned) == known


@pytest.mark.parametrize("by", ["group", "class"])
def test_each_item_is_held_out_once_and_keeps_all_that_it_has(by: str) -> None:
    original = dataset()
    held: list[float] = []
    for index in range(3):
        made = fold_of(original, Fold.model_validate({"index": index, "of": 3, "by": by}))
        parts = {name: getattr(made, name) for name in ("condense", "validation")}
        values = {name: part.load(range(len(part)))["vision"][:, 0].tolist() for name, part in parts.items()}
        assert sorted(values["condense"] + values["validation"]) == list(range(42))
        held += values["validation"]
        for name, part in parts.items():
            has = part.present.get("audio", torch.ones(len(part), dtype=torch.bool))
            sound = part.load(range(len(part)))["audio"][:, 0]
            for row, value in enumerate(map(int, values[name])):
                of, at = (original.condense, value) if value < 30 else (original.validation, value - 30)
                assert part.labels[row] == of.labels[at]
                assert part.groups is not None and of.groups is not None and part.groups[row] == of.groups[at]
                there = bool(of.present["audio"][at]) if "audio" in of.present else True
                assert bool(has[row]) == there and sound[row] == (value + 0.5 if there else 0.0)
            assert torch.equal(part.load([2, 0])["vision"][:, 0], torch.tensor([values[name][2], values[name][0]]))
        if by == "group":
            assert not set(parts["condense"].groups.tolist()) & set(parts["validation"].groups.tolist())
        assert made.open_test() is original.open_test()
    assert sorted(held) == list(range(42))


def test_each_fold_is_other_data() -> None:
    original = dataset()
    folds = [Fold(index=i, of=n, by=by) for by in ("group", "class") for n in (2, 3) for i in range(n)]  # type: ignore[arg-type]
    assert len({original.fingerprint, *(fold_of(original, fold).fingerprint for fold in folds)}) == 11
    assert fold_of(original, folds[0]).fingerprint == fold_of(dataset(), folds[0]).fingerprint


def test_what_cannot_be_divided_is_said() -> None:
    with pytest.raises(UserError, match="made: 2 folds by class: fold 0 would hold out all items of a label"):
        fold_of(dataset((3, 0)), Fold(index=0, of=2))
    with pytest.raises(UserError, match="9 folds by group need as many groups"):
        fold_of(dataset(), Fold(index=0, of=9, by="group"))
    bare = MemorySplit({"vision": torch.zeros(4, 1)}, torch.zeros(4, dtype=torch.int64))
    alone = Dataset("bare", {"vision": ArraySpec("vision", (1,), 0.0, 1.0)}, ("a",), bare, bare, bare, "f")
    with pytest.raises(UserError, match="the data have none"):
        fold_of(alone, Fold(index=0, of=2, by="group"))
    with pytest.raises(ValueError, match="must be < of"):
        Fold(index=3, of=3)


@pytest.mark.parametrize("given_rows", [False, True])
def test_the_rows_of_a_manifest_may_be_in_any_order(tmp_path: Path, given_rows: bool) -> None:
    """Which texts are held out does not depend on it, nor does the fold on how its validation rows came about."""
    rows = [("train", "ab"[i % 2], f"text {i}") for i in range(20)] + [
        ("test", "ab"[i % 2], f"t {i}") for i in range(4)
    ]
    if given_rows:
        rows[3:7] = [("validation", label, text) for _, label, text in rows[3:7]]

    def held(order: list[tuple[str, str, str]]) -> list[set[str]]:
        path = tmp_path / "m.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([("split", "label", "text"), *order])
        loaded = load_manifest(ManifestDataset(name="manifest", path=path), {"text": TextSpec.of(16, 4)})
        number = fold_numbers(loaded, Fold(index=0, of=3))
        pool = [row.cells[0] for part in (loaded.condense, loaded.validation) for row in part.rows]  # type: ignore[attr-defined]
        return [{text for text, own in zip(pool, number, strict=True) if own == fold} for fold in range(3)]

    turned = list(rows)
    random.Random(0).shuffle(turned)
    assert held(rows) == held(turned)
    assert [len(texts) for texts in held(rows)] == [7, 7, 6]
