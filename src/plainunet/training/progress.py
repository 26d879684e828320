"""What the user sees of work that goes on: a live screen, or plain lines."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from plainunet.training.events import Advance, EpochDone, Event, Note, Stage, StepDone

_PLAIN_PERIOD = 30.0  # seconds between plain lines inside an epoch


class Screen:
    """Shows events; call it with each. A context manager."""

    def __init__(self, console: Console | None = None) -> None:
        """Make the screen.

        Args:
            console: Where to show; left out, standard output.
        """
        self._console = console or Console(highlight=False)
        self._live = self._console.is_terminal
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=self._console,
            disable=not self._live,
        )
        self._run: TaskID | None = None
        self._stage: TaskID | None = None
        self._validation = ""
        self._said = self._begun = time.monotonic()
        self._first_step = 0

    def __enter__(self) -> Self:
        """Start showing.

        Returns:
            The screen.
        """
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop showing, whatever happened."""
        self._drop_stage()
        self._bars.stop()

    def __call__(self, event: Event) -> None:
        """Show one event.

        Args:
            event: What happened.
        """
        match event:
            case Stage(name, total):
                self._drop_stage()
                self._stage = self._bars.add_task(name, total=total, text="")
            case Advance(done) if self._stage is not None:
                self._bars.update(self._stage, completed=done)
            case Note(text):
                self._console.print(text, markup=False)
            case StepDone():
                self._show_step(event)
            case EpochDone(row):
                self._drop_stage()
                self._show_epoch(row)
            case _:
                pass

    def _show_step(self, event: StepDone) -> None:
        self._drop_stage()
        if self._run is None:
            self._run = self._bars.add_task("training", total=event.steps, text="")
            self._begun, self._first_step = time.monotonic(), event.step
        text = (
            f"epoch {event.epoch + 1}  loss {event.loss:.4f}  {self._validation}"
            f"{event.images_per_second:.1f} images/s"
        )
        self._bars.update(self._run, completed=event.step + 1, text=text)
        if not self._live and time.monotonic() - self._said > _PLAIN_PERIOD:
            done = event.step - self._first_step + 1
            left = (time.monotonic() - self._begun) / done * (event.steps - event.step - 1)
            self._say(f"step {event.step + 1}/{event.steps}  {text}  {left / 60:.1f} min left")

    def _show_epoch(self, row: dict[str, Any]) -> None:
        judged = row["validation"]  # not every epoch of a run by the clock is
        dice = judged["per_image"]["dice"]["mean_foreground"] if judged else None
        self._validation = "" if dice is None else f"val Dice {dice:.4f}  "
        height, width = row["size"]
        self._say(
            f"epoch {row['epoch']:>3}  {height}x{width}  loss {row['loss']:.4f}  "
            f"{self._validation}{row['images_per_second']:.1f} images/s  {row['seconds']:.0f} s"
        )

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False)
        self._said = time.monotonic()

    def _drop_stage(self) -> None:
        if self._stage is not None:
            self._bars.remove_task(self._stage)
            self._stage = None


@contextmanager
def bar(name: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar.

    Args:
        name: What is done, such as "predicting".

    Yields:
        A function to be told how many of how many parts are done.
    """
    with bars() as on_progress:
        yield lambda done, total: on_progress(name, done, total)


@contextmanager
def bars() -> Iterator[Callable[[str, int, int], None]]:
    """Show a progress bar for one thing after the other.

    Yields:
        A function to be told what is done, and how many of how many parts.
    """
    with Screen() as screen:

        def on_progress(name: str, done: int, total: int) -> None:
            if done == 1:
                screen(Stage(name, total))
            screen(Advance(done))

        yield on_progress
