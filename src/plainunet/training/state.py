"""The state of a run for resuming, and when to save it."""

import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from plainunet.errors import Error
from plainunet.files import write_whole
from plainunet.network.own import Network, OwnNetwork
from plainunet.parts import running
from plainunet.training.distributed import job
from plainunet.training.optim import WeightAverage
from plainunet.training.run import Run, RunFolder

LOST = 50.0
"""Maximum work that a killed process loses [s], if steps and saving are short; the documented
minute, with a margin."""
_SHARE = 0.05
"""Fraction of the time that saving at the end of epochs may take."""


class Saver:
    """Saves the state of a run in intervals."""

    def __init__(self, run: Run, state: "TrainingState") -> None:
        """Save once."""
        self._run, self._state = run, state
        self()

    def __call__(self) -> None:
        """Save now."""
        begun = time.monotonic()
        if self._run.processes.is_first:
            run = self._run
            self._state.save(run.folder, run.dataset.folder, run.teacher, run.digest)
        self._saved_at = time.monotonic()
        self._took = self._saved_at - begun

    def is_due(self, ahead: float) -> bool:
        """Whether more than `LOST` could be lost if the next call comes after `ahead` seconds."""
        return time.monotonic() - self._saved_at + ahead + self._took >= LOST

    def is_cheap(self) -> bool:
        """Whether saving takes little of the time since the last save."""
        return time.monotonic() - self._saved_at >= self._took / _SHARE


@dataclass
class TrainingState:
    """Everything that changes during training."""

    network: Network
    optimizers: list[Optimizer]
    average: WeightAverage | None
    scaler: torch.amp.GradScaler = field(
        default_factory=lambda: torch.amp.GradScaler("cpu", enabled=False)
    )
    """Of the gradients in fp16; else it does nothing."""
    epoch: int = 0
    """Finished epochs."""
    step: int = 0
    """Finished optimiser steps."""
    best: float = -1.0
    """Best validation Dice so far, of the epochs at full size."""
    waited: int = 0
    """Epochs at full size since the best one."""
    seconds: float = 0.0
    """Time spent so far on training and validation [s]."""
    training_seconds: float = 0.0
    """Time spent on the steps of the epoch [s]."""
    is_over: bool = False
    """Whether the time of the run's budget was used up."""
    batch: int = 0
    """Finished batches of the epoch; all of them before its validation."""
    loss_sum: float = 0.0
    """Sum of the losses of the epoch's images."""
    images: int = 0
    """Number of these images."""
    skipped: int = 0
    """Skipped steps of the epoch."""
    in_a_row: int = 0
    """Number of consecutive skipped steps up to now."""
    readers: tuple[int, int] = (1, 1)
    """Processes and worker processes of each at the start of the epoch, see `ShardBatches`."""
    accumulation: int = 1
    """Micro-batches per step; more than in the settings after running out of memory."""
    resumed_at: list[int] = field(default_factory=list)
    """Steps at which the epoch was resumed."""

    def end_epoch(self) -> None:
        """Count the epoch and reset its counters."""
        self.epoch += 1
        self.batch = self.images = self.skipped = 0
        self.loss_sum = self.training_seconds = 0.0
        self.resumed_at = []

    def save(
        self, folder: RunFolder, data: Path, teacher: str | None = None, digest: str | None = None
    ) -> None:
        """Write the state, and the data folder's path, so that resuming needs no arguments.

        `teacher` is the digest of the teacher, if there is one; `digest` that of the data.
        """
        content = {
            "data": str(data.resolve()),
            "digest": digest,
            "teacher": teacher,
            "network": self.network.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "average": self.average and self.average.network.state_dict(),
            "scaler": self.scaler.state_dict(),
            "job": job(),
            "counters": {name: getattr(self, name) for name in _COUNTERS},
        }
        with write_whole(folder.state) as file:
            torch.save(content, file)

    def restore(self, content: dict[str, Any]) -> None:
        """Restore a saved state, as by `read_state`; an Error if another network has it."""
        if isinstance(self.network, OwnNetwork):
            with running(f"--network {self.network.name} is not that of the saved state"):
                self.network.load_state_dict(content["network"])
        else:
            try:
                self.network.load_state_dict(content["network"])
            except RuntimeError as error:
                raise Error(
                    "The saved state is of another network than that of the run's config.toml. "
                    "Restore its settings of the network, or start a new run."
                ) from error
        for optimizer, saved in zip(self.optimizers, content["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if self.average:
            self.average.network.load_state_dict(content["average"])
        self.scaler.load_state_dict(content["scaler"])
        for name, value in content["counters"].items():
            setattr(self, name, value)


_COUNTERS = (
    *("epoch", "step", "best", "waited", "seconds", "batch", "loss_sum", "images"),
    *("skipped", "in_a_row", "accumulation", "resumed_at", "training_seconds", "readers"),
    "is_over",
)


def read_state(folder: RunFolder) -> dict[str, Any]:
    """Read what `TrainingState.save` wrote, on the CPU; a ValueError if it is damaged."""
    folder.require_state()
    file = folder.state
    try:
        with zipfile.ZipFile(file) as records:  # PyTorch does not verify the checksums
            bad = records.testzip()
        if bad:
            raise zipfile.BadZipFile(bad)
        content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        content["counters"], content["network"], content["optimizers"], content["data"]
    except Exception as error:  # PyTorch raises many types on a damaged file
        raise Error(
            f"{file}: damaged. Start a new run with another --out; if it exists, fine-tune its "
            f"best checkpoint: --pretrained {folder.best}"
        ) from error
    return content
