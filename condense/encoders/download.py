"""`python -m condense download`: fetches a checkpoint, only on request. Standard library only.

An incomplete download is kept beside the target as `NAME.part`; the same command continues it (HTTP Range). The target
appears complete, by a rename, or not at all.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import http.client
import os
import re
import shutil
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from condense.system.errors import UserError
from condense.system.progress import Progress

URLS = {"imagebind": "https://dl.fbaipublicfiles.com/imagebind/imagebind_huge.pth"}
NOTICES = {"imagebind": "ImageBind's weights are under CC-BY-NC-SA 4.0: for non-commercial use only"}
CHUNK = 1 << 20  # bytes
TIMEOUT = 60  # seconds without a byte


def download(name: str, to: Path) -> Path:
    """Fetches the checkpoint `name` into the file `to`, or into the folder `to` under its own name. Returns the file.

    Raises UserError if it cannot be fetched or written; the part that arrived is kept.
    """
    url = URLS[name]
    path = to / url.rpartition("/")[2] if to.is_dir() else to
    if path.exists():
        if not zipfile.is_zipfile(path):
            raise UserError(f"{path}: already exists, but is not a complete checkpoint: remove it first")
        print(f"{path} already exists", file=sys.stderr)
        return path
    print(NOTICES[name], file=sys.stderr)
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as file:
            _alone(file, part)
            _fetch(url, file, part)
            print(f"checking {path.name}", file=sys.stderr)
            _check_content(part, url)
            os.replace(part, path)
    except urllib.error.URLError as error:
        raise UserError(f"{url}: cannot be fetched: {getattr(error, 'reason', error)}") from None
    except (http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise UserError(f"{url}: the connection broke ({error}): run the same command again to continue") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None
    return path


def _alone(file: IO[bytes], part: Path) -> None:
    """Locks the file: two downloads into one file would destroy both."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise UserError(f"{part}: another download is writing it") from None


def _fetch(url: str, file: IO[bytes], part: Path) -> None:
    """Appends the missing part to `file`; starts over if the server cannot continue."""
    with _answer(url, file.tell()) as (answer, total):
        if answer is None:  # nothing is missing
            return
        if answer.status != 206:  # the server sends everything again
            file.truncate(0)
            file.seek(0)
        have = file.tell()
        free = shutil.disk_usage(part.parent).free
        if total - have > free:
            raise UserError(f"{part}: {total - have:,} bytes are needed on that disk, but only {free:,} are free")
        with Progress(
            total, functools.partial(_progress_line, part.name.removesuffix(".part"), total), have
        ) as progress:
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                have += len(chunk)
                progress.show(have)
            progress.end(have)
        file.flush()
        os.fsync(file.fileno())
    if have < total:
        raise UserError(
            f"{url}: the connection broke after {have:,} of {total:,} bytes: run the same command again to continue"
        )
    if have > total:
        file.truncate(0)
        raise UserError(f"{url}: sent {have:,} bytes, but announced {total:,}: try again")


@contextlib.contextmanager
def _answer(url: str, have: int) -> Iterator[tuple[Any, int]]:
    """The server's answer, from byte `have` on if it supports that, and the total size; None if nothing is missing."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 416:
            raise UserError(f"{url}: the server answers {error.code} {error.reason}") from None
        if _total(error.headers.get("Content-Range")) == have:
            yield None, have
            return
        answer = urllib.request.urlopen(url, timeout=TIMEOUT)  # the local part is longer than the file
    with answer:
        if answer.status == 206:
            total = _total(answer.headers.get("Content-Range"), first=have)
        else:
            total = int(answer.headers.get("Content-Length") or -1)
        if total < 0:
            raise UserError(f"{url}: the server does not say how large the file is: fetch it with another program")
        yield answer, total


def _total(content_range: str | None, first: int | None = None) -> int:
    """The total size in `bytes 5-9/10` or `bytes */10`; -1 if it is missing, or the part does not start at `first`."""
    found = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+)", content_range or "")
    if found is None or (first is not None and found[1] != str(first)):
        return -1
    return int(found[2])


def _check_content(part: Path, url: str) -> None:
    """Deletes a damaged download: a checkpoint is a zip file with a CRC-32 of each tensor, checked by reading it once."""
    try:
        with zipfile.ZipFile(part) as content:
            damaged = content.testzip()
    except zipfile.BadZipFile:
        damaged = "the file"
    if damaged is not None:
        part.unlink()
        raise UserError(f"{url}: {damaged} arrived damaged: fetch it again")


def _progress_line(name: str, total: int, have: int, rate: float, left: str) -> str:
    """The progress line: share, rate and time left."""
    share = 100 * have / max(1, total)
    return f"{name}  {share:5.1f} % of {total / 1e9:.2f} GB  {rate / 1e6:.1f} MB/s  {left}"
