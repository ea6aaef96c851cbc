"""Which encoder a configuration names, and what is said about one that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from condense.config.files import load_config
from condense.config.models import CondensationConfig, ImageBindEncoder, TaskConfig, TinyEncoder, validate
from condense.system.errors import UserError


def encoder_of(content: dict[str, Any]) -> Any:
    return validate(TaskConfig, {"encoder": content}, "mine.yaml").encoder


def refusal(content: Any) -> str:
    with pytest.raises(UserError) as caught:
        encoder_of(content)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_name_chooses_and_without_one_it_is_tiny() -> None:
    assert encoder_of({}) == TinyEncoder()
    assert encoder_of({"dim": 32}) == TinyEncoder(dim=32)
    assert encoder_of({"name": "tiny", "dim": 32}) == TinyEncoder(dim=32)
    assert encoder_of({"name": "imagebind", "checkpoint": "a.pth"}) == ImageBindEncoder(checkpoint=Path("a.pth"))
    assert encoder_of({"name": "imagebind", "size": "small"}).checkpoint is None
    for encoder in (TinyEncoder(dim=5), ImageBindEncoder(checkpoint=Path("a.pth"), precision="bfloat16")):
        dumped = CondensationConfig(encoder=encoder).model_dump(mode="json")
        assert CondensationConfig.model_validate(dumped).encoder == encoder


def test_what_cannot_be_is_told_in_one_line() -> None:
    assert "`name` must be one of tiny, imagebind" in refusal({"name": "clip"})
    assert "`name` must be one of tiny, imagebind" in refusal(3)
    assert refusal({"name": "imagebind", "checkpoint": "a", "dim": 32}) == "mine.yaml: unknown key `encoder.dim`"
    assert refusal({"tiny": 1}) == "mine.yaml: unknown key `encoder.tiny`"
    assert refusal({"dim": 1}).startswith("mine.yaml: `encoder.dim`: Input should be greater")
    missing = refusal({"name": "imagebind"})
    assert missing.startswith("mine.yaml: `encoder`: `checkpoint` is missing")
    assert "python -m condense download imagebind --to FILE" in missing
    assert "must not be given" in refusal({"name": "imagebind", "checkpoint": "a.pth", "random_weights": True})


def test_a_checkpoint_is_relative_to_the_file_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("encoder: {name: imagebind, checkpoint: weights/huge.pth}")
    assert load_config(path).encoder == ImageBindEncoder(checkpoint=tmp_path.resolve() / "weights" / "huge.pth")
    changed = load_config(path, ["encoder.checkpoint=other.pth"])
    assert changed.encoder == ImageBindEncoder(checkpoint=Path.cwd() / "other.pth")
