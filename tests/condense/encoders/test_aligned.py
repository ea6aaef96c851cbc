"""`aligned`: heads that bring partners together, kept in the store; what its fingerprint covers; in tasks and banks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from small_towers import pairs, save_model

from condense.config.files import load_config, make_paths_absolute
from condense.config.models import CondensationConfig, TaskConfig, validate
from condense.config.towers import AlignedEncoder
from condense.data.dataset import Dataset
from condense.embeddings.embeddings import embed_split, load_embedded
from condense.embeddings.task import embed_task
from condense.encoders import build_encoder, encoder_specs, tower_features
from condense.encoders.aligned import AlignedTowers, build_aligned
from condense.encoders.alignment import info_nce, siglip
from condense.engine.engine import Engine
from condense.method.condensation import Condensation
from condense.storage.store import Store
from condense.system.errors import UserError
from search.preflight import missing_parts
from search.space.model import Space

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model("bert", tmp_path_factory.mktemp("bert"))


@pytest.fixture
def towers(bert: Path, tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "pixels.py").write_text(
        "import torch\n"
        "from condense.inputs.spec import ImageSpec\n"
        "def spec(options):\n"
        "    return ImageSpec.of('vision', 1, 8, (0.5,), (0.5,))\n"
        "def build(options):\n"
        "    return lambda inputs: torch.tanh(inputs.flatten(1))\n"
    )
    return {
        "vision": {"kind": "python", "path": str(tmp_path / "pixels.py")},
        "text": {"kind": "transformers", "model": str(bert), "max_tokens": 6},
    }


def configured(towers: dict[str, Any], **options: Any) -> AlignedEncoder:
    return AlignedEncoder.model_validate(
        {"name": "aligned", "towers": towers, "dim": 8, "epochs": 150, "learning_rate": 0.01, **options}
    )


def built(config: AlignedEncoder, dataset: Dataset, store: Store | None = None) -> AlignedTowers:
    return build_aligned(config, dataset, store or Store(), CPU)


def same_concept_nearest(encoder: AlignedTowers, dataset: Dataset) -> float:
    """Share of validation items whose nearest partner in the other modality is of their concept."""
    embedded = list(embed_split(encoder, dataset.validation, CPU).embeddings.values())
    nearest = (embedded[0] @ embedded[1].T).argmax(1)
    return float((nearest % 6 == torch.arange(len(nearest)) % 6).float().mean())


@pytest.mark.parametrize("options", [{}, {"loss": "siglip"}, {"head": "mlp"}, {"precision": "float32", "dropout": 0.0}])
def test_partners_come_together(towers: dict[str, Any], options: dict[str, Any]) -> None:
    config = configured(towers, **options)
    dataset = pairs(config)
    encoder = built(config, dataset)
    assert same_concept_nearest(encoder, dataset) > 0.9
    assert encoder.output_scale == {"vision": 1.0, "text": 1.0}
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    x = dataset.validation.load([0, 1])["text"]
    assert encoder.embed("text", x).norm(dim=1).tolist() == pytest.approx([1, 1], abs=1e-5)
    assert torch.equal(encoder.embed("text", x), encoder.head("text", encoder.features("text", x)))


def test_a_tiny_tower_is_trained_with_the_heads(towers: dict[str, Any]) -> None:
    config = configured({"audio": {"kind": "tiny", "width": 4, "dim": 16}, "text": towers["text"]}, epochs=60)
    dataset, store = pairs(config), Store()
    encoder = built(config, dataset, store)
    assert same_concept_nearest(encoder, dataset) > 0.9
    again = built(config, dataset, store)
    x = dataset.validation.load([0, 1, 2])["audio"]
    assert torch.equal(encoder.embed("audio", x), again.embed("audio", x))


def test_losses_are_those_of_their_papers() -> None:
    g = torch.Generator().manual_seed(0)
    x, y = (torch.nn.functional.normalize(torch.randn(5, 4, generator=g), dim=1) for _ in range(2))
    p = (x @ y.T / 0.1).softmax(1).diagonal().log(), (y @ x.T / 0.1).softmax(1).diagonal().log()
    torch.testing.assert_close(info_nce(x, y, 0.1), -(p[0].mean() + p[1].mean()) / 2)
    bias, total = torch.tensor(-3.0), 0.0
    for i in range(5):
        for j in range(5):
            z = 1 if i == j else -1
            total -= float(torch.sigmoid(z * (x[i] @ y[j] / 0.1 + bias)).log())
    assert float(siglip(x, y, 0.1, bias)) == pytest.approx(total / 5, rel=1e-5)


def test_missing_modalities_have_no_pairs_and_no_embeddings(towers: dict[str, Any]) -> None:
    config = configured(towers)
    dataset, store = pairs(config, missing=True), Store()
    poisoned = dict(dataset.condense.inputs)
    poisoned["vision"] = poisoned["vision"].clone()
    poisoned["vision"][~dataset.condense.present["vision"]] = 1e9  # what is missing is never looked at
    changed = dataclasses.replace(dataset, condense=dataclasses.replace(dataset.condense, inputs=poisoned))
    encoder = built(config, changed, store)
    assert same_concept_nearest(encoder, pairs(config)) > 0.9
    found = load_embedded(dataset, encoder, "condense", store, CPU)
    assert (found.embeddings["vision"][::5] == 0).all()
    plain = embed_split(encoder, dataset.condense, CPU)
    for name in ("vision", "text"):
        torch.testing.assert_close(found.embeddings[name], plain.embeddings[name], atol=1e-5, rtol=0)


def test_heads_with_other_settings_need_no_tower(towers: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    config, store = configured(towers), Store()
    dataset = pairs(config)
    first = built(config, dataset, store)
    for split in ("condense", "validation", "test"):
        load_embedded(dataset, first, split, store, CPU)

    def refused(*_: Any) -> None:
        raise AssertionError("a tower was run on the data")

    monkeypatch.setattr(tower_features._Maker, "__call__", refused)
    other = built(configured(towers, temperature=0.2), dataset, store)
    assert other.fingerprint != first.fingerprint
    for split in ("condense", "validation", "test"):
        load_embedded(dataset, other, split, store, CPU)


def test_what_the_fingerprint_covers(towers: dict[str, Any], bert: Path, tmp_path: Path) -> None:
    config, store = configured(towers, epochs=2), Store()
    dataset = pairs(config)
    first = built(config, dataset, store).fingerprint
    assert built(config, dataset, store).fingerprint == first
    moved = tmp_path / "elsewhere"
    moved.symlink_to(bert)
    elsewhere = configured({**towers, "text": {**towers["text"], "model": str(moved)}}, epochs=2)
    assert built(elsewhere, dataset, store).fingerprint == first  # the same files
    different = [
        configured(towers, epochs=3),
        configured(towers, epochs=2, seed=1),
        configured({**towers, "text": {**towers["text"], "pooling": "cls"}}, epochs=2),
    ]
    assert len({first, *(built(each, dataset, store).fingerprint for each in different)}) == 4
    assert built(config, pairs(config, name="others"), store).fingerprint != first
    path = Path(towers["vision"]["path"])
    path.write_text(path.read_text().replace("torch.tanh", "torch.sin"))
    assert built(config, dataset, store).fingerprint != first


def test_a_condensation_through_towers(towers: dict[str, Any]) -> None:
    """Also in a bank beside another of the same towers."""
    config, store = configured(towers), Store()
    dataset = pairs(config)
    encoder = built(config, dataset, store)
    other = build_encoder(configured(towers, seed=1), dataset, store, CPU)
    task = embed_task(dataset, encoder, store, CPU, bank=[encoder, other])
    settings = CondensationConfig().hyperparameters
    replica = Condensation(task, 1, "random", settings, 0, 20)
    losses = Engine().run([replica], 20)[0][:, 0]
    assert losses.isfinite().all()
    assert losses[-5:].mean() < losses[0]


def test_towers_of_absent_modalities_are_not_loaded(towers: dict[str, Any]) -> None:
    config = configured(towers)
    whole = pairs(config)
    dataset = dataclasses.replace(whole, specs={"vision": whole.specs["vision"]})
    encoder = built(config, dataset)  # one modality has no partner: its head stays what it was at the start
    assert list(encoder.specs) == ["vision"]
    assert encoder.embed("vision", whole.validation.load([0])["vision"]).shape == (1, 8)


def test_paths_are_relative_to_the_file(towers: dict[str, Any], tmp_path: Path) -> None:
    content: dict[str, Any] = {
        "encoder": {"name": "aligned", "towers": {"vision": {"kind": "python", "path": "pixels.py"}}}
    }
    make_paths_absolute(content, tmp_path)
    config = validate(CondensationConfig, content, "mine.yaml").encoder
    assert isinstance(config, AlignedEncoder)
    assert config.towers["vision"].path == tmp_path / "pixels.py"  # type: ignore[union-attr]
    assert list(encoder_specs(config)) == ["vision"]


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ("{name: aligned}", "`encoder.towers` is missing"),
        ("{name: aligned, towers: {}}", "`encoder.towers`: Dictionary should have at least 1 item"),
        (
            "{name: aligned, towers: {vision: {kind: resnet}}}",
            "`encoder.towers.vision`: `kind` must be one of transformers,",
        ),
        ("{name: aligned, towers: {vision: {kind: tiny, side: 3}}}", "unknown key `encoder.towers.vision.side`"),
        ("{name: aligned, towers: {text: {kind: transformers}}}", "`encoder.towers.text.model` is missing"),
        (
            "{name: aligned, towers: {a b: {kind: tiny}}}",
            "a modality's name must be a-z, then a-z, 0-9 or _",
        ),
    ],
)
def test_mistakes_in_the_configuration(tmp_path: Path, encoder: str, message: str) -> None:
    (tmp_path / "mine.yaml").write_text(f"encoder: {encoder}\n")
    with pytest.raises(UserError) as raised:
        load_config(tmp_path / "mine.yaml")
    assert message in str(raised.value)


def test_a_search_names_the_towers_that_are_missing(towers: dict[str, Any], tmp_path: Path) -> None:
    gone = {
        "vision": {"kind": "efficientnet_lite0", "path": str(tmp_path / "nowhere")},
        "audio": {"kind": "tiny"},
        "text": {"kind": "transformers", "model": str(tmp_path / "no_model")},
    }
    task = TaskConfig.model_validate({"encoder": {"name": "aligned", "towers": gone}})
    space = Space.model_construct(tasks=[task])
    found = missing_parts(space)
    assert len(found) == 2
    assert found[0].endswith("nowhere (tasks.0.encoder.towers.vision.path)")
    assert "no such folder" in found[1] and found[1].endswith("(tasks.0.encoder.towers.text.model)")
