"""Members of archives, read one by one: nothing is extracted, so no member chooses where it is written."""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from lzma import LZMAError
from pathlib import Path

from condense.system.errors import UserError


def members(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Name and content of each regular file in a zip file, a wheel or a tar file whose name is `wanted`, in its order.

    A name is as the archive has it: whoever makes a path of it checks it (`condense.recipes.folder.inside`).

    Raises UserError if the archive is damaged.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as content:
                for name in content.namelist():
                    if not name.endswith("/") and wanted(name):
                        yield name, content.read(name)
            return
        with tarfile.open(path) as content:
            for member in content:
                file = content.extractfile(member) if member.isreg() and wanted(member.name) else None
                if file is not None:
                    yield member.name, file.read()
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, LZMAError, EOFError) as error:
        raise UserError(f"{path}: is damaged, or is no zip or tar file: {' '.join(str(error).split())}") from None


def read_members(path: Path, *names: str) -> list[bytes]:
    """The content of each of these members. Raises UserError if one is missing."""
    found = dict(members(path, set(names).__contains__))
    for name in names:
        if name not in found:
            raise UserError(f"{path}: has no {name}")
    return [found[name] for name in names]
