"""The first layer of an image or spectrogram tower: a convolution whose input gradient is cheap on a CPU.

A condensation needs the gradient of the *input*, which is that of a transposed convolution into one to three channels.
CPU libraries fill their vectors with channels, so that it takes longer than all other layers together (measured:
oneDNN 3.12, one channel, 60 % of forward and backward). Here the vector is filled with neighbouring pixels: each tile of
4 x 4 pixels of the gradient is 16 output channels of an ordinary convolution, and `pixel_shuffle` lays them out.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

KERNEL, STRIDE, PADDING = 5, 2, 2
TILE = 4  # pixels; a tile moves by TILE / STRIDE = 2 positions of the output
REACH = (-1, 0, 1, 2)  # output positions whose kernels touch a tile, relative to the tile's first


def _taps() -> Tensor:
    """(TILE, TILE, 4, 4): the tap, row * KERNEL + column, through which a pixel of a tile meets an output position.

    Pixel 4 i + a of the input meets output position 2 i + d through tap a + PADDING - 2 d of the kernel. Without a tap: 25.
    """
    line = torch.tensor([[a + PADDING - STRIDE * d for d in REACH] for a in range(TILE)])
    row, column = line[:, None, :, None], line[None, :, None, :]
    met = (row >= 0) & (row < KERNEL) & (column >= 0) & (column < KERNEL)
    return torch.where(met, row * KERNEL + column, KERNEL * KERNEL)


TAPS = _taps()


class FirstConv2d(nn.Conv2d):
    """`Conv2d(before, after, 5, stride=2, padding=2)`; height and width of the input are multiples of 4."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__(before, after, KERNEL, stride=STRIDE, padding=PADDING)

    def forward(self, inputs: Tensor) -> Tensor:
        """(n, before, h, w) -> (n, after, h / 2, w / 2)."""
        if self.weight.requires_grad or not inputs.requires_grad or inputs.device.type != "cpu":
            return super().forward(inputs)
        output: Tensor = _Frozen.apply(inputs, self.weight, self.bias)
        return output


def tile_kernel(weight: Tensor) -> Tensor:
    """(after, before, 5, 5) -> (before * 16, after, 4, 4): from the output's gradient to tiles of the input's."""
    taps = F.pad(weight.flatten(2), (0, 1))  # (after, before, 26): the last one is 0
    return taps[:, :, TAPS.to(weight.device)].permute(1, 2, 3, 0, 4, 5).flatten(0, 2)


class _Frozen(torch.autograd.Function):
    """The convolution with constant weights."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return F.conv2d(inputs, weight, bias, STRIDE, PADDING)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        kernel = tile_kernel(weight).contiguous(memory_format=torch.channels_last)
        return F.pixel_shuffle(F.conv2d(gradient, kernel, None, TILE // STRIDE, -REACH[0]), TILE), None, None
