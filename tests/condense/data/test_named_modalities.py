"""Modalities by their kinds: headers, metadata, and what each mistake is answered with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from condense.config.modalities import KIND_OF, KINDS, MODALITIES, RESERVED, Modality, in_order, is_name
from condense.config.models import ManifestDataset, TensorsDataset, TinyEncoder
from condense.data import load_dataset, modalities_of
from condense.data.manifest_rows import parse_header
from condense.encoders import encoder_specs
from condense.inputs.series import SeriesSpec
from condense.system.errors import UserError

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).filter(is_name)
WHERE = Path("mine.csv")


@given(st.dictionaries(NAMES, st.sampled_from(KINDS), min_size=1), st.booleans(), st.data())
def test_a_header_says_names_and_kinds(kinds: dict[str, str], in_header: bool, data: st.DataObject) -> None:
    kinds = {name: KIND_OF.get(name, kind) for name, kind in kinds.items()}
    cells = [f"{name} : {kind}" if in_header else name for name, kind in kinds.items()]
    header = data.draw(st.permutations(["split", "label", "group", *cells]))
    others = {name: Modality.model_validate({"kind": kind}) for name, kind in kinds.items() if name not in MODALITIES}
    columns, found = parse_header(WHERE, header, {} if in_header else others)
    assert columns == [cell.partition(" ")[0] for cell in header]
    assert {name: modality.kind for name, modality in found.items()} == kinds
    assert [name for name in columns if name in kinds] == list(found)


@given(st.lists(st.text(max_size=12), max_size=5))
def test_any_other_header_is_one_line(header: list[str]) -> None:
    try:
        columns, found = parse_header(WHERE, header, {})
    except UserError as error:
        message = str(error)
    else:
        assert found and set(found) < set(columns)
        return
    assert message.startswith("mine.csv: ")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("radar", "unknown column `radar`: must be split, label, group, vision,"),
        ("radar:sound;", "column `radar:sound;`: the kind must be one of image, sound, text, series, depth, thermal"),
        ("Radar:series", "column `Radar:series`: a modality's name must be a-z, then a-z, 0-9 or _, and not split"),
        ("present:image", "column `present:image`: a modality's name must be"),
        ("vision:sound", "column `vision:sound`: `vision` is ImageBind's, of kind image"),
        ("eeg:image", "column `eeg:image`: `eeg` is, in `modalities`, of kind series"),
        ("group:image", "column `group:image`: `group` is no modality and has no kind"),
        ("left:image", "has no column `eeg`, which `modalities` names"),
    ],
)
def test_a_mistake_in_a_header(header: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_header(WHERE, ["split", "label", header], {"eeg": Modality(kind="series")})
    assert message in str(caught.value)


def test_imagebinds_six_come_first_then_all_others_by_name() -> None:
    assert in_order(["zoom", "imu", "eeg", "vision", "left"]) == ["vision", "imu", "eeg", "left", "zoom"]
    assert not any(map(is_name, (*RESERVED, "", "1a", "a-b", "A", "ä")))


def recordings(folder: Path, n: int = 12) -> list[str]:
    """Rows of a manifest with a series: channel means 100 and -5, deviations about 10 and 0.1; lengths 20 and more."""
    rng, rows = np.random.default_rng(0), []
    for i in range(n):
        x = rng.normal(size=(2, 20 + i)) * [[10.0], [0.1]] + [[100.0], [-5.0]]
        np.save(folder / f"{i}.npy", x)
        rows.append(f"{'test' if i < 2 else 'train'},{'ab'[i % 2]},{i}.npy")
    return rows


def test_a_series_is_measured_on_the_condense_split(tmp_path: Path) -> None:
    rows = recordings(tmp_path)
    (tmp_path / "mine.csv").write_text("\n".join(["split,label,eeg:series", *rows]), encoding="utf-8")
    config = ManifestDataset(name="manifest", path=tmp_path / "mine.csv")
    assert modalities_of(config) == {"eeg": Modality(kind="series", channels=2, length=20)}
    dataset = load_dataset(config, encoder_specs(TinyEncoder(), modalities_of(config)))
    spec = dataset.specs["eeg"]
    assert isinstance(spec, SeriesSpec)
    x = dataset.condense.load(range(len(dataset.condense)))["eeg"]
    torch.testing.assert_close(x.mean((0, 2)), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.std((0, 2), correction=0), torch.ones(2), atol=1e-4, rtol=0)
    assert spec.low < float(x.min()) < float(x.max()) < spec.high
    np.testing.assert_allclose(spec.readings(x[0]).mean(1), [100, -5], rtol=0.1)
    given = config.model_copy(update={"modalities": {"eeg": Modality(kind="series", length=8, rate=4)}})
    assert modalities_of(given)["eeg"] == Modality(kind="series", channels=2, length=8, rate=4)


def test_tensors_say_their_modalities_in_metadata_or_in_the_configuration(tmp_path: Path) -> None:
    content = {f"{split}/eeg": torch.randn(8, 2, 16) * 50 + 7 for split in ("train", "test")}
    content |= {f"{split}/label": torch.arange(8) % 2 for split in ("train", "test")}
    metadata = {"modalities": json.dumps({"eeg": {"kind": "series", "rate": 50}})}
    safetensors.torch.save_file(content, tmp_path / "with.safetensors", metadata)
    safetensors.torch.save_file(content, tmp_path / "without.safetensors")
    said = TensorsDataset(name="tensors", path=tmp_path / "with.safetensors")
    known = {"eeg": Modality(kind="series", rate=50)}
    configured = TensorsDataset(name="tensors", path=tmp_path / "without.safetensors", modalities=known)
    datasets = []
    for config in (said, configured):
        assert modalities_of(config) == {"eeg": Modality(kind="series", channels=2, length=16, rate=50)}
        datasets.append(load_dataset(config, encoder_specs(TinyEncoder(), modalities_of(config))))
    assert datasets[0].fingerprint == datasets[1].fingerprint
    assert datasets[0].specs == datasets[1].specs
    x = datasets[0].condense.load(range(len(datasets[0].condense)))["eeg"]
    assert float(x.mean().abs()) < 1e-3 and float(x.std()) == pytest.approx(1, abs=0.01)
    with pytest.raises(UserError, match=r"unknown key `t.*`modalities` names others"):
        modalities_of(TensorsDataset(name="tensors", path=tmp_path / "without.safetensors"))
    wrong = {"eeg": Modality(kind="series", length=17)}
    with pytest.raises(UserError, match="train/eeg: has length 16, but `modalities` says 17"):
        modalities_of(configured.model_copy(update={"modalities": wrong}))
    for text, rule in (("{", "is not valid JSON"), ('{"eeg": {}}', "`eeg.kind` is missing")):
        safetensors.torch.save_file(content, tmp_path / "with.safetensors", {"modalities": text})
        with pytest.raises(UserError, match=rule):
            modalities_of(said)
