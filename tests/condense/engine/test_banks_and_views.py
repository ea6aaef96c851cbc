"""Several encoders, transformations and formations in a step, each against a plain computation."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from small_problem import CLASSES, TOWERS, make_dataset, make_task
from torch import Tensor

from condense.config.files import load_config
from condense.config.models import Hyperparameters, TaskConfig, TinyEncoder
from condense.embeddings.embeddings import embed_split
from condense.embeddings.task import Task, load_bank, load_task, task_key
from condense.embeddings.views import TransformedSplit
from condense.encoders.tiny import build_tiny
from condense.engine.engine import Engine
from condense.engine.replica_batch import ReplicaBatch
from condense.engine.spread import Spread
from condense.evaluation.replica_scores import validate
from condense.inputs.formation import formed
from condense.method.condensation import Condensation
from condense.storage.store import Store
from condense.system.errors import UserError

PAIR = ("vision", "audio")
CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"num_frequencies": 8, "frequency_pool": 20, "learning_rate": 0.3}


def replica(task: Task, seed: int = 0, dpc: int = 2, **options: Any) -> Condensation:
    return Condensation(task, dpc, "random", Hyperparameters(**{**SMALL, **options}), seed, 10)


def task_with_bank(*dims: int) -> Task:
    task = make_task(PAIR)
    bank = []
    for dim in dims:
        encoder = build_tiny(TOWERS.model_copy(update={"dim": dim, "seed": dim}), task.dataset)
        own = embed_split(encoder, task.dataset.condense, CPU)
        bank.append(Task(task.dataset, encoder, own, own, CPU))
    return dataclasses.replace(task, bank=tuple(bank))


# Banks ----------------------------------------------------------------------------------------------------------------


def test_a_bank_is_shared_by_several_devices() -> None:
    whole = Condensation(task_with_bank(8, 12), 2, "herding", Hyperparameters(**SMALL), 0, 10)
    Engine().run([whole], 1)
    here, there = ReplicaBatch([whole]).gradients(), ReplicaBatch([whole]).gradients(None, Spread([CPU, CPU]))
    for m, gradient in here.gradients.items():
        torch.testing.assert_close(there.gradients[m], gradient, rtol=1e-4, atol=1e-6 * gradient.abs().max().item())
    torch.testing.assert_close(there.losses[0][1], here.losses[0][1])


def test_a_banks_gradient_is_the_mean_of_its_encoders() -> None:
    task = task_with_bank(8, 12)
    whole = Condensation(task, 2, "herding", Hyperparameters(**SMALL), 0, 10)
    done = ReplicaBatch([whole]).gradients()
    parts = []
    for each in whole.bank:
        alone = Condensation(each.task, 2, "herding", each.hyperparameters, each.seed, 10)
        for m, x in whole.inputs.items():
            alone.inputs[m].copy_(x)
        parts.append(ReplicaBatch([alone]).gradients())
    for m, gradient in done.gradients.items():
        mean = (parts[0].gradients[m] + parts[1].gradients[m]) / 2
        torch.testing.assert_close(gradient, mean, rtol=1e-5, atol=1e-7)
        assert not torch.allclose(parts[0].gradients[m], parts[1].gradients[m], rtol=0.1)
    loss = (parts[0].losses[0][1] + parts[1].losses[0][1]) / 2
    torch.testing.assert_close(done.losses[0][1], loss)


def test_a_bank_of_one_is_that_encoder_and_its_weight_in_the_gradient_does_not_depend_on_its_gain() -> None:
    """An encoder that answers ten times as strongly pulls no more than the other one."""
    task = task_with_bank(8, 12)
    whole = replica(task)
    gradients = [ReplicaBatch([whole]).members[i].gradients().gradients["vision"].norm() for i in (0, 1)]
    loud = task.bank[0]

    class Loud:
        def __getattr__(self, name: str) -> Any:
            return getattr(loud.encoder, name)

        def embed(self, modality: str, inputs: Tensor) -> Tensor:
            embedded = loud.encoder.embed(modality, inputs)  # the same value, ten times the derivative
            return embedded.detach() + 10 * (embedded - embedded.detach())

    louder = dataclasses.replace(task, bank=(dataclasses.replace(loud, encoder=Loud()), task.bank[1]))  # type: ignore[arg-type]
    again = ReplicaBatch([replica(louder)])
    now = [member.gradients().gradients["vision"].norm() for member in again.members]
    assert now[0].item() == pytest.approx(gradients[0].item(), rel=1e-4)
    assert now[1].item() == pytest.approx(gradients[1].item(), rel=1e-4)


def test_banks_packed_and_resumed_equal_banks_alone() -> None:
    task = task_with_bank(8, 12)
    options: list[dict[str, Any]] = [
        {},
        {"views": 2},
        {"formation": 2, "lambda_cross": 0.1},
        {"optimizer": "adam", "learning_rate": 0.01},
    ]
    alone = [replica(task, i, 1, **own) for i, own in enumerate(options)]
    losses = [Engine().run([r], 5)[0] for r in alone]
    plain = replica(make_task(PAIR), 9)  # another encoder in the same engine
    cast = [*(replica(task, i, 1, **own) for i, own in enumerate(options)), plain]
    before = Engine().run(cast, 2)
    fresh = [replica(task, i, 1, **own) for i, own in enumerate(options)]
    first = Engine().run(fresh, 2)
    resumed = [replica(task, i, 1, **own) for i, own in enumerate(options)]
    for r, old in zip(resumed, fresh, strict=True):
        r.load_state_dict(old.state_dict())
    after = Engine().run(resumed, 3)
    for i, r in enumerate(resumed):
        torch.testing.assert_close(torch.cat([first[i], after[i]]), losses[i], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(before[i], losses[i][:2], rtol=1e-4, atol=1e-6)
        for m, x in r.inputs.items():
            assert (x - alone[i].inputs[m]).norm() <= 3e-5 * x.norm()


def test_one_replica_with_a_bank_is_resumed_bit_for_bit() -> None:
    task = task_with_bank(8, 12)
    whole, first, second = (replica(task, views=3, formation=2, dpc=1) for _ in range(3))
    expected = Engine().run([whole], 6)[0]
    before = Engine().run([first], 2)[0]
    second.load_state_dict(first.state_dict())
    after = Engine().run([second], 4)[0]
    assert torch.equal(torch.cat([before, after]), expected)
    assert all(torch.equal(x, second.inputs[m]) for m, x in whole.inputs.items())


def test_items_are_judged_by_the_encoder_outside_of_the_bank() -> None:
    task = task_with_bank(12)
    r = replica(task)
    Engine().run([r], 3)
    alone = Condensation(make_task(PAIR), 2, "random", Hyperparameters(**SMALL), 0, 10)
    for m, x in r.inputs.items():
        alone.inputs[m].copy_(x)
    assert validate([r]) == validate([alone])


def test_an_encoder_with_other_inputs_is_refused(tmp_path: Path) -> None:
    dataset = make_dataset(PAIR)
    store = Store(tmp_path)
    same = TOWERS.model_copy(update={"dim": 5})
    assert [e.dim for e in load_bank(TaskConfig(encoder=TOWERS, encoders=[same]), dataset, store, CPU)] == [5]
    other = TinyEncoder(pretraining="none", dim=8, width=4, image_size=16)
    config = TaskConfig(encoder=TOWERS, encoders=[same, other])
    with pytest.raises(
        UserError, match=r"encoders\.1 \(tiny\): must take vision as `encoder` does, \(1, 8, 8\), but takes"
    ):
        load_bank(config, dataset, store, CPU)


def test_tensors_with_values_of_their_own_suit_a_bank_of_like_encoders(tmp_path: Path) -> None:
    """Their inputs are not what `encoder` asks for, but have been read for it."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(2).repeat(10)
    tensors = {f"{split}/label": labels.clone() for split in ("train", "test")}
    tensors |= {f"{split}/vision": 5 * torch.randn(20, 1, 8, 8, generator=generator) for split in ("train", "test")}
    save_file(tensors, tmp_path / "data.safetensors")
    tower = {"name": "tiny", "pretraining": "none", "dim": 4, "width": 4, "image_size": 8}
    dataset = {"name": "tensors", "path": str(tmp_path / "data.safetensors")}
    config = TaskConfig.model_validate({"dataset": dataset, "encoder": tower, "encoders": [{**tower, "dim": 5}]})
    task = load_task(config, Store(tmp_path), CPU)
    assert task.dataset.specs["vision"].high > 5
    assert [each.condense.embeddings["vision"].shape[1] for each in task.bank] == [5]
    other = config.model_copy(update={"encoders": [TinyEncoder(pretraining="none", dim=8, width=4, image_size=16)]})
    with pytest.raises(UserError, match=r"encoders\.0 \(tiny\): must take vision as `encoder` does, \(1, 8, 8\)"):
        load_task(other, Store(tmp_path), CPU)


