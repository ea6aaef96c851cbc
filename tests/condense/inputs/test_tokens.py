"""Text as token embeddings: where it ends, how it is read and shown, and that the optimiser never moves its end."""

from __future__ import annotations

import functools
import importlib.util
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from condense.config.models import Hyperparameters, ImageBindEncoder
from condense.data.dataset import Dataset, MemorySplit
from condense.embeddings.embeddings import embed_split
from condense.embeddings.task import Task
from condense.encoders import build_encoder, encoder_specs
from condense.engine.engine import Engine
from condense.export.export import export
from condense.inputs.media import decode_text, preview, read_item
from condense.inputs.tokens import TokenSpec, end_positions
from condense.method.condensation import Condensation
from condense.system.errors import UserError

LENGTH, WIDTH, START, END, PADDING = 12, 6, 30, 31, 0


class Letters:
    """A token per letter: a is 1."""

    def encode(self, text: str) -> list[int]:
        return [ord(letter) - 96 for letter in text]

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(chr(96 + token) if token else "!" for token in tokens)


@functools.cache
def table() -> Tensor:
    return torch.randn(32, WIDTH, generator=torch.Generator().manual_seed(0))


SPEC = TokenSpec("text", (LENGTH, WIDTH), -10, 10, "letters", START, END, PADDING, table, Letters)


@pytest.mark.parametrize("text", ["a", "abc", "abcdefghij", "abcdefghijklmnopq" * 9])
def test_every_text_ends_in_the_end_token(text: str) -> None:
    tokens = SPEC.tokens(text).tolist()
    kept = text[: LENGTH - 2]
    assert tokens == [START, *Letters().encode(kept), END] + [PADDING] * (LENGTH - 2 - len(kept))
    item = SPEC.encode(text)
    assert torch.equal(item, table()[torch.tensor(tokens)])
    assert end_positions(item[None], table()[PADDING]).item() == tokens.index(END)
    assert SPEC.decode(item) == kept


def test_the_padding_token_inside_a_text_is_text() -> None:
    item = table()[torch.tensor([START, 1, PADDING, PADDING, END, *[PADDING] * 7])]
    assert end_positions(item[None], table()[PADDING]).item() == 4
    assert SPEC.decode(item) == "a!!"


def test_an_item_without_padding_ends_at_its_last_position() -> None:
    items = torch.randn(3, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1))
    items[1, 5:] = table()[PADDING]
    items[2] = table()[PADDING]
    assert end_positions(items, table()[PADDING]).tolist() == [LENGTH - 1, 4, LENGTH - 1]


def test_nearest_tokens_are_those_of_the_distance_matrix() -> None:
    item = SPEC.encode("abcdefghij") + 0.8 * torch.randn(LENGTH, WIDTH, generator=torch.Generator().manual_seed(2))
    assert SPEC.nearest(item) == torch.cdist(item.double(), table().double()).argmin(1).tolist()


def test_previews_and_manifests_read_and_show_it(tmp_path: Path) -> None:
    item = read_item(SPEC, "hello", tmp_path)
    assert preview(SPEC, item) == {".txt": b"hello"}
    assert decode_text(SPEC, item) == "hello"
    with pytest.raises(UserError, match="the text is empty"):
        read_item(SPEC, "  ", tmp_path)
    assert pickle.loads(pickle.dumps(SPEC)) == SPEC
    assert SPEC.describe()["source"] == "letters"


# Through ImageBind ----------------------------------------------------------------------------------------------------

CONFIG = ImageBindEncoder(size="small")
installed = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("imagebind", "einops", "ftfy", "regex")),
    reason="the packages of the extra `imagebind` are not installed",
)


def word_list(count: int, seed: int) -> str:
    words = ("dog", "rain", "engine", "guitar", "crowd", "river", "bell", "wind", "laughter", "train")
    drawn = torch.randint(0, len(words), (count,), generator=torch.Generator().manual_seed(seed))
    return " ".join(words[i] for i in drawn.tolist())


