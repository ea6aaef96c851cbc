"""A condensed set compared with its baselines: the same protocols for any labelled set of items, on test.

Three protocols, each trained on the set and measured on the test split:

- probe: a linear probe on the frozen encoder's embeddings (`condense/evaluation/linear_probe.py`)
- convnet: a small network trained from scratch on the inputs, which never saw the encoder (`condense/evaluation/convnet.py`);
  missing modalities of real items are zeros, as in the probe's features
- retrieval: linear projections trained on the set's pairs; class-level recall@1 (`condense/evaluation/retrieval_metric.py`)

With a single class, retrieval looks for partners, and the other two protocols are left out.

Soft labels are always reported beside hard ones, for every method, random items included: a teacher knows the full data, and
what its labels add is no merit of the items. What is soft in retrieval are the similarities of a set's items, by the projections
that the full data trains.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any, Literal

import torch
from torch import Tensor

from condense.data.dataset import MemorySplit, Split, held
from condense.embeddings.embeddings import Embedded, embed_split
from condense.embeddings.task import Task, load_test
from condense.evaluation.base_rate import BaseRate, balanced_accuracy, base_rate
from condense.evaluation.convnet import convnet_accuracies, train_from_scratch
from condense.evaluation.coresets import SELECTIONS
from condense.evaluation.linear_probe import as_share
from condense.evaluation.network_protocol import FAST, NetworkProtocol
from condense.evaluation.networks import Network
from condense.evaluation.protocols import PROTOCOLS
from condense.evaluation.replica_scores import probe_hits
from condense.evaluation.retrieval import Projections
from condense.evaluation.retrieval_metric import full_projections, retrieval_scores
from condense.method.condensation import initial_inputs
from condense.storage.store import Store

VERSION = 1  # of the training of networks, apart from what `NetworkProtocol.key` holds
CONVNET_STEPS = FAST.steps_for(1)
RANDOM_DRAWS = 5  # random choices of items in a comparison, at least
BALANCED = "balanced"  # the probe's accuracy, mean over classes: beside it where classes are unbalanced
SOFT = " + soft"  # after a method's name: the same items with a teacher's labels


@dataclass(frozen=True)
class Sample:
    """Values of one quantity over seeds or choices of items."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return fmean(self.values) if self.values else math.nan

    @property
    def std(self) -> float:
        """Sample standard deviation; 0 for a single value."""
        return stdev(self.values) if len(self.values) > 1 else 0.0

    def as_json(self) -> dict[str, Any]:
        """{mean, std, n, values}; None for what is not finite."""
        values = [value if math.isfinite(value) else None for value in self.values]
        whole = bool(values) and None not in values
        return {
            "mean": self.mean if whole else None,
            "std": self.std if whole else None,
            "n": len(values),
            "values": values,
        }


