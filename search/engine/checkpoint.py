"""A checkpoint: the states of a trial's replicas as bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import torch


def pack_checkpoint(states: Sequence[dict[str, Any]]) -> bytes:
    """States of `Condensation.state_dict`, as bytes of `torch.save`."""
    buffer = io.BytesIO()
    torch.save(list(states), buffer)
    return buffer.getvalue()


def unpack_checkpoint(content: bytes) -> list[dict[str, Any]]:
    """Inverse of `pack_checkpoint`; loads tensors and plain values only."""
    states: list[dict[str, Any]] = torch.load(io.BytesIO(content), weights_only=True)
    return states
