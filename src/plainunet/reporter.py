"""Progress reporting: one object for everything that takes long.

`Reporter` ignores everything and raises problems; a terminal, a tracker or a notebook overrides the
methods that it needs. Nothing else in the package prints or warns.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any, TypeVar

from plainunet.errors import require_types

_Item = TypeVar("_Item")

verbosity = 0
"""Of the command line: below 0 after `--quiet`, above after `--verbose`."""


@dataclass(frozen=True)
class StepDone:
    """One optimiser step."""

    epoch: int
    """Number of the epoch, from 0."""
    step: int
    """Number of the step in the run, from 0."""
    steps: int
    """Estimated number of steps of the run."""
    loss: float
    images_per_second: float
    learning_rate: float
    """Learning rate of the step."""
    epoch_step: int
    """Number of finished steps of the epoch."""
    epoch_steps: int
    """Number of steps of the epoch, unless a time budget ends it earlier."""
    share: float
    """Fraction of the run that is done, 0..1."""
    end: float | None = None
    """When training must end, on the clock of `time.monotonic` [s], if there is a budget."""
    memory: int | None = None
    """Resident memory of the process [bytes], if known."""
    gpu_memory: int | None = None
    """Peak memory of tensors on a GPU so far [bytes]."""


class Reporter:
    """Callbacks that do nothing; override those that you need.

    An error that a method raises ends the work; the run is resumed from its last saved state.

    Example:
        ```python
        from plainunet import Reporter, evaluate


        class Printing(Reporter):
            def stage(self, name, total):
                print(name, total)


        evaluate("runs/first", "my-data", reporter=Printing())
        ```
    """

    def note(self, text: str) -> None:
        """Receive a message for the user, of one or more lines."""

    def stage(self, name: str, total: int) -> None:
        """Start a new stage, such as "reading", of `total` units."""

    def advance(self, done: int) -> None:
        """Receive the number of finished units of the current stage."""

    def problem(self, error: ValueError) -> None:
        """Receive a problem with single files; the work can continue without them.

        Raises:
            ValueError: Always, in this class: an unhandled problem ends the work.
        """
        raise error

    def step(self, done: StepDone) -> None:
        """Receive an optimiser step."""

    def epoch(self, row: dict[str, Any], best: float | None) -> None:
        """Receive an epoch: a row of `metrics.jsonl`, and the best validation Dice so far."""

    def images(self, name: str, files: Sequence[Path]) -> None:
        """Receive image files that a run has written: its "validation previews" or "curves".

        They are replaced from time to time, after a validation or an epoch.
        """

    def should_stop(self) -> bool:
        """Answer, after each epoch, whether training ends now, as by early stopping.

        The best checkpoint is evaluated all the same. Of several processes, the first one asks.
        """
        return False

    def result(self, scores: dict[str, Any]) -> None:
        """Receive the scores of the best checkpoint, as by `Scores.as_dict`: the end of a run."""


class Forwarding(Reporter):
    """Forwards everything to another reporter; override what should differ."""

    def __init__(self, reporter: Reporter) -> None:
        """Forward to `reporter`."""
        self._reporter = reporter

    def note(self, text: str) -> None:
        """Forward a note."""
        self._reporter.note(text)

    def stage(self, name: str, total: int) -> None:
        """Forward the start of a stage."""
        self._reporter.stage(name, total)

    def advance(self, done: int) -> None:
        """Forward the progress of the stage."""
        self._reporter.advance(done)

    def problem(self, error: ValueError) -> None:
        """Forward a problem."""
        self._reporter.problem(error)

    def step(self, done: StepDone) -> None:
        """Forward a step."""
        self._reporter.step(done)

    def epoch(self, row: dict[str, Any], best: float | None) -> None:
        """Forward an epoch."""
        self._reporter.epoch(row, best)

    def images(self, name: str, files: Sequence[Path]) -> None:
        """Forward the images."""
        self._reporter.images(name, files)

    def should_stop(self) -> bool:
        """Forward the question."""
        return self._reporter.should_stop()

    def result(self, scores: dict[str, Any]) -> None:
        """Forward the result."""
        self._reporter.result(scores)


def track(items: Iterable[_Item], name: str, total: int, reporter: Reporter) -> Iterator[_Item]:
    """Iterate over items that are slow to make, and report progress.

    `name` is a stage of its own, such as "reading", unless `total` is 0.
    """
    if total:
        reporter.stage(name, total)
    for done, item in enumerate(items, 1):
        reporter.advance(done)
        yield item


class Collected(Reporter):
    """Collects notes and problems."""

    def __init__(self) -> None:
        """Start empty."""
        self.notes: list[str] = []
        self.problems: list[ValueError] = []

    def note(self, text: str) -> None:
        """Collect a note."""
        self.notes.append(text)

    def problem(self, error: ValueError) -> None:
        """Collect a problem; a problem of several parts as its parts."""
        self.problems += getattr(error, "parts", (error,))


silent = Reporter()
"""Ignores all progress."""

make_default: Callable[[], Reporter] = Reporter
"""Makes the reporter of a call without one; in a notebook, it shows the progress."""


def or_default(reporter: Reporter | None) -> Reporter:
    """The reporter given to a call, or the default.

    Raises:
        Error: It is no reporter.
    """
    require_types(reporter=(reporter, Reporter))
    return make_default() if reporter is None else reporter


# the filters of the module `warnings` are shared by all threads, and prediction has several
_FILTERING = RLock()
_noted: ContextVar[list[str] | None] = ContextVar("noted", default=None)


def warn(message: str, stacklevel: int = 1) -> None:
    """Warn; inside `note_warnings`, the message becomes a note.

    Args:
        message: The warning.
        stacklevel: As of `warnings.warn`: 1 blames the line that calls this.
    """
    if (noted := _noted.get()) is not None:
        noted.append(message)
    else:
        warnings.warn(message, stacklevel=stacklevel + 1)


@contextmanager
def note_warnings(file: Any, reporter: Reporter) -> Iterator[None]:
    """Report the warnings of this thread as notes that name the file, each once."""
    noted: list[str] = []
    token = _noted.set(noted)
    try:
        yield
    finally:
        _noted.reset(token)
    for message in dict.fromkeys(noted):
        reporter.note(f"{file}: {message}")


@contextmanager
def drop_warnings(category: type[Warning] = Warning) -> Iterator[None]:
    """Drop other libraries' warnings of a category; one thread at a time does so."""
    with _FILTERING, warnings.catch_warnings():
        warnings.simplefilter("ignore", category)
        yield
