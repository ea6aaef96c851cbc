"""What a command ends with in a line, and not in a traceback: mistakes that are the user's to mend, and what ran out."""

from __future__ import annotations

import errno


def is_full_disk(error: BaseException) -> bool:
    """Whether the operating system had no space left, or the user none of what they may use."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def what_ran_out(error: BaseException) -> str | None:
    """A line on what there was not enough of, if that is what an error says: space on a disk, or memory. Neither is a bug."""
    if is_full_disk(error):
        file = getattr(error, "filename", None)
        return f"no space is left on the disk{f' of {file}' if file else ''}"
    from condense.system.device_memory import is_out_of_memory  # here: it needs torch

    if is_out_of_memory(error):
        return f"out of memory even with the smallest batches ({' '.join(str(error).split())[:200]})"
    return None


class UserError(Exception):
    """A mistake in a configuration, a file or a command.

    Commands print it as one line on stderr and exit with status 2, without a traceback. The message says
    what is wrong, where (file, key or row) and which rule was broken. Anything else that escapes is a bug.
    """
