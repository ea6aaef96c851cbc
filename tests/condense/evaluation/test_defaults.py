"""The defaults on the embedded dataset: better than their own start, and not worse than the paper's default."""

from __future__ import annotations

from statistics import fmean

import pytest
import torch

from condense.config.models import Hyperparameters, TinyEncoder
from condense.config.published import PAPER_DEFAULT, recommended
from condense.data.dataset import Dataset
from condense.embeddings.embeddings import embed_split
from condense.embeddings.task import Task
from condense.encoders.tiny import build_tiny
from condense.engine.engine import Engine
from condense.evaluation.replica_scores import validate
from condense.method.condensation import Condensation
from condense.storage.store import Store

SEEDS, STEPS = (0, 1), 60
NOISE = 0.01  # of a mean over these seeds, about two of its standard errors


@pytest.fixture(scope="module")
def task(spoken_digits: tuple[Dataset, Store]) -> Task:
    dataset, store = spoken_digits
    encoder = build_tiny(TinyEncoder(), dataset, store)
    cpu = torch.device("cpu")
    return Task(
        dataset, encoder, *(embed_split(encoder, part, cpu) for part in (dataset.condense, dataset.validation)), cpu
    )


@pytest.mark.slow
@pytest.mark.parametrize("dpc", [1, 5, 20])
def test_defaults_beat_their_start_and_the_papers_default(task: Task, dpc: int) -> None:
    assert recommended() == Hyperparameters()
    cast = [
        Condensation(task, dpc, "herding", h, seed, STEPS)
        for h in (Hyperparameters(num_frequencies=128), PAPER_DEFAULT.model_copy(update={"num_frequencies": 128}))
        for seed in SEEDS
    ]
    start = validate(cast[:1])[0]
    Engine().run(cast, STEPS)
    scores = validate(cast)
    ours, papers = fmean(scores[: len(SEEDS)]), fmean(scores[len(SEEDS) :])
    assert ours > start
    assert ours > papers - NOISE