def test_a_bank_is_part_of_a_tasks_identity_and_its_paths_are_those_of_the_file(tmp_path: Path) -> None:
    plain = TaskConfig(encoder=TOWERS)
    assert task_key(plain) != task_key(TaskConfig(encoder=TOWERS, encoders=[TOWERS]))
    assert task_key(plain) != task_key(TaskConfig(encoder=TOWERS, mirror=True))
    (tmp_path / "a.yaml").write_text("encoders: [{name: python, path: mine.py}, {name: tiny}]\n")
    found = load_config(tmp_path / "a.yaml").encoders
    assert found[0].path == tmp_path / "mine.py"  # type: ignore[union-attr]
    (tmp_path / "b.yaml").write_text("encoders: [{name: tiny, dimm: 3}]\n")
    with pytest.raises(UserError, match=r"unknown key `encoders\.0\.dimm`"):
        load_config(tmp_path / "b.yaml")


# Views ----------------------------------------------------------------------------------------------------------------


def test_each_step_matches_transformed_items_under_their_own_statistics() -> None:
    """MMD in one modality's terms: the loss of a step is that of the transformed items and the transformed real ones."""
    task = make_task(PAIR)
    r = replica(task, views=3, discrepancy="mmd", lambda_cross=0.0, lambda_joint=0.0)
    labels, seen = task.condense.labels, []
    for _ in range(8):
        view = r.view
        seen.append(view)
        transformation = r.views[view].transformation
        expected = 0.0
        for m in PAIR:
            real = task.dataset.condense.load(range(len(labels)))[m]
            items = r.inputs[m].clone()
            if transformation is not None:
                real, items = transformation(m, real), transformation(m, items)
            with torch.no_grad():
                a, b = task.encoder.embed(m, real), task.encoder.embed(m, items).view(CLASSES, 2, -1)
            apart = [a[labels == c].mean(0) - b[c].mean(0) for c in range(CLASSES)]
            expected += torch.stack(apart).square().sum(1).mean().item() / 2
        found = Engine().run([r], 1)[0][0, 0].item()
        assert found == pytest.approx(expected, rel=1e-4)
    assert sorted(seen[:4]) == sorted(seen[4:]) == [0, 1, 2, 3]  # none is left out


