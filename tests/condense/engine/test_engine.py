"""Many replicas in one pass: each must take the path that it takes alone, whoever joins, leaves or diverges."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from condense.config.models import Hyperparameters
from condense.embeddings.embeddings import Embedded
from condense.embeddings.task import Task
from condense.engine.engine import Engine
from condense.evaluation.linear_probe import accuracy, train_probes
from condense.evaluation.replica_scores import held_out_scores, probe_accuracy, synthetic_features, validate
from condense.method.condensation import Condensation

PAIR, TRIPLE = ("vision", "audio"), ("text", "depth", "imu")
STEPS = 6  # of the longest path

# Replicas that differ in everything that may be packed: task, dpc, weights, scale, rates, optimiser, scaling, kind.
CAST: list[dict[str, Any]] = [
    {"modalities": PAIR, "dpc": 1, "seed": 0, "learning_rate": 0.2, "lambda_cross": 0.1},
    {"modalities": PAIR, "dpc": 1, "seed": 1, "learning_rate": 0.1, "momentum": 0.9, "frequency_scale": 0.3},
    {"modalities": PAIR, "dpc": 3, "seed": 0, "optimizer": "adam", "learning_rate": 0.02, "learning_rate_audio": 0.05},
    {"modalities": PAIR, "dpc": 1, "seed": 2, "alpha": 0.9, "beta": 0.3, "learning_rate": 0.1, "schedule": "constant"},
    {"modalities": PAIR, "dpc": 1, "seed": 2, "scaling": "paper", "lambda_cross": 10.0, "learning_rate": 0.02},
    {"modalities": PAIR, "dpc": 2, "seed": 3, "discrepancy": "mmd", "lambda_joint": 0.0, "learning_rate": 1.0},
    {"modalities": PAIR, "dpc": 1, "seed": 4, "num_frequencies": 5, "learning_rate": 0.1, "optimizer": "adam"},
    {"modalities": TRIPLE, "dpc": 2, "seed": 0, "learning_rate": 0.1, "learning_rate_text": 0.4},
    {"modalities": TRIPLE, "dpc": 2, "seed": 1, "optimizer": "adam", "learning_rate": 0.01, "momentum": 0.8},
    {"modalities": PAIR, "dpc": 1, "seed": 5, "formation": 2, "views": 3, "learning_rate": 0.3},
    {"modalities": PAIR, "dpc": 2, "seed": 6, "views": 3, "discrepancy": "mmd", "learning_rate": 0.3},
    {"modalities": TRIPLE, "dpc": 2, "seed": 7, "formation": 2, "views": 2, "learning_rate": 0.3},
]
SMALL: dict[str, Any] = {"num_frequencies": 8, "frequency_pool": 20}


def replica(task: Task, dpc: int = 1, seed: int = 0, total_steps: int = STEPS, **options: Any) -> Condensation:
    return Condensation(task, dpc, "random", Hyperparameters(**{**SMALL, **options}), seed, total_steps)


def of_cast(small_task: Any, i: int) -> Condensation:
    member = dict(CAST[i])
    return replica(small_task(member.pop("modalities")), total_steps=STEPS + i, **member)


@pytest.fixture(scope="module")
def alone(small_task) -> list[list[tuple[dict[str, Tensor], Tensor]]]:
    """Per member of the cast and number of steps: its inputs, and the losses so far, in an engine of its own."""
    return [path_alone(of_cast(small_task, i)) for i in range(len(CAST))]


def path_alone(r: Condensation) -> list[tuple[dict[str, Tensor], Tensor]]:
    """Per number of steps: the inputs, and the losses so far, in an engine of its own."""
    engine, losses = Engine(), torch.empty(0, 4)
    path = [({m: x.clone() for m, x in r.inputs.items()}, losses)]
    for _ in range(STEPS):
        engine.step([r])
        losses = torch.cat([losses, engine.losses_of(r)])
        path.append(({m: x.clone() for m, x in r.inputs.items()}, losses))
    return path


def assert_same_path(r: Condensation, losses: Tensor, expected: tuple[dict[str, Tensor], Tensor]) -> None:
    """To float tolerance, as norms: where a gradient is next to 0, Adam makes a step of its rounding error."""
    inputs, own_losses = expected
    assert losses.shape == own_losses.shape
    assert torch.allclose(losses, own_losses, rtol=1e-4, atol=1e-6)
    for m, x in r.inputs.items():
        assert (x - inputs[m]).norm() <= 3e-5 * inputs[m].norm(), m


def test_paths_move_and_differ(alone):
    for path in alone:
        for m, start in path[0][0].items():
            assert (path[STEPS][0][m] - start).abs().max() > 1e-3, m


def test_packed_equals_alone(small_task, alone):
    cast = [of_cast(small_task, i) for i in range(len(CAST))]
    losses = Engine().run(cast, STEPS)
    for i, r in enumerate(cast):
        assert r.step == STEPS
        assert_same_path(r, losses[i], alone[i][STEPS])


whole_cast = st.lists(st.integers(0, len(CAST) - 1), unique=True, min_size=1)
# One entry per round: who takes a step, who reads the losses, and who leaves the engine and comes back later.
schedules = st.lists(st.tuples(whole_cast, whole_cast, whole_cast | st.just([])), min_size=1, max_size=8)


@given(schedule=schedules)
@settings(max_examples=25)
def test_packed_equals_alone_whoever_joins_and_leaves(small_task, alone, schedule):
    engine = Engine()
    cast: dict[int, Condensation] = {}
    losses: dict[int, Tensor] = {}
    for stepping, reading, leaving in schedule:
        for i in stepping:
            if i not in cast:
                cast[i], losses[i] = of_cast(small_task, i), torch.empty(0, 4)
        engine.step([cast[i] for i in stepping if cast[i].step < STEPS])
        for i in reading:
            if i in cast:
                losses[i] = torch.cat([losses[i], engine.losses_of(cast[i])])
        for i in leaving:
            if i in cast:
                losses[i] = torch.cat([losses[i], engine.losses_of(cast[i])])
                state = cast[i].state_dict()
                engine.leave(cast[i])
                cast[i] = of_cast(small_task, i)
                cast[i].load_state_dict(state)
    for i, r in cast.items():
        assert_same_path(r, torch.cat([losses[i], engine.losses_of(r)]), alone[i][r.step])


def test_the_order_in_a_pass_does_not_matter(small_task, alone):
    cast = [of_cast(small_task, i) for i in reversed(range(len(CAST)))]
    losses = Engine().run(cast, 3)
    for i, r in enumerate(cast):
        assert_same_path(r, losses[i], alone[len(CAST) - 1 - i][3])


def test_one_that_left_is_not_touched(small_task):
    a, b = replica(small_task(), seed=0), replica(small_task(), seed=1)
    engine = Engine()
    engine.run([a, b], 2)
    engine.leave(b)
    kept = {m: x.clone() for m, x in b.inputs.items()}
    a.inputs["vision"].fill_(0.5)
    engine.run([a], 2)
    assert all(torch.equal(b.inputs[m], kept[m]) for m in kept)
    assert b.step == 2
    assert len(engine.losses_of(b)) == 0


def test_losses_are_given_out_once(small_task):
    r, engine = replica(small_task()), Engine()
    engine.step([r])
    engine.step([r])
    assert engine.losses_of(r).shape == (2, 4)
    assert engine.losses_of(r).shape == (0, 4)


def test_a_new_replica_does_not_get_the_losses_of_one_that_is_gone(small_task):
    """Python gives the `id` of an object that is gone to a new one: nothing may be kept under it."""
    engine, task = Engine(), small_task()
    for _ in range(20):
        gone = replica(task)
        engine.step([gone])
        del gone
        engine.step([replica(task)], 0)
        fresh = replica(task)
        engine.step([fresh], 3)
        assert engine.losses_of(fresh).shape == (3, 4)


def test_loss_falls(small_task):
    for modalities in (PAIR, TRIPLE):
        options: dict[str, Any] = {"lambda_joint": 0.0, "num_frequencies": 64, "frequency_pool": 64}
        cast = [
            replica(small_task(modalities), 2, total_steps=30, **options),
            replica(small_task(modalities), 2, total_steps=30, discrepancy="mmd", **options),
        ]
        for losses in Engine().run(cast, 30).values():
            assert losses[-1, 3] < 0.8 * losses[0, 3]
            assert losses[-1, 0] < 0.7 * losses[0, 0]


@pytest.mark.parametrize(("optimizer", "rate"), [("sgd", 1e6), ("sgd", 30.0), ("adam", 100.0)])
def test_items_stay_in_range_at_every_step(small_task, optimizer, rate):
    for modalities in (PAIR, TRIPLE):
        task = small_task(modalities)
        r, engine = replica(task, 2, optimizer=optimizer, learning_rate=rate), Engine()
        for _ in range(STEPS):
            engine.step([r])
            for m, x in r.inputs.items():
                assert x.min() >= task.dataset.specs[m].low
                assert x.max() <= task.dataset.specs[m].high
        assert engine.losses_of(r).isfinite().all()


# Divergence -----------------------------------------------------------------------------------------------------------


def test_a_poisoned_replica_fails_alone(small_task, alone):
    cast = [of_cast(small_task, i) for i in range(len(CAST))]
    poisoned = replica(small_task(), seed=7)
    engine = Engine()
    for _ in range(2):
        engine.step([poisoned, *cast])
    poisoned.inputs["audio"][1, 0, 3, 4] = math.nan
    for _ in range(STEPS - 2):
        engine.step([*cast, poisoned])
    assert engine.losses_of(poisoned)[:2].isfinite().all()
    assert poisoned.divergence is not None
    assert (poisoned.divergence.step, poisoned.divergence.term) == (3, "uni")
    for i, r in enumerate(cast):
        assert_same_path(r, engine.losses_of(r), alone[i][STEPS])
        assert r.divergence is None


def test_a_diverged_replica_takes_no_more_steps(small_task):
    bad, good = replica(small_task(), seed=0), replica(small_task(), seed=1)
    bad.inputs["vision"].fill_(math.inf)
    engine = Engine()
    engine.run([bad, good], 1)
    assert str(bad.divergence) == "the uni loss is not finite at step 1"
    engine.run([bad, good], 2)
    assert (bad.step, good.step) == (1, 3)
    engine.run([bad], 2)  # nobody is left to step


def test_an_absurd_learning_rate_diverges_and_is_dated(small_task):
    """1e39 is infinite in float32: infinity times a gradient of 0 is NaN, which the loss shows a step later."""
    bad, good = replica(small_task(), learning_rate=1e39), replica(small_task(), seed=1)
    losses = Engine().run([bad, good], 3)
    assert bad.divergence is not None
    assert bad.divergence.step == 2
    assert losses[0][0].isfinite().all()
    assert losses[1].isfinite().all()


def test_the_term_that_is_not_finite_is_named(small_task):
    r = replica(small_task(), scaling="paper", lambda_uni=1e38)  # 300 x 1e38 does not fit in float32
    Engine().run([r], 1)
    assert r.divergence is not None
    assert (r.divergence.step, r.divergence.term) == (1, "total")


# Validation -----------------------------------------------------------------------------------------------------------


def test_features_are_those_of_each_replica_alone(small_task):
    cast = [of_cast(small_task, i) for i in range(len(CAST))]
    for r, features in zip(cast, synthetic_features(cast), strict=True):
        with torch.no_grad():
            alone = torch.cat([r.task.encoder.embed(m, x) for m, x in r.formed().items()], 1)
        assert features.shape == (3 * r.items_per_class, 8 * len(r.inputs))
        assert torch.allclose(features, alone, atol=1e-6)


def test_validation_is_a_probe_on_each_replicas_items(small_task):
    cast = [of_cast(small_task, i) for i in range(len(CAST))]
    together = validate(cast)
    for r, value, features in zip(cast, together, synthetic_features(cast), strict=True):
        probes = train_probes(features[None], r.formed_labels[None], None, 3)
        held_out = r.task.validation
        assert accuracy(probes, held_out.features, held_out.labels).overall.item() == pytest.approx(value, abs=1e-6)
        assert held_out_scores([r], [held_out]) == pytest.approx([value], abs=1e-6)
    assert max(together) > 0.6


def test_real_items_classify_held_out_ones(small_task):
    task = small_task()
    assert probe_accuracy(task.condense, task.validation, 3) > 0.9
    shuffled = Embedded(task.condense.embeddings, task.condense.labels.roll(1))
    assert probe_accuracy(shuffled, task.validation, 3) < 0.4


def test_validation_survives_a_replica_that_broke_in_its_last_step(small_task):
    """Its last loss was finite, its items are not: NaN for it, called diverged; the others as if it were not there."""
    good, bad = replica(small_task(), seed=0), replica(small_task(), seed=1)
    engine = Engine()
    engine.run([good, bad], 2)
    bad.inputs["audio"][0] = math.nan
    values = validate([bad, good])
    assert math.isnan(values[0])
    assert values[1] == pytest.approx(validate([good])[0])
    assert bad.divergence is not None
    assert bad.divergence.step == 3
    assert good.divergence is None
    final = held_out_scores([bad, good], [bad.task.validation] * 2)
    assert math.isnan(final[0])
    assert final[1] == pytest.approx(values[1])
