"""Whether a resumed search still has the data that it began with: what they hold counts, not where they lie.

    data.json    per task: the dataset's name, fingerprint and content by item (`condense/data/content.py`), the encoders'
                 fingerprints and places

Written before the first trial. A search that an earlier version began has none, and gets it when it is resumed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from condense.config.places import encoder_places
from condense.system.errors import UserError
from search.ledger.atomic_files import read, read_json, write, write_json

FILE = "data.json"
Task = Mapping[str, Any]  # a task's configuration as JSON


def known_tasks(output: Path) -> list[dict[str, Any]] | None:
    """What is recorded of each task's data; None: nothing, or no trial has begun with it."""
    if not any((output / "trials").glob("*/trial.json")):
        return None
    tasks = (read_json(output / FILE) or {}).get("tasks")
    return tasks if isinstance(tasks, list) else None


def check_data(output: Path, identities: Sequence[Mapping[str, Any]], configs: Sequence[Task]) -> None:
    """Raises UserError if a task's data are not those that the search's trials have had.

    `identities`: {name, fingerprint, content} of each task's dataset, `EngineActor.identify`.
    """
    from condense.data.content import changes  # here: the ledger needs the standard library only

    for there, here, config in zip(known_tasks(output) or [], identities, configs, strict=False):
        if there["fingerprint"] != here["fingerprint"]:
            told = changes(there["content"], here["content"])
            if told is None and there["content"] and here["content"]:
                told = "its items are the same, but they are split or read in another way"
            place = config["dataset"].get("path", here["name"])
            raise UserError(
                f"{output}: the data have changed since this search began: {place}{f': {told}' if told else ''}: put them back, "
                "or begin another search with another --output"
            )


def recorded_search(output: Path) -> bytes:
    """`search.json`; empty where there is none. One that cannot be read is refused by `Ledger.open`."""
    with contextlib.suppress(OSError):
        return read(output / "search.json")
    return b""


@contextlib.contextmanager
def put_back_if_refused(output: Path, recorded: bytes) -> Iterator[None]:
    """If the data are refused, `search.json` becomes again what was `recorded`: it would name the refused ones, and the search
    would look for them."""
    try:
        yield
    except UserError:
        if recorded:
            write(output / "search.json", recorded)
        raise


def check_encoders(output: Path, fingerprints: Sequence[Mapping[str, str]], configs: Sequence[Task]) -> None:
    """Raises UserError if an encoder that lies elsewhere now is not the one that the search's trials have had.

    `fingerprints`: of each task, `condense.embeddings.task.Task.fingerprints`.
    """
    for there, here, config in zip(known_tasks(output) or [], fingerprints, configs, strict=False):
        places = encoder_places(config)
        if there["encoder_places"] != places and there["encoders"] != _encoders(here):
            raise UserError(
                f"{output}: holds another search: its encoder ({', '.join(there['encoder_places'])}) is not the one in "
                f"{', '.join(places)}"
            )


def record_data(
    output: Path,
    identities: Sequence[Mapping[str, Any]],
    fingerprints: Sequence[Mapping[str, str]],
    configs: Sequence[Task],
) -> None:
    """Records the data that the trials will have; what is recorded of begun trials stays."""
    tasks = [
        {**identity, "encoders": _encoders(own), "encoder_places": encoder_places(config)}
        for identity, own, config in zip(identities, fingerprints, configs, strict=True)
    ]
    if known_tasks(output) is None:
        write_json(output / FILE, {"tasks": tasks})


def _encoders(fingerprints: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in fingerprints.items() if name != "dataset"}
