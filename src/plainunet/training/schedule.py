"""The schedule of a run, by steps or by a time budget.

In: settings, and steps or seconds. Out: the current learning rate and image size, and whether to
validate or to end. All of it is a function of one number, the fraction of the run that is done,
so a schedule with a time budget anneals fully, whatever the speed of the machine.
"""

import math
import time
from collections.abc import Callable
from typing import Protocol

import numpy as np

from plainunet.config import TrainConfig
from plainunet.errors import Error

WARM_UP = 0.1
"""Fraction of the steps in which the one-cycle schedule rises."""
_VALIDATION = 0.08
"""Fraction of a time budget that validation may take, without the final evaluation."""
_LAST = 0.02
"""Fraction of the time that the last validation may take."""
_STEP = 0.005
"""Remaining fraction of a time budget that is not worth another epoch."""


class Schedule(Protocol):
    """The interface to the training loop."""

    def size(self, epoch: int) -> tuple[int, int]:
        """Height and width of the images of an epoch that starts now [pixels]."""

    def rate(self, step: int) -> float:
        """The learning rate of a step that starts now."""

    def steps(self, step: int) -> int:
        """Estimated number of steps of the run."""

    def done(self, step: int) -> float:
        """Fraction of the run's work that is done after a step that ends now, 0..1."""

    def is_over(self, epoch: int) -> bool:
        """Whether the run is over after `epoch` epochs."""

    def ends_epoch(self, epoch: int) -> bool:
        """Whether the current epoch ends before its last batch."""

    def validates(self, epoch: int, seconds: float) -> bool:
        """Whether to validate the epoch that has just ended, which takes `seconds`."""


class StepSchedule:
    """A fixed number of epochs; each is validated."""

    def __init__(self, config: TrainConfig, per_epoch: int) -> None:
        """Make the schedule.

        Args:
            config: The settings, with `size`.
            per_epoch: Steps per epoch.
        """
        self._config = config
        self._steps = config.epochs * per_epoch
        self._per_epoch = per_epoch
        sizes = [size_in(epoch, config) for epoch in range(config.epochs)]
        self._pixels = np.cumsum([0, *(height * width for height, width in sizes)])

    def size(self, epoch: int) -> tuple[int, int]:
        """As of `Schedule`."""
        return size_in(epoch, self._config)

    def rate(self, step: int) -> float:
        """As of `Schedule`."""
        c = self._config
        return learning_rate_at(step, self._steps, c.learning_rate, c.schedule, c.warm_up)

    def steps(self, step: int) -> int:
        """As of `Schedule`."""
        return self._steps

    def done(self, step: int) -> float:
        """As of `Schedule`; the work of a step is its number of pixels."""
        epochs = (step + 1) / self._per_epoch
        pixels = np.interp(epochs, range(len(self._pixels)), self._pixels)
        return float(pixels / self._pixels[-1])

    def is_over(self, epoch: int) -> bool:
        """As of `Schedule`."""
        return epoch >= self._config.epochs

    def ends_epoch(self, epoch: int) -> bool:
        """As of `Schedule`."""
        return False

    def validates(self, epoch: int, seconds: float) -> bool:
        """As of `Schedule`."""
        return True


