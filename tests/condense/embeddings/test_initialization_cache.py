"""The cache of initial items: it changes no result, and keeps within its limit."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from condense.config.models import Hyperparameters
from condense.embeddings.initialization_cache import InitializationCache
from condense.engine.engine import Engine
from condense.method.condensation import Condensation


@pytest.mark.parametrize("initialization", ["herding", "k_center", "k_means", "random", "noise"])
def test_what_is_known_of_a_start_changes_nothing(small_task, initialization):
    """The items, and what is drawn after them, are those of a replica that starts first; and nobody else's."""

    def new():
        return dataclasses.replace(small_task(), initialization_cache=InitializationCache())

    def make(of, seed):
        return Condensation(of, 2, initialization, Hyperparameters(num_frequencies=8, frequency_pool=16), seed, 10)

    task = new()
    first = make(task, 1)
    loads = []
    original = type(task.dataset.condense).load
    kept = {m: x.clone() for m, x in first.inputs.items()}
    Engine().run([first], 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(task.dataset.condense), "load", lambda self, i: loads.append(i) or original(self, i))
        again = make(task, 1)
        assert not loads
        other = make(task, 2)
        assert bool(loads) == (initialization in ("random", "noise"))
    alone = make(new(), 1)
    assert all(torch.equal(alone.inputs[m], kept[m]) for m in kept)
    for known, expected in ((again, alone), (other, make(new(), 2))):
        for m in expected.inputs:
            assert torch.equal(known.inputs[m], expected.inputs[m])
            assert torch.equal(known.frequencies[m], expected.frequencies[m])
        assert torch.equal(known.generator.get_state(), expected.generator.get_state())


def test_starts_are_kept_as_long_as_there_is_room():
    starts, made = InitializationCache(limit=100), []

    def get(key):
        generator = torch.Generator().manual_seed(0)
        starts.get_or_make(key, generator, lambda: made.append(key) or {"x": torch.zeros(10)})  # 40 bytes

    for key in "abacab":
        get(key)
    assert made == ["a", "b", "c", "b"]  # c took the place of b, which had not been asked for since
    InitializationCache(limit=1).get_or_make("a", torch.Generator(), lambda: {"x": torch.zeros(10)})
