"""Retrieval as a metric: recall of partners against plain loops, projections of many sets against one by one."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from condense.config.models import Hyperparameters, TaskConfig
from condense.data.dataset import Dataset, MemorySplit
from condense.embeddings.embeddings import Embedded
from condense.embeddings.task import Task, check_metric
from condense.evaluation.linear_probe import as_share
from condense.evaluation.replica_scores import full_score, held_out_scores, probe_accuracy, score_of, validate
from condense.evaluation.retrieval import alignment_warnings, retrieval_recall, train_projection_sets, train_projections
from condense.evaluation.retrieval_metric import distinct_items, full_projections, mean_recall, retrieval_scores
from condense.method.condensation import Condensation
from condense.system.errors import UserError


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    x = torch.tensor(np.random.default_rng(seed).normal(size=shape), dtype=torch.float32)
    return torch.nn.functional.normalize(x, dim=-1)


@pytest.mark.parametrize(("size", "classes"), [(1, False), (7, False), (12, True), (40, False), (40, True)])
def test_projections_of_many_sets_are_those_of_each_alone(size: int, classes: bool) -> None:
    """40 pairs are more than a batch."""
    a, b = unit(3, size, 8, seed=1), unit(3, size, 8, seed=2)
    labels = torch.arange(size).repeat(3, 1) % 4 if classes else None
    options: dict[str, Any] = {"steps": 30, "batch_size": 16, "learning_rate": 0.01, "seed": 5}
    together = train_projection_sets(a, b, labels=labels, **options)
    for i in range(3):
        alone = train_projections(a[i], b[i], labels=None if labels is None else labels[i], **options)
        torch.testing.assert_close(together.a[i], alone.a, atol=1e-5, rtol=0)
        torch.testing.assert_close(together.b[i], alone.b, atol=1e-5, rtol=0)


@pytest.mark.parametrize("classes", [False, True])
def test_projections_are_those_of_autograd_and_torch_adam_in_float64(classes: bool) -> None:
    a, b = unit(9, 6, seed=3), unit(9, 6, seed=4)
    labels = torch.arange(9) % 3 if classes else None
    found = train_projections(a, b, labels=labels, steps=25, learning_rate=0.02, weight_decay=0.1)
    eye = torch.eye(6, dtype=torch.float64)
    maps = [eye.clone().requires_grad_() for _ in range(2)]
    optimizer = torch.optim.Adam(maps, lr=0.02)
    own = torch.arange(9) if labels is None else labels
    target = (own[:, None] == own).double()
    target = target / target.sum(1, keepdim=True)
    for _ in range(25):
        x, y = (torch.nn.functional.normalize(v.double() @ w, dim=1) for v, w in zip((a, b), maps, strict=True))
        logits = x @ y.T / 0.07
        loss = sum(torch.nn.functional.cross_entropy(each, target) / 2 for each in (logits, logits.T))
        loss = loss + 0.1 / 2 * sum((w - eye).square().sum() for w in maps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(found.a.double(), maps[0].detach(), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.b.double(), maps[1].detach(), atol=1e-4, rtol=0)


def test_a_teacher_s_similarities_need_no_partners() -> None:
    """The full data's pairs are a rotation apart. A set with mixed-up partners teaches nothing by them, and with the teacher's
    similarities as much as one whose partners are right."""
    latent = unit(500, 8, seed=1)
    rotation = torch.linalg.matrix_exp(
        0.4 * torch.tensor(np.triu(np.ones((8, 8)), 1) - np.tril(np.ones((8, 8)), -1))
    ).float()
    full, held_out, few = (
        Embedded({"vision": x, "audio": x @ rotation}, torch.zeros(len(x), dtype=torch.int64))
        for x in (latent[:300], latent[300:460], latent[460:])
    )
    mixed = Embedded({**few.embeddings, "audio": few.embeddings["audio"].roll(1, 0)}, few.labels)
    teachers = full_projections(full, 1)
    assert list(teachers) == [("vision", "audio")]
    hard, hard_mixed = retrieval_scores([few, mixed], held_out, 1)
    soft, soft_mixed = retrieval_scores([few, mixed], held_out, 1, teachers=teachers)
    assert soft == pytest.approx(soft_mixed, abs=0.01)
    assert hard_mixed < 0.8 * soft_mixed
    assert retrieval_scores([few], held_out, 1, teachers={}) == [
        pytest.approx(hard, abs=1e-6)
    ]  # no teacher of this pair


@given(seed=st.integers(0, 2**32 - 1), clips=st.integers(2, 9), captions=st.integers(1, 3))
@settings(max_examples=25)
def test_mean_recall_of_captions_by_plain_loops(seed: int, clips: int, captions: int) -> None:
    """Each sound has several captions: a sound finds any of them, a caption has to find its sound among the sounds."""
    sounds, texts = unit(clips, 4, seed=seed), unit(clips * captions, 4, seed=seed + 1)
    of_row = torch.arange(clips).repeat_interleave(captions)
    order = torch.tensor(np.random.default_rng(seed).permutation(clips * captions))
    a, b = sounds[of_row][order], texts[order]
    similarity = (sounds.double() @ texts.double().T).numpy()
    recalls = []
    for k in (1, 5, 10):
        by_sound = [any(of_row[j] == i for j in np.argsort(-similarity[i])[:k]) for i in range(clips)]
        by_text = [of_row[j].item() in np.argsort(-similarity[:, j])[:k] for j in range(clips * captions)]
        recalls += [np.mean(by_sound), np.mean(by_text)]
    assert mean_recall(a, b, distinct_items(a), distinct_items(b)) == pytest.approx(np.mean(recalls))


def test_without_repeated_items_mean_recall_is_the_mean_of_recall() -> None:
    a, b = unit(60, 5, seed=1), unit(60, 5, seed=2)
    own = torch.arange(60)
    expected = sum(retrieval_recall(a, b, (1, 5, 10)).values()) / 6
    assert mean_recall(a, b, own, own) == pytest.approx(expected)
    assert mean_recall(a, a, own, own) == 1.0
    flat = torch.ones(60, 5) / 5**0.5
    assert mean_recall(flat, flat, own, own) == pytest.approx((1 + 5 + 10) / 3 / 60)  # chance


def test_items_that_differ_by_rounding_are_one_item() -> None:
    x = unit(50, 16)
    again = torch.nn.functional.normalize(x + 1e-6 * unit(50, 16, seed=1), dim=1)
    found = distinct_items(torch.cat([x, again]))
    assert found.tolist() == [*range(50), *range(50)]


@pytest.fixture
def one_class(small_task: Callable[..., Task]) -> Task:
    """The small task with the same label for all items."""
    task = small_task()
    alike = lambda split: dataclasses.replace(split, labels=torch.zeros_like(split.labels))  # noqa: E731
    dataset = dataclasses.replace(
        task.dataset,
        class_names=("all",),
        condense=alike(task.dataset.condense),
        validation=alike(task.dataset.validation),
    )
    return Task(dataset, task.encoder, alike(task.condense), alike(task.validation), task.device)


def make(task: Task, dpc: int, seed: int, metric: str = "retrieval") -> Condensation:
    h = Hyperparameters(num_frequencies=8, frequency_pool=16)
    replica = Condensation(task, dpc, "random", h, seed, 4)
    replica.metric = metric
    return replica


def test_replicas_of_different_sizes_tasks_and_metrics_are_validated_together_as_alone(
    small_task: Callable[..., Task], one_class: Task
) -> None:
    replicas = [
        make(one_class, 5, 0),
        make(small_task(), 2, 1),
        make(one_class, 3, 2),
        make(small_task(), 2, 1, "accuracy"),
        make(one_class, 5, 3),
        make(small_task(("vision", "audio", "depth")), 1, 4),
    ]
    together = validate(replicas)
    assert together == pytest.approx([validate([replica])[0] for replica in replicas], abs=1e-6)
    assert all(0 < value <= 1 for value in together)
    assert together[3] != together[1]


def test_a_replica_that_is_not_finite_has_no_recall(one_class: Task) -> None:
    good, bad = make(one_class, 3, 0), make(one_class, 3, 1)
    bad.inputs["audio"][0] = torch.nan
    value, nothing = validate([good, bad])
    assert value == pytest.approx(validate([good])[0]) and np.isnan(nothing)
    assert bad.divergence is not None
    final = held_out_scores([good, bad], [one_class.validation] * 2)
    assert 0 < final[0] <= 1 and np.isnan(final[1])


def test_the_full_data_is_judged_as_the_condensed_sets_are(one_class: Task, small_task: Callable[..., Task]) -> None:
    full = one_class.condense
    quick = retrieval_scores([full], one_class.validation, 1, final=False)[0]
    assert full_score(one_class, "retrieval") == quick
    whole = retrieval_scores([full], one_class.validation, 1)[0]
    assert score_of(full, one_class.validation, 1, "retrieval") == whole
    task = small_task()
    assert full_score(task, "accuracy") == probe_accuracy(task.condense, task.validation, 3)
    assert as_share(validate([make(one_class, 12, 0)])[0], quick) > 0.5


def test_class_level_recall_where_there_are_classes(small_task: Callable[..., Task]) -> None:
    task = small_task(("vision", "audio", "depth"))
    full, held_out = task.condense, task.validation
    recalls = []
    for a, b in itertools.combinations(task.modalities, 2):
        maps = train_projections(full.embeddings[a], full.embeddings[b], labels=full.labels)
        projected = maps.project(held_out.embeddings[a], held_out.embeddings[b])
        recalls += retrieval_recall(*projected, (1,), labels=held_out.labels).values()
    assert score_of(full, held_out, 3, "retrieval") == pytest.approx(np.mean(recalls))


def test_a_report_looks_at_a_sample_of_many_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the pairs are partners, the others have no relation."""
    monkeypatch.setattr("condense.evaluation.retrieval_metric.VALIDATION_PAIRS", 20)
    a, b = unit(400, 12), unit(400, 12, seed=1)
    b[:200] = a[:200]
    held_out, none = (
        Embedded({"text": a, "audio": b}, torch.zeros(400)),
        Embedded({"text": a[:1], "audio": a[:1]}, torch.zeros(1)),
    )
    whole = retrieval_scores([none], held_out, 1)[0]
    sampled = retrieval_scores([none], held_out, 1, final=False)[0]
    assert whole == pytest.approx(0.5, abs=0.03)
    assert sampled > whole  # of 20 candidates
    assert sampled == retrieval_scores([none], held_out, 1, final=False)[0]


