"""Items that lack modalities: what is embedded, where a condensation starts, many in one pass, what scores see."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor

from condense.config.models import MODALITIES, Hyperparameters, TinyEncoder
from condense.data.dataset import Dataset, MemorySplit
from condense.embeddings.embeddings import Embedded, embed_split, load_embedded
from condense.embeddings.task import Task
from condense.encoders.protocol import Encoder
from condense.encoders.tiny import TinyTowers, build_tiny, tiny_specs
from condense.engine.engine import Engine
from condense.engine.replica_batch import ReplicaBatch
from condense.evaluation.comparison import Comparison, chosen_items
from condense.evaluation.coresets import SELECTIONS, select
from condense.evaluation.replica_scores import probe_accuracy, validate
from condense.evaluation.retrieval import alignment, alignment_warnings, warning
from condense.method.condensation import Condensation, initial_inputs
from condense.method.initialization import choose
from condense.storage.store import Store
from condense.system.errors import UserError

CLASSES, PER_CLASS = 3, 8
TOWERS = TinyEncoder(pretraining="none", dim=8, width=4, image_size=8)
PAIR, TRIPLE = ("vision", "audio"), ("text", "vision", "imu")
CPU = torch.device("cpu")


def dataset_of(modalities: tuple[str, ...], share: float = 0.3, seed: int = 0) -> Dataset:
    """A pattern per class under noise; of each modality about `share` is missing, NaN where nobody may look."""
    specs = {m: tiny_specs(TOWERS)[m] for m in modalities}
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(CLASSES).repeat(PER_CLASS)
    patterns = {m: torch.randn(CLASSES, *spec.shape, generator=generator) / 2 for m, spec in specs.items()}
    splits = []
    for _ in range(3):
        has = torch.rand(len(modalities), len(labels), generator=generator) >= share
        has[0, ~has.any(0)] = True
        has[:, :CLASSES] = True  # one complete item per class
        inputs = {}
        for m, there in zip(modalities, has, strict=True):
            noise = 0.3 * torch.randn(len(labels), *specs[m].shape, generator=generator)
            inputs[m] = (patterns[m][labels] + noise).clamp(specs[m].low, specs[m].high)
            inputs[m][~there] = torch.nan
        splits.append(MemorySplit(inputs, labels, {m: x for m, x in zip(modalities, has, strict=True) if not x.all()}))
    names = tuple(f"class {c}" for c in range(CLASSES))
    return Dataset("holes", specs, names, *splits, f"holes {modalities} {share} {seed}")


@functools.cache
def six_towers() -> Encoder:
    return build_tiny(TOWERS, dataset_of(MODALITIES))


@functools.cache
def task_of(modalities: tuple[str, ...], share: float = 0.3) -> Task:
    """All tasks share the encoder of six modalities."""
    dataset, encoder = dataset_of(modalities, share), six_towers()
    embedded = [embed_split(encoder, split, CPU, batch=5) for split in (dataset.condense, dataset.validation)]
    return Task(dataset, encoder, embedded[0], embedded[1], CPU)


def replica(task: Task, dpc: int = 2, seed: int = 0, initialization: str = "random", **options: Any) -> Condensation:
    chosen = {"num_frequencies": 8, "frequency_pool": 20, "learning_rate": 0.1, **options}
    return Condensation(task, dpc, initialization, Hyperparameters(**chosen), seed, total_steps=10)


# What is embedded -----------------------------------------------------------------------------------------------------


def test_what_is_missing_loads_as_zeros():
    split = dataset_of(PAIR).condense
    assert set(split.present) == set(PAIR)
    order = [7, 3, 11, 3]
    for m, x in split.load(order).items():
        assert torch.equal(x.flatten(1).any(1), split.present[m][order])


def test_only_what_is_there_is_embedded_and_the_rest_is_zeros():
    class Counting:
        """The towers, seeing which inputs they are given."""

        dim = 8

        def __init__(self) -> None:
            self.seen = dict.fromkeys(PAIR, 0)

        def embed(self, modality: str, inputs: Tensor) -> Tensor:
            assert len(inputs)
            assert inputs.flatten(1).any(1).all()
            self.seen[modality] += len(inputs)
            return six_towers().embed(modality, inputs)

    split, encoder = dataset_of(PAIR, 0.7).condense, Counting()
    embedded = embed_split(encoder, split, CPU, batch=2)  # some batches have no item with the modality
    for m, has in split.present.items():
        assert encoder.seen[m] == int(has.sum())
        assert torch.equal(embedded.present[m], has)
        assert not embedded.embeddings[m][~has].any()
        expected = six_towers().embed(m, split.load(has.nonzero().squeeze(1))[m])
        torch.testing.assert_close(embedded.embeddings[m][has], expected, atol=1e-6, rtol=0)
    assert embedded.features.shape == (len(split), 16)
    (a, b), labels = embedded.having(*PAIR)
    both = split.present["vision"] & split.present["audio"]
    assert torch.equal(labels, split.labels[both])
    assert torch.equal(torch.cat([a, b], 1), embedded.features[both])


def test_masks_are_kept_with_the_embeddings_and_only_where_something_is_missing(tmp_path: Path):
    store, encoder = Store(tmp_path), six_towers()
    dataset = dataset_of(PAIR)
    for _ in range(2):  # made, then read
        found = load_embedded(dataset, encoder, "condense", store, CPU)
        made = embed_split(encoder, dataset.condense, CPU)
        for m in PAIR:
            assert torch.equal(found.present[m], made.present[m])
            assert torch.equal(found.embeddings[m], made.embeddings[m])
    kept: list[set[str]] = []
    for share in (0.3, 0.0):
        store = Store(tmp_path / str(share))
        load_embedded(dataset_of(PAIR, share), encoder, "condense", store, CPU)
        (entry,) = (tmp_path / str(share) / "embeddings").glob("*.safetensors")
        with safe_open(entry, framework="pt") as file:
            kept.append({key for key in file.keys() if not key.startswith("figures/")})  # noqa: SIM118
    assert kept == [{*PAIR, "label", "present/vision", "present/audio"}, {*PAIR, "label"}]


def test_towers_learn_from_pairs_that_there_are(tmp_path: Path):
    """What stands in for a partner that is missing, and the one that it is missing to, change no weight."""
    config = TinyEncoder(dim=8, width=4, image_size=8, epochs=2)
    whole = dataset_of(PAIR, 0.0)
    has = torch.arange(CLASSES * PER_CLASS) % 3 > 0
    assert isinstance(whole.condense, MemorySplit)
    states = []
    for value in (0.0, 0.5):
        inputs = {m: x.clone() for m, x in whole.condense.inputs.items()}
        inputs["vision"][~has] = value  # these have no audio
        split = MemorySplit(inputs, whole.condense.labels, {"audio": has})
        dataset = Dataset("half", whole.specs, whole.class_names, split, split, split, f"half {value}")
        states.append(build_tiny(config, dataset, Store(tmp_path)).state_dict())
    nothing = MemorySplit(inputs, split.labels, {"audio": has, "vision": ~has})
    dataset = Dataset("none", whole.specs, whole.class_names, nothing, nothing, nothing, "none")
    untrained = build_tiny(config, dataset, Store(tmp_path)).state_dict()
    start = TinyTowers(config, whole.specs).state_dict()
    for name, x in states[0].items():
        assert torch.equal(x, states[1][name])
        assert torch.equal(untrained[name], start[name])
    assert any(not torch.equal(x, start[name]) for name, x in states[0].items())


# Where a condensation starts ------------------------------------------------------------------------------------------


def index_of(item: Tensor, items: Tensor) -> int:
    (index,) = (items == item).flatten(1).all(1).nonzero().squeeze(1).tolist()
    return int(index)


@pytest.mark.parametrize("method", SELECTIONS)
@given(seed=st.integers(0, 1000), share=st.sampled_from([0.2, 0.5, 0.9]), dpc=st.integers(1, PER_CLASS))
@settings(max_examples=10, deadline=None)
def test_complete_items_come_first_and_others_are_completed_within_their_class(method, seed, share, dpc):
    task = task_of(TRIPLE, share)
    split, labels = task.dataset.condense, task.dataset.condense.labels
    items = split.load(range(len(split)))
    start = initial_inputs(task, dpc, method, torch.Generator().manual_seed(seed))
    again = initial_inputs(task, dpc, method, torch.Generator().manual_seed(seed))
    complete = torch.stack([split.present[m] for m in TRIPLE]).all(0)
    for c in range(CLASSES):
        members = (labels == c).nonzero().squeeze(1)
        known = int(complete[members].sum())
        for k, i in enumerate(range(c * dpc, (c + 1) * dpc)):
            found = {m: index_of(start[m][i], items[m]) for m in TRIPLE}
            assert all(torch.equal(start[m][i], again[m][i]) for m in TRIPLE)
            assert all(int(labels[j]) == c and bool(split.present[m][j]) for m, j in found.items())
            if k < known:
                (one,) = set(found.values())  # one item, all its modalities together
                assert complete[one]
    embedded = select(task, method, dpc, seed)
    for m, x in start.items():
        torch.testing.assert_close(embedded.embeddings[m], task.encoder.embed(m, x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", SELECTIONS)
def test_complete_datasets_start_from_the_items_of_a_plain_choice(small_task, method):
    task = small_task()
    start = initial_inputs(task, 3, method, torch.Generator().manual_seed(4))
    embedded = task.condense
    chosen = choose(method, embedded.features, embedded.labels, 3, 3, torch.Generator().manual_seed(4))
    assert all(torch.equal(x, start[m]) for m, x in task.dataset.condense.load(chosen).items())


def test_noise_has_the_spread_of_what_is_there():
    task = task_of(PAIR, 0.7)
    start = initial_inputs(task, 20, "noise", torch.Generator().manual_seed(0))
    for m, has in task.dataset.condense.present.items():
        real = task.dataset.condense.load(has.nonzero().squeeze(1))[m]
        assert start[m].std().item() == pytest.approx(real.std().item(), rel=0.1)


def test_a_class_that_never_has_a_modality_is_the_users_error():
    whole = dataset_of(PAIR, 0.0)
    condense = MemorySplit(whole.condense.load(range(24)), whole.condense.labels, {"audio": whole.condense.labels != 1})
    dataset = Dataset("mine", whole.specs, whole.class_names, condense, condense, condense, "mine")
    embedded = embed_split(six_towers(), condense, CPU)
    with pytest.raises(UserError, match="mine: class 'class 1' has no item with audio to condense"):
        replica(Task(dataset, six_towers(), embedded, embedded, CPU))


# A step ---------------------------------------------------------------------------------------------------------------


def test_what_one_class_lacks_is_as_if_those_items_were_dropped():
    """Items of class 0 without audio: everything about audio and pairs is that of the dataset without these items, and
    everything about vision that of the complete one."""
    whole = dataset_of(PAIR, 0.0)
    labels = whole.condense.labels
    lacking = (labels == 0).nonzero().squeeze(1)[2:7]
    has = torch.ones(len(labels)).bool()
    has[lacking] = False
    everything = whole.condense.load(range(len(labels)))
    kept = has.nonzero().squeeze(1)
    tasks = []
    for split in (
        MemorySplit(everything, labels, {"audio": has}),
        MemorySplit(whole.condense.load(kept), labels[kept]),
        MemorySplit(everything, labels),
    ):
        dataset = Dataset("one", whole.specs, whole.class_names, split, split, split, "one")
        embedded = embed_split(six_towers(), split, CPU)
        tasks.append(Task(dataset, six_towers(), embedded, embedded, CPU))
    holes, dropped, complete = (replica(task, 1, initialization="herding") for task in tasks)  # herding draws nothing
    torch.testing.assert_close(holes.phi_real["audio"], dropped.phi_real["audio"])
    torch.testing.assert_close(holes.phi_real["vision"], complete.phi_real["vision"])
    torch.testing.assert_close(tasks[0].statistics.mean["audio"], tasks[1].statistics.mean["audio"])
    assert torch.equal(tasks[0].statistics.mean["vision"], tasks[2].statistics.mean["vision"])
    for r in (holes, dropped, complete):
        for m, x in r.inputs.items():
            x.copy_(complete.inputs[m])
    losses = Engine().run([holes, dropped, complete], 1)
    assert losses[0][0, 2] == pytest.approx(losses[1][0, 2].item(), abs=1e-6)
    assert losses[0][0, 2] != pytest.approx(losses[2][0, 2].item(), abs=1e-6)
    assert losses[0][0, :2].tolist() != pytest.approx(losses[2][0, :2].tolist(), abs=1e-6)


CAST: list[dict[str, Any]] = [
    {"modalities": PAIR, "dpc": 1, "seed": 0},
    {"modalities": MODALITIES, "dpc": 2, "seed": 1, "lambda_cross": 0.3, "lambda_joint": 2.0},
    {"modalities": TRIPLE, "dpc": 2, "seed": 2, "optimizer": "adam", "learning_rate": 0.02},
    {"modalities": MODALITIES, "dpc": 1, "seed": 3, "discrepancy": "mmd", "learning_rate": 1.0},
    {"modalities": PAIR, "dpc": 5, "seed": 4, "scaling": "paper", "learning_rate": 0.01},
    {"modalities": TRIPLE, "dpc": 2, "seed": 5, "alpha": 0.9, "beta": 0.3},
]


def of_cast(i: int) -> Condensation:
    member = dict(CAST[i])
    return replica(task_of(member.pop("modalities"), 0.6), **member)


def test_two_three_and_six_modalities_in_one_pass_are_as_alone():
    cast, alone = ([of_cast(i) for i in range(len(CAST))] for _ in range(2))
    assert len({id(r.task.encoder) for r in cast}) == 1
    engine, losses = Engine(), []
    together = engine.run(cast, 3)
    states = [r.state_dict() for r in cast]
    for r in cast:
        engine.leave(r)
    resumed = [of_cast(i) for i in range(len(CAST))]
    for r, state in zip(resumed, states, strict=True):
        r.load_state_dict(state)
    after = Engine().run(resumed[::-1], 3)
    for i, r in enumerate(alone):
        losses = Engine().run([r], 6)[0]
        ours = torch.cat([together[i], after[len(CAST) - 1 - i]])
        assert torch.allclose(ours, losses, rtol=1e-4, atol=1e-6)
        for m, x in r.inputs.items():
            assert (x - resumed[i].inputs[m]).norm() <= 3e-5 * x.norm(), m
    scores = validate(resumed)
    assert scores == pytest.approx(validate(alone), abs=1e-6)


def test_every_input_of_six_modalities_has_a_gradient_and_the_loss_falls():
    r = replica(task_of(MODALITIES, 0.6), num_frequencies=64, frequency_pool=64)
    for m, gradient in ReplicaBatch([r]).gradients().gradients.items():
        assert gradient.flatten(1).any(1).all(), m
    losses = Engine().run([r], 20)[0]
    assert losses[-1, 3] < 0.8 * losses[0, 3]
    assert losses.isfinite().all()


# What scores see ------------------------------------------------------------------------------------------------------


def test_alignment_is_of_pairs_that_there_are():
    embedded = task_of(PAIR, 0.4).condense
    (a, b), labels = embedded.having(*PAIR)
    expected = warning(alignment(a, b, labels), *PAIR)
    assert expected is not None
    assert alignment_warnings(embedded) == [expected]
    lonely = Embedded(embedded.embeddings, embedded.labels, {"audio": embedded.labels == 1})
    assert alignment_warnings(lonely) == []  # pairs of one class say nothing


def test_the_three_protocols_take_missing_modalities(tmp_path: Path):
    task = task_of(TRIPLE, 0.5)
    comparison = Comparison(task, Store(tmp_path), convnet_steps=2)
    assert set(comparison.test.present) == set(TRIPLE)
    complete = comparison.embed(chosen_items(task, "random", 2, 0))
    assert not complete.present
    for embedded in (complete, task.condense):
        assert 1 / 3 < comparison.probe(embedded) <= 1
        recall = comparison.retrieval(embedded)
        assert recall is not None
        assert 0 < recall <= 1
    assert probe_accuracy(task.condense, task.validation, CLASSES) > 0.6
    for m, x in comparison.test_items.load(range(len(comparison.test_items))).items():
        assert torch.equal(x.flatten(1).any(1), comparison.test.present[m])
    assert 0 <= comparison.full_convnet([0])[0] <= 1


def test_retrieval_is_asked_of_items_with_both(tmp_path: Path):
    task = task_of(PAIR, 0.5)
    comparison = Comparison(task, Store(tmp_path))
    before = comparison.retrieval(task.condense)
    both = comparison.test.present["vision"] & comparison.test.present["audio"]
    comparison.test = Embedded(
        {m: x[both] for m, x in comparison.test.embeddings.items()}, comparison.test.labels[both]
    )
    assert comparison.retrieval(task.condense) == before
    nobody = {"vision": ~both, "audio": both}
    assert comparison.retrieval(Embedded(task.condense.embeddings, task.condense.labels, nobody)) is None
