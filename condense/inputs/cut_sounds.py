"""Sound files that end before what their header says: a copy that broke off, read as silence after the cut.

FLAC's decoder refuses them itself. What a WAV or AIFF holds is the size of its chunk of samples; what an MP3 holds is in its
first frame (Xing, Info), if its encoder wrote that. Ogg has no such size.
"""

from __future__ import annotations

import struct
from pathlib import Path

from condense.system.errors import UserError

SHARE = 0.01  # of the samples: what may be missing, since some programs write sizes that are a little off
FRAMES = 2304  # and of an MP3 two frames: what decoders leave out at its ends
UNKNOWN = 0x7FFF0000  # sizes from here on are written by programs that did not know the end (ffmpeg into a pipe)
CHUNKS = {b"RIFF": ("<", b"data"), b"FORM": (">", b"SSND")}  # of WAV, AIFF: byte order, chunk of samples


def check_whole(path: Path) -> None:
    """Reads chunk headers only. Raises UserError, without the file's name, if a WAV or AIFF was cut."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        order, samples = CHUNKS.get(file.read(4), ("", b""))
        at = 12
        while order and at + 8 <= size:
            file.seek(at)
            name, promised = struct.unpack(f"{order}4sI", file.read(8))
            at += 8
            if name == samples:
                if promised < UNKNOWN:
                    _check(promised, size - at, "bytes of sound")
                return
            at += promised + promised % 2  # chunks begin at even places


def check_decoded(promised: int, decoded: int) -> None:
    """Samples per channel, by the header and as decoded. Raises UserError if a good part is missing."""
    if promised - decoded > FRAMES:
        _check(promised, decoded, "samples")


def _check(promised: int, there: int, unit: str) -> None:
    if promised - there > SHARE * promised:
        share = max(0, there) / promised
        raise UserError(
            f"was cut: its header says {promised:,} {unit}, but only {max(0, there):,} are there ({share:.0%})"
        )
