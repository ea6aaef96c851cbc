"""Emoji: pictures of 64 pixels (Twemoji), each with its name and keywords: vision and text that belong together.

The class is Unicode's category. The group is the concept: `man health worker` and `woman health worker` are one. What looks
the same (flags of territories) is one group as well. Skin tones are left out.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from condense.recipes.folder import inside, write_file
from condense.recipes.recipe import Archive, Recipe
from condense.recipes.splits import split_groups
from condense.recipes.tables import NEXT, count, write_manifest, write_task
from condense.recipes.unpack import members, read_members
from condense.system.errors import UserError
from condense.system.progress import Progress

PICTURES = "package/img/twitter/64/"
KEYWORDS = 6
NOT_A_CLASS = "Component"  # five skin tones
# What makes variants of one concept.
PEOPLE = {
    "man",
    "woman",
    "men",
    "women",
    "person",
    "people",
    "boy",
    "girl",
    "male",
    "female",
    "adult",
    "child",
    "mr",
    "mrs",
}
PEOPLE |= {"mx", "santa", "bride", "and"}
SAME = {"older": "old", "merman": "mermaid", "merperson": "mermaid"}


def write(sources: Mapping[str, Path], folder: Path, options: Mapping[str, Any]) -> list[str]:
    """images/*.png, manifest.csv and task.yaml."""
    archive = sources["emoji-datasource-twitter"]
    (listed,) = read_members(archive, "package/emoji.json")
    (words,) = read_members(sources["emojilib"], "package/dist/emoji-en-US.json")
    known = {_plain(character): said for character, said in json.loads(words).items()}
    rows = {}
    for entry in json.loads(listed):
        said = known.get(_plain("".join(chr(int(code, 16)) for code in entry["unified"].split("-"))))
        if said and entry["category"] != NOT_A_CLASS and entry["has_img_twitter"]:
            name = _words(entry["name"].lower() if said[0].endswith("_") else said[0])
            text = ", ".join([name, *keywords(name, said[1:])])
            rows[entry["image"]] = {"label": entry["category"], "group": concept(name), "text": text}
    _write_pictures(archive, folder, rows)
    split_of = split_groups([row["group"] for row in rows.values()], [row["label"] for row in rows.values()])
    for row in rows.values():
        row["split"] = split_of[row["group"]]
    write_task(
        folder,
        "Emoji: 9 categories, picture and words. Splits are grouped by concept.",
        {
            "dataset": {"name": "manifest", "path": "manifest.csv"},
            "encoder": {"name": "tiny", "image_channels": 3},
            "dpc": 5,
        },
    )
    write_manifest(folder / "manifest.csv", ("split", "label", "group", "vision", "text"), list(rows.values()))
    return [count(list(rows.values()))]


def concept(name: str) -> str:
    """The name without what makes variants of one concept."""
    words = [SAME.get(word, word) for word in re.findall(r"[^\s,:]+", name.replace(" facing right", ""))]
    return " ".join(word for word in words if word not in PEOPLE) or "person"


def keywords(name: str, said: Sequence[str]) -> list[str]:
    """The first keywords that are words, and not the name again."""
    words = [_words(word) for word in said if re.fullmatch(r"[\w\s'’-]+", word)]
    return [word for word in dict.fromkeys(words) if word != name][:KEYWORDS]


def _words(spelled: str) -> str:
    return " ".join(re.split(r"[_\s]+", spelled)).strip()


def _plain(character: str) -> str:
    return character.replace("\ufe0f", "")  # which says only that it is a picture


def _write_pictures(archive: Path, folder: Path, rows: dict[str, dict[str, str]]) -> None:
    """Writes the picture of each row, and names it there; groups that share a picture become one."""
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    for image in rows:
        inside(images, image)
    first: dict[str, str] = {}  # picture -> the group that has it
    same: dict[str, str] = {}  # group -> the one that it is part of

    def root(group: str) -> str:
        while group in same:
            group = same[group]
        return group

    line = functools.partial(_progress_line, len(rows))
    with Progress(len(rows), line, quiet=3.0) as progress:
        for name, content in members(archive, lambda name: name.removeprefix(PICTURES) in rows):
            image = name.removeprefix(PICTURES)
            write_file(inside(images, image), on_white(content))
            row = rows[image]
            row["vision"] = f"images/{image}"
            group = root(row["group"])
            other = root(first.setdefault(hashlib.sha256(content).hexdigest(), group))
            if other != group:
                same[group] = other
            progress.show(sum("vision" in row for row in rows.values()))
    for image, row in rows.items():
        if "vision" not in row:
            raise UserError(f"{archive}: has no {PICTURES}{image}")
        row["group"] = root(row["group"])


def on_white(png: bytes) -> bytes:
    """A picture without transparency. Left transparent, what shows is whatever colour hides there, which is no part of it."""
    from PIL import Image  # here: `--help` needs it not

    with Image.open(io.BytesIO(png)) as opened:
        picture = opened.convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    file = io.BytesIO()
    Image.alpha_composite(white, picture).convert("RGB").save(file, "png")
    return file.getvalue()


def _progress_line(total: int, have: int, rate: float, left: str) -> str:
    return f"pictures  {have:,} of {total:,}  {left}"


RECIPE = Recipe(
    name="emoji",
    what="1,906 emoji in 9 categories, vision (64 px) + text, pairs by nature",
    size="62 MB",
    licence="images CC-BY-4.0 (Twemoji), lists MIT",
    archives=(
        Archive(
            file="emoji-datasource-twitter-16.0.0.tgz",
            sha256="f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
            client="npm",
            package="emoji-datasource-twitter",
            version="16.0.0",
        ),
        Archive(
            file="emojilib-4.0.3.tgz",
            sha256="7f9a6b43cff31d18985b7d65d11faba5bd971cbcc60020cf6d09322fbaaaf303",
            client="npm",
            package="emojilib",
            version="4.0.3",
        ),
    ),
    write=write,
    next=NEXT,
    version=2,  # pictures on white
)
