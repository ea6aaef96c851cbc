"""A condensation that has not come to its end, kept beside the folder that it will be exported to.

`.DIR.partial/run.safetensors`: the replica's tensors and the losses so far; in its header, as JSON, everything else, what
the run is of (`identity`), and a checksum over both. It is replaced as a whole, so a kill leaves the earlier or the later.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from condense.storage.store import checksum, replacing
from condense.storage.tensor_files import tensors_of, write_tensors

FILE = "run.safetensors"
LOSSES = "losses"  # its name among the tensors; those of a state begin with "state/"


@dataclass(frozen=True)
class Kept:
    """How far a run has come."""

    state: Mapping[str, Any]  # of `Condensation.state_dict`
    losses: Tensor  # (steps, 4) float32 on the CPU
    reports: list[dict[str, Any]]  # JSON-able
    seconds: float  # that it has taken
    device: str


class Damaged(Exception):
    """What is kept cannot be read. The message says why, in one line."""


class Unfinished:
    """The place of one run's state. `identity`: JSON-able, all that the run's course depends on."""

    def __init__(self, output: Path, identity: Mapping[str, Any]) -> None:
        """`output`: the folder that the run will be exported to."""
        output = output.resolve()
        self.folder = output.with_name(f".{output.name}.partial")
        self.path = self.folder / FILE
        self.identity: dict[str, Any] = json.loads(json.dumps(identity))

    def read(self) -> tuple[Kept, str | None] | None:
        """What is kept, and how its identity differs from this run's ("`seed` is 0 there but 1 here"; None: not at all).

        None if nothing is kept. Raises Damaged.
        """
        try:
            tensors, metadata = tensors_of(self.path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise Damaged(error.strerror or str(error)) from None
        except (SafetensorError, ValueError) as error:
            raise Damaged(" ".join(str(error).split())) from None
        text = metadata.get("run", "")
        if metadata.get("checksum") != _checksum(tensors, text):
            raise Damaged("wrong checksum")
        try:
            run = json.loads(text)
            state = _joined(run["state"], tensors)
            kept = Kept(state, tensors[LOSSES], run["reports"], run["seconds"], run["device"])
            return kept, _difference(run["identity"], self.identity)
        except (ValueError, KeyError, TypeError) as error:  # whole, but of another version of this program
            raise Damaged(f"{type(error).__name__}: {error}") from None

    def write(self, kept: Kept) -> None:
        """Replaces what is kept, atomically and durably. Raises OSError."""
        tensors = {LOSSES: kept.losses.contiguous()}
        run = {
            "identity": self.identity,
            "state": _apart(kept.state, "state", tensors),
            "reports": kept.reports,
            "seconds": kept.seconds,
            "device": kept.device,
        }
        text = json.dumps(run)
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as temporary:
            write_tensors(temporary, tensors, {"run": text, "checksum": _checksum(tensors, text)})

    def remove(self) -> None:
        """Deletes what is kept, and the folder if nothing else is in it."""
        for path in (self.path, *self.folder.glob(".*.part")):  # what a killed `write` has left
            with contextlib.suppress(OSError):
                path.unlink()
        with contextlib.suppress(OSError):
            self.folder.rmdir()


def _checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    return hashlib.sha256(f"{checksum(tensors)} {text}".encode()).hexdigest()


def _apart(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON; its tensors go into `tensors`, and only their names stay."""
    if isinstance(value, Tensor):
        tensors[name] = value.contiguous()
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"of": {key: _apart(item, f"{name}/{key}", tensors) for key, item in value.items()}}
    return {"value": value}


def _joined(value: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    """Inverse of `_apart`."""
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "of" in value:
        return {key: _joined(item, tensors) for key, item in value["of"].items()}
    return value["value"]


def _difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str | None:
    """The first value that differs, by its key."""
    old, new = dict(_values(there, "")), dict(_values(here, ""))
    for key in [*new, *(key for key in old if key not in new)]:
        if key not in old or key not in new or old[key] != new[key]:
            return f"`{key}` is {old.get(key, 'not set')} there but {new.get(key, 'not set')} here"
    return None


def _values(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _values(item, f"{key}.{name}" if key else name)
    else:
        yield key, value
