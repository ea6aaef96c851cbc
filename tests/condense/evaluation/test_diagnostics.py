"""What is measured of replicas beside their score, against plain formulas, and that measuring changes nothing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from condense.config.models import Hyperparameters
from condense.data.dataset import Dataset, MemorySplit
from condense.embeddings.embeddings import Embedded, embed_split
from condense.embeddings.task import Task
from condense.engine.engine import Engine
from condense.evaluation.diagnostics import Diagnostics, class_recall, real_recall
from condense.evaluation.replica_scores import probe_accuracy, synthetic_features, validate
from condense.method.condensation import Condensation

SIX = ("vision", "audio", "text", "depth", "thermal", "imu")
BASE: dict[str, Any] = {"num_frequencies": 8, "frequency_pool": 24, "learning_rate": 0.1}
SETTINGS: list[dict[str, Any]] = [
    {},
    {"lambda_joint": 30.0, "frequency_scale": 2.0},
    {"lambda_cross": 5.0, "alpha": 0.7, "beta": 0.2},
    {"discrepancy": "mmd", "lambda_uni": 0.3},
    {"scaling": "paper"},
]


def replicas_of(
    task: Task, *settings: dict[str, Any], dpc: int = 2, steps: int = 3, seed: int = 0
) -> list[Condensation]:
    made = [Condensation(task, dpc, "random", Hyperparameters(**{**BASE, **h}), seed, 6) for h in settings]
    for replica in made:
        Engine(workers=1).run([replica], steps)
    return made


def measured(replicas: list[Condensation]) -> list[dict[str, float]]:
    return Diagnostics().of(replicas, synthetic_features(replicas))


def plain_total(replica: Condensation, inputs: dict[str, Tensor]) -> Tensor:
    """The coming step's loss in float64, from the formulas, of embeddings (C, s, D) of any norm."""
    h, task = replica.hyperparameters, replica.task
    s = {m: x / x.norm(dim=2, keepdim=True) for m, x in inputs.items()}
    r = {m: [x[task.condense.labels == c].double() for c in range(3)] for m, x in task.condense.embeddings.items()}
    chosen = replica.next_frequencies()
    paper = h.scaling == "paper"
    uni = []
    for m, x in s.items():
        per_class = []
        for c in range(3):
            if h.discrepancy == "mmd":
                per_class.append((x[c].mean(0) - r[m][c].mean(0)).square().sum())
                continue
            t = replica.frequencies[m][chosen].double()
            real, own = (torch.exp(1j * (e @ t.T)).mean(0) for e in (r[m][c], x[c]))
            amplitude = (real.abs() - own.abs()).square()
            phase = 2 * (real.abs() * own.abs() - real.real * own.real - real.imag * own.imag)
            per_class.append((h.alpha * amplitude + h.beta * phase).sqrt().mean())
        uni.append((300 if paper else 1) * torch.stack(per_class).mean())
    cross, joint = [], []
    for a, b in itertools.combinations(s, 2):
        for c in range(3):
            one, other = r[a][c].mean(0) * s[b][c].mean(0), r[b][c].mean(0) * s[a][c].mean(0)
            scale = 1.0 if not paper else (task.encoder.output_scale[a] * task.encoder.output_scale[b]) ** 2
            cross.append(1 - (scale * one @ other if paper else torch.cosine_similarity(one, other, dim=0)))
            pairs = [1 - (x * y) @ (u * v) for x, y in zip(r[a][c], r[b][c]) for u, v in zip(s[a][c], s[b][c])]
            joint.append(torch.stack(pairs).mean())
    terms = [torch.stack(each).mean() for each in (uni, cross, joint)]  # over one pair of modalities, or scaled alike
    if paper:
        terms[0] = terms[0] * len(s)
    weights = (h.lambda_uni, h.lambda_cross, h.lambda_joint)
    return sum((w * t / n for w, t, n in zip(weights, terms, replica.normalizer.tolist())), torch.tensor(0.0))


