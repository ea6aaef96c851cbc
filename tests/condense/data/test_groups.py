"""Groups: never divided by a split that is made here, and told of where the user's own splits divide them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from condense.config.models import ManifestDataset, TensorsDataset
from condense.data.groups import group_numbers, grouped_holdout, shared_groups
from condense.data.manifest import load_manifest
from condense.data.tensors import load_tensors
from condense.inputs.spec import TextSpec
from condense.system.errors import UserError

SPECS = {"text": TextSpec.of(16, 4)}
ITEMS = st.lists(st.tuples(st.sampled_from("abc"), st.text(min_size=1, max_size=2)), min_size=1, max_size=60)


@given(ITEMS, st.floats(0.05, 0.95), st.randoms(use_true_random=False))
def test_a_group_is_never_divided_in_whatever_order_the_rows_are(
    items: list[tuple[str, str]], fraction: float, shuffled: random.Random
) -> None:
    def held_groups(rows: list[tuple[str, str]]) -> set[str] | None:
        labels, groups = [label for label, _ in rows], [group for _, group in rows]
        try:
            held = grouped_holdout(labels, groups, fraction)
        except UserError:
            return None
        chosen = {group for group, is_held in zip(groups, held, strict=True) if is_held}
        assert chosen  # something is held out
        assert chosen.isdisjoint(group for group, is_held in zip(groups, held, strict=True) if not is_held)
        kept = {label for label, is_held in zip(labels, held, strict=True) if not is_held}
        assert kept == set(labels)  # train keeps every label
        return chosen

    turned = list(items)
    shuffled.shuffle(turned)
    assert held_groups(items) == held_groups(turned)


def test_labels_keep_their_shares() -> None:
    """Groups of 1 to 9 items of mixed labels: each label's share held out is near the fraction."""
    rng = random.Random(0)
    rows = [(rng.choice("ab"), f"g{i}") for i in range(60) for _ in range(rng.randint(1, 9))]
    held = grouped_holdout([label for label, _ in rows], [group for _, group in rows], 0.2)
    for label in "ab":
        own = [is_held for (of, _), is_held in zip(rows, held, strict=True) if of == label]
        assert sum(own) / len(own) == pytest.approx(0.2, abs=0.02)


def test_unequal_groups_change_places() -> None:
    """One large group alone brings the share nearer to 0.2, and a small one exactly there, whichever comes first."""
    sizes = {"large": 39, "a": 20, "b": 20, "c": 21}
    groups = [name for name, size in sizes.items() for _ in range(size)]
    held = grouped_holdout(["x"] * 100, groups, 0.2)
    assert sum(held) == 20


def test_what_cannot_be_held_out_is_told() -> None:
    with pytest.raises(UserError, match="1 group in train, and with each train would lose a label"):
        grouped_holdout(["x", "x"], ["g", "g"], 0.2)
    with pytest.raises(UserError, match="2 groups in train"):
        grouped_holdout(["x", "y"], ["g", "h"], 0.2)


def test_numbers_and_the_warning() -> None:
    numbers = group_numbers({"train": ["b", "a", "c"], "validation": ["d"], "test": ["c", "b", "b"]})
    assert {split: x.tolist() for split, x in numbers.items()} == {
        "train": [1, 0, 2],
        "validation": [3],
        "test": [2, 1, 1],
    }
    assert shared_groups("x.csv", numbers) == (
        "x.csv: of 4 groups 2 in both train and test: scores there are not of new groups",
    )
    assert shared_groups("x.csv", {}) == ()


def manifest(folder: Path, rows: list[str], header: str = "split,label,group,text") -> ManifestDataset:
    path = folder / "mine.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return ManifestDataset(name="manifest", path=path)


