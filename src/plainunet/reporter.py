"""How the user is told what happens: one object for everything that takes long.

`Reporter` says nothing and raises problems; a terminal, a tracker or a notebook overrides what it
wants to show. Nothing else in the package prints or warns of its own accord.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class StepDone:
    """One optimiser step."""

    epoch: int
    """Number of the epoch, from 0."""
    step: int
    """Number of the step in the run, from 0."""
    steps: int
    """How many the run will have, as far as that is known."""
    loss: float
    images_per_second: float
    learning_rate: float
    """What the step was made with."""
    epoch_step: int
    """How many steps of the epoch are done."""
    epoch_steps: int
    """How many it has, unless a time budget ends it before."""
    share: float
    """How much of the run is done, 0..1."""
    end: float | None = None
    """When training must be over, on the clock of `time.monotonic` [s], if there is a budget."""
    memory: int | None = None
    """Resident memory of the process [bytes], where it is known."""
    gpu_memory: int | None = None
    """Peak memory of tensors on a GPU so far [bytes]."""


class Reporter:
    """Told what happens; says nothing. Override the methods whose news you want."""

    def note(self, text: str) -> None:
        """Say something that the user should know, in one line or several."""

    def stage(self, name: str, total: int) -> None:
        """Begin a new part of the work, such as "reading", of `total` units."""

    def advance(self, done: int) -> None:
        """Count the units of the present stage that are done."""

    def problem(self, error: ValueError) -> None:
        """Take a problem with single files, after which the work could go on without them.

        Raises:
            ValueError: Always, in this class: a problem that nobody takes ends the work.
        """
        raise error

    def step(self, done: StepDone) -> None:
        """Take one optimiser step."""

    def epoch(self, row: dict[str, Any], best: float | None) -> None:
        """Take one epoch: a row of `metrics.jsonl`, and the best validation Dice so far."""

    def result(self, scores: dict[str, Any]) -> None:
        """Take the scores of the best checkpoint at native resolution: the end of a run."""


class Forwarding(Reporter):
    """Hands on everything to another reporter; override what is to happen otherwise."""

    def __init__(self, reporter: Reporter) -> None:
        """Forward to `reporter`."""
        self._reporter = reporter

    def note(self, text: str) -> None:
        """Forward a note."""
        self._reporter.note(text)

    def stage(self, name: str, total: int) -> None:
        """Forward the beginning of a stage."""
        self._reporter.stage(name, total)

    def advance(self, done: int) -> None:
        """Forward how far the stage is."""
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

    def result(self, scores: dict[str, Any]) -> None:
        """Forward the result."""
        self._reporter.result(scores)


def track(items: Iterable[_Item], name: str, total: int, reporter: Reporter) -> Iterator[_Item]:
    """Go through items that take long to make; the reporter is told how many are done.

    `name` is a stage of its own, such as "reading", if there are any of the `total` items.
    """
    if total:
        reporter.stage(name, total)
    for done, item in enumerate(items, 1):
        reporter.advance(done)
        yield item


class Collected(Reporter):
    """Keeps notes and problems, for later."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.notes: list[str] = []
        self.problems: list[ValueError] = []

    def note(self, text: str) -> None:
        """Keep a note."""
        self.notes.append(text)

    def problem(self, error: ValueError) -> None:
        """Keep a problem; of many of one kind, each."""
        self.problems += getattr(error, "parts", (error,))


silent = Reporter()
"""Says nothing."""
