"""Text as the embeddings of its tokens, a continuous space in which text can be synthesised.

An item is (length, width + 1): the rows of the encoder's own token embeddings, and in the last column which positions
belong to the text: `mark` up to its last token, -`mark` after it. An encoder reads only the sign of that column, so its
gradient is 0 and an item keeps the length of the text it started from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from condense.data.inputs import WrittenSpec


def split_marks(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """(n, length, width + 1) -> token embeddings (n, length, width), and lengths (n,) int64 in 1 .. length.

    A length is the last marked position, counted from 1; an item without any (noise) counts as full.
    """
    marked = inputs[..., -1].detach() > 0
    position = torch.arange(1, inputs.shape[-2] + 1, device=inputs.device)
    last = (marked * position).amax(-1)
    return inputs[..., :-1], torch.where(last == 0, inputs.shape[-2], last)


@dataclass(frozen=True)
class TokenEmbeddingSpec(WrittenSpec):
    """Base: `tokens`, `text_of` and `table` are the encoder's. shape = (length, width + 1).

    `low` and `high` are those of the table; `mark` is its standard deviation, so that noise has the scale of the table.
    """

    mark: float = 1.0

    @property
    def table(self) -> Tensor:
        """(vocabulary, width) float32: the token embeddings."""
        raise NotImplementedError

    def tokens(self, text: str) -> tuple[Tensor, int]:
        """Token numbers (length,) int64 with padding, and how many of them are the text's, its end included."""
        raise NotImplementedError

    def text_of(self, tokens: Tensor) -> str:
        """The text of token numbers without padding."""
        raise NotImplementedError

    def encode(self, text: str) -> Tensor:
        tokens, length = self.tokens(text)
        item = torch.full(self.shape, -self.mark)
        item[:, :-1] = self.table[tokens]
        item[:length, -1] = self.mark
        return item

    def nearest_tokens(self, item: Tensor) -> Tensor:
        """(length of the text,) int64: the row of the table with the smallest Euclidean distance, per position."""
        embeddings, lengths = split_marks(item[None].float())
        return torch.cdist(embeddings[0, : int(lengths)], self.table).argmin(1)

    def decode(self, item: Tensor) -> str:
        return self.text_of(self.nearest_tokens(item))


def table_range(table: Tensor) -> dict[str, Any]:
    """`low`, `high` and `mark` of a table (vocabulary, width)."""
    return {"low": table.min().item(), "high": table.max().item(), "mark": table.std().item()}
