"""What a run tells about itself while it goes on; `progress.py` shows it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Stage:
    """The run has begun a new part of its work."""

    name: str
    """What it does now, such as "reading"."""
    total: int
    """How many units it has."""


@dataclass(frozen=True)
class Advance:
    """The present stage has come on."""

    done: int
    """How many units are done."""


@dataclass(frozen=True)
class Note:
    """Something that the user should know."""

    text: str
    """One line or several."""


@dataclass(frozen=True)
class StepDone:
    """One optimiser step is done."""

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
    """How many it has, unless the clock ends it before."""
    share: float
    """How much of the run's work is done, 0..1."""
    end: float | None = None
    """When training must be over, on the clock of `time.monotonic` [s], if a clock decides."""
    memory: int | None = None
    """What the process has now [bytes], where that is known."""
    gpu_memory: int | None = None
    """The most that tensors have taken on a GPU so far [bytes]."""


@dataclass(frozen=True)
class EpochDone:
    """One epoch is trained and judged: a row of `metrics.jsonl`."""

    row: dict[str, Any]
    best: float | None = None
    """The run's best validation Dice at the final size, once there is one."""


@dataclass(frozen=True)
class Judged:
    """The best checkpoint is judged natively, and pictures are saved: the end of the run."""

    scores: dict[str, Any]


Event = Stage | Advance | Note | StepDone | EpochDone | Judged
OnEvent = Callable[[Event], None]


class Rate:
    """Images per second over the last seconds."""

    def __init__(self) -> None:
        """Start the clock."""
        self._marks = [(time.perf_counter(), 0)]

    def add(self, images: int) -> float:
        """Count images in.

        Args:
            images: How many more are done.

        Returns:
            Images per second over the last 20 calls.
        """
        self._marks.append((time.perf_counter(), self._marks[-1][1] + images))
        self._marks = self._marks[-20:]
        (start, before), (end, after) = self._marks[0], self._marks[-1]
        return (after - before) / max(end - start, 1e-9)
