"""What a pass takes is measured the same every time."""

from __future__ import annotations

import torch

from condense.system.device_memory import HOST_EXTRA, measured

FLOATS = 1000


def passes(count: int) -> int:
    """Bytes of so many passes, each of which frees what it kept before the next one begins."""
    with measured(torch.device("cpu")) as peak:
        for _ in range(count):
            torch.ones(FLOATS, requires_grad=True).exp().sum().backward()  # keeps exp's result
    return peak.bytes


def test_what_was_freed_counts_although_its_address_is_given_again() -> None:
    assert [passes(count) for count in (1, 2, 5)] == [int(HOST_EXTRA * 4 * FLOATS * count) for count in (1, 2, 5)]


def test_views_of_a_storage_count_once() -> None:
    with measured(torch.device("cpu")) as peak:
        whole = torch.ones(FLOATS, requires_grad=True).exp()
        (whole[:500] * whole[500:]).sum().backward()  # keeps two views of exp's result, and the result itself
    assert peak.bytes == int(HOST_EXTRA * 4 * FLOATS)
