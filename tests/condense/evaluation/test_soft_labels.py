"""Teachers, their temperature, and methods with both kinds of labels side by side."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_problem import CLASSES

from condense.data.dataset import MemorySplit
from condense.embeddings.task import Task
from condense.evaluation import soft_labels
from condense.evaluation.comparison import SOFT, Comparison, chosen_items, compare
from condense.evaluation.dd_ranking import label_robust_score, rank
from condense.evaluation.retrieval_metric import full_projections, retrieval_scores
from condense.evaluation.soft_labels import (
    KINDS,
    Teacher,
    load_teacher,
    recorded_teacher,
    teacher_labels,
    with_best_temperature,
)
from condense.storage.store import Store
from condense.system.errors import UserError

STEPS = 30


@pytest.fixture(scope="module")
def task(small_task: Callable[..., Task]) -> Task:
    return small_task(per_class=20)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_teacher_knows_held_out_items(task: Task, store: Store, kind: str) -> None:
    """It labels validation items rightly, whatever their labels say; a high temperature makes it unsure, no less right."""
    teacher = load_teacher(task, kind, store, steps=STEPS)
    held_out = task.dataset.validation
    blind = MemorySplit(held_out.load(range(len(held_out))), torch.zeros_like(held_out.labels))
    sharp, soft = (replace(teacher, temperature=t).labels(blind) for t in (1.0, 16.0))
    for labels in (sharp, soft):
        assert (labels.shape, labels.dtype) == ((len(held_out), CLASSES), torch.float32)
        torch.testing.assert_close(labels.sum(1), torch.ones(len(labels)))
        assert float((labels.argmax(1) == held_out.labels).float().mean()) > 0.8  # chance 1/3
    assert float(sharp.amax(1).mean()) > float(soft.amax(1).mean()) + 0.2


def test_labels_by_hand(task: Task) -> None:
    """The mean of the members' probabilities, not of their logits."""
    logits = torch.tensor([[[2.0, 0.0, 0.0]], [[0.0, 6.0, 0.0]]])
    teacher = Teacher("probe", 2, lambda items: logits, temperature=2.0)
    one, other = (torch.tensor(x).softmax(0) for x in ([1.0, 0.0, 0.0], [0.0, 3.0, 0.0]))
    torch.testing.assert_close(teacher.labels(chosen_items(task, "random", 1, 0))[0], (one + other) / 2)


def test_teacher_labels_are_those_of_its_teacher(task: Task, store: Store) -> None:
    items = chosen_items(task, "herding", 2, 0)
    expected = replace(load_teacher(task, "probe"), temperature=3.0).labels(items)
    assert torch.equal(teacher_labels(task, items, 3.0), expected)
    assert not torch.equal(teacher_labels(task, items, 4.0), expected)


