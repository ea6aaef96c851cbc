"""The folder that a condensation leaves."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor

import condense.export.export
from condense.data.dataset import Dataset, MemorySplit
from condense.export.export import draw_overview, export, read_export, read_soft_labels
from condense.inputs.media import read_item
from condense.inputs.spec import ArraySpec, ImageSpec, InputSpec, LogMelSpec, TextSpec
from condense.system.errors import UserError

SPECS: dict[str, InputSpec] = {
    "vision": ImageSpec.of("vision", 1, 16, (0.5,), (0.5,)),
    "audio": LogMelSpec.of(16, 9),
    "text": TextSpec.of(32, 8),
    "depth": ArraySpec("depth", (1, 6, 6), 0.0, 1.0),
    "imu": ArraySpec("imu", (6, 20), -3.0, 3.0),
}
CLASSES = ("zero", "Fußgänger / Straße", "日本", "two\nlines")
Content = tuple[dict[str, Tensor], Tensor, Dataset]


def make(per_class: int = 2, modalities: tuple[str, ...] = tuple(SPECS)) -> Content:
    generator = torch.Generator().manual_seed(0)
    specs = {modality: SPECS[modality] for modality in modalities}
    labels = torch.arange(len(CLASSES)).repeat_interleave(per_class)
    inputs = {m: torch.rand(len(labels), *s.shape, generator=generator) for m, s in specs.items()}
    if "text" in specs:
        inputs["text"] = torch.stack([read_item(specs["text"], f"item {i} été", Path()) for i in range(len(labels))])
    split = MemorySplit(inputs, labels)
    return inputs, labels, Dataset("mine.csv", specs, CLASSES, split, split, split, "f" * 64)


def write(folder: Path, content: Content, **options: int) -> None:
    inputs, labels, dataset = content
    export(folder, inputs, labels, dataset=dataset, record={"seed": 3, "steps": 10}, **options)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_round_trip(tmp_path: Path) -> None:
    inputs, labels, dataset = make()
    write(tmp_path / "out" / "condensed", (inputs, labels, dataset))
    read, read_labels, record = read_export(tmp_path / "out" / "condensed")
    assert list(read) == list(SPECS)
    torch.testing.assert_close(read, inputs, atol=0, rtol=0)
    assert torch.equal(read_labels, labels)
    assert (record["seed"], record["steps"]) == (3, 10)
    assert record["class_names"] == list(CLASSES)
    assert record["modalities"] == list(SPECS)
    assert record["specs"]["vision"]["kind"] == "ImageSpec"
    assert set(record["versions"]) == {"python", "torch", "numpy", "safetensors", "pillow"}


def test_tensors_with_a_graph_can_be_exported(tmp_path: Path) -> None:
    inputs, labels, dataset = make(modalities=("vision",))
    write(tmp_path / "out", ({"vision": inputs["vision"].double().requires_grad_()}, labels.int(), dataset))
    read, read_labels, _ = read_export(tmp_path / "out")
    assert (read["vision"].dtype, read_labels.dtype) == (torch.float32, torch.int64)


def test_parts_of_one_buffer_can_be_exported(tmp_path: Path) -> None:
    _, labels, dataset = make(2, ("vision", "depth"))
    buffer = torch.rand(8 * (256 + 36))
    inputs = {"vision": buffer[: 8 * 256].view(8, 1, 16, 16), "depth": buffer[8 * 256 :].view(8, 1, 6, 6).mT}
    write(tmp_path / "out", (inputs, labels, dataset))
    torch.testing.assert_close(read_export(tmp_path / "out")[0], inputs)


def test_previews_are_listed_in_the_manifest(tmp_path: Path) -> None:
    write(tmp_path / "out", make())
    rows = rows_of(tmp_path / "out")
    assert list(rows[0]) == ["index", "label", *SPECS]
    assert [(row["index"], row["label"]) for row in rows] == [(str(i), CLASSES[i // 2]) for i in range(8)]
    assert rows[3] == {
        "index": "3",
        "label": CLASSES[1],
        "vision": "previews/003_fuganger-strae_vision.png",
        "audio": "previews/003_fuganger-strae_audio.wav",
        "text": "previews/003_fuganger-strae_text.txt",
        "depth": "previews/003_fuganger-strae_depth.png",
        "imu": "previews/003_fuganger-strae_imu.png",
    }
    assert rows[4]["vision"] == "previews/004_class_vision.png"
    assert (tmp_path / "out" / rows[3]["text"]).read_text(encoding="utf-8") == "item 3 été"
    files = {path.name for path in (tmp_path / "out" / "previews").iterdir()}
    assert len(files) == 8 * 7  # a sound and a series have two each
    assert files >= {Path(row[modality]).name for row in rows for modality in SPECS} | {"000_zero_audio.png"}


def test_only_some_previews_of_all_classes(tmp_path: Path) -> None:
    write(tmp_path / "out", make(3, ("vision",)), max_previews=5)
    shown = [row["index"] for row in rows_of(tmp_path / "out") if row["vision"]]
    assert shown == ["0", "1", "3", "6", "9"]
    assert len(list((tmp_path / "out" / "previews").iterdir())) == 5
    assert len(rows_of(tmp_path / "out")) == 12


def test_overview_has_a_row_per_class(tmp_path: Path) -> None:
    write(tmp_path / "out", make())
    with Image.open(tmp_path / "out" / "overview.png") as image:
        size = image.size
    assert size == draw_overview(*make()).size
    wider, taller = draw_overview(*make(4)), draw_overview(*make(2))
    assert wider.width > size[0]
    assert taller.size == size
    assert draw_overview(*make(40)).width == draw_overview(*make(11)).width


def test_an_earlier_export_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    write(folder, make(2, ("vision",)))
    write(folder, make(1, ("vision",)))
    assert len(read_export(folder)[1]) == len(CLASSES)
    assert len(list((folder / "previews").iterdir())) == len(CLASSES)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failure_leaves_the_earlier_export_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "out"
    write(folder, make(2, ("vision",)))

    def fail(*_: object) -> None:
        raise RuntimeError("in the middle")

    monkeypatch.setattr(condense.export.export, "draw_overview", fail)
    with pytest.raises(RuntimeError):
        write(folder, make(1, ("vision",)))
    with pytest.raises(RuntimeError):
        write(tmp_path / "new", make(1, ("vision",)))
    assert len(read_export(folder)[1]) == 2 * len(CLASSES)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failed_rename_puts_the_earlier_export_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "out"
    write(folder, make(2, ("vision",)))
    rename = Path.rename

    def refuse_second(self: Path, target: Path) -> Path:
        if self.name.startswith(".") and not self.name.endswith(".old"):
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse_second)
    with pytest.raises(UserError) as raised:
        write(folder, make(1, ("vision",)))
    assert str(raised.value) == f"{folder}: cannot be written: No space left on device"
    assert len(read_export(folder)[1]) == 2 * len(CLASSES)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_other_files_are_never_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "mine.png").touch()
    with pytest.raises(UserError) as raised:
        write(folder, make(1, ("vision",)))
    assert str(raised.value) == f"{folder}: holds other files: only an earlier condensed dataset may be replaced"
    with pytest.raises(UserError) as raised:
        write(folder / "mine.png", make(1, ("vision",)))
    assert str(raised.value) == f"{folder}/mine.png: must be a folder, but is a file"
    with pytest.raises(UserError) as raised:
        write(folder / "mine.png" / "out", make(1, ("vision",)))
    assert str(raised.value) == f"{folder}/mine.png/out: cannot be written: Not a directory"
    assert os.listdir(folder) == ["mine.png"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vision": torch.zeros(4, 1, 16, 15)}, "vision must be (4, 1, 16, 16), but is (4, 1, 16, 15)"),
        ({"vision": torch.full((4, 1, 16, 16), torch.nan)}, "vision holds NaN or infinity"),
        ({"sound": torch.zeros(4, 1)}, "inputs must have the modalities ['vision'], but have ['vision', 'sound']"),
    ],
)
def test_what_does_not_fit_the_dataset_is_a_bug(tmp_path: Path, change: dict[str, Tensor], message: str) -> None:
    inputs, labels, dataset = make(1, ("vision",))
    with pytest.raises(ValueError) as raised:
        write(tmp_path / "out", ({**inputs, **change}, labels, dataset))
    assert str(raised.value) == message
    with pytest.raises(ValueError, match="labels must be"):
        write(tmp_path / "out", (inputs, labels + 1, dataset))
    assert not list(tmp_path.iterdir())


# --- soft labels


def with_soft_labels(folder: Path, soft: Tensor) -> None:
    inputs, labels, dataset = make(1, ("vision",))
    export(folder, inputs, labels, dataset=dataset, record={}, soft_labels=soft)


def test_soft_labels_are_there_if_they_were_given(tmp_path: Path) -> None:
    soft = torch.rand(4, 4).softmax(1)
    with_soft_labels(tmp_path / "soft", soft.mT.contiguous().mT.double())
    write(tmp_path / "hard", make(1, ("vision",)))
    assert torch.equal(safetensors.torch.load_file(tmp_path / "soft" / "condensed.safetensors")["soft_label"], soft)
    found = read_soft_labels(tmp_path / "soft")
    assert found is not None
    assert torch.equal(found, soft)
    assert read_soft_labels(tmp_path / "hard") is None
    assert len(read_export(tmp_path / "soft")) == 3
    torch.testing.assert_close(read_export(tmp_path / "soft")[:2], read_export(tmp_path / "hard")[:2])


@pytest.mark.parametrize(
    ("soft", "problem"),
    [
        (torch.full((4, 3), 1 / 3), "must be float32 of shape (4, 4), but got float32 of shape (4, 3)"),
        (torch.eye(4) * 100, "must be probabilities: >= 0, and each row must sum to 1"),
        (torch.full((4, 4), torch.nan), "must be probabilities: >= 0, and each row must sum to 1"),
        (torch.tensor([[1.5, -0.5, 0.0, 0.0]] * 4), "must be probabilities: >= 0, and each row must sum to 1"),
    ],
)
def test_soft_labels_that_are_none_are_refused_in_both_directions(tmp_path: Path, soft: Tensor, problem: str) -> None:
    with pytest.raises(ValueError) as raised:
        with_soft_labels(tmp_path / "out", soft)
    assert str(raised.value) == f"soft_labels {problem}"
    assert not list(tmp_path.iterdir())
    with_soft_labels(tmp_path / "out", torch.eye(4))
    path = tmp_path / "out" / "condensed.safetensors"
    safetensors.torch.save_file({**safetensors.torch.load_file(path), "soft_label": soft}, path)
    assert message_of(tmp_path / "out") == f"condensed.safetensors: soft_label: {problem}"


# --- reading what is not whole


def message_of(folder: Path) -> str:
    with pytest.raises(UserError) as raised:
        read_export(folder)
    assert "\n" not in str(raised.value)
    return str(raised.value).removeprefix(f"{folder}/")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "out", make(1, ("vision",)))
    return tmp_path / "out"


def test_reading_a_folder_without_its_files(folder: Path) -> None:
    (folder / "condensed.safetensors").unlink()
    assert message_of(folder) == "condensed.safetensors: no such file"
    (folder / "condensed.json").unlink()
    assert message_of(folder) == f"condensed.json: no such file: {folder} is not a condensed dataset"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "condensed.json: is not valid JSON: "),
        ("[]", "condensed.json: must hold `modalities`, `specs` and `class_names`"),
        ("{}", "condensed.json: must hold `modalities`, `specs` and `class_names`"),
    ],
)
def test_reading_a_damaged_record(folder: Path, content: str, message: str) -> None:
    (folder / "condensed.json").write_text(content)
    assert message_of(folder).startswith(message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audio": torch.zeros(4)}, "must hold vision, label, but holds audio, label, vision"),
        ({"label": torch.zeros(4)}, "label: must be integers of shape (n,), but got float32 of shape (4,)"),
        ({"label": torch.tensor([0, 1, 2, 4])}, "label: must be in 0 .. 3, but has 4"),
        ({"label": torch.tensor([0, -1, 2, 3])}, "label: must be in 0 .. 3, but has -1"),
        ({"vision": torch.zeros(3, 1, 16, 16)}, "vision: shape must be (4, 1, 16, 16), but got (3, 1, 16, 16)"),
        ({"vision": torch.full((4, 1, 16, 16), torch.inf)}, "vision: holds NaN or infinity"),
    ],
)
def test_reading_tensors_that_do_not_fit_the_record(folder: Path, change: dict[str, Tensor], message: str) -> None:
    path = folder / "condensed.safetensors"
    safetensors.torch.save_file({**safetensors.torch.load_file(path), **change}, path)
    assert message_of(folder) == f"condensed.safetensors: {message}"


def test_reading_damaged_tensors(folder: Path) -> None:
    path = folder / "condensed.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    assert message_of(folder).startswith("condensed.safetensors: cannot be read as safetensors: ")


def test_the_record_is_written_as_utf8_json(folder: Path) -> None:
    text = (folder / "condensed.json").read_text(encoding="utf-8")
    assert "日本" in text
    assert json.loads(text)["steps"] == 10
