"""A score item by item: against plain loops, scikit-learn, and a linear approximation by removing weight."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from sklearn.metrics import log_loss
from small_problem import CLASSES, make_task
from torch import Tensor

from condense.config.models import Hyperparameters
from condense.embeddings.embeddings import Embedded
from condense.embeddings.task import Task
from condense.evaluation.item_values import connected, geometric_mean, mean_of_parts, mean_over
from condense.evaluation.linear_probe import hits, log_probabilities, train_probes
from condense.evaluation.replica_scores import full_score, held_out_items, judge, validate, validate_items
from condense.evaluation.retrieval_metric import judged_retrieval
from condense.method.condensation import Condensation


def units(*shape: int, seed: int = 0) -> Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(drawn, dim=-1)


def replica(task: Task, metric: str, seed: int = 0) -> Condensation:
    own = Condensation(task, 2, "random", Hyperparameters(num_frequencies=8, frequency_pool=16), seed, 1)
    own.metric = metric
    return own


def test_log_probabilities_are_scikit_learns() -> None:
    x, y = torch.randn(2, 30, 5, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 3
    probes = train_probes(x, y.expand(2, -1), None, 3, (0, 1))
    logs = log_probabilities(probes, x[0], y)
    assert logs.shape == hits(probes, x[0], y).shape == (30, 2, 2)
    for r in range(2):
        p = (x[0] @ probes.weight[r, 1] + probes.bias[r, 1]).double().softmax(1)
        expected = log_loss(y.numpy(), p.numpy(), labels=[0, 1, 2])
        assert float(-logs[:, r, 1].mean()) == pytest.approx(expected, rel=1e-5)
        score, values = geometric_mean(logs[:, r, 1])
        assert score == pytest.approx(math.exp(-expected), rel=1e-5)
        assert float(values.mean()) == pytest.approx(score, rel=1e-12)


def test_values_are_the_score_and_an_items_influence_on_it() -> None:
    """Of an item that counts a little more, the score moves by its value minus the score."""
    logs = -torch.rand(20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    score, values = geometric_mean(logs)
    for i in range(20):
        weights = torch.ones(20, dtype=torch.float64).index_fill(0, torch.tensor(i), 1 + 1e-6)
        moved = float(((weights * logs).sum() / weights.sum()).exp())
        assert (moved - score) * 20 / 1e-6 == pytest.approx(float(values[i] - score), abs=1e-5)


@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize("present", [{}, {"b": torch.arange(60) % 3 > 0}])
@pytest.mark.parametrize("final", [True, False])
def test_the_mean_of_retrievals_values_is_the_score(
    classes: int, present: Mapping[str, Tensor], final: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("condense.evaluation.retrieval_metric.VALIDATION_PAIRS", 30)
    x = units(60, 8)
    embeddings = {
        "a": x,
        "b": torch.nn.functional.normalize(x + 0.4 * units(60, 8, seed=1), dim=1),
        "c": units(60, 8, seed=2),
    }
    labels = torch.arange(60) % classes
    train = Embedded({m: own[:10] for m, own in embeddings.items()}, labels[:10])
    ((score, values),) = judged_retrieval([train], Embedded(embeddings, labels, present), classes, final=final)
    assert values is not None and values.shape == (60,)
    assert float(values.mean()) == pytest.approx(score, abs=1e-12)
    apart = (values - score).abs() > 1e-9
    assert 20 < int(apart.sum()) <= 60 if final or present else int(apart.sum()) <= 30 * 3


def test_an_item_of_one_pair_of_modalities_has_the_mean_of_its_two_queries() -> None:
    a, b = units(30, 6), units(30, 6, seed=1)
    labels = torch.arange(30) % 3
    train = Embedded({"a": a[:6], "b": b[:6]}, labels[:6])
    ((score, values),) = judged_retrieval([train], Embedded({"a": a, "b": b}, labels), 3)
    assert values is not None and set(values.tolist()) <= {0.0, 0.5, 1.0}
    assert score == pytest.approx(float(values.mean()))


def test_rows_that_share_an_item_count_as_one() -> None:
    """Five captions of each of ten clips: ten values, and the variance of their mean is that of ten clips."""
    clips = units(10, 8).repeat_interleave(5, 0)
    held_out = Embedded({"a": units(50, 8, seed=1), "b": clips}, torch.zeros(50, dtype=torch.int64))
    train = Embedded({"a": units(5, 8), "b": units(5, 8)}, torch.zeros(5, dtype=torch.int64))
    ((score, values),) = judged_retrieval([train], held_out, 1)
    assert values is not None and float(values.mean()) == pytest.approx(score)
    rest = torch.arange(50) % 5 > 0
    assert float((values[rest] - score).abs().max()) < 1e-12
    few = Embedded({"a": held_out.embeddings["a"][:20], "b": clips[:20]}, held_out.labels[:20])
    assert judged_retrieval([train], few, 1)[0][1] is None  # of four clips nothing is said of new ones


def test_connected_rows_by_plain_search() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        shared = [torch.randint(9, (12,), generator=generator) for _ in range(2)]
        reach = torch.eye(12, dtype=torch.bool)
        for own in shared:
            reach |= own[:, None] == own
        for _ in range(12):
            reach = (reach.float() @ reach.float()) > 0
        assert connected(shared).tolist() == reach.byte().argmax(1).tolist()


def test_means_of_parts_with_weights_by_hand() -> None:
    whole, part = (
        mean_over(torch.arange(4), torch.tensor([1.0, 0, 1, 0])),
        mean_over(torch.tensor([1, 2]), torch.ones(2)),
    )
    score, values = mean_of_parts([whole, part], 4)
    assert score == 0.75 and values is not None
    assert values.tolist() == [1.0, 0.5, 1.0, 0.5]


def test_every_metric_has_values_and_probes_say_their_log_loss() -> None:
    task = make_task()
    replicas = [replica(task, metric, seed) for metric in ("accuracy", "log_loss", "retrieval") for seed in (0, 1)]
    judged = validate_items(replicas)
    assert [one.score for one in judged] == pytest.approx(validate(replicas))
    for own, one in zip(replicas, judged, strict=True):
        assert one.values is not None and float(one.values.double().mean()) == pytest.approx(one.score, abs=1e-6)
        assert (one.log_loss is None) == (own.metric == "retrieval")
    assert [one.log_loss for one in judged[:2]] == pytest.approx([one.score for one in judged[2:4]])
    assert all(one.values is None and one.log_loss is not None for one in validate_items(replicas[:4], (0, 1)))
    for own in held_out_items(replicas, [task.validation] * 6):
        assert own.values is not None and float(own.values.double().mean()) == pytest.approx(own.score, abs=1e-6)
    whole = judge(task.condense, task.validation, CLASSES, "log_loss")
    assert full_score(task, "log_loss") == whole.score == whole.log_loss and 0 < whole.score < 1
