"""What the user sees of work that goes on: a live screen, or plain lines."""

import os
import sys
import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from plainunet.reporter import Reporter, StepDone

_PLAIN_PERIOD = 30.0  # seconds between plain lines inside an epoch, or another part
_REFRESHES = 4  # of the live screen, a second
_REMEMBERED = 600.0  # seconds of which a bar knows how fast it went; steps may be slow


def speaks() -> bool:
    """Say whether this process shows what happens: of several of one run, the first does."""
    return os.environ.get("RANK", "0") == "0"


class Terminal(Console):
    """Standard output. Where its reader has ended, as in `train ... | head`, work goes on."""

    def on_broken_pipe(self) -> None:
        """Let what is written from now on go nowhere."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


class Screen(Reporter):
    """Shows what happens. A context manager.

    On a terminal the last lines are live: a bar of what is done now, and in training a bar of
    the run and what is known of its last step. They are as many at all times of training.
    """

    def __init__(self, console: Console | None = None) -> None:
        """Make the screen; left out, the console is standard output."""
        self._console = console or Terminal(highlight=False)
        self._bars = Progress(
            TextColumn("{task.description}", table_column=Column(min_width=22, no_wrap=True)),
            BarColumn(bar_width=None, table_column=Column(max_width=24)),
            _Numbers(table_column=Column(no_wrap=True)),
            console=self._console,
            speed_estimate_period=_REMEMBERED,
        )
        self._part = self._bars.add_task("", visible=False, percent=False, end=None)
        self._run = self._bars.add_task(
            "training", start=False, total=1.0, visible=False, percent=True, end=None
        )
        self._epoch: int | None = None  # whose bar is shown
        self._first: tuple[float, float] | None = None  # when the first step was done; the share
        self._last: StepDone | None = None
        self._dice = self._best = ""
        self._said = time.monotonic()
        self._stage = "", 0
        self._is_live = self._console.is_terminal and not self._console.is_dumb_terminal
        self._live = Live(self, console=self._console, refresh_per_second=_REFRESHES)

    def __enter__(self) -> Self:
        """Start showing."""
        if self._is_live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop showing, whatever happened."""
        self._bars.update(self._part, visible=False)
        self._live.stop()

    def note(self, text: str) -> None:
        """Show a note above what is live."""
        self._say(text)

    def stage(self, name: str, total: int) -> None:
        """Begin a bar for a part of the work."""
        self._begin_part(name, total)
        self._stage = name, total
        self._epoch = None
        self._refresh()

    def advance(self, done: int) -> None:
        """Fill the bar."""
        self._bars.update(self._part, completed=done)
        if self._is_quiet():
            self._say(f"{self._stage[0]} {done}/{self._stage[1]}")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Say for `rich` what is live."""
        yield self._bars
        yield from self._facts()

    def _begin_part(self, name: str, total: int) -> None:
        self._bars.reset(self._part, description=name, total=total, visible=True)

    def step(self, done: StepDone) -> None:
        """Show a step: the bars of its epoch and of the run, and what is known of it."""
        name = f"epoch {done.epoch + 1}"
        if done.end is None:
            name += f"/{done.steps // done.epoch_steps}"
        is_new, self._epoch = self._epoch != done.epoch, done.epoch
        if is_new:
            self._begin_part(name, done.epoch_steps)
        if self._first is None:
            self._first = time.monotonic(), done.share
            self._bars.start_task(self._run)
        self._last = done
        self._bars.update(self._part, completed=done.epoch_step)
        self._bars.update(self._run, completed=done.share, visible=True)
        left = self._foresee()
        if is_new:
            self._refresh()
        if self._is_quiet():
            self._say(
                f"{name}  step {done.epoch_step}/{done.epoch_steps}  {_percent(done.share)}",
                f"loss {done.loss:.4f}",
                *(self._dice, _rate(done.learning_rate), _speed(done.images_per_second)),
                *(*_memory(done), _left(left)),
            )

    def epoch(self, row: dict[str, Any], best: float | None) -> None:
        """Show an epoch in a line."""
        left = self._foresee()
        judged = row["validation"]  # not every epoch of a run by the clock is
        dice = judged["per_image"]["dice"]["mean_foreground"] if judged else None
        said = "" if dice is None else f"val Dice {dice:.4f}"
        self._dice = said or self._dice
        self._best = "" if best is None else f"best {best:.4f}"
        height, width = row["size"]
        loss = "no step made" if row["loss"] is None else f"loss {row['loss']:.4f}"
        self._say(
            *(f"epoch {row['epoch']:>3}", f"{height}x{width}", loss),
            *(said, "" if self._is_live else _rate(row["learning_rate"])),
            *(_speed(row["images_per_second"]), f"{row['seconds']:.0f} s"),
            f"{row['skipped']} steps left out" if row.get("skipped") else "",
            # on a terminal they stand below, and lines are short
            *([] if self._is_live else [*_memory(self._last), _left(left)]),
        )

    def _foresee(self) -> float | None:
        """Say how many seconds of training are left, and remember it for the bar."""
        now, last = time.monotonic(), self._last
        if last is None or self._first is None:
            return None
        begun, share = self._first
        if last.end is not None:
            end = last.end
        elif last.share > share:
            end = now + (now - begun) * (1 - last.share) / (last.share - share)
        else:
            return None
        self._bars.update(self._run, end=end)
        return max(0.0, end - now)

    def _facts(self) -> list[Text]:
        """What is known of the last step: two lines, none before it."""
        if (last := self._last) is None:
            return []
        learned = [f"loss {last.loss:.4f}", self._dice, self._best, _rate(last.learning_rate)]
        used = [_speed(last.images_per_second), *_memory(last)]
        return [
            Text("   ".join(filter(None, parts)), no_wrap=True, overflow="ellipsis")
            for parts in (learned, used)
        ]

    def _say(self, *parts: str) -> None:
        text = "  ".join(filter(None, parts))
        self._console.print(text, markup=False, soft_wrap=not self._is_live)
        self._said = time.monotonic()

    def _is_quiet(self) -> bool:
        """Whether a plain line is due."""
        return not self._is_live and time.monotonic() - self._said > _PLAIN_PERIOD

    def _refresh(self) -> None:
        if self._is_live:
            self._live.refresh()


class _Numbers(ProgressColumn):
    """How much is done, how long it has taken, and how long it will."""

    def render(self, task: Task) -> Text:
        """Write the numbers of a bar."""
        counted = f"{task.completed:.0f}/{task.total:.0f}"
        done = _percent(task.completed) if task.fields["percent"] else counted
        end = task.fields["end"]
        left = task.time_remaining if end is None else max(0.0, end - time.monotonic())
        passed = task.finished_time if task.finished else task.elapsed
        return Text(f"{done:<9}{_clock(passed)}  left {_clock(left)}")


def _clock(seconds: float | None) -> str:
    """Hours, minutes and seconds, as in 0:06:12."""
    if seconds is None:
        return "-:--:--"
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _left(seconds: float | None) -> str:
    return "" if seconds is None else f"left {_clock(seconds)}"


def _percent(share: float) -> str:
    return f"{int(100 * share)}%"  # all of it only at the end


def _rate(learning_rate: float) -> str:
    return f"learning rate {learning_rate:.1e}"


def _speed(images_per_second: float) -> str:
    return f"{images_per_second:.1f} images/s"


def _memory(step: StepDone | None) -> list[str]:
    """What the process has, and what tensors have taken on the GPU."""
    taken = {"memory": step and step.memory, "GPU": step and step.gpu_memory}
    return [f"{name} {_bytes(number)}" for name, number in taken.items() if number]


def _bytes(number: int) -> str:
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"
