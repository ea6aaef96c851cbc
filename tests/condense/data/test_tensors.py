"""Datasets that are tensors already."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from condense.config.models import TensorsDataset
from condense.data import load_dataset
from condense.data.dataset import Dataset
from condense.data.tensors import load_tensors
from condense.inputs.spec import ArraySpec
from condense.system.errors import UserError

Tensors = dict[str, Tensor]


@pytest.fixture
def tensors() -> Tensors:
    """Labels 3, 10 and 20, eight train items and two test items of each."""
    generator = torch.Generator().manual_seed(0)
    content: Tensors = {}
    for split, count in (("train", 8), ("test", 2)):
        content[f"{split}/label"] = torch.tensor([10, 3, 20]).repeat(count)
        content[f"{split}/vision"] = torch.rand(3 * count, 3, 4, 4, generator=generator)
        content[f"{split}/audio"] = torch.randn(3 * count, 1, 5, 6, generator=generator)
    return content


def save(folder: Path, content: Tensors, name: str = "mine.safetensors") -> Path:
    save_file(content, folder / name)
    return folder / name


def load(path: Path, **options: float) -> Dataset:
    return load_tensors(TensorsDataset(name="tensors", path=path, **options))


def save_avdd(folder: Path, content: Tensors, name: str = "ave_train.pt") -> Path:
    for split in ("train", "test"):
        keys = {"images": "vision", "audio": "audio", "labels": "label"}
        part = {f"{key}_{split}": content[f"{split}/{ours}"] for key, ours in keys.items()}
        torch.save(part, folder / name.replace("train", split))
    return folder / name


# --- what is read


def test_safetensors_are_read(tmp_path: Path, tensors: Tensors) -> None:
    dataset = load(save(tmp_path, tensors))
    assert dataset.name == "mine.safetensors"
    assert dataset.modalities == ("vision", "audio")
    assert dataset.class_names == ("3", "10", "20")
    assert [len(s) for s in (dataset.condense, dataset.validation, dataset.open_test())] == [18, 6, 6]
    assert torch.bincount(dataset.validation.labels).tolist() == [2, 2, 2]
    test = dataset.open_test()
    assert test.labels.tolist() == [1, 0, 2, 1, 0, 2]
    batch = test.load([2, 0])
    torch.testing.assert_close(batch["vision"], tensors["test/vision"][[2, 0]])
    torch.testing.assert_close(test.load(torch.tensor([5]))["audio"], tensors["test/audio"][[5]])


def test_splits_are_disjoint_and_keep_pairs_together(tmp_path: Path, tensors: Tensors) -> None:
    dataset = load(save(tmp_path, tensors))
    seen = []
    for split in (dataset.condense, dataset.validation):
        batch = split.load(range(len(split)))
        for vision, audio, label in zip(batch["vision"], batch["audio"], split.labels, strict=True):
            same = (tensors["train/vision"] == vision).flatten(1).all(dim=1)
            index = int(same.nonzero())
            torch.testing.assert_close(tensors["train/audio"][index], audio)
            assert dataset.class_names[label] == str(int(tensors["train/label"][index]))
            seen.append(index)
    assert sorted(seen) == list(range(24))


def test_range_is_trains_widened_by_5_percent(tmp_path: Path, tensors: Tensors) -> None:
    tensors["train/vision"] = tensors["train/vision"].clamp(0.25, 0.75)
    tensors["test/vision"] = tensors["test/vision"] * 100
    tensors["train/audio"] = torch.ones_like(tensors["train/audio"])
    specs = load(save(tmp_path, tensors)).specs
    assert isinstance(specs["vision"], ArraySpec)
    assert specs["vision"].shape == (3, 4, 4)
    assert (specs["vision"].low, specs["vision"].high) == pytest.approx((0.225, 0.775))
    assert (specs["audio"].low, specs["audio"].high) == pytest.approx((0.95, 1.05))


@pytest.mark.parametrize(("dtype", "largest"), [(torch.uint8, 255), (torch.uint16, 65535), (torch.bool, 1)], ids=str)
def test_integers_become_0_to_1(tmp_path: Path, tensors: Tensors, dtype: torch.dtype, largest: int) -> None:
    for split in ("train", "test"):
        tensors[f"{split}/vision"] = (tensors[f"{split}/vision"] * largest).round().to(dtype)
    batch = load(save(tmp_path, tensors)).open_test().load([0, 1])["vision"]
    assert batch.dtype == torch.float32
    torch.testing.assert_close(batch, tensors["test/vision"][:2].float() / largest)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_floats_keep_their_values(tmp_path: Path, tensors: Tensors, dtype: torch.dtype) -> None:
    for split in ("train", "test"):
        tensors[f"{split}/vision"] = tensors[f"{split}/vision"].to(dtype)
    batch = load(save(tmp_path, tensors)).open_test().load([0, 1])["vision"]
    torch.testing.assert_close(batch, tensors["test/vision"][:2].float())


def test_validation_of_the_file_is_taken_as_it_is(tmp_path: Path, tensors: Tensors) -> None:
    tensors |= {f"validation/{name}": tensors[f"test/{name}"] + 1 for name in ("vision", "audio")}
    tensors["validation/label"] = tensors["test/label"].clone()
    dataset = load(save(tmp_path, tensors))
    assert [len(s) for s in (dataset.condense, dataset.validation, dataset.open_test())] == [24, 6, 6]
    torch.testing.assert_close(dataset.validation.load([0])["audio"], tensors["validation/audio"][:1])


def test_avdds_pair_of_files_is_read(tmp_path: Path, tensors: Tensors) -> None:
    (tmp_path / "train").mkdir()  # only the file's own name is changed
    dataset = load(save_avdd(tmp_path / "train", tensors))
    expected = load(save(tmp_path, tensors))
    assert dataset.modalities == ("vision", "audio")
    assert dataset.fingerprint == expected.fingerprint
    torch.testing.assert_close(dataset.open_test().load([3]), expected.open_test().load([3]))


def test_avdds_single_file_with_class_names_is_read(tmp_path: Path, tensors: Tensors) -> None:
    keys = {"images": "vision", "audio": "audio", "labels": "label"}
    content: dict[str, object] = {
        f"{key}_{split}": tensors[f"{split}/{ours}"] for split in ("train", "test") for key, ours in keys.items()
    }
    content |= {f"{key}_val": tensors[f"test/{ours}"] for key, ours in keys.items()}
    content["classes"] = [f"name {index}" for index in range(21)]
    torch.save(content, tmp_path / "all.pt")
    dataset = load(tmp_path / "all.pt")
    assert dataset.class_names == ("name 3", "name 10", "name 20")
    assert [len(s) for s in (dataset.condense, dataset.validation, dataset.open_test())] == [24, 6, 6]


# --- how it is split, and the fingerprint


def validation_sums(dataset: Dataset) -> list[float]:
    return sorted(dataset.validation.load(range(len(dataset.validation)))["vision"].sum(dim=(1, 2, 3)).tolist())


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(24)))
def test_validation_does_not_depend_on_order(tmp_path_factory: pytest.TempPathFactory, order: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    content = {
        "train/vision": torch.rand(24, 1, 2, 2, generator=generator),
        "train/label": torch.arange(24) % 3,
        "test/vision": torch.rand(3, 1, 2, 2, generator=generator),
        "test/label": torch.arange(3),
    }
    folder = tmp_path_factory.getbasetemp()
    before = load(save(folder, content, "before.safetensors"))
    content |= {key: content[key][order].contiguous() for key in ("train/vision", "train/label")}
    after = load(save(folder, content, "after.safetensors"))
    assert validation_sums(before) == pytest.approx(validation_sums(after))


def test_fingerprint_is_of_content_and_split(tmp_path: Path, tensors: Tensors) -> None:
    path = save(tmp_path, tensors)
    seen = {load(path).fingerprint, load(save(tmp_path, tensors, "copy.safetensors")).fingerprint}
    assert len(seen) == 1
    seen.add(load(path, validation_fraction=0.4).fingerprint)
    tensors["test/audio"][5, 0, 4, 5] += 1
    seen.add(load(save(tmp_path, tensors)).fingerprint)
    tensors["train/label"][0] = 3
    seen.add(load(save(tmp_path, tensors)).fingerprint)
    assert len(seen) == 4


def test_items_may_lack_a_modality(tmp_path: Path, tensors: Tensors) -> None:
    whole = load(save(tmp_path, tensors))
    assert not whole.condense.present
    has = torch.arange(24) != 7
    tensors["train/present/audio"] = has
    assert load(save(tmp_path, {**tensors, "train/present/audio": has | True})).fingerprint == whole.fingerprint
    holes = load(save(tmp_path, tensors))
    assert holes.fingerprint != whole.fingerprint
    tensors["train/audio"][7] = math.nan  # does not count
    dataset = load(save(tmp_path, tensors))
    assert dataset.fingerprint == holes.fingerprint
    for split in (dataset.condense, dataset.validation):
        items = split.load(range(len(split)))
        assert items["vision"].flatten(1).any(1).all()
        assert torch.equal(items["audio"].flatten(1).any(1), split.present.get("audio", torch.ones(len(split)).bool()))
    assert sum(
        int((~split.present["audio"]).sum()) for split in (dataset.condense, dataset.validation) if split.present
    )
    assert not dataset.open_test().present


def test_what_an_item_lacks_is_content(tmp_path: Path) -> None:
    """The same bytes as an image or as depth are two items."""
    x = torch.rand(4, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    content = {f"{split}/label": torch.tensor([0, 0, 0, 0]) for split in ("train", "test")}
    for split, m in itertools.product(("train", "test"), ("vision", "depth")):
        content[f"{split}/{m}"] = x.clone()
    has = torch.tensor([True, True, False, False])
    seen = set()
    for vision in (has, ~has):
        masks = {"train/present/vision": vision, "train/present/depth": ~vision}
        seen.add(load(save(tmp_path, {**content, **masks})).fingerprint)
    assert len(seen) == 2


# --- load_dataset: tensors are what the encoder takes, or an error


def test_load_dataset_compares_with_the_encoder(tmp_path: Path, tensors: Tensors) -> None:
    path = save(tmp_path, tensors)
    config = TensorsDataset(name="tensors", path=path)
    vision, audio = ArraySpec("vision", (3, 4, 4), 0, 1), ArraySpec("audio", (1, 5, 6), 0, 1)
    assert load_dataset(config, {"vision": vision, "audio": audio}).num_classes == 3
    with pytest.raises(UserError) as raised:
        load_dataset(config, {"vision": vision})
    assert str(raised.value) == f"{path}: audio: the encoder takes only vision"
    with pytest.raises(UserError) as raised:
        load_dataset(config, {"vision": vision, "audio": ArraySpec("audio", (1, 5, 7), 0, 1)})
    assert str(raised.value) == f"{path}: audio: items must have the encoder's shape (1, 5, 7), but got (1, 5, 6)"


# --- what a user may get wrong


def message_of(path: Path) -> str:
    with pytest.raises(UserError) as raised:
        load(path)
    text = str(raised.value)
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


NAMES = "label, group, vision, audio, text, depth, thermal, imu; `modalities` names others"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"extra/vision": torch.zeros(1)},
            f"unknown key `extra/vision`: must be train/, validation/ or test/ and {NAMES}",
        ),
        (
            {"train/video": torch.zeros(1)},
            f"unknown key `train/video`: must be train/, validation/ or test/ and {NAMES}",
        ),
        ({"train/label": None}, "`train/label` is missing"),
        ({"test/label": None}, "`test/label` is missing"),
        (
            {"test/vision": None, "test/audio": None, "test/label": None},
            "has no inputs of test: a key such as `test/vision` is needed",
        ),
        ({"test/audio": None}, "test has vision, but train has vision, audio"),
        (
            {"train/label": torch.zeros(24)},
            "train/label: must be integers of shape (n,), but got float32 of shape (24,)",
        ),
        (
            {"train/label": torch.zeros(24, 3, dtype=torch.int64)},
            "train/label: must be integers of shape (n,), but got int64 of shape (24, 3)",
        ),
        ({"test/label": torch.zeros(0, dtype=torch.int64)}, "test/label: holds no items"),
        ({"test/label": torch.full((7,), 3)}, "test/vision: has 6 items, but test/label has 7"),
        ({"train/audio": torch.zeros(24)}, "train/audio: shape must be (n, ...), but got (24,)"),
        (
            {"test/audio": torch.zeros(6, 1, 5, 7)},
            "test/audio: items must have train's shape (1, 5, 6), but got (1, 5, 7)",
        ),
        (
            {"test/audio": torch.zeros(6, 1, 5, 6, dtype=torch.uint8)},
            "test/audio: must have train's dtype float32, but got uint8",
        ),
        (
            {"train/audio": torch.zeros(24, 1, 5, 6, dtype=torch.int64)},
            "train/audio: must be float, uint8, uint16 or bool, but got int64",
        ),
        (
            {"train/present/audio": torch.ones(24)},
            "train/present/audio: must be bool of shape (24,), but got float32 of shape (24,)",
        ),
        (
            {"test/present/audio": torch.ones(5).bool()},
            "test/present/audio: must be bool of shape (6,), but got bool of shape (5,)",
        ),
        (
            {"train/present/depth": torch.ones(24).bool()},
            "`train/present/depth`: `train/depth`, which it describes, is missing",
        ),
        (
            {"train/present/label": torch.ones(24).bool()},
            f"unknown key `train/present/label`: must be train/, validation/ or test/ and {NAMES}",
        ),
        (
            {"test/present/audio": torch.arange(6) > 3, "test/present/vision": torch.arange(6) < 3},
            "test: item 3 has no modality: at least one is needed",
        ),
        ({"test/label": torch.tensor([3, 3, 3, 4, 3, 3])}, "test/label: item 3: label 4 is not in train"),
        (
            {"train/label": torch.tensor([7] + [3, 10, 20] * 7 + [3, 3])},
            "train/label: label '7' has 1 train item: at least 2 are needed to split off validation",
        ),
    ],
)
def test_a_mistake_in_the_tensors(
    tmp_path: Path, tensors: Tensors, change: dict[str, Tensor | None], message: str
) -> None:
    content = {key: tensor for key, tensor in {**tensors, **change}.items() if tensor is not None}
    assert message_of(save(tmp_path, content)) == message


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_found(tmp_path: Path, tensors: Tensors, value: float) -> None:
    tensors["test/audio"][4, 0, 1, 2] = value
    assert message_of(save(tmp_path, tensors)) == "test/audio: item 4 holds NaN or infinity"


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert message_of(tmp_path / "none.safetensors") == "no such file"
    assert message_of(tmp_path / "none.pt") == "no such file"
    assert message_of(tmp_path / "mine.h5") == "must be a .safetensors, .pt or .pth file"
    for name, kind in (("a.safetensors", "safetensors"), ("a.pt", "tensors (weights only)")):
        for content in (b"", b"not tensors"):
            (tmp_path / name).write_bytes(content)
            assert message_of(tmp_path / name).startswith(f"cannot be read as {kind}: ")


class Surprise:
    """What a pickle may do on being loaded."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('executed')",)