@pytest.mark.parametrize("setting", SETTINGS)
def test_gradient_shares_are_those_of_the_plain_loss(small_task: Callable[..., Task], setting: dict[str, Any]) -> None:
    (replica,) = replicas_of(small_task(), setting)
    (features,) = synthetic_features([replica])
    parts = features.double().split(8, 1)
    leaves = {m: x.view(3, 2, 8).requires_grad_() for m, x in zip(("vision", "audio"), parts)}
    gradients = torch.autograd.grad(plain_total(replica, leaves), list(leaves.values()))
    norms = [g.norm().item() for g in gradients]
    (figures,) = measured([replica])
    for m, norm in zip(leaves, norms, strict=True):
        assert figures[f"gradient_share/{m}"] == pytest.approx(norm / sum(norms), rel=1e-3)


def test_a_weight_of_zero_on_all_terms_has_no_share(small_task: Callable[..., Task]) -> None:
    zero = {"lambda_uni": 0.0, "lambda_cross": 0.0, "lambda_joint": 0.0}
    (figures,) = measured(replicas_of(small_task(seed=1), zero))
    assert not any(name.startswith("gradient_share") for name in figures)
    assert "alignment" in figures


def test_replicas_have_the_same_figures_together_and_alone(small_task: Callable[..., Task]) -> None:
    task = small_task(seed=1)  # whose random towers happen to align their modalities a little
    replicas = replicas_of(task, *SETTINGS) + replicas_of(task, {}, dpc=1)
    replicas += replicas_of(small_task(("vision", "audio", "text")), {}, {"lambda_joint": 9.0})
    together = measured(replicas)
    assert len(together[-1]) >= 6 and all(len(figures) == 5 for figures in together[:6])
    for replica, figures in zip(replicas, together, strict=True):
        (alone,) = measured([replica])
        assert figures == pytest.approx(alone, rel=1e-4)


def test_results_are_the_same_bit_for_bit(small_task: Callable[..., Task]) -> None:
    settings = [{}, {"lambda_joint": 30.0}, {"optimizer": "adam", "learning_rate": 0.02}]

    def run(diagnosed: bool) -> tuple[list[Condensation], list[Tensor], list[float]]:
        replicas = [
            Condensation(small_task(seed=1), 2, "random", Hyperparameters(**{**BASE, **h}), seed, 12)
            for h in settings
            for seed in (0, 1)
        ]
        engine, diagnostics = Engine(workers=1), Diagnostics()
        losses, scores = [], []
        for _ in range(6):
            losses += engine.run(replicas, 2).values()
            features = synthetic_features(replicas)
            scores += validate(replicas, features=features if diagnosed else None)
            if diagnosed:
                assert all(len(figures) == 5 for figures in diagnostics.of(replicas, features))
                diagnostics.of(replicas, features)
                for replica in replicas:
                    replica.load_state_dict(replica.state_dict())
        return replicas, losses, scores

    for one, other in zip(run(True), run(False), strict=True):
        for x, y in zip(one, other, strict=True):
            if isinstance(x, Condensation) and isinstance(y, Condensation):
                assert all(torch.equal(x.inputs[m], y.inputs[m]) for m in x.inputs)
            else:
                assert torch.equal(torch.as_tensor(x), torch.as_tensor(y))


def test_alone_is_what_a_modality_teaches_between_chance_and_full_data(small_task: Callable[..., Task]) -> None:
    task = small_task()
    (replica,) = replicas_of(task, {})
    (figures,) = measured([replica])
    (features,) = synthetic_features([replica])
    for m, x in zip(task.modalities, features.split(8, 1), strict=True):
        held_out = Embedded({m: task.validation.embeddings[m]}, task.validation.labels)
        own = probe_accuracy(Embedded({m: x}, replica.labels), held_out, 3)
        full = probe_accuracy(Embedded({m: task.condense.embeddings[m]}, task.condense.labels), held_out, 3)
        assert figures[f"alone/{m}"] == pytest.approx((own - 1 / 3) / (full - 1 / 3), abs=1e-5)
        assert 0.3 < figures[f"alone/{m}"] < 1.2


