"""Which device is meant, and what is said of one that is not there."""

from __future__ import annotations

import pytest
import torch

from condense.system.devices import device_of
from condense.system.errors import UserError


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(
    ("count", "asked", "device"),
    [
        (0, None, "cpu"),
        (2, None, "cuda"),
        (2, "cpu", "cpu"),
        (0, "cpu:0", "cpu"),
        (1, "cuda", "cuda"),
        (2, "cuda:1", "cuda:1"),
        (2, torch.device("cuda", 1), "cuda:1"),
    ],
)
def test_a_device_that_is_there(
    monkeypatch: pytest.MonkeyPatch, count: int, asked: str | torch.device | None, device: str
) -> None:
    gpus(monkeypatch, count)
    assert device_of(asked) == torch.device(device)


@pytest.mark.parametrize(
    ("count", "asked", "message"),
    [
        (0, "cuda", "device cuda is not there: PyTorch finds no CUDA device"),
        (1, "cuda:1", "device cuda:1 is not there: PyTorch finds only cuda:0"),
        (2, "cuda:2", "device cuda:2 is not there: PyTorch finds only cuda:0 .. cuda:1"),
        (2, "gpu", "device must be cpu, cuda or cuda:N, but got 'gpu'"),
        (2, "meta", "device must be cpu, cuda or cuda:N, but got 'meta'"),
        (2, "", "device must be cpu, cuda or cuda:N, but got ''"),
    ],
)
def test_a_device_that_is_not(monkeypatch: pytest.MonkeyPatch, count: int, asked: str, message: str) -> None:
    gpus(monkeypatch, count)
    with pytest.raises(UserError) as caught:
        device_of(asked)
    assert str(caught.value) == message