class Comparison:
    """The protocols on one task. Creating one opens the test split, so all choices must have been made before.

    For a choice, create one on `validation`; then read "validation" for "test" below.
    """

    def __init__(
        self,
        task: Task,
        store: Store,
        convnet_steps: int | None = None,  # None: the protocol's
        held_out: Literal["test", "validation"] = "test",
        protocol: NetworkProtocol = FAST,  # of the networks from scratch
    ) -> None:
        self.task, self.store, self.convnet_steps, self.held_out = task, store, convnet_steps, held_out
        self.protocol = protocol if convnet_steps is None else replace(protocol, steps=convnet_steps, epochs=None)
        self.test = load_test(task, store) if held_out == "test" else task.validation

    @functools.cached_property
    def test_items(self) -> Split:
        """The test split, on the device unless it is too large."""
        dataset = self.task.dataset
        split = dataset.open_test() if self.held_out == "test" else dataset.validation
        return held(split, dataset.specs, self.task.device)

    def embed(self, items: MemorySplit) -> Embedded:
        """Embeds items for `probe` and `retrieval`. Raises FloatingPointError if an item is not finite."""
        return embed_split(self.task.encoder, items, self.task.device).to(self.task.device)

    def probe(self, embedded: Embedded, targets: Tensor | None = None) -> float:
        """Test accuracy of a linear probe, 0 .. 1. `targets`: soft labels (n, C), in place of the items' labels."""
        return self.probe_accuracies(embedded, targets)[0]

    def probe_accuracies(self, embedded: Embedded, targets: Tensor | None = None) -> tuple[float, float]:
        """`probe`, and the balanced accuracy: the mean over the classes that test has."""
        right = probe_hits(embedded, self.test, self.task.dataset.num_classes, targets)
        return right.float().mean().item(), balanced_accuracy(right, self.test.labels)

    @functools.cached_property
    def base_rate(self) -> BaseRate:
        """What always giving the same answer gets on test."""
        return base_rate(self.test.labels, self.task.dataset.class_names)

    def retrieval(self, embedded: Embedded, taught: bool = False) -> float | None:
        """The metric `retrieval` on test, 0 .. 1, mean over pairs of modalities and directions; None without any pair.

        `taught`: the target is the similarity by the full data's projections, in place of partners or classes.
        """
        pairs = itertools.combinations(self.task.modalities, 2)
        if not any(len(embedded.having(a, b)[1]) and len(self.test.having(a, b)[1]) for a, b in pairs):
            return None
        teachers = self._full_projections if taught else None
        return retrieval_scores([embedded], self.test, self.task.dataset.num_classes, teachers=teachers)[0]

    def convnet(
        self,
        trainings: Sequence[tuple[Split, int]],
        targets: Sequence[Tensor | None] | None = None,  # soft labels (n, C) of each training; None: the items' labels
        augmentation: bool = True,
    ) -> list[float]:
        """Test accuracy of a network for each (items, seed), 0 .. 1; NaN for items that are not finite."""
        classes, kinds, device = self.task.dataset.num_classes, self.task.dataset.kinds, self.task.device
        targets = [None] * len(trainings) if targets is None else targets

        def train(training: tuple[tuple[Split, int], Tensor | None]) -> Network:
            (items, seed), soft = training
            return train_from_scratch(
                items, classes, seed, device, soft, protocol=self.protocol, augmentation=augmentation, kinds=kinds
            )

        finite = [not isinstance(items, MemorySplit) or is_finite(items) for items, _ in trainings]
        usable = [each for each, fine in zip(zip(trainings, targets, strict=True), finite, strict=True) if fine]
        if not usable:
            return [math.nan] * len(trainings)
        with _side_by_side(device) as each:
            models = list(each(train, usable))
            found = iter(convnet_accuracies(models, self.test_items, device, each=each))
        return [next(found) if fine else math.nan for fine in finite]

    def full_convnet(self, seeds: Iterable[int]) -> list[float]:
        """`convnet` on the full condense split, per seed. Slow, so kept in the store."""
        keys = {
            seed: {
                "version": VERSION,
                "dataset": self.task.dataset.fingerprint,
                "specs": {m: spec.describe() for m, spec in self.task.dataset.specs.items()},
                "protocol": self.protocol.key(),
                "seed": seed,
                **({} if self.held_out == "test" else {"held_out": self.held_out}),
            }
            for seed in seeds
        }
        kept = {seed: self.store.get("convnet_full", key) for seed, key in keys.items()}
        missing = [seed for seed, found in kept.items() if found is None]
        known = {seed: float(found["accuracy"]) for seed, found in kept.items() if found is not None}
        if missing:
            for seed, value in zip(missing, self.convnet([(self._full_items, seed) for seed in missing]), strict=True):
                self.store.put("convnet_full", keys[seed], {"accuracy": torch.tensor([value], dtype=torch.float64)})
                known[seed] = value
        return [known[seed] for seed in keys]

    @functools.cached_property
    def _full_projections(self) -> dict[tuple[str, str], Projections]:
        return full_projections(self.task.condense, self.task.dataset.num_classes)

    @functools.cached_property
    def _full_items(self) -> Split:
        return held(self.task.dataset.condense, self.task.dataset.specs, self.task.device)


def chosen_items(task: Task, method: str, dpc: int, seed: int) -> MemorySplit:
    """`dpc` real items per class of the condense split, chosen by one of `SELECTIONS`."""
    inputs = initial_inputs(task, dpc, method, torch.Generator().manual_seed(seed))
    return MemorySplit(inputs, torch.arange(task.dataset.num_classes).repeat_interleave(dpc))


