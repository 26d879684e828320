"""Progress on the terminal: live bars, or plain lines in a log file."""

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

from plainunet import reporter
from plainunet.reporter import Reporter, StepDone

_PLAIN_PERIOD = 30.0  # seconds between plain lines within a stage
_REFRESHES = 4  # per second
_SPEED_WINDOW = 600.0  # seconds over which a bar estimates its speed; steps may be slow


def speaks() -> bool:
    """Whether this process prints: only the first process of a run does, and no quiet one."""
    return os.environ.get("RANK", "0") == "0" and reporter.verbosity >= 0


class Terminal(Console):
    """Standard output; work continues after a broken pipe, as in `train ... | head`."""

    def __init__(self, **options: Any) -> None:
        """Make it; after `--quiet` it prints nothing."""
        super().__init__(quiet=reporter.verbosity < 0, **options)

    def on_broken_pipe(self) -> None:
        """Discard all further output."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


class Screen(Reporter):
    """Shows progress; a context manager.

    On a terminal the last lines are live: a bar of the current stage and, in training, a bar of
    the run and the numbers of its last step. Their count stays the same throughout training.
    """

    def __init__(self, console: Console | None = None) -> None:
        """Make the screen; the default console is standard output."""
        self._console = console or Terminal(highlight=False)
        self._bars = Progress(
            TextColumn(
                "{task.description}",
                markup=False,  # it may be a path
                table_column=Column(min_width=22, no_wrap=True),
            ),
            BarColumn(bar_width=None, table_column=Column(max_width=24)),
            _Numbers(table_column=Column(no_wrap=True)),
            console=self._console,
            speed_estimate_period=_SPEED_WINDOW,
        )
        self._bar = self._bars.add_task("", visible=False, percent=False, end=None)
        self._run = self._bars.add_task(
            "training", start=False, total=1.0, visible=False, percent=True, end=None
        )
        self._epoch: int | None = None  # the epoch of the current bar
        self._first: tuple[float, float] | None = None  # time of the first step, fraction done
        self._last: StepDone | None = None
        self._dice = self._best = ""
        self._printed = time.monotonic()
        self._stage = "", 0
        self._is_live = self._console.is_terminal and not self._console.is_dumb_terminal
        self._live = Live(self, console=self._console, refresh_per_second=_REFRESHES)

    def __enter__(self) -> Self:
        """Start the live display."""
        if self._is_live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the live display."""
        self._bars.update(self._bar, visible=False)
        self._live.stop()

    def note(self, text: str) -> None:
        """Print a note above the bars."""
        self._print(text)

    def stage(self, name: str, total: int) -> None:
        """Start a bar for a stage."""
        self._start_bar(name, total)
        self._stage = name, total
        self._epoch = None
        self._refresh()

    def advance(self, done: int) -> None:
        """Advance the bar."""
        self._bars.update(self._bar, completed=done)
        if self._is_line_due():
            self._print(f"{self._stage[0]} {done}/{self._stage[1]}")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render the live lines."""
        yield self._bars
        yield from self._numbers()

    def _start_bar(self, name: str, total: int) -> None:
        self._bars.reset(self._bar, description=name, total=total, visible=True)

    def step(self, done: StepDone) -> None:
        """Show a step: the bars of its epoch and of the run, and its numbers."""
        name = f"epoch {done.epoch + 1}"
        if done.end is None:
            name += f"/{done.steps // done.epoch_steps}"
        is_new, self._epoch = self._epoch != done.epoch, done.epoch
        if is_new:
            self._start_bar(name, done.epoch_steps)
        if self._first is None:
            self._first = time.monotonic(), done.share
            self._bars.start_task(self._run)
        self._last = done
        self._bars.update(self._bar, completed=done.epoch_step)
        self._bars.update(self._run, completed=done.share, visible=True)
        left = self._estimate_left()
        if is_new:
            self._refresh()
        if self._is_line_due():
            self._print(
                f"{name}  step {done.epoch_step}/{done.epoch_steps}  {_percent(done.share)}",
                f"loss {done.loss:.4f}",
                *(self._dice, _rate(done.learning_rate), _speed(done.images_per_second)),
                *(*_memory(done), _left(left)),
            )

    def epoch(self, row: dict[str, Any], best: float | None) -> None:
        """Print the line of an epoch."""
        left = self._estimate_left()
        scores = row["validation"]  # with a time budget, not every epoch is validated
        score = scores["per_image"]["dice"]["mean_foreground"] if scores else None
        dice = "" if score is None else f"val Dice {score:.4f}"
        self._dice = dice or self._dice
        self._best = "" if best is None else f"best {best:.4f}"
        height, width = row["size"]
        loss = "all steps skipped" if row["loss"] is None else f"loss {row['loss']:.4f}"
        self._print(
            *(f"epoch {row['epoch']:>3}", f"{height}x{width}", loss),
            *(dice, "" if self._is_live else _rate(row["learning_rate"])),
            *(_speed(row["images_per_second"]), f"{row['seconds']:.0f} s"),
            f"skipped steps: {row['skipped']}" if row.get("skipped") else "",
            # on a terminal, the live lines show these
            *([] if self._is_live else [*_memory(self._last), _left(left)]),
        )

    def _estimate_left(self) -> float | None:
        """Estimate the remaining training time [s], also for the bar."""
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

    def _numbers(self) -> list[Text]:
        """The numbers of the last step: two lines, or none before the first step."""
        if (last := self._last) is None:
            return []
        quality = [f"loss {last.loss:.4f}", self._dice, self._best, _rate(last.learning_rate)]
        resources = [_speed(last.images_per_second), *_memory(last)]
        return [
            Text("   ".join(filter(None, parts)), no_wrap=True, overflow="ellipsis")
            for parts in (quality, resources)
        ]

    def _print(self, *parts: str) -> None:
        text = "  ".join(filter(None, parts))
        self._console.print(text, markup=False, soft_wrap=not self._is_live)
        self._printed = time.monotonic()

    def _is_line_due(self) -> bool:
        return not self._is_live and time.monotonic() - self._printed > _PLAIN_PERIOD

    def _refresh(self) -> None:
        if self._is_live:
            self._live.refresh()


class _Numbers(ProgressColumn):
    """Progress, elapsed and remaining time of a bar."""

    def render(self, task: Task) -> Text:
        """Format the numbers of a bar."""
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
    return f"{int(100 * share)}%"  # rounded down: 100% only at the end


def _rate(learning_rate: float) -> str:
    return f"learning rate {learning_rate:.1e}"


def _speed(images_per_second: float) -> str:
    return f"{images_per_second:.1f} images/s"


def _memory(step: StepDone | None) -> list[str]:
    """Resident memory of the process, and peak memory of tensors on the GPU."""
    taken = {"memory": step and step.memory, "GPU": step and step.gpu_memory}
    return [f"{name} {_bytes(number)}" for name, number in taken.items() if number]


def _bytes(number: int) -> str:
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"
