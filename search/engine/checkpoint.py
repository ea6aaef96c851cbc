"""A checkpoint: the states of a trial's replicas as bytes, or the file that they are in."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import torch

from search.engine.state_files import names_a_file, read_states


def pack_checkpoint(states: Sequence[dict[str, Any]]) -> bytes:
    """States of `Condensation.state_dict`, as bytes of `torch.save`."""
    buffer = io.BytesIO()
    torch.save(list(states), buffer)
    return buffer.getvalue()


def unpack_checkpoint(content: bytes) -> list[dict[str, Any]]:
    """Inverse of `pack_checkpoint`, or what is in the file that it names; loads tensors and plain values only.

    Raises StateLost if there is no such file, StateUnreachable if what keeps it does not answer.
    """
    if names_a_file(content):
        return read_states(content)
    states: list[dict[str, Any]] = torch.load(io.BytesIO(content), weights_only=True)
    return states
