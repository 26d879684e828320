"""Ctrl-C and the system's request to end: the step is finished and saved before."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


class StoppedError(KeyboardInterrupt):
    """The run was asked to stop, has saved its state, and says how to go on."""

    def __init__(self, run: Path, where: str, code: int) -> None:
        """Say so.

        Args:
            run: The run folder.
            where: Where it stopped, as in "after step 12".
            code: The process's exit code: 128 and the signal's number, as shells have it.
        """
        super().__init__(
            f"stopped {where}, as asked, and saved. To go on: plainunet train --resume {run}"
        )
        self.code = code


class Stop:
    """Whether the run was asked to stop.

    Attributes:
        code: 0, or the exit code that the request asks for.
    """

    def __init__(self) -> None:
        """Begin unasked."""
        self.code = 0

    def __bool__(self) -> bool:
        """Whether it was asked."""
        return self.code != 0


@contextmanager
def asked_to_stop(on_note: Callable[[str], None]) -> Iterator[Stop]:
    """Take SIGINT (Ctrl-C) and SIGTERM as requests, the first of them; a second one is obeyed.

    In a thread that is not the main one nothing is changed, since signals do not come there.

    Args:
        on_note: Told what will be done.

    Yields:
        What becomes true when asked.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def take(number: int, frame: FrameType | None) -> None:
        if stop:
            again = KeyboardInterrupt()
            again.code = 128 + number  # type: ignore[attr-defined]
            raise again
        stop.code = 128 + number
        on_note("note: asked to stop: this step is finished and saved; once more stops at once")

    before = {number: signal.signal(number, take) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
