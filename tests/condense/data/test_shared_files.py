"""Items that share a file go together, and what still crosses a split is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from condense.config.models import ManifestDataset, TensorsDataset
from condense.data.dataset import Dataset, stratified_holdout
from condense.data.manifest import ManifestSplit, load_manifest
from condense.data.shared_files import components, grouped_with_files, held_out_components
from condense.data.tensors import load_tensors
from condense.inputs.spec import ImageSpec, InputSpec, LogMelSpec, TextSpec

SPECS: dict[str, InputSpec] = {
    "vision": ImageSpec.of("vision", 1, 8, (0.5,), (0.5,)),
    "audio": LogMelSpec.of(8, 8),
    "text": TextSpec.of(16, 4),
}


@given(st.lists(st.sets(st.integers(0, 12), max_size=3), min_size=1, max_size=12))
def test_components_are_what_can_be_reached(keys: list[set[int]]) -> None:
    names = [f"{i:02d}" for i in range(len(keys))]
    for item, found in enumerate(components([sorted(own) for own in keys], names)):
        reached, seen = {item}, set(keys[item])
        while more := {i for i, own in enumerate(keys) if own & seen} - reached:
            reached |= more
            seen |= set().union(*(keys[i] for i in more))
        assert found == names[min(reached)]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 15)), min_size=4, max_size=40), st.floats(0.05, 0.6))
def test_no_component_is_divided(items: list[tuple[str, int]], fraction: float) -> None:
    labels = [label for label, _ in items] + ["a", "a", "b", "b", "c", "c"]
    whole = [str(n) for _, n in items] + [f"alone {i}" for i in range(6)]  # each label has two of its own
    held = held_out_components(labels, whole, [str(i) for i in range(len(labels))], fraction)
    assert len({(name, own) for name, own in zip(whole, held, strict=True)}) == len(set(whole))
    for own in (True, False):
        assert {label for label, is_held in zip(labels, held, strict=True) if is_held is own} == set("abc")


@given(st.lists(st.sampled_from("ab"), max_size=40), st.floats(0.05, 0.6))
def test_without_shared_files_it_is_the_stratified_holdout(labels: list[str], fraction: float) -> None:
    labels = [*labels, "a", "a", "b", "b"]
    digests = [f"digest {i}" for i in range(len(labels))]
    held = held_out_components(labels, digests, digests, fraction)
    assert held == stratified_holdout(labels, digests, fraction)


def test_a_label_of_one_component_is_divided_rather_than_lost() -> None:
    labels, whole = ["a"] * 10 + ["b"] * 10, ["prototype"] * 10 + [f"{i}" for i in range(10)]
    held = held_out_components(labels, whole, [f"{i:02d}" for i in range(20)], 0.2)
    assert sum(held[:10]) == sum(held[10:]) == 2


def test_groups_that_share_a_file_are_one() -> None:
    labels, groups = list("ab") * 8, [f"g{i // 2}" for i in range(16)]
    keys = [[f"file {i}"] for i in range(16)]
    keys[1] = keys[2] = ["shared"]  # of g0 and g1
    held, by = grouped_with_files(labels, groups, keys, 0.2)
    assert by[:4] == ["g0"] * 4
    assert by[4:] == groups[4:]
    assert len(set(held[:4])) == 1
    everywhere = [["background"]] * 16
    assert grouped_with_files(labels, groups, everywhere, 0.2)[1] == groups  # else nothing could be held out


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """0.png .. 19.png and 0.wav .. 39.wav, all different."""
    generator = np.random.default_rng(0)
    for i in range(20):
        Image.fromarray(generator.integers(0, 256, (8, 8), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    for i in range(40):
        soundfile.write(tmp_path / f"{i}.wav", generator.uniform(-0.5, 0.5, 800), 16_000)
    return tmp_path


def load(folder: Path, header: str, rows: list[str]) -> Dataset:
    (folder / "items.csv").write_text("\n".join([header, *rows]) + "\n")
    return load_manifest(ManifestDataset(name="manifest", path=folder / "items.csv"), SPECS)


def pictures(split: object) -> set[str]:
    assert isinstance(split, ManifestSplit)
    return {row.cells[0] for row in split.rows}


def test_captions_of_one_picture_stay_together(folder: Path) -> None:
    rows = [f"train,{'ab'[i % 2]},{i}.png,caption {c} of {i}" for c in range(5) for i in range(18)]
    dataset = load(folder, "split,label,vision,text", [*rows, "test,a,18.png,x", "test,b,19.png,y"])
    assert pictures(dataset.condense).isdisjoint(pictures(dataset.validation))
    assert len(dataset.validation) == 20  # four of eighteen pictures, two of each label
    assert dataset.warnings == ()


def test_a_copy_under_another_name_is_the_same_file(folder: Path) -> None:
    (folder / "copy.png").write_bytes((folder / "0.png").read_bytes())
    rows = [f"train,{'ab'[i % 2]},{i}.png,text {i}" for i in range(18)]
    rows += ["test,a,copy.png,x", "test,b,19.png,y", "test,b,1.png,z"]
    (told,) = load(folder, "split,label,vision,text", rows).warnings
    assert "items.csv: " in told
    count = sum(int(n) for n in told.replace(",", " ").split() if n.isdecimal())  # with the rows' numbers
    assert count > 2
    assert "copy.png in row 20" in told or "1.png in row 22" in told


def test_a_picture_in_train_and_test_with_another_sound_is_told(folder: Path) -> None:
    rows = [f"train,{'ab'[i % 2]},{i}.png,{i}.wav" for i in range(10)]
    rows += [f"validation,{'ab'[i % 2]},{i}.png,{i}.wav" for i in range(10, 14)]
    rows += [f"test,{'ab'[i % 2]},{i}.png,{i + 20}.wav" for i in (0, 1, 3, 14, 15)]
    (told,) = load(folder, "split,label,vision,audio", rows).warnings
    assert told == (
        f"{folder / 'items.csv'}: 3 files are in both train and test (such as 0.png in row 2 and 0.png in row 16): "
        "scores there are not of new items"
    )


def test_the_same_speaker_on_both_sides_is_told_with_a_name(folder: Path) -> None:
    rows = [f"train,{'ab'[i % 2]},{i}.png,{'xyz'[i // 4]}" for i in range(12)]
    rows += ["validation,a,12.png,v", "validation,b,13.png,v", "test,a,14.png,w", "test,b,15.png,z"]
    (told,) = load(folder, "split,label,vision,group", rows).warnings
    assert "of 5 groups 1 in both train and test (such as 'z')" in told


def test_the_same_tensors_in_train_and_test_are_told(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    content = {f"{s}/vision": torch.rand(n, 1, 8, 8, generator=generator) for s, n in (("train", 20), ("test", 6))}
    content |= {"train/label": torch.arange(20) % 2, "test/label": torch.arange(6) % 2}
    content |= {"validation/vision": content["test/vision"] + 1, "validation/label": content["test/label"].clone()}
    content["test/vision"][4] = content["train/vision"][7]
    safetensors.torch.save_file(content, tmp_path / "t.safetensors")
    (told,) = load_tensors(TensorsDataset(name="tensors", path=tmp_path / "t.safetensors")).warnings
    assert "1 item is in both train and test (such as item 7 of train and item 4 of test)" in told
