"""Soft labels: what a teacher, trained on the full condense split, makes of a set's items.

Two kinds of teacher: `probe`, the linear probe on the frozen encoder's embeddings; `convnet`, an ensemble of the ConvNets that
a condensed set is judged by, trained from scratch on the real inputs. A label is the mean over the ensemble of
softmax(logits / temperature) (Hinton et al. 2015, "Distilling the Knowledge in a Neural Network").

The temperature is the one at which random real items teach best: as many per class as the condensed set has, labelled by the
teacher, and judged on validation by students trained on them. All methods then get the same temperature, chosen for the
baseline; neither the test split nor a condensed set has a say.

n  items      C  classes      K  members of the ensemble; 1 for a probe
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from condense.data.dataset import MemorySplit, Split, held
from condense.embeddings.embeddings import embed_split
from condense.embeddings.task import Task
from condense.evaluation.comparison import CONVNET_STEPS, Comparison, chosen_items
from condense.evaluation.convnet import build_network, check_shapes, train_from_scratch
from condense.evaluation.linear_probe import train_probes
from condense.evaluation.network_protocol import network_protocol
from condense.evaluation.networks import Network
from condense.storage.store import Store
from condense.system.errors import UserError
from condense.system.precision import full_float32

VERSION = 1  # of the teachers and of the rule for the temperature, apart from the numbers below
KINDS = ("probe", "convnet")
# Far from a student's seeds: one that starts where its teacher started would learn more from it than from the labels alone.
TEACHER_SEEDS = (2_000_001, 2_000_002)
TEMPERATURES = (1.0, 2.0, 4.0, 8.0, 16.0)
STUDENTS = 3  # per temperature, each with random items and a seed of its own
STUDENT_SEED = 1_000_000  # the first; other items than those of a comparison's random rows, which begin at 0
BATCH = 256  # items that a teacher sees at a time


@dataclass(frozen=True, eq=False)
class Teacher:
    """A teacher of one task."""

    kind: str  # one of KINDS
    members: int  # K
    logits: Callable[[Split], Tensor]  # items -> (K, n, C) float32 on the CPU
    temperature: float = 1.0
    steps: int | None = None  # that ConvNets were trained for

    def labels(self, items: Split) -> Tensor:
        """(n, C) float32 on the CPU, >= 0, rows sum to 1. The items' own labels have no part in it."""
        return (self.logits(items) / self.temperature).softmax(2).mean(0)

    def describe(self) -> dict[str, Any]:
        """JSON-able: what condensed.json records."""
        known = {"teacher": self.kind, "members": self.members, "temperature": self.temperature}
        return known if self.steps is None else {**known, "steps": self.steps}


def teacher_labels(
    task: Task, items: Split, temperature: float, *, kind: str = "probe", store: Store | None = None
) -> Tensor:
    """(n, C) float32 probabilities of `items` by `load_teacher`'s teacher, on the CPU. Raises the same."""
    return replace(load_teacher(task, kind, store), temperature=temperature).labels(items)


def load_teacher(
    task: Task,
    kind: str,
    store: Store | None = None,
    *,
    steps: int = CONVNET_STEPS,
    seeds: Sequence[int] = TEACHER_SEEDS,
) -> Teacher:
    """A teacher of temperature 1. ConvNets (`steps` on the full condense split, one per seed) are kept in `store`.

    Raises UserError for data of a single class, or inputs that no ConvNet supports; ValueError for another kind.
    """
    check_teacher(task, kind)
    if kind == "probe":
        return Teacher(kind, 1, _probe(task))
    logits = _ensemble(task, [_convnet(task, store, steps, seed) for seed in seeds])
    return Teacher(kind, len(seeds), logits, steps=steps)


def check_teacher(task: Task, kind: str) -> None:
    """Raises what `load_teacher` raises, before any work."""
    if kind not in KINDS:
        raise ValueError(f"a teacher must be one of {', '.join(KINDS)}, but got {kind}")
    if task.dataset.num_classes < 2:
        raise UserError(f"{task.dataset.name}: has a single label: `soft_labels` need two or more")
    if kind == "convnet":
        check_shapes(task.dataset.specs, "use `soft_labels: probe`")


