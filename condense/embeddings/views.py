"""Views: the real items of a task under fixed transformations, embedded once each and kept in the store."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from condense.data.dataset import Dataset, Split
from condense.embeddings.embeddings import Embedded, embedding_key
from condense.embeddings.encoding import encode
from condense.embeddings.statistics import RealStatistics
from condense.encoders.protocol import Encoder
from condense.inputs.transformations import VERSION, Transformation
from condense.storage.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class View:
    """The condense split under one transformation (None: as it is)."""

    transformation: Transformation | None
    embedded: Embedded
    statistics: RealStatistics


@dataclass(frozen=True)
class TransformedSplit:
    """A split whose items are transformed as they are read."""

    split: Split
    transformation: Transformation

    @property
    def labels(self) -> Tensor:
        return self.split.labels

    @property
    def present(self) -> Mapping[str, Tensor]:
        return self.split.present

    @property
    def groups(self) -> Tensor | None:
        return self.split.groups

    def __len__(self) -> int:
        return len(self.split)

    def load(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        return {m: self.transformation(m, x.float()) for m, x in self.split.load(indices).items()}


class Views:
    """The views of a task, embedded when they are first asked for. Thread-safe."""

    def __init__(
        self,
        dataset: Dataset,
        encoder: Encoder,
        plain: View,
        device: torch.device,
        store: Store | None,
        mirror: bool,
        quiet: float,
    ) -> None:
        """`store`: None keeps nothing on disk. `mirror`: whether images may be mirrored. `quiet`: seconds before progress."""
        self.dataset, self.encoder, self.device, self.store = dataset, encoder, device, store
        self.mirror, self.quiet = mirror, quiet
        self._known = [plain]
        self._lock = threading.Lock()

    def first(self, count: int) -> list[View]:
        """The items as they are, and under the first `count` transformations: count + 1 views.

        Raises what encoding raises; what is done is kept.
        """
        with self._lock:
            while len(self._known) <= count:
                self._known.append(self._make(len(self._known) - 1))
            return self._known[: count + 1]

    def _make(self, index: int) -> View:
        transformation = Transformation(self.dataset.specs, index, self.mirror)
        split = TransformedSplit(self.dataset.condense, transformation)
        key = {
            **embedding_key(self.dataset, self.encoder, "condense"),
            "transformation": {"version": VERSION, "index": index, "mirror": self.mirror},
        }
        name = f"{self.dataset.name} (transformation {index + 1})"

        def make() -> dict[str, Tensor]:
            log.info("embedding %d items of %s", len(split), name)
            parts = None if self.store is None else self.store.parts("embeddings", key)
            return encode(self.encoder, split, self.device, parts, key, name=name, quiet=self.quiet)

        found = make() if self.store is None else self.store.get_or_make("embeddings", key, make)
        plain = self._known[0].embedded
        embedded = Embedded({m: found[m].to(self.device) for m in self.dataset.modalities}, plain.labels, plain.present)
        statistics = RealStatistics.of(embedded.embeddings, embedded.labels, self.dataset.num_classes, embedded.present)
        return View(transformation, embedded, statistics)
