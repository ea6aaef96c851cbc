"""Devices whose engines cannot start: they are left out, with a line, and the search goes on with the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from search.interruption import GO_ON, SECONDS_TO_ANSWER, Stopped


class NoDeviceLeft(Exception):
    """All devices that a client may use have been left out."""


def tell_left_out(pool: Any, say: Callable[[str], None]) -> None:
    """Tells of devices that the pool of engines has left out since. Raises Stopped if none is left."""
    import ray

    try:
        lines, none_left = ray.get(pool.left_out.remote(), timeout=SECONDS_TO_ANSWER)
    except (
        ray.exceptions.RayActorError,
        ray.exceptions.GetTimeoutError,
    ):  # `check_actors` tells of a pool that has died
        return
    for line in lines:
        say(f"warning: {line}")
    if none_left:
        raise no_device_left(none_left)


def no_device_left(why: object) -> Stopped:
    """What ends a search that has no device left."""
    return Stopped(f"no device is left to go on with: {why}. Once one works, {GO_ON}")