def test_an_ensemble_is_trained_once_and_does_not_start_as_a_student(
    task: Task, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = []
    train = soft_labels.train_from_scratch
    monkeypatch.setattr(
        soft_labels, "train_from_scratch", lambda *given, **keys: (seeds.append(given[2]), train(*given, **keys))[1]
    )
    items = chosen_items(task, "random", 2, 0)
    first = load_teacher(task, "convnet", store, steps=3)
    again = load_teacher(task, "convnet", store, steps=3)
    assert first.members == len(seeds) == len(set(seeds)) == 2
    assert min(seeds) > soft_labels.STUDENT_SEED + 1000
    assert torch.equal(first.labels(items), again.labels(items))
    assert not torch.equal(first.logits(items)[0], first.logits(items)[1])
    load_teacher(task, "convnet", store, steps=4)
    assert len(seeds) == 4


def test_a_recorded_teacher_is_the_same_and_sets_keep_their_own_labels(task: Task, store: Store) -> None:
    items, own = (chosen_items(task, "random", 2, seed) for seed in (0, 1))
    teacher = replace(load_teacher(task, "convnet", store, steps=3), temperature=5.0)
    assert teacher.describe() == {"teacher": "convnet", "members": 2, "temperature": 5.0, "steps": 3}
    labels = torch.eye(CLASSES)[own.labels]
    soft = recorded_teacher(task, store, teacher.describe(), [(own, labels)])
    assert torch.equal(soft(items), teacher.labels(items))
    assert soft(own) is labels


@pytest.mark.parametrize(("of_truth", "of_zero", "best"), [((60.0, 3), (400.0, 1), 1.0), ((400.0, 1), (3.0, 3), 100.0)])
def test_the_temperature_is_the_one_that_teaches_best_on_validation(
    task: Task, store: Store, of_truth: tuple[float, int], of_zero: tuple[float, int], best: float
) -> None:
    """Some members say the true class, the others always class 0, with other certainties: at one of two temperatures the true
    class is ahead, at the other class 0. The fixture's test split cannot be read."""
    calls = []

    def logits(items: MemorySplit) -> torch.Tensor:
        calls.append(len(items))
        truth = torch.nn.functional.one_hot(items.labels, CLASSES).float()
        zero = torch.eye(CLASSES)[0].expand_as(truth)
        return torch.stack([of_truth[0] * truth] * of_truth[1] + [of_zero[0] * zero] * of_zero[1])

    teacher = Teacher("convnet", 4, logits)
    given = {"steps": STEPS, "students": 2, "temperatures": (1.0, 100.0)}
    assert with_best_temperature(teacher, task, store, 4, **given).temperature == best
    count = len(calls)
    assert with_best_temperature(teacher, task, store, 4, **given).temperature == best
    assert len(calls) == count  # from the store
    with_best_temperature(teacher, task, store, 3, **given)
    assert len(calls) > count  # another number of items is another choice


def test_students_are_probes_where_no_convnet_takes_the_inputs(
    task: Task, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise UserError("no ConvNet")

    monkeypatch.setattr(soft_labels, "check_shapes", refuse)
    monkeypatch.setattr(Comparison, "convnet", lambda *_: pytest.fail("a ConvNet was trained"))
    found = with_best_temperature(load_teacher(task, "probe"), task, store, 2, temperatures=(1.0, 2.0))
    assert found.temperature in (1.0, 2.0)
    with pytest.raises(UserError, match="no ConvNet"):
        load_teacher(task, "convnet", store)


def test_what_does_not_fit_is_refused(task: Task) -> None:
    with pytest.raises(ValueError, match="must be one of probe, convnet, but got parrot"):
        load_teacher(task, "parrot")
    single = copy.copy(task)
    single.dataset = replace(task.dataset, class_names=("all",))
    with pytest.raises(UserError, match="small: has a single label: `soft_labels` need two or more"):
        load_teacher(single, "probe")


def test_every_method_is_shown_with_both_kinds_of_labels(task: Task, store: Store) -> None:
    comparison = Comparison(task, store, convnet_steps=4, held_out="validation")
    mine = {"mine": [chosen_items(task, "random", 2, seed) for seed in (8, 9)]}
    plain = compare(comparison, mine, 2, [0, 1], draws=2)
    one_hot = compare(
        comparison, mine, 2, [0, 1], draws=2, soft=lambda x: torch.nn.functional.one_hot(x.labels, CLASSES).float()
    )
    methods = ["mine", "random", "herding", "k_center", "k_means"]
    assert list(one_hot) == [*[row for m in methods for row in (m, m + SOFT)], "full_data"]
    for method in methods:
        assert one_hot[method] == plain[method]
        assert one_hot[method + SOFT]["probe"] == plain[method]["probe"]  # one-hot soft labels are hard labels
        assert one_hot[method + SOFT]["convnet"].mean == pytest.approx(plain[method]["convnet"].mean, abs=0.02)
        assert len(one_hot[method + SOFT]["retrieval"].values) == len(plain[method]["retrieval"].values)
    assert one_hot["full_data"] == plain["full_data"]
    of_class_0 = torch.eye(CLASSES)[0]
    blind = compare(comparison, mine, 2, [0, 1], draws=2, soft=lambda x: of_class_0.expand(len(x), -1))
    assert blind["mine" + SOFT]["probe"].mean == pytest.approx(1 / CLASSES)
    assert blind["mine"] == plain["mine"]


def test_rows_with_soft_labels_have_soft_retrieval(task: Task, store: Store) -> None:
    comparison = Comparison(task, store, held_out="validation")
    items = chosen_items(task, "random", 4, 0)
    found = compare(comparison, {"mine": [items]}, 4, [], draws=1, soft=load_teacher(task, "probe").labels)
    embedded = comparison.embed(items)
    teachers = full_projections(task.condense, CLASSES)
    (hard,) = retrieval_scores([embedded], task.validation, CLASSES)
    (soft,) = retrieval_scores([embedded], task.validation, CLASSES, teachers=teachers)
    assert found["mine"]["retrieval"].values == (hard,)
    assert found["mine" + SOFT]["retrieval"].values == (soft,)
    assert hard != soft


def test_sets_that_are_not_finite_are_not_labelled(task: Task, store: Store) -> None:
    comparison = Comparison(task, store, convnet_steps=2, held_out="validation")
    broken = chosen_items(task, "random", 1, 0)
    broken = MemorySplit({m: x * math.nan for m, x in broken.inputs.items()}, broken.labels)
    teacher = load_teacher(task, "probe")
    found = compare(comparison, {"broken": [broken]}, 1, [0], draws=1, soft=teacher.labels)
    assert math.isnan(found["broken" + SOFT]["probe"].mean)
    assert math.isnan(found["broken" + SOFT]["convnet"].mean)
    scores = rank(comparison, [broken], [chosen_items(task, "random", 1, 1)], [0], teacher.labels)
    assert all(math.isnan(sample.mean) for sample in scores.values())


def test_ranking_by_its_accuracies(task: Task, store: Store) -> None:
    """Five trainings, each in its place: labels, augmentation and items are read off the call."""
    comparison = Comparison(task, store, held_out="validation")
    syn, rdm = (chosen_items(task, "random", 1, seed) for seed in (0, 1))
    table = {  # condensed items?, soft?, augmented?
        (True, False, True): 0.6,
        (True, True, True): 0.7,
        (False, True, True): 0.65,
        (True, True, False): 0.5,
        (False, True, False): 0.58,
        (True, False, False): 0.4,
        (False, False, True): 0.3,
        (False, False, False): 0.2,
    }
    comparison.convnet = lambda trainings, targets=None, augmentation=True: [  # type: ignore[method-assign, misc]
        table[x is syn, targets is not None and targets[0] is not None, augmentation] for x, _ in trainings
    ]
    comparison.full_convnet = lambda seeds: [0.9 for _ in seeds]  # type: ignore[method-assign]
    teacher = load_teacher(task, "probe")
    found = rank(comparison, [syn], [rdm], [0, 1], teacher.labels)
    assert {name: sample.mean for name, sample in found.items()} == pytest.approx(
        {
            "hlr": 0.3,
            "ior": 0.05,
            "lrs": 0.21894866351247574,
            "ars": (math.exp(-0.015) - math.exp(-1)) / (math.e - 1 / math.e),
        }
    )
    assert [len(sample.values) for sample in found.values()] == [2] * 4
    hard = rank(comparison, [syn], [rdm], [0])
    assert hard["lrs"].mean == pytest.approx(label_robust_score(0.9, 0.6, 0.6, 0.3))
    assert hard["ior"].mean == pytest.approx(0.3)
