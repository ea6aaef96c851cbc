"""TF32 is off while an encoder works, whoever else in the process wants what; the user's setting comes back."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from small_problem import make_task

from condense.config.models import Hyperparameters
from condense.engine.engine import Engine
from condense.method.condensation import Condensation
from condense.system.precision import full_float32


def settings() -> tuple[bool, bool]:
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.fixture(params=[(True, True), (True, False), (False, False)])
def users(request: pytest.FixtureRequest) -> Iterator[tuple[bool, bool]]:
    before = settings()
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = request.param
    yield request.param
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def test_the_users_setting_comes_back_after_an_error_too(users: tuple[bool, bool]) -> None:
    @full_float32()
    def fail() -> None:
        assert settings() == (False, False)
        with full_float32():
            pass
        assert settings() == (False, False)  # the inner block's end is not the end
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert settings() == users


def test_a_thread_that_is_done_does_not_end_it_for_another(users: tuple[bool, bool]) -> None:
    inside, done = threading.Event(), threading.Event()

    def other() -> None:
        with full_float32():
            inside.set()
            done.wait(10)

    thread = threading.Thread(target=other)
    with full_float32():
        thread.start()
        assert inside.wait(10)
    assert settings() == (False, False)
    done.set()
    thread.join()
    assert settings() == users


def test_an_engines_passes_are_inside(users: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    task, seen = make_task(), []
    embed = type(task.encoder).embed

    def watched(self: torch.nn.Module, modality: str, x: torch.Tensor) -> torch.Tensor:
        seen.append(settings())
        return embed(self, modality, x)  # type: ignore[arg-type]

    monkeypatch.setattr(type(task.encoder), "embed", watched)
    Engine().run([Condensation(task, 1, "random", Hyperparameters(), seed=0, total_steps=2)], 2)
    assert set(seen) == {(False, False)}
    assert settings() == users