def test_partners_that_belong_together_are_not_warned_of() -> None:
    a = unit(300, 16)
    near = torch.nn.functional.normalize(a + 1.5 * unit(300, 16, seed=1), dim=1)
    same = torch.zeros(300, dtype=torch.int64)
    assert alignment_warnings(Embedded({"text": a, "audio": near}, same)) == []
    (text,) = alignment_warnings(Embedded({"text": a, "audio": near.roll(1, 0)}, same))
    assert text.startswith("text and audio embeddings are not aligned: cosine of partners ")
    assert "of others" in text and "class" not in text
    assert alignment_warnings(Embedded({"text": a[:1], "audio": near[:1]}, same[:1])) == []


def test_what_a_dataset_cannot_be_judged_by(small_dataset: Callable[..., Dataset], one_class: Task) -> None:
    retrieval, accuracy = TaskConfig(metric="retrieval"), TaskConfig()
    check_metric(retrieval, one_class.dataset)
    check_metric(accuracy, small_dataset())
    with pytest.raises(UserError, match="small: has a single label: accuracy needs two or more"):
        check_metric(accuracy, one_class.dataset)
    with pytest.raises(UserError, match="small: has a single modality: `metric: retrieval` needs two or more"):
        check_metric(retrieval, small_dataset(("audio",)))
    whole = small_dataset(("vision", "audio"))
    half = torch.arange(len(whole.validation)) < len(whole.validation) // 2
    torn = MemorySplit(
        whole.validation.load(range(len(half))), whole.validation.labels, {"vision": half, "audio": ~half}
    )
    with pytest.raises(UserError, match="some item of every split has both of; validation has no such item"):
        check_metric(retrieval, dataclasses.replace(whole, validation=torn))
    alone = Embedded({"audio": unit(3, 2)}, torch.zeros(3))
    with pytest.raises(ValueError, match="two modalities"):
        retrieval_scores([alone], alone, 1)