def test_views_are_encoded_once_and_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    task = make_task(PAIR)
    kept = dataclasses.replace(task, store=store)
    first = kept.views.first(2)
    assert kept.views.first(1) == first[:2]
    assert first[0].embedded is task.condense
    again = dataclasses.replace(task, store=store)
    again.views.encoder = _Fingerprint(task.encoder.fingerprint)  # type: ignore[assignment]
    for one, other in zip(first[1:], again.views.first(2)[1:], strict=True):
        assert all(torch.equal(x, other.embedded.embeddings[m]) for m, x in one.embedded.embeddings.items())
    split = TransformedSplit(task.dataset.condense, first[1].transformation)  # type: ignore[arg-type]
    direct = embed_split(task.encoder, split, CPU)
    for m, x in direct.embeddings.items():
        torch.testing.assert_close(first[1].embedded.embeddings[m], x)


class _Fingerprint:
    """An encoder that must not be asked for anything."""

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint


# Formations -----------------------------------------------------------------------------------------------------------


def test_a_formation_is_judged_by_the_items_it_holds() -> None:
    task = make_task(PAIR)
    r = replica(task, formation=2, dpc=1)
    assert r.items_per_class == 4
    assert len(r.labels) == CLASSES
    assert r.formed_labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    items = r.formed()
    assert all(torch.equal(x, items[m]) for m, x in formed(task.dataset.specs, r.inputs, 2).items())
    start = validate([r])[0]
    Engine().run([r], 8)
    assert start > 0.4
    assert validate([r])[0] > 0.6


def test_a_formation_that_needs_more_items_than_a_class_has_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"class 'class 0' has 12 items to condense, but dpc 4 with formation starts from 16"
    ):
        replica(make_task(PAIR), formation=2, dpc=4)
    assert Condensation(make_task(PAIR), 4, "noise", Hyperparameters(**SMALL, formation=2), 0, 10).items_per_class == 16