def test_a_pickle_is_not_executed(tmp_path: Path) -> None:
    torch.save({"images_train": Surprise()}, tmp_path / "ave_train.pt")
    assert message_of(tmp_path / "ave_train.pt").startswith("cannot be read as tensors (weights only): ")


def test_mistakes_in_avdds_layout(tmp_path: Path, tensors: Tensors) -> None:
    path = save_avdd(tmp_path, tensors)
    (tmp_path / "ave_test.pt").unlink()
    with pytest.raises(UserError) as raised:
        load(path)
    assert str(raised.value) == f"{tmp_path}/ave_test.pt: no such file"
    path.rename(tmp_path / "ave.pt")
    expected = "holds no `labels_test`, and without `train` in its name has no test file beside it"
    assert message_of(tmp_path / "ave.pt") == expected
    for content, message in (
        ([1, 2], "must hold a dict of tensors, but holds list"),
        ({"labels_train": torch.zeros(2)}, "has no inputs: a key such as `images_train` is needed"),
        ({"images_train": torch.zeros(2, 2)}, "`labels_train` is missing"),
        ({"images_train": [1, 2]}, "`images_train` must be a tensor, but is list"),
    ):
        torch.save(content, path)
        assert message_of(path) == message
    save_avdd(tmp_path, tensors)
    torch.save({**torch.load(path, weights_only=True), "classes": ["a", "b"]}, path)
    assert message_of(path) == "train/label: must be in 0 .. 1 (`classes`), but has [3, 10, 20]"
