"""Texts that are longer than what the encoder reads: what is cut off says nothing, and cut texts may be one and the same."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from condense.inputs.spec import WrittenSpec

SHOWN = 40  # characters of an example


def cut_texts(source: str, spec: WrittenSpec, texts: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """One warning if some of the (place, text) are cut; empty texts are missing. `source`: the file that they are in."""
    count, example = 0, ""
    whole: set[str] = set()
    read: dict[Hashable, set[str]] = {}  # what is left of a cut text -> the texts that it is left of
    for place, text in texts:
        if not text:
            continue
        whole.add(text)
        left = spec.left_of(text)
        if left is not None:
            count += 1
            example = example or f"{place}: {text[:SHOWN]!r} ..."
            read.setdefault(left, set()).add(text)
    if not count:
        return ()
    told = f"{source}: column `{spec.modality}`: {count:,} item{'s have' if count > 1 else ' has'} a text longer than what is "
    told += f"read ({spec.reads}), whose end is left out, such as {example}"
    same = sum(len(own) for own in read.values() if len(own) > 1)
    return (told + (f"; {same:,} different texts are then the same as another" if same else ""),)
