"""A task: from its configuration to the data that condensations share on a device."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from condense.config.models import TaskConfig
from condense.data import load_dataset, modalities_of
from condense.data.dataset import Dataset
from condense.data.folds import fold_of
from condense.embeddings.embeddings import QUIET, Embedded, load_embedded
from condense.embeddings.encoding import OnPass
from condense.embeddings.features import of_features
from condense.embeddings.initialization_cache import InitializationCache
from condense.embeddings.statistics import RealStatistics
from condense.embeddings.views import View, Views
from condense.encoders import build_encoder, encoder_specs
from condense.encoders.protocol import Encoder
from condense.storage.store import Store
from condense.system.errors import UserError


def task_key(config: TaskConfig) -> str:
    """Equal for tasks that share a dataset and an encoder: dpc and initialisation do not matter."""
    content = config.model_dump(mode="json", include={"dataset", "encoder"})
    if config.encoders:
        content |= config.model_dump(mode="json", include={"encoders"})
    content |= {"fold": config.fold.model_dump(mode="json")} if config.fold else {}
    content |= {"mirror": True} if config.mirror else {}
    content |= {"synthesize": config.synthesize} if config.synthesize != "inputs" else {}
    return json.dumps(content, sort_keys=True)


def load_task(config: TaskConfig, store: Store, device: torch.device, quiet: float = QUIET) -> Task:
    """Loads dataset, encoder and embeddings. What the store lacks is computed first, with progress shown if that takes more
    than `quiet` seconds.

    Raises:
        UserError: the data cannot be read, or the encoder does not take it.
    """
    dataset, encoder = load_parts(config, store, device)
    bank = load_bank(config, dataset, store, device)
    return embed_task(dataset, encoder, store, device, quiet, mirror=config.mirror, bank=bank)


def load_data(config: TaskConfig) -> Dataset:
    """The dataset alone, in the form that the encoder takes. Raises UserError if it cannot be read, or does not fit."""
    return load_dataset(config.dataset, encoder_specs(config.encoder, modalities_of(config.dataset)))


def load_parts(
    config: TaskConfig, store: Store, device: torch.device, dataset: Dataset | None = None
) -> tuple[Dataset, Encoder]:
    """The first half of `load_task`: dataset and encoder. `dataset`: its `load_data`, if that was done. Raises the same."""
    dataset = load_data(config) if dataset is None else dataset
    if config.fold is not None:
        dataset = fold_of(dataset, config.fold)
    dataset.check_class_sizes(config.dpc)
    check_metric(config, dataset)
    encoder = build_encoder(config.encoder, dataset, store, device)
    if isinstance(encoder, torch.nn.Module):
        encoder.to(device)
    if config.synthesize == "features":
        return of_features(dataset, encoder, store, device)
    return dataset, encoder


def load_bank(config: TaskConfig, dataset: Dataset, store: Store, device: torch.device) -> list[Encoder]:
    """The encoders that the items are matched in, besides `encoder`. Raises UserError if one takes other inputs than that."""
    bank = []
    # Tensors have inputs of their own, with the values of the file: they suit what asks for the same as `encoder`.
    asked = encoder_specs(config.encoder, modalities_of(config.dataset)) if config.encoders else {}
    for i, of in enumerate(config.encoders):
        specs = encoder_specs(of, modalities_of(config.dataset))
        for modality, spec in dataset.specs.items():
            own = specs[modality].template().describe() if modality in specs else None
            suits = [each.template().describe() for each in (spec, asked.get(modality)) if each is not None]
            if own not in suits:
                shape = "does not take it" if own is None else f"takes {specs[modality].shape}"
                if own is not None and specs[modality].shape == spec.shape:
                    shape = "takes other values"
                raise UserError(
                    f"encoders.{i} ({of.name}): must take {modality} as `encoder` does, {spec.shape}, but {shape}"
                )
        built = build_encoder(of, dataset, store, device)
        if isinstance(built, torch.nn.Module):
            built.to(device)
        bank.append(built)
    return bank


def embed_task(
    dataset: Dataset,
    encoder: Encoder,
    store: Store,
    device: torch.device,
    quiet: float = QUIET,
    on_pass: OnPass | None = None,
    mirror: bool = False,
    bank: Sequence[Encoder] = (),
) -> Task:
    """The second half of `load_task`: the embeddings. `on_pass`: see `condense.embeddings.encoding.encode`, of `encoder` only."""
    condense = load_embedded(dataset, encoder, "condense", store, device, quiet, on_pass)
    validation = load_embedded(dataset, encoder, "validation", store, device, quiet, on_pass)
    matched = []
    for each in bank:
        own = load_embedded(dataset, each, "condense", store, device, quiet)
        matched.append(Task(dataset, each, own, own, device, store, mirror, quiet))  # nothing is validated in it
    return Task(dataset, encoder, condense, validation, device, store, mirror, quiet, tuple(matched))


def check_metric(config: TaskConfig, dataset: Dataset) -> None:
    """Raises UserError if the task's metric cannot be computed on the data."""
    if config.metric in ("accuracy", "log_loss") and dataset.num_classes < 2:
        raise UserError(
            f"{dataset.name}: has a single label: {config.metric} needs two or more (set `metric: retrieval`)"
        )
    if config.metric == "retrieval":
        if len(dataset.modalities) < 2:
            raise UserError(f"{dataset.name}: has a single modality: `metric: retrieval` needs two or more")
        dataset.check_pairs()


def load_test(task: Task, store: Store, quiet: float = QUIET, on_pass: OnPass | None = None) -> Embedded:
    """The embeddings of the test split: for a final evaluation, never for a choice."""
    return load_embedded(task.dataset, task.encoder, "test", store, task.device, quiet, on_pass)


_serial = itertools.count()


@dataclass(eq=False)
class Task:
    """A dataset and its embeddings by an encoder, on a device, shared by all condensations.

    Holds no test data: `dataset.open_test` is called by final evaluations only.
    """

    dataset: Dataset
    encoder: Encoder
    condense: Embedded
    validation: Embedded
    device: torch.device
    store: Store | None = field(default=None, repr=False)  # where embeddings of views are kept
    mirror: bool = False  # whether images may be mirrored
    quiet: float = QUIET  # seconds before the progress of embedding a view is shown
    bank: tuple[Task, ...] = ()  # the same data in the encoders that items are matched in; empty: in `encoder`
    statistics: RealStatistics = field(init=False)
    views: Views = field(init=False, repr=False)
    initialization_cache: InitializationCache = field(default_factory=InitializationCache, repr=False)
    serial: int = field(init=False, default_factory=lambda: next(_serial), repr=False)
    """Tells tasks of a process apart, also after one is gone; an `id` may be given twice."""

    def __post_init__(self) -> None:
        known = self.condense
        self.statistics = RealStatistics.of(known.embeddings, known.labels, self.dataset.num_classes, known.present)
        plain = View(None, known, self.statistics)
        self.views = Views(self.dataset, self.encoder, plain, self.device, self.store, self.mirror, self.quiet)

    @property
    def fingerprints(self) -> dict[str, str]:
        """Of all that a condensation depends on besides its configuration."""
        bank = {f"encoders.{i}": each.encoder.fingerprint for i, each in enumerate(self.bank)}
        return {"dataset": self.dataset.fingerprint, "encoder": self.encoder.fingerprint, **bank}

    @property
    def modalities(self) -> tuple[str, ...]:
        return self.dataset.modalities
