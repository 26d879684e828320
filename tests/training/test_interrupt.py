"""Real signals, to the process that runs the tests."""

import os
import signal
import threading
from pathlib import Path

import pytest

from plainunet.training.state import StoppedError, asked_to_stop


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no signals to one process")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_is_obeyed(number: signal.Signals) -> None:
    notes: list[str] = []
    before = signal.getsignal(number)
    with asked_to_stop(notes.append) as stop:
        assert not stop
        signal.raise_signal(number)
        assert stop
        assert stop.code == 128 + number
        assert len(notes) == 1
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_in_another_thread_nothing_is_changed() -> None:
    seen = []

    def work() -> None:
        with asked_to_stop(lambda said: None) as stop:
            seen.append((signal.getsignal(signal.SIGINT), bool(stop)))

    thread = threading.Thread(target=work)
    before = signal.getsignal(signal.SIGINT)
    thread.start()
    thread.join()
    assert seen == [(before, False)]


def test_it_says_how_to_go_on() -> None:
    error = StoppedError(Path("runs/cars"), "after step 12", 130)
    assert isinstance(error, KeyboardInterrupt)
    assert str(error) == (
        "stopped after step 12, as asked, and saved. To go on: plainunet train --resume runs/cars"
    )
    assert error.code == 130
