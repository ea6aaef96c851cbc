"""The rule that chooses settings in these benchmarks, for ours and the baselines; it uses validation only.

A condensed set is judged by the mean of two accuracies: a linear probe through the encoder, and a ConvNet trained on the
items from scratch. With the probe alone, a search could choose items that only the encoder can read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from condense.config.models import CondensationConfig, Hyperparameters
from condense.data.dataset import MemorySplit
from condense.embeddings.task import Task
from condense.engine.engine import Engine
from condense.evaluation.comparison import Comparison
from condense.method.condensation import Condensation

PACK = 48  # replicas at a time


@dataclass(frozen=True)
class Verdict:
    """Validation accuracies of one setting, means over its seeds, 0 .. 1."""

    probe: float
    convnet: float

    @property
    def value(self) -> float:
        return (self.probe + self.convnet) / 2


def condensed(
    task: Task, config: CondensationConfig, settings: Sequence[Hyperparameters], seeds: Sequence[int]
) -> list[list[MemorySplit]]:
    """Per setting and seed the items of a condensation, on the CPU."""
    wanted = [(h, seed) for h in settings for seed in seeds]
    items = []
    for first in range(0, len(wanted), PACK):
        replicas = [
            Condensation(task, config.dpc, config.initialization, h, seed, max(1, config.steps))
            for h, seed in wanted[first : first + PACK]
        ]
        Engine().run(replicas, config.steps)
        items += [
            MemorySplit({m: x.detach().to("cpu", copy=True) for m, x in r.inputs.items()}, r.labels.cpu())
            for r in replicas
        ]
    return [items[i : i + len(seeds)] for i in range(0, len(items), len(seeds))]


def probes(validation: Comparison, sets: Sequence[Sequence[MemorySplit]]) -> list[float]:
    """Mean probe accuracy of each setting's sets; 0 where one is not finite."""
    return [fmean(_finite(validation, items) for items in of) for of in sets]


def judge(validation: Comparison, sets: Sequence[Sequence[MemorySplit]]) -> list[Verdict]:
    """A verdict per setting; each set trains one ConvNet."""
    trainings = [(items, seed) for of in sets for seed, items in enumerate(of)]
    nets = iter([0.0 if value != value else value for value in validation.convnet(trainings)])
    return [
        Verdict(probe, fmean(next(nets) for _ in of)) for probe, of in zip(probes(validation, sets), sets, strict=True)
    ]


def _finite(validation: Comparison, items: MemorySplit) -> float:
    try:
        return validation.probe(validation.embed(items))
    except FloatingPointError:
        return 0.0
