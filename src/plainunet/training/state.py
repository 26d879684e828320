"""What a run needs to be resumed, and when it is saved."""

import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from plainunet.files import write_whole
from plainunet.network.unet import UNet
from plainunet.training.optim import WeightAverage
from plainunet.training.run import Run, RunFolder

LOST = 50.0
"""Seconds of work that a killed process loses at most, where single steps and the saving itself
are quick enough; ten more are left for what cannot be foreseen."""
_SHARE = 0.05
"""Share of the time that saving at the ends of epochs may take."""


class Saver:
    """Saves the state of a run, and knows when it is time to."""

    def __init__(self, run: Run, state: "TrainingState") -> None:
        """Save for the first time."""
        self._run, self._state = run, state
        self()

    def __call__(self) -> None:
        """Save now."""
        begun = time.monotonic()
        if self._run.processes.is_first:
            self._state.save(self._run.folder, self._run.dataset.folder)
        self._saved_at = time.monotonic()
        self._took = self._saved_at - begun

    def is_due(self, ahead: float) -> bool:
        """Whether more than `LOST` could be lost if it is asked again after so many seconds."""
        return time.monotonic() - self._saved_at + ahead + self._took >= LOST

    def is_cheap(self) -> bool:
        """Whether saving now takes a small part of the time since the last one."""
        return time.monotonic() - self._saved_at >= self._took / _SHARE


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

    def save(self, folder: RunFolder, data: Path) -> None:
        """Write the state, and the data folder, so that resuming needs no second mention of it."""
        content = {
            "data": str(data.resolve()),
            "network": self.network.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "average": self.average and self.average.network.state_dict(),
            "scaler": self.scaler and self.scaler.state_dict(),
            "counters": {name: getattr(self, name) for name in _COUNTERS},
        }
        with write_whole(folder.state) as file:
            torch.save(content, file)

    def restore(self, content: dict[str, Any]) -> None:
        """Take over a saved state, as by `read_state`."""
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


def read_state(folder: RunFolder) -> dict[str, Any]:
    """Read what `TrainingState.save` wrote, on the CPU; a ValueError if it is damaged."""
    folder.require_state()
    file = folder.state
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
            f"{folder.best} begins with what it has learnt, if that is there."
        ) from error
    return content
