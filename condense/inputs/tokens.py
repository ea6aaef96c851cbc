"""Text as token embeddings: the input of a text tower's second layer, and the space in which text is synthesised.

Token ids are integers without a gradient; the rows of the tower's frozen embedding table are points in a continuous space.
A real text is the rows of its tokens: start, the text, end, then padding. A synthetic text starts there and moves.

A tower reads its output at the end token, or masks everything after it, so the optimiser must not move the end's
position. It is the last position that does not hold the padding's row, exactly: in a tower whose attention is causal, or
masked, what comes after the end has a gradient of exactly 0 and never moves. An item without any padding ends at its last
position. (A tower that attends to padding, as SigLIP's does, has no use for the place of the end.)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from condense.inputs.spec import WrittenSpec


class Tokenizer(Protocol):
    """Text to tokens and back, without start, end and padding."""

    def encode(self, text: str) -> list[int]: ...

    def decode(self, tokens: Sequence[int]) -> str: ...


def end_positions(items: Tensor, padding: Tensor) -> Tensor:
    """(n, length, width), (width,) -> (n,) int64: where each text ends."""
    used = (items != padding).any(2).flip(1)  # (n, length), from the last position to the first
    return items.shape[1] - 1 - used.int().argmax(1)  # of equal values, argmax takes the first


@dataclass(frozen=True)
class TokenSpec(WrittenSpec):
    """Text as embedded tokens: shape = (length, width). The range is one that no table comes near.

    Large parts are opened at first use; the functions that open them must be picklable.
    """

    source: str  # identity of the table: which model, which weights
    start: int | None  # None: the text itself comes first
    end: int
    padding: int
    open_table: Callable[[], Tensor] = dataclasses.field(compare=False, repr=False)  # (vocabulary, width) float32
    open_tokenizer: Callable[[], Tokenizer] = dataclasses.field(compare=False, repr=False)

    def describe(self) -> dict[str, Any]:
        fields = ("modality", "shape", "low", "high", "source", "start", "end", "padding")
        return {"kind": type(self).__name__, **{name: getattr(self, name) for name in fields}}

    def tokens(self, text: str) -> Tensor:
        """(length,) int64. A long text is cut before the end token, which is always there."""
        length = self.shape[0]
        before = [] if self.start is None else [self.start]
        tokens = [*before, *self._inner(text)[: self._room], self.end]
        return torch.tensor(tokens + [self.padding] * (length - len(tokens)))

    def _inner(self, text: str) -> list[int]:
        return [token for token in self.open_tokenizer().encode(text) if token not in (self.start, self.end)]

    @property
    def _room(self) -> int:
        """For tokens of the text itself."""
        return self.shape[0] - 1 - (self.start is not None)

    @property
    def reads(self) -> str:
        return f"{self._room} tokens"

    def left_of(self, text: str) -> tuple[int, ...] | None:
        if len(text.encode()) <= self._room:  # a token holds a byte or more
            return None
        inner = self._inner(text)
        return tuple(inner[: self._room]) if len(inner) > self._room else None

    def encode(self, text: str) -> Tensor:
        """(length, width) float32: the rows of the text's tokens."""
        return self.open_table()[self.tokens(text)]

    def nearest(self, item: Tensor) -> list[int]:
        """(length, width) -> the token whose row is nearest (Euclidean) at each position, up to the end of the text."""
        table = self.open_table()
        item = item.detach().float().cpu()
        end = int(end_positions(item[None], table[self.padding])[0])
        # The argmin of |x - t|^2 is that of |t|^2 - 2 x t. (`torch.cdist` would hold the same matrix, and be slower.)
        return (table.square().sum(1) - 2 * item[: end + 1] @ table.T).argmin(1).tolist()

    def decode(self, item: Tensor) -> str:
        """(length, width) -> the text of the nearest tokens, without start and end."""
        tokens = [token for token in self.nearest(item) if token not in (self.start, self.end)]
        return self.open_tokenizer().decode(tokens).strip()