def captions() -> Dataset:
    """Three classes of captions, short and long, with an image each."""
    specs = {m: encoder_specs(CONFIG)[m] for m in ("vision", "text")}
    text, generator = specs["text"], torch.Generator().manual_seed(3)
    assert isinstance(text, TokenSpec)
    splits = []
    for split in range(2):
        lengths = (3, 9, 40, 120)
        texts = [word_list(lengths[i % 4], 100 * split + i) for i in range(12)]
        inputs = {
            "vision": torch.randn(12, 3, 224, 224, generator=generator),
            "text": torch.stack([text.encode(words) for words in texts]),
        }
        splits.append(MemorySplit(inputs, torch.arange(3).repeat_interleave(4)))
    return Dataset("captions", specs, ("a", "b", "c"), splits[0], splits[1], splits[1], "captions")


@functools.cache
def task() -> Task:
    dataset, device = captions(), torch.device("cpu")
    encoder: Any = build_encoder(CONFIG, dataset)
    embedded = [embed_split(encoder, split, device) for split in (dataset.condense, dataset.validation)]
    return Task(dataset, encoder, embedded[0], embedded[1], device)


@installed
def test_texts_of_5_and_of_200_words_embed_as_in_the_official_model() -> None:
    """The package's tokenizer cuts a long text without its end: all long texts that begin alike would embed alike."""
    from condense.encoders.imagebind import random_model

    official = random_model("small", CONFIG.seed).eval()
    spec, encoder = encoder_specs(CONFIG)["text"], task().encoder
    assert isinstance(spec, TokenSpec)
    short, long = word_list(5, 0), word_list(200, 1)
    other = " ".join([*long.split()[:60], "silence", *long.split()[61:]])
    tokens = torch.stack([spec.tokens(text) for text in (short, long, other)])
    assert tokens[0].tolist()[:1] == [49406] and tokens[0, 6] == 49407 and not tokens[0, 7:].any()
    assert (tokens[1:, -1] == 49407).all()
    with torch.no_grad():
        expected = F.normalize(official({"text": tokens})["text"], dim=1)
    embedded = encoder.embed("text", torch.stack([spec.encode(text) for text in (short, long, other)]))
    assert torch.allclose(embedded, expected, atol=2e-6)
    assert (embedded[1] - embedded[2]).abs().max() > 1e-4
    assert spec.decode(spec.encode(short)) == short
    assert spec.decode(spec.encode(long)).split() == long.split()[:75]


@installed
def test_known_tokens_of_clip() -> None:
    """From OpenAI's notebook: `clip.tokenize("Hello World!")`."""
    spec = encoder_specs(CONFIG)["text"]
    assert isinstance(spec, TokenSpec)
    assert spec.tokens("Hello World!").tolist()[:6] == [49406, 3306, 1002, 256, 49407, 0]
    assert spec.tokens("before <|endoftext|> after").tolist().count(49407) == 1


@installed
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_condensing_moves_a_text_but_never_its_end(optimizer: str, tmp_path: Path) -> None:
    spec = task().dataset.specs["text"]
    assert isinstance(spec, TokenSpec)
    rate = 0.05 if optimizer == "sgd" else 0.003
    setting = Hyperparameters(learning_rate=rate, learning_rate_vision=rate, optimizer=optimizer, schedule="constant")
    replica = Condensation(task(), 2, "random", setting, 0, 20)
    padding = spec.open_table()[PADDING]
    before = {m: x.clone() for m, x in replica.inputs.items()}
    ends = end_positions(before["text"], padding)
    assert len(set(ends.tolist())) > 1
    losses = Engine().run([replica], 20)[0][:, 3]
    after = replica.inputs["text"]
    assert torch.equal(end_positions(after, padding), ends)
    for row, start, end in zip(after, before["text"], ends.tolist(), strict=True):
        assert (row[: end + 1] != start[: end + 1]).any(1).all()
        assert (row[end + 1 :] == padding).all()
    assert (replica.inputs["vision"] != before["vision"]).flatten(1).any(1).all()
    assert losses[-5:].mean() < losses[:5].mean()
    record: dict[str, Any] = {"config": {}, "fingerprints": {}}
    export(tmp_path / "out", replica.inputs, replica.labels, dataset=task().dataset, record=record)
    shown = sorted((tmp_path / "out" / "previews").glob("*_text.txt"))
    assert len(shown) == 6
    assert all(file.read_text().strip() for file in shown)
