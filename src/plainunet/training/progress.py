"""What the user sees: a run's events as a live screen or plain lines, and tables of scores."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from rich.box import SIMPLE_HEAD
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
from rich.table import Table

from plainunet.network.summary import StageSummary, sketch
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
        dice = row["validation"]["per_image"]["dice"]["mean_foreground"]
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
    with Screen() as screen:

        def on_progress(done: int, total: int) -> None:
            if done == 1:
                screen(Stage(name, total))
            screen(Advance(done))

        yield on_progress


def show_scores(result: dict[str, Any]) -> None:
    """Print the tables of scores, and the protocol that they were made by.

    Args:
        result: As returned by `train` and `evaluate`.
    """
    console = Console(highlight=False)
    console.print(f"{len(result['images'])} pictures, part: {result['split']}")
    for title, scores in (("pooled", result["pooled"]), ("per image", result["per_image"])):
        table = Table(title, *_SCORES, box=SIMPLE_HEAD)
        for name in scores["dice"]["per_class"]:
            table.add_row(name, *_cells(scores, lambda score, name=name: score["per_class"][name]))
        table.add_section()
        for key in ("mean_foreground", "mean_with_background"):
            label = key.replace("_", " ")
            table.add_row(label, *_cells(scores, lambda score, key=key: score[key]))
        table.add_row("pixel accuracy", _cell(scores["accuracy"]))
        console.print(table)
    console.print(result["protocol"], style="dim")


def show_model(
    stages: Sequence[StageSummary],
    picture: tuple[int, int, int],
    class_names: Sequence[str] = (),
) -> None:
    """Print a network: the U in text, then a table of its stages with their totals.

    Args:
        stages: As returned by `summarise_network`.
        picture: Channels, height and width of the picture.
        class_names: Names of the classes, where they are known.
    """
    console = Console(highlight=False)
    if class_names:
        console.print(f"classes: {', '.join(class_names)}", markup=False)
    console.print(sketch(stages, picture), markup=False, soft_wrap=True)
    table = Table(box=SIMPLE_HEAD)
    table.add_column("stage", no_wrap=True)
    for header in (
        "shape",
        "parameters",
        "multiply-\nadds",
        "kept in\ntraining",
        "receptive\nfield",
    ):
        table.add_column(header, justify="right", no_wrap=True)
    for stage in stages:
        shape = " x ".join(map(str, stage.shape))
        table.add_row(stage.name, shape, *_costs([stage]), _field(stage.field))
    table.add_section()
    table.add_row("total", "", *_costs(stages), "")
    # a number cut short would be worse than a wrapped line
    Console(highlight=False, width=max(console.width, 100)).print(table)
    flop = _engineering(2 * sum(stage.multiply_adds for stage in stages))
    console.print(
        f"A forward pass takes {flop}FLOP a picture (2 for each multiply-add). Kept in training: "
        "activations for the backward pass, fp32, for each picture of a batch. Receptive field: "
        "pixels along one axis, least and greatest.",
        style="dim",
    )


def _costs(stages: Sequence[StageSummary]) -> list[str]:
    kept = sum(stage.kept for stage in stages)
    return [
        f"{sum(stage.parameters for stage in stages):,}",
        _engineering(sum(stage.multiply_adds for stage in stages)),
        f"{kept / 2**20:,.1f} MiB" if kept < 2**40 else f"{kept / 2**40:,.1f} TiB",
    ]


def _engineering(number: int) -> str:
    """Three digits and a letter, such as 28.2 G."""
    for power, letter in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if number >= 10**power:
            whole = len(str(number // 10**power))
            return f"{number / 10**power:.{max(0, 3 - whole)}f} {letter}"
    return f"{number} "


def _field(field: tuple[int, int] | None) -> str:
    if field is None:
        return "whole"
    least, greatest = field
    return f"{least}" if least == greatest else f"{least}-{greatest}"


_SCORES = ("dice", "iou", "precision", "recall")


def _cells(scores: dict[str, Any], pick: Any) -> list[str]:
    return [_cell(pick(scores[name])) for name in _SCORES]


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