def test_a_modality_left_at_noise_teaches_nothing(small_task: Callable[..., Task]) -> None:
    task = small_task()
    weak = {"lambda_cross": 0.1, "lambda_joint": 0.1, "num_frequencies": 64, "frequency_pool": 256}
    hyperparameters = Hyperparameters(**weak, learning_rate_vision=0.3, learning_rate_audio=1e-6)
    replicas = [Condensation(task, 3, "noise", hyperparameters, seed, 30) for seed in range(4)]
    Engine(workers=1).run(replicas, 30)
    figures = measured(replicas)
    assert sum(f["alone/vision"] for f in figures) / 4 > 0.8
    assert sum(f["alone/audio"] for f in figures) / 4 < 0.2
    assert sum(f["gradient_share/audio"] for f in figures) / 4 > 0.5  # what has not been learned still pulls


@pytest.mark.parametrize("seed", range(3))
def test_class_recall_by_counting(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.nn.functional.normalize(torch.randn(2, 12, 5, generator=generator), dim=2) for _ in range(2))
    labels = torch.arange(4).repeat_interleave(3)
    for q in range(2):
        hits = 0
        for queries, answers in ((a[q], b[q]), (b[q], a[q])):
            for i in range(12):
                nearest = max(range(12), key=lambda j: float(queries[i] @ answers[j]))
                hits += labels[nearest].item() == labels[i].item()
        assert class_recall(a, b, labels)[q].item() == pytest.approx(hits / 24)


def test_items_that_are_all_the_same_find_each_other_by_chance() -> None:
    same = torch.ones(1, 12, 4) / 2
    assert class_recall(same, same, torch.arange(4).repeat_interleave(3)).item() == pytest.approx(1 / 4)


