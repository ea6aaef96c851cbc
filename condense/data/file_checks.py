"""A look at all files of a manifest before any work: what cannot be read is told together, or its items are left out.

Files are looked at by their headers; a few small ones are decoded, too. With `on_unreadable: skip` all are decoded, since the
items that are left out must be known before the splits are made. Files that have not changed since are not looked at again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from condense.config.models import ManifestDataset
from condense.data.file_digests import keep, stat_files
from condense.data.manifest_rows import EXAMPLES, Row, told_together
from condense.inputs.media import check_item, read_item
from condense.inputs.spec import InputSpec
from condense.storage.cache_folder import verified_since
from condense.storage.store import Store
from condense.system.errors import UserError
from condense.system.process import cores

FINE = "readable_files"  # kind of the store's entries
CHEAP_FILES, CHEAP_BYTES = 1_000, 16 << 20  # what is decoded in about a second


def unreadable(
    folder: Path, rows: Sequence[Row], specs: Mapping[str, InputSpec], decode: bool | None
) -> dict[tuple[str, str], str]:
    """(modality, cell) -> what is wrong with it, in the order of rows. `decode`: None if only where that is cheap.

    Each file is looked at once. Texts are only checked with `decode`.
    """
    cells = {(m, cell): row.line for row in reversed(rows) for m, cell in zip(specs, row.cells, strict=True) if cell}
    cells = dict(sorted(cells.items(), key=lambda item: item[1]))
    files = [(modality, cell) for modality, cell in cells if specs[modality].kind != "text"]

    def check(key: tuple[str, str], read: bool) -> str | None:
        modality, cell = key
        try:
            (read_item if read else check_item)(specs[modality], cell, folder)
        except UserError as error:
            return f"row {cells[key]}, column `{modality}`: {error}"
        return None

    with ThreadPoolExecutor(min(8, cores())) as pool:
        if decode:
            found = dict(zip(cells, pool.map(lambda key: check(key, True), cells), strict=True))
        else:
            found = dict(zip(files, pool.map(lambda key: check(key, False), files), strict=True))
            good = [key for key, trouble in found.items() if trouble is None]
            if decode is None and _is_cheap([folder / cell for _, cell in good]):
                found |= dict(zip(good, pool.map(lambda key: check(key, True), good), strict=True))
    return {key: trouble for key, trouble in found.items() if trouble is not None}


def readable_rows(
    config: ManifestDataset, rows: Sequence[Row], specs: Mapping[str, InputSpec]
) -> tuple[list[Row], tuple[str, ...]]:
    """The rows all of whose cells can be read, and a warning if there are others.

    Raises UserError for any such row, with `on_unreadable: skip` if they are more than `unreadable_limit`.
    """
    path, skips = config.path, config.on_unreadable == "skip"
    store, key = Store(), _as_they_are(path.parent, rows, specs, skips)
    if key is not None and store.get(FINE, key) is not None:
        return list(rows), ()
    found = unreadable(path.parent, rows, specs, decode=True if skips else None)
    if not found:
        if key is not None:
            keep(store, FINE, key, {"items": torch.tensor([len(rows)])})
        return list(rows), ()
    troubles = list(found.values())
    if not skips:
        places = {(m, cell) for row in rows for m, cell in zip(specs, row.cells, strict=True) if cell}
        files = sum(specs[modality].kind != "text" for modality, _ in places)
        raise UserError(told_together(path, troubles, files, "files cannot be read"))
    kept = [row for row in rows if not any(key in found for key in zip(specs, row.cells, strict=True))]
    out, allowed = len(rows) - len(kept), config.unreadable_limit
    told = f"{path}: {out:,} of {len(rows):,} items {'is' if out == 1 else 'are'}"
    examples = "; ".join(troubles[:EXAMPLES])
    if out > allowed * len(rows):
        raise UserError(f"{told} unreadable, more than `unreadable_limit` {allowed:g} allows: {examples}")
    return kept, (f"{told} left out, since a file or text cannot be read, such as {examples}",)


def _as_they_are(
    folder: Path, rows: Sequence[Row], specs: Mapping[str, InputSpec], skips: bool
) -> dict[str, object] | None:
    """What tells whether any file has changed, as a key of the store; None if one cannot be looked at."""
    cells = sorted({(m, cell) for row in rows for m, cell in zip(specs, row.cells, strict=True) if cell})
    files = [str(folder.absolute() / cell) for m, cell in cells if specs[m].kind != "text"]
    try:
        with ThreadPoolExecutor(min(32, 4 * cores())) as pool:
            found = stat_files(files, pool, lambda _: None)
    except (OSError, ValueError):
        return None
    content = hashlib.sha256(json.dumps([cells, files]).encode() + found.tobytes()).hexdigest()
    described = {m: [type(spec).__name__, spec.describe()] for m, spec in specs.items()}
    return {"files": content, "specs": described, "decoded": skips, "verified": verified_since()}


def _is_cheap(files: Sequence[Path]) -> bool:
    return len(files) <= CHEAP_FILES and sum(file.stat().st_size for file in files) <= CHEAP_BYTES
