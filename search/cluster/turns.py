"""One search at a time on a cluster: another one waits for its turn.

Two searches would have an engine each on a device, with the embeddings and a memory budget each, of which neither knows the
other's. The name of the pool of engines is the claim: Ray gives a name once, and it is free again when the search has ended, or
was killed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ray

NAME, NAMESPACE = "EnginePool", "condense"  # of the actor that hands out engines
EVERY = 30.0  # seconds between two messages
LOOK = 1.0  # seconds between two looks
UNHEARD = 3.0  # seconds that a search waits without a word: one that has ended may not be gone yet


def pool_when_free(pool: type[Any], search: str, say: Callable[[str], None], **options: Any) -> Any:
    """The pool of engines of this search (an actor of the class `pool`), once no other search on the cluster has one. `search`:
    what others are told that wait for it. `options`: of the actor."""
    began = time.monotonic()
    said = began + UNHEARD - EVERY
    while True:
        try:
            return ray.remote(pool).options(name=NAME, namespace=NAMESPACE, **options).remote(search=search)
        except ray.exceptions.ActorAlreadyExistsError:
            pass
        if time.monotonic() - said >= EVERY and (other := _owner()) is not None:
            said = time.monotonic()
            say(f"waiting for the search that runs on this cluster: {other} ({said - began:.0f} s so far)")
        time.sleep(LOOK)


def _owner() -> str | None:
    """The search that has the pool; None if it has just ended, or does not answer now."""
    try:
        return str(ray.get(ray.get_actor(NAME, NAMESPACE).owner.remote(), timeout=LOOK))
    except (ValueError, ray.exceptions.RayError, ray.exceptions.GetTimeoutError):
        return None
