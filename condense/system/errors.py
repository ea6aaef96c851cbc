"""Errors that a command reports in one line instead of a traceback: user mistakes, and a full disk or memory."""

from __future__ import annotations

import errno


def is_full_disk(error: BaseException) -> bool:
    """Whether the disk is full or the user's quota is used up."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def what_ran_out(error: BaseException) -> str | None:
    """One line if an error means that disk space or memory ran out, which is not a bug; None for other errors."""
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
