"""Reads an old pandas pickle (before 1.0) of plain frames without pandas, and without running what a pickle may ask for.

A pickle names functions to call. Here only the eleven names that such a frame needs are known; those of pandas stand for
classes that keep what they are given, those of numpy for functions that make arrays and types of numbers and nothing else.
"""

from __future__ import annotations

import gzip
import pickle
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np

from condense.system.errors import UserError


class Kept:
    """An object of pandas: what the pickle has told of it."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class Frame(Kept):
    """A DataFrame. Its state has a BlockManager at `_data`."""

    def columns(self) -> dict[str, np.ndarray]:
        """Column name -> its values (rows,). Raises ValueError if the state is of another layout."""
        try:
            described = self.state["_data"].state[3]["0.14.1"]
            names = [str(name) for name in described["axes"][0].state]
            found: dict[str, np.ndarray] = {}
            for block in described["blocks"]:  # values (columns, rows), and which columns these are
                places = block["mgr_locs"]
                places = range(len(names))[places] if isinstance(places, slice) else places
                found |= {names[i]: values for i, values in zip(places, np.asarray(block["values"]), strict=True)}
            return found
        except (TypeError, KeyError, IndexError, AttributeError) as error:
            raise ValueError(f"its frames are of another layout ({type(error).__name__}: {error})") from None


class Blocks(Kept):
    """A BlockManager."""


class Index(Kept):
    """An Index: its values."""


class RangeIndex(Index):
    """A RangeIndex: nothing that is needed."""


class Array:
    """Stands for the class numpy.ndarray."""


def _reconstructor(kind: Any, base: Any, state: Any) -> Kept:
    """`copyreg._reconstructor`."""
    if kind not in (Frame, Blocks) or base is not object:
        raise pickle.UnpicklingError("an object of no frame")
    return Frame() if kind is Frame else Blocks()


def _new_index(kind: Any, content: dict[str, Any]) -> Index:
    index = RangeIndex() if kind is RangeIndex else Index()
    index.state = content.get("data")
    return index


def _reconstruct(kind: Any, shape: Any, code: Any) -> np.ndarray:
    """`numpy.core.multiarray._reconstruct`: an empty array, which then gets its shape, type and bytes."""
    return np.empty(0, np.uint8)


def _dtype(code: Any, align: Any = False, copy: Any = True) -> np.dtype[Any]:
    if code not in ("f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1", "O8"):
        raise pickle.UnpicklingError(f"a type of array: {str(code)[:40]!r}")
    return np.dtype(code, copy=True)  # type: ignore[call-overload]


def _encode(text: str, encoding: str) -> bytes:
    """`_codecs.encode`, by which Python 3 writes bytes for protocol 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError("a codec")
    return text.encode("latin1")


KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("copy_reg", "_reconstructor"): _reconstructor,
    ("__builtin__", "object"): object,
    ("__builtin__", "slice"): slice,
    ("_codecs", "encode"): _encode,
    ("numpy", "dtype"): _dtype,
    ("numpy", "ndarray"): Array,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("pandas.core.frame", "DataFrame"): Frame,
    ("pandas.core.internals.managers", "BlockManager"): Blocks,
    ("pandas.core.indexes.base", "Index"): Index,
    ("pandas.core.indexes.base", "_new_Index"): _new_index,
    ("pandas.core.indexes.range", "RangeIndex"): RangeIndex,
}


class FrameUnpickler(pickle.Unpickler):
    """Knows `KNOWN` only."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return KNOWN[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it asks for what is stored elsewhere")


def read_frames(content: bytes, where: str) -> Any:
    """What a gzipped pickle holds: lists, dicts, numbers, and a `Frame` for each DataFrame.

    Raises UserError, one line that begins with `where`, if it is damaged or asks for anything else.
    """
    try:
        return FrameUnpickler(BytesIO(gzip.decompress(content))).load()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{where}: cannot be decompressed: {error}") from None
    except Exception as error:  # a damaged pickle raises nearly anything
        raise UserError(f"{where}: is refused as a pickle of tables: {' '.join(str(error).split())[:200]}") from None