def test_a_manifest_with_groups(tmp_path: Path) -> None:
    rows = [f"train,{'ab'[i % 2]},speaker {i // 4},text {i}" for i in range(20)]
    rows += ["test,a,speaker 9,x", "test,b,speaker 0,y"]
    dataset = load_manifest(manifest(tmp_path, rows), SPECS)
    splits = {"train": dataset.condense, "validation": dataset.validation}
    groups = {name: set(split.groups.tolist()) for name, split in splits.items()}  # type: ignore[union-attr]
    assert groups["train"].isdisjoint(groups["validation"])
    assert len(groups["validation"]) == 1
    assert len(dataset.validation) == 4
    assert (dataset.open_test().groups == torch.tensor([5, 0])).all()  # as they are sorted
    assert len(dataset.warnings) == 1
    assert " 1 in both " in dataset.warnings[0]


def test_a_group_is_in_the_fingerprint_only_where_it_decides(tmp_path: Path) -> None:
    def fingerprint(rows: list[list[str]], header: str = "split,label,group,text") -> str:
        return load_manifest(manifest(tmp_path, [",".join(row) for row in rows], header), SPECS).fingerprint

    rows = [["train", "ab"[i % 2], f"g{i // 4}", f"text {i}"] for i in range(20)] + [["test", "a", "t", "x"]]
    other = [[*row[:2], f"h{i // 5}", row[3]] for i, row in enumerate(rows)]
    plain = [[row[0], row[1], row[3]] for row in rows]
    by_hand = [["validation", *row[1:]] if i > 15 and row[0] == "train" else row for i, row in enumerate(rows)]
    assert len({fingerprint(rows), fingerprint(other), fingerprint(plain, "split,label,text")}) == 3
    plain = [[row[0], row[1], row[3]] for row in by_hand]
    assert fingerprint(by_hand) == fingerprint(plain, "split,label,text")


def test_mistakes_in_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="row 3: `group` is empty: an item of no group needs one of its own"):
        load_manifest(manifest(tmp_path, ["train,a,g,x", "train,a, ,y", "test,a,h,z"]), SPECS)
    with pytest.raises(UserError, match=r"mine.csv: 1 group in train, and with each"):
        load_manifest(manifest(tmp_path, ["train,a,g,x", "train,a,g,y", "test,a,h,z"]), SPECS)


def tensors(folder: Path, **changes: torch.Tensor | None) -> TensorsDataset:
    content = {
        "train/vision": torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(0)),
        "train/label": torch.arange(24) % 2,
        "train/group": torch.arange(24) // 4 + 100,
        "test/vision": torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1)),
        "test/label": torch.arange(4) % 2,
        "test/group": torch.tensor([100, 7, 7, 7]),
    }
    content |= {key.replace("_", "/"): x for key, x in changes.items()}  # type: ignore[dict-item]
    safetensors.torch.save_file({key: x for key, x in content.items() if x is not None}, folder / "t.safetensors")
    return TensorsDataset(name="tensors", path=folder / "t.safetensors")


def test_a_file_of_tensors_with_groups(tmp_path: Path) -> None:
    dataset = load_tensors(tensors(tmp_path))
    train, validation, test = dataset.condense.groups, dataset.validation.groups, dataset.open_test().groups
    assert train is not None and validation is not None and test is not None
    assert set(train.tolist()).isdisjoint(validation.tolist())
    assert len(set(validation.tolist())) == 1
    assert test.tolist() == [1, 0, 0, 0]  # 7 comes before 100
    assert len(dataset.warnings) == 1
    assert load_tensors(tensors(tmp_path, train_group=None, test_group=None)).condense.groups is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_group": None}, "`test/group` is missing, but train has groups"),
        ({"train_group": None}, "`train/group` is missing, but test has groups"),
        ({"train_group": torch.rand(24)}, r"train/group: must be int64 of shape \(24,\), but got float32"),
    ],
)
def test_mistakes_in_a_file_of_tensors(tmp_path: Path, changes: dict[str, torch.Tensor | None], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_tensors(tensors(tmp_path, **changes))
