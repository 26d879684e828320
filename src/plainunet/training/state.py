"""What a run needs to be resumed, when it is saved, and how it is interrupted."""

import signal
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.optim import Optimizer

from plainunet.files import write_whole
from plainunet.network.unet import UNet
from plainunet.training.optim import WeightAverage


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


LOST = 50.0
"""Seconds of work that a killed process loses at most, where single steps and the saving itself
are quick enough; ten more are left for what cannot be foreseen."""
_SHARE = 0.05
"""Share of the time that saving at the ends of epochs may take."""


class Saver:
    """Saves, and knows when it is time to."""

    def __init__(self, save: Callable[[], None]) -> None:
        """Save for the first time.

        Args:
            save: Saves.
        """
        self._save = save
        self()

    def __call__(self) -> None:
        """Save now."""
        begun = time.monotonic()
        self._save()
        self._saved_at = time.monotonic()
        self._took = self._saved_at - begun

    def is_due(self, ahead: float) -> bool:
        """Say whether it must be now, for later would be too late.

        Args:
            ahead: After so many seconds it is asked again.

        Returns:
            Whether more than `LOST` could be lost otherwise.
        """
        return time.monotonic() - self._saved_at + ahead + self._took >= LOST

    def is_cheap(self) -> bool:
        """Say whether saving now takes a small part of the time since the last one.

        Returns:
            Whether it does.
        """
        return time.monotonic() - self._saved_at >= self._took / _SHARE


STATE_FILE = Path("last") / "state.pt"
"""Where it lies in the run folder."""


@dataclass
class TrainingState:
    """Everything that changes during training."""

    network: UNet
    optimizers: list[Optimizer]
    average: WeightAverage | None
    scaler: torch.amp.GradScaler | None = None
    epoch: int = 0
    """Epochs that are done."""
    step: int = 0
    """Optimiser steps that are done."""
    best: float = -1.0
    """Best validation Dice so far, of the epochs at the final size."""
    waited: int = 0
    """Epochs at the final size since the best one."""
    seconds: float = 0.0
    """Time spent so far, training and judging."""
    training_seconds: float = 0.0
    """Time that the steps of the epoch have taken."""
    batch: int = 0
    """Batches of the epoch that are done; of an epoch that is to be judged, all."""
    loss_sum: float = 0.0
    """Sum of the losses of its images."""
    images: int = 0
    """How many images these are."""
    skipped: int = 0
    """Steps of the epoch that could not be made."""
    in_a_row: int = 0
    """How many of the run's last steps could not be made."""
    accumulation: int = 1
    """Into how many parts a batch is cut; more than the settings say once memory was short."""
    resumed_at: list[int] = field(default_factory=list)
    """Steps at which the epoch was taken up again."""

    def end_epoch(self) -> None:
        """Count an epoch as done."""
        self.epoch += 1
        self.batch = self.images = self.skipped = 0
        self.loss_sum = self.training_seconds = 0.0
        self.resumed_at = []

    def save(self, run: Path, data: Path) -> None:
        """Write the state.

        Args:
            run: The run folder.
            data: The data folder, so that resuming needs no second mention of it.
        """
        content = {
            "data": str(data.resolve()),
            "network": self.network.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "average": self.average and self.average.network.state_dict(),
            "scaler": self.scaler and self.scaler.state_dict(),
            "counters": {name: getattr(self, name) for name in _COUNTERS},
        }
        with write_whole(run / STATE_FILE) as file:
            torch.save(content, file)

    def restore(self, content: dict[str, Any]) -> None:
        """Take a saved state over.

        Args:
            content: As given by `read_state`.
        """
        self.network.load_state_dict(content["network"])
        for optimizer, saved in zip(self.optimizers, content["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if self.average:
            self.average.network.load_state_dict(content["average"])
        if self.scaler:
            self.scaler.load_state_dict(content["scaler"])
        for name, value in content["counters"].items():
            setattr(self, name, value)


_COUNTERS = (
    *("epoch", "step", "best", "waited", "seconds", "batch", "loss_sum", "images"),
    *("skipped", "in_a_row", "accumulation", "resumed_at", "training_seconds"),
)


def require_run(run: Path) -> None:
    """Refuse a folder without a saved state.

    Args:
        run: The run folder.

    Raises:
        FileNotFoundError: There is none.
    """
    if not (run / STATE_FILE).is_file():
        raise FileNotFoundError(
            f"{run}: no run to resume here ({STATE_FILE} is missing). "
            "Give the folder that a run was started with as --out."
        )


def read_state(run: Path) -> dict[str, Any]:
    """Read a saved state.

    Args:
        run: The run folder.

    Returns:
        What `TrainingState.save` wrote, on the CPU.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is damaged.
    """
    require_run(run)
    file = run / STATE_FILE
    try:
        with zipfile.ZipFile(file) as records:  # PyTorch does not look at the checksums
            bad = records.testzip()
        if bad:
            raise zipfile.BadZipFile(bad)
        content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        content["counters"], content["network"], content["optimizers"], content["data"]
    except Exception as error:  # PyTorch raises nearly anything on a file that is not its own
        raise ValueError(
            f"{file}: damaged. Start the run anew, with another --out; --start-from "
            f"{run / 'best.safetensors'} begins with what it has learnt, if that is there."
        ) from error
    return content
