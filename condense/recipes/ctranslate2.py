"""Reads CTranslate2's `model.bin`, version 6, without CTranslate2.

Its layout (`ctranslate2/specs/model_spec.py`), little-endian; a string is its length with the final zero byte (uint16),
then its bytes:

    version (uint32), name of the specification (string), its revision (uint32)
    number of variables (uint32), and of each: name (string), rank (uint8), sizes (uint32), type (uint8), bytes (uint32), data
    number of aliases (uint32), and of each: alias (string), variable (string)
"""

from __future__ import annotations

import struct

import numpy as np

from condense.system.errors import UserError

VERSION = 6
TYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)


def read_model(content: bytes, where: str) -> tuple[str, dict[str, np.ndarray]]:
    """The specification's name, such as WhisperSpec, and the variables, by name. Aliases are left out.

    Raises UserError, one line that begins with `where`, for another version or a damaged file.
    """
    try:
        return _Reader(content).model()
    except (struct.error, ValueError, IndexError) as error:
        raise UserError(f"{where}: cannot be read as CTranslate2's model.bin: {error}") from None


class _Reader:
    def __init__(self, content: bytes) -> None:
        self.content, self.place = content, 0

    def model(self) -> tuple[str, dict[str, np.ndarray]]:
        if (version := self.number("I")) != VERSION:
            raise ValueError(f"its version must be {VERSION}, but is {version}")
        name = self.string()
        self.number("I")
        return name, dict(self.variable() for _ in range(self.number("I")))

    def variable(self) -> tuple[str, np.ndarray]:
        name = self.string()
        shape = [self.number("I") for _ in range(self.number("B"))]
        kind, size = self.number("B"), self.number("I")
        return name, np.frombuffer(self.take(size), TYPES[kind]).reshape(shape)

    def number(self, kind: str) -> int:
        (value,) = struct.unpack(f"<{kind}", self.take(struct.calcsize(f"<{kind}")))
        return int(value)

    def string(self) -> str:
        return self.take(self.number("H"))[:-1].decode()

    def take(self, count: int) -> bytes:
        part = self.content[self.place : self.place + count]
        if len(part) != count:
            raise ValueError("it ends too early")
        self.place += count
        return part
