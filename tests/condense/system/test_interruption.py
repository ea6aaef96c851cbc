"""Signals come when the work looks for them, and leave the process as it was."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from condense.system.interruption import SIGNALS, Interruption

pytestmark = pytest.mark.usefixtures("hang_up_is_heard")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_waits_for_the_next_look_and_the_second_does_not(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Interruption(waits=True) as interruption:
        interruption.check()
        os.kill(os.getpid(), number)
        assert interruption.asked
        with pytest.raises(KeyboardInterrupt):
            interruption.check()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", SIGNALS)
def test_without_waiting_it_comes_at_once(number: signal.Signals) -> None:
    with Interruption(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)


def test_one_inside_of_another_gives_back() -> None:
    with Interruption() as outer:
        handlers = [signal.getsignal(number) for number in SIGNALS]
        with Interruption(waits=True):
            pass
        assert [signal.getsignal(number) for number in SIGNALS] == handlers
        assert not outer.asked


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            os.kill(os.getpid(), signal.SIGHUP)
            interruption.check()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_may_enter_it() -> None:
    found: list[bool] = []

    def enter() -> None:
        with Interruption(waits=True) as interruption:
            interruption.check()
            found.append(interruption.asked)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [False]