class ClockSchedule:
    """A fixed number of seconds.

    Epochs end when the size grows or time is up. An epoch is validated if validation has taken
    little of the time so far. The last one is validated if that is quick, so that it is not kept if
    an earlier one was better; else it is only evaluated at the end of the run.
    """

    _FINE = 10_000  # resolution of the learning rate over time

    def __init__(
        self,
        config: TrainConfig,
        end: float,
        spent: float = 0.0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Start the clock.

        Args:
            config: The settings, with `size`.
            end: When training must end, on that clock [s].
            spent: Time that a resumed run has taken before [s].
            clock: Returns the time [s], the same in all processes of the run; default:
                `time.monotonic`.
        """
        self._config = config
        self._clock = clock or time.monotonic
        self._begun = self._clock() - spent
        self._seconds = max(end - self._begun, 1e-3)
        self._validated = 0.0  # time spent on validation [s]
        self._reserved = 0.0  # for the last one [s]
        self._stepped = self._clock()
        self._over = False
        self._first_step: int | None = None
        self._sizes: dict[int, tuple[int, int]] = {}

    @property
    def share(self) -> float:
        """Fraction of the run that is done, 0..1."""
        return min(1.0, (self._clock() - self._begun) / self._seconds)

    def size(self, epoch: int) -> tuple[int, int]:
        """As of `Schedule`."""
        self._stepped = self._clock()
        return self._sizes.setdefault(epoch, size_at(self.share, self._config))

    def rate(self, step: int) -> float:
        """As of `Schedule`."""
        c = self._config
        now = round(self.share * self._FINE)
        return learning_rate_at(now, self._FINE, c.learning_rate, c.schedule, c.warm_up)

    def steps(self, step: int) -> int:
        """As of `Schedule`."""
        if self._first_step is None:
            self._first_step = step
        done = step - self._first_step
        return max(step + 1, self._first_step + round(done / max(self.share, 1e-3)))

    def done(self, step: int) -> float:
        """As of `Schedule`."""
        return self.share

    def is_over(self, epoch: int) -> bool:
        """As of `Schedule`."""
        # every run makes at least one step, and so a checkpoint
        return epoch > 0 and (self._over or self.share >= 1 - _STEP)

    def ends_epoch(self, epoch: int) -> bool:
        """As of `Schedule`."""
        now = self._clock()
        # end as close to the deadline as whole steps allow
        step, self._stepped = now - self._stepped, now
        self._over = now - self._begun + step / 2 >= self._seconds
        return self._over or size_at(self.share, self._config) != self._sizes[epoch]

    def validates(self, epoch: int, seconds: float) -> bool:
        """As of `Schedule`."""
        if self.share >= 1 - _STEP:
            return self._reserved > 0
        passed = self._clock() - self._begun
        rest = self._seconds - passed
        # the first one early: it shows whether the run learns anything
        whole = passed if self._validated else self._seconds
        if seconds >= rest or self._validated + seconds > _VALIDATION * whole:
            return False
        self._validated += seconds
        if self._sizes.get(epoch) == self._config.window and seconds <= _LAST * self._seconds:
            more = max(0.0, seconds - self._reserved)
            self._reserved, self._seconds = self._reserved + more, self._seconds - more
        return True


def size_in(epoch: int, config: TrainConfig) -> tuple[int, int]:
    """The input size [pixels] of an epoch of a run with a fixed number of epochs."""
    for stage in config.growth:
        # the last epoch always runs at full size, even if it is the only one
        if epoch < min(round(stage.until * config.epochs), config.epochs - 1):
            return scaled_size(config.window, stage.scale)
    return config.window


def size_at(share: float, config: TrainConfig) -> tuple[int, int]:
    """The input size [pixels] after a fraction 0..1 of the run."""
    for stage in config.growth:
        if share < stage.until:
            return scaled_size(config.window, stage.scale)
    return config.window


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Scale height and width [pixels], rounded."""
    return round(size[0] * scale), round(size[1] * scale)


def learning_rate_at(
    step: int, steps: int, highest: float, schedule: str, warm_up: float | None = None
) -> float:
    """Compute the learning rate of a step.

    Args:
        step: Number of the step, from 0.
        steps: Steps of the whole run.
        highest: The highest learning rate.
        schedule: "one-cycle": half a cosine down to zero after a warm-up of `WARM_UP` (Smith and
            Topin 2017, arXiv 1708.07120); "cosine": the same without warm-up (Loshchilov and
            Hutter 2016, arXiv 1608.03983); "poly": (1 - t)^0.9 (Liu et al. 2015, arXiv
            1506.04579); "constant".
        warm_up: Fraction of the steps in which the rate rises linearly to the highest; default:
            that of the schedule.

    Returns:
        The learning rate.

    Raises:
        ValueError: The schedule is unknown.
    """
    share = (step + 1) / (steps + 1)
    if warm_up is None:
        warm_up = WARM_UP if schedule == "one-cycle" else 0.0
    if share < warm_up:
        return highest * share / warm_up
    done = (share - warm_up) / (1 - warm_up)
    if schedule in ("one-cycle", "cosine"):
        return highest * 0.5 * (1 + math.cos(math.pi * done))
    if schedule == "poly":
        return float(highest * (1 - done) ** 0.9)
    if schedule == "constant":
        return highest
    raise Error(f"Unknown schedule {schedule!r}.")