def with_best_temperature(
    teacher: Teacher,
    task: Task,
    store: Store,
    dpc: int,
    *,
    steps: int = CONVNET_STEPS,
    temperatures: Sequence[float] = TEMPERATURES,
    students: int = STUDENTS,
) -> Teacher:
    """`teacher` at the best of `temperatures` for `dpc` items per class, by the rule above; the lower of equally good ones.

    Students are ConvNets (`steps`), or linear probes where no ConvNet takes the inputs. The choice is kept in `store`.
    """
    key = {
        "version": VERSION,
        "dataset": task.dataset.fingerprint,
        "encoder": task.encoder.fingerprint,
        "teacher": {"kind": teacher.kind, "members": teacher.members, "steps": teacher.steps},
        "protocol": network_protocol(steps=steps).key(),
        "dpc": dpc,
        "temperatures": list(temperatures),
        "students": students,
    }
    known = store.get("soft_label_temperature", key)
    if known is None:
        found = _taught(teacher, task, store, dpc, steps, temperatures, students)
        known = {"accuracy": torch.tensor(found, dtype=torch.float64)}
        store.put("soft_label_temperature", key, known)
    return replace(teacher, temperature=temperatures[int(known["accuracy"].argmax())])


def recorded_teacher(
    task: Task, store: Store, record: Mapping[str, Any], own: Sequence[tuple[MemorySplit, Tensor]]
) -> Callable[[MemorySplit], Tensor]:
    """What `compare` takes as `soft`, by the teacher that `Teacher.describe` recorded. Sets of `own` keep the labels that they
    have there.

    Raises as `load_teacher`; KeyError for a record of no teacher.
    """
    teacher = load_teacher(task, record["teacher"], store, steps=record.get("steps", CONVNET_STEPS))
    teacher = replace(teacher, temperature=float(record["temperature"]))
    known = {id(items): labels for items, labels in own}
    return lambda items: known[id(items)] if id(items) in known else teacher.labels(items)


def _taught(
    teacher: Teacher, task: Task, store: Store, dpc: int, steps: int, temperatures: Sequence[float], students: int
) -> list[float]:
    """Per temperature the mean validation accuracy of students of random items."""
    seeds = range(STUDENT_SEED, STUDENT_SEED + students)
    sets = [chosen_items(task, "random", dpc, seed) for seed in seeds]
    labels = [replace(teacher, temperature=t).labels(items) for t in temperatures for items in sets]
    validation = Comparison(task, store, convnet_steps=steps, held_out="validation")
    try:
        check_shapes(task.dataset.specs)
    except UserError:
        embedded = [validation.embed(items) for items in sets]
        values = [validation.probe(embedded[i % students], targets) for i, targets in enumerate(labels)]
    else:
        trainings: list[tuple[Split, int]] = list(zip(sets, seeds, strict=True))
        values = validation.convnet(trainings * len(temperatures), labels)
    return [fmean(values[i : i + students]) for i in range(0, len(values), students)]


def _probe(task: Task) -> Callable[[Split], Tensor]:
    known = task.condense
    probes = train_probes(known.features[None], known.labels[None], None, task.dataset.num_classes)
    weight, bias = probes.weight[0], probes.bias[0]  # (1, d, C), (1, C)

    def logits(items: Split) -> Tensor:
        features = embed_split(task.encoder, items, task.device).to(task.device).features
        return (features @ weight + bias.unsqueeze(1)).cpu()

    return logits


def _ensemble(task: Task, models: Sequence[Network]) -> Callable[[Split], Tensor]:
    @torch.no_grad()
    @full_float32()
    def logits(items: Split) -> Tensor:
        batches = []
        for indices in torch.arange(len(items)).split(BATCH):
            batch = {m: x.to(task.device, torch.float32) for m, x in items.load(indices).items()}
            batches.append(torch.stack([model(batch) for model in models]).cpu())
        return torch.cat(batches, 1)

    return logits


def _convnet(task: Task, store: Store | None, steps: int, seed: int) -> Network:
    """The ConvNet of a seed, trained on the whole condense split, or as it was kept."""
    dataset, classes = task.dataset, task.dataset.num_classes
    key = {
        "version": VERSION,
        "dataset": dataset.fingerprint,
        "specs": {m: spec.describe() for m, spec in dataset.specs.items()},
        "protocol": network_protocol(steps=steps).key(),
        "seed": seed,
    }

    def make() -> dict[str, Tensor]:
        items = held(dataset.condense, dataset.specs, task.device)
        return train_from_scratch(items, classes, seed, task.device, steps=steps, kinds=dataset.kinds).state_dict()

    state = make() if store is None else store.get_or_make("convnet_teacher", key, make)
    shapes = {m: spec.shape for m, spec in dataset.specs.items()}
    generator = torch.Generator().manual_seed(seed)
    model = build_network(network_protocol(steps=steps), shapes, classes, generator, dataset.kinds).to(task.device)
    model.load_state_dict(state)
    return model.eval()