def aligned_task(
    spread: float, classes: int = 5, per_class: int = 8, modalities: tuple[str, ...] = ("vision", "audio")
) -> Any:
    """Held-out embeddings around a direction per class which all modalities share."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(classes).repeat(per_class)
    items = torch.eye(8)[labels]
    noisy = {m: items + spread * torch.randn(items.shape, generator=generator) for m in modalities}
    return Embedded({m: torch.nn.functional.normalize(x, dim=1) for m, x in noisy.items()}, labels)


def test_real_recall_is_of_as_many_items() -> None:
    assert real_recall(aligned_task(0.01), "vision", "audio", 5, 2) == (1.0, pytest.approx(1 / 5))
    recall, chance = real_recall(aligned_task(100.0), "vision", "audio", 5, 1)
    assert recall == pytest.approx(chance, abs=0.15)
    # Without classes: partners among dpc items.
    pairs = Embedded({m: torch.eye(16) for m in ("vision", "audio")}, torch.zeros(16, dtype=torch.int64))
    assert real_recall(pairs, "vision", "audio", 1, 4) == (1.0, pytest.approx(1 / 4))
    # A class of 3 items gives 3 where 5 are asked for.
    few = aligned_task(0.01, per_class=3)
    assert real_recall(few, "vision", "audio", 5, 5) == (1.0, pytest.approx(1 / 5))
    nobody = replace(few, present={"audio": torch.zeros(15, dtype=torch.bool)})
    assert real_recall(nobody, "vision", "audio", 5, 1) == (0.0, 0.0)


def test_alignment_is_counted_from_chance_to_that_of_real_items(small_task: Callable[..., Task]) -> None:
    base = small_task(per_class=11)
    task = replace(base, validation=aligned_task(0.05, classes=3))
    (replica,) = replicas_of(task, {}, dpc=1, steps=1)
    right = torch.eye(8)[:3]
    wrong = right[[1, 2, 0]]
    lost = torch.eye(8)[3:4].expand(3, 8)

    def alignment(vision: Tensor, audio: Tensor) -> float:
        (figures,) = Diagnostics().of([replica], [torch.cat([vision, audio], 1)])
        return figures["alignment"]

    assert alignment(right, right) == pytest.approx(1)
    assert alignment(right, wrong) == pytest.approx(-0.5)  # never, and chance is a third
    assert alignment(right, lost) == pytest.approx(0)


def test_modalities_that_real_data_does_not_align_have_no_alignment(small_task: Callable[..., Task]) -> None:
    task = replace(small_task(per_class=13), validation=aligned_task(1e4, classes=3, per_class=40))
    (figures,) = measured(replicas_of(task, {}))
    assert "alignment" not in figures
    assert not any(name.startswith("alone") for name in figures)  # nor does full data tell the classes there
    assert sum(v for name, v in figures.items() if name.startswith("gradient_share")) == pytest.approx(1)


def test_six_modalities_and_one(small_task: Callable[..., Task]) -> None:
    (figures,) = measured(replicas_of(small_task(SIX), {}))
    assert {f"gradient_share/{m}" for m in SIX} <= figures.keys()
    assert sum(figures[f"gradient_share/{m}"] for m in SIX) == pytest.approx(1)
    assert all(math.isfinite(value) for value in figures.values())
    assert measured(replicas_of(small_task(("audio",)), {})) == [{}]


def test_data_without_classes_is_judged_by_partners(small_task: Callable[..., Task]) -> None:
    known = small_task().dataset
    splits = []
    for split in (known.condense, known.validation):
        items = split.load(range(len(split)))
        splits.append(MemorySplit(items, torch.zeros(len(split), dtype=torch.int64)))
    dataset = Dataset("pairs", known.specs, ("all",), *splits, known.open_test, "pairs")
    encoder = small_task().encoder
    condense, validation = (embed_split(encoder, split, torch.device("cpu")) for split in splits)
    task = Task(dataset, encoder, condense, validation, torch.device("cpu"))
    for dpc in (1, 6):
        (figures,) = measured(replicas_of(task, {}, dpc=dpc))
        assert figures.keys() <= {"gradient_share/vision", "gradient_share/audio", "alignment"}
        assert figures["gradient_share/vision"] + figures["gradient_share/audio"] == pytest.approx(1)


def test_one_that_has_diverged_or_not_begun_has_no_figures(small_task: Callable[..., Task]) -> None:
    task = small_task(seed=1)
    replicas = replicas_of(task, {}, {"learning_rate": 1e39}, steps=2)
    replicas += [Condensation(task, 2, "random", Hyperparameters(**BASE), 0, 6)]
    features = synthetic_features(replicas)
    validate(replicas, features=features)
    figures = Diagnostics().of(replicas, features)
    assert len(figures[0]) == 5
    assert figures[1:] == [{}, {}]
    assert bool(replicas[2].normalizer.isnan().all())  # that is for the first step to set


def test_of_large_sets_single_modalities_wait_for_the_last_step(
    small_task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("condense.evaluation.diagnostics.SMALL", 5)
    half, whole = replicas_of(small_task(), {}, steps=3) + replicas_of(small_task(), {}, steps=6)
    figures = measured([half, whole])
    assert "alone/vision" not in figures[0]
    assert "alone/vision" in figures[1]


def test_a_lack_of_memory_costs_the_figures_only(
    small_task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    replicas = replicas_of(small_task(), {})

    def starve(*_: Any) -> Any:
        raise torch.OutOfMemoryError("no memory is left")

    monkeypatch.setattr("condense.evaluation.diagnostics.gradient_shares", starve)
    assert measured(replicas) == [{}]
    assert "no memory is left" in caplog.text
    monkeypatch.setattr("condense.evaluation.diagnostics.gradient_shares", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        measured(replicas)