def compare(
    comparison: Comparison,
    sets: Mapping[str, Sequence[MemorySplit]],
    dpc: int,
    convnet_seeds: Sequence[int],
    *,
    draws: int = RANDOM_DRAWS,
    protocols: Collection[str] = PROTOCOLS,
    soft: Callable[[MemorySplit], Tensor] | None = None,
) -> dict[str, dict[str, Sample]]:
    """method -> protocol -> values, for the given sets, coresets of `dpc` real items per class, and `full_data`.

    `soft`: a set's soft labels (n, C), usually a teacher's (`condense/evaluation/soft_labels.py`). After each method but
    `full_data` there is then a row METHOD + soft: the same items and the same seeds with these labels.

    `sets[method]`: one or more results (seeds) of a method. Each gets a probe; the ConvNets take them in turn. `random`
    has `draws` sets, at least as many as ConvNets. Sets that are not finite get NaN. With one class there are neither
    probes nor ConvNets; what is not among `protocols` is left out as well.
    Where test's classes are unbalanced, there is also `balanced`: the probes' accuracy, mean over classes.
    """
    task = comparison.task
    classes = task.dataset.num_classes > 1
    probe = classes and "probe" in protocols
    convnet_seeds = convnet_seeds if classes and "convnet" in protocols else ()
    everything = {name: list(given) for name, given in sets.items()}
    for method in SELECTIONS:
        seeds = range(max(draws, len(convnet_seeds)) if method == "random" else 1)
        everything[method] = [chosen_items(task, method, dpc, seed) for seed in seeds]
    # Each set: its items, their embeddings (None if not finite), and its soft labels, if any.
    rows: dict[str, list[tuple[MemorySplit, Embedded | None, Tensor | None]]] = {}
    for name, members in everything.items():
        embedded = [comparison.embed(items) if is_finite(items) else None for items in members]
        rows[name] = [(items, x, None) for items, x in zip(members, embedded, strict=True)]
        if soft is not None and classes:
            rows[name + SOFT] = [(items, x, None if x is None else soft(items)) for items, x, _ in rows[name]]

    def scores(trained_on: Sequence[tuple[Embedded | None, Tensor | None]], taught: bool = False) -> dict[str, Sample]:
        none = (math.nan, math.nan)
        probes = [none if x is None else comparison.probe_accuracies(x, y) for x, y in trained_on] if probe else []
        asked = trained_on if "retrieval" in protocols else ()
        recalls = [comparison.retrieval(x, taught) for x, _ in asked if x is not None]
        found = tuple(recall for recall in recalls if recall is not None)
        scores = {"probe": Sample(tuple(own for own, _ in probes)), "retrieval": Sample(found)}
        if probe and not comparison.base_rate.balanced:
            scores[BALANCED] = Sample(tuple(own for _, own in probes))
        return scores

    results = {name: scores([(x, y) for _, x, y in row], name.endswith(SOFT)) for name, row in rows.items()}
    results["full_data"] = scores([(task.condense, None)])
    turns = [(row[turn % len(row)], seed) for row in rows.values() for turn, seed in enumerate(convnet_seeds)]
    values = iter(comparison.convnet([(items, seed) for (items, _, _), seed in turns], [y for (*_, y), _ in turns]))
    for name in rows:
        results[name]["convnet"] = Sample(tuple(itertools.islice(values, len(convnet_seeds))))
    results["full_data"]["convnet"] = Sample(tuple(comparison.full_convnet(convnet_seeds)))
    return results


def as_json(results: Mapping[str, Mapping[str, Sample]]) -> dict[str, Any]:
    """method -> protocol -> {mean, std, n, values, share}; None for a protocol that was left out."""
    full = results["full_data"]
    return {
        method: {
            protocol: {**of[protocol].as_json(), "share": share_of(of[protocol].mean, full[protocol].mean)}
            if of[protocol].values
            else None
            for protocol in (*PROTOCOLS, BALANCED)
            if protocol != BALANCED or BALANCED in of
        }
        for method, of in results.items()
    }


def share_of(value: float, full: float) -> float | None:
    """`value` as a share of the full data's; None if that is 0, or `value` is not a number."""
    return as_share(value, full) if full > 0 and math.isfinite(value) else None


def is_finite(items: MemorySplit) -> bool:
    return all(bool(x.isfinite().all()) for x in items.inputs.values())


@contextmanager
def _side_by_side(device: torch.device) -> Iterator[Callable[..., Iterable[Any]]]:
    """`map`, or on a CPU that of a thread pool, with one PyTorch thread per operation. Layers as small as the ConvNet's gain
    little from a second core; networks side by side use it fully."""
    if device.type != "cpu":
        yield map
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            yield pool.map
    finally:
        torch.set_num_threads(threads)
