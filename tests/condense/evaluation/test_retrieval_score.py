"""Retrieval as what a condensed set is judged by: batched training, partner recall, validation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small_problem import CLASSES, make_task
from torch import Tensor

from condense.config.models import Hyperparameters, TaskConfig
from condense.embeddings.embeddings import Embedded
from condense.embeddings.task import check_metric
from condense.evaluation.replica_scores import as_embedded, held_out_scores, score_of, synthetic_features, validate
from condense.evaluation.retrieval_metric import retrieval_scores
from condense.method.condensation import Condensation
from condense.system.errors import UserError


def units(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_pairs_teach_more_than_shuffled_pairs() -> None:
    """Two views of hidden factors, each rotated in its own way: only true pairs say which rotation undoes which."""
    hidden = units(400, 12)
    rotate = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(2)))[0]
    real = {"vision": hidden, "audio": F.normalize(hidden @ (0.6 * torch.eye(12) + 0.4 * rotate), dim=1)}
    held_out = {m: x[200:] for m, x in real.items()}
    right = {m: x[:200] for m, x in real.items()}
    wrong = {"vision": right["vision"], "audio": right["audio"].roll(1, 0)}
    labels = torch.zeros(200, dtype=torch.int64)
    taught, other, asked = (Embedded(of, labels) for of in (right, wrong, held_out))
    good, bad = retrieval_scores([taught, other], asked, 1)
    assert good > bad + 0.05
    assert score_of(taught, asked, 1, "retrieval") == pytest.approx(good, abs=1e-3)
    # Items that lack a modality are neither trained on nor asked for.
    has = torch.arange(200) % 4 > 0
    zeroed = {**held_out, "audio": held_out["audio"].where(has[:, None], 0.0)}
    kept = Embedded({m: x[has] for m, x in held_out.items()}, labels[has])
    partly = retrieval_scores([taught], Embedded(zeroed, labels, {"audio": has}), 1)
    assert partly == pytest.approx(retrieval_scores([taught], kept, 1))
    alone = Embedded({"vision": hidden}, torch.zeros(400, dtype=torch.int64))
    with pytest.raises(ValueError, match="two modalities"):
        retrieval_scores([alone], alone, 1)


def test_validation_by_either_metric_side_by_side() -> None:
    task = make_task()
    replicas = [
        Condensation(task, dpc, "random", Hyperparameters(), seed, 10) for dpc, seed in ((1, 0), (2, 1), (1, 2))
    ]
    before = validate(replicas)
    replicas[0].metric = replicas[1].metric = "retrieval"
    values = validate(replicas)
    assert values[2] == before[2] and values[0] != before[0]
    final = held_out_scores(replicas, [task.validation] * 3)
    assert values[2] == pytest.approx(final[2], abs=1e-3)
    # By retrieval: each as if it were alone, and its final figure by projections that were trained for longer.
    features = synthetic_features(replicas)
    for i, r in enumerate(replicas[:2]):
        own = as_embedded(features[i], r)
        quick, long = (retrieval_scores([own], task.validation, CLASSES, final=last)[0] for last in (False, True))
        assert (values[i], final[i]) == (pytest.approx(quick, abs=1e-3), pytest.approx(long, abs=1e-3))
        assert abs(quick - long) > 1e-2  # so that one is not taken for the other
    assert abs(values[0] - values[1]) > 1e-2


def test_what_data_cannot_be_judged_by_is_told() -> None:
    one = make_task(("vision",)).dataset
    with pytest.raises(UserError, match="single modality"):
        check_metric(TaskConfig(metric="retrieval"), one)
    check_metric(TaskConfig(), one)
