"""Tests of what others have written, an encoder or a tower, before it is used."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from condense.inputs.spec import InputSpec
from condense.system.errors import UserError

CLOSE = 1e-3  # of an item's norm: what its batch may change


def check_map(
    at: str,
    embed: Callable[[Tensor], Tensor],  # (n, *shape) -> (n, dim)
    spec: InputSpec,
    dim: int | None,
    *,
    unit: bool = True,
    close: float = CLOSE,
) -> int:
    """Tests a map on two random items, together and alone. `dim`: None: any; `unit`: whether results must have unit norm.

    Returns the dimension. Raises UserError, one line that begins with `at`, if results are not float32 of (n, dim), or not
    finite, or have no finite gradient, or depend on the other items of a batch.
    """
    generator = torch.Generator().manual_seed(0)
    items = torch.rand(2, *spec.shape, generator=generator) * (spec.high - spec.low) + spec.low
    items.requires_grad_()
    try:
        embedded = embed(items)
        gradient = torch.autograd.grad(embedded.square().cumsum(1).sum(), items)[0]
        alone = torch.cat([embed(item[None]) for item in items.detach()])
    except Exception as error:
        raise UserError(f"{at}: {one_line(error)}") from error
    expected = (2, embedded.shape[-1] if dim is None else dim)
    if embedded.shape != expected or embedded.dtype != torch.float32:
        got = f"{str(embedded.dtype).removeprefix('torch.')} of shape {tuple(embedded.shape)}"
        wanted = "(2, features)" if dim is None else f"(2, {dim})"
        raise UserError(f"{at}: must return float32 of shape {wanted} for two items, but returned {got}")
    if not gradient.isfinite().all() or not embedded.isfinite().all():
        raise UserError(f"{at}: the embedding of a random item, or its gradient, is not finite")
    size = embedded.norm(dim=1)
    if unit and (size - 1).abs().max() > CLOSE:
        raise UserError(f"{at}: must have unit norm, but has {embedded[0].norm():.4g}")
    if ((embedded - alone).abs().amax(1) > close * size).any():
        raise UserError(f"{at}: an item's embedding must not depend on the other items of a batch")
    return expected[1]


def one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
