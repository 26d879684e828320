"""How far a run has come: by its steps, or by the clock.

In: settings, and steps or seconds. Out: the learning rate and the picture size of the moment,
and whether it is time to judge or to end. Everything is a function of one number, the share of
the run that is done, so that a schedule fitted to the clock anneals to its end however fast the
machine is, and whatever else it has to do meanwhile.
"""

import math
import time
from collections.abc import Callable
from typing import Protocol

import numpy as np

from plainunet.config import TrainConfig

WARM_UP = 0.1
"""Share of the steps in which one-cycle rises."""
_JUDGING = 0.08
"""Share of the time that judging may take in a run by the clock, beside its end."""
_STEP = 0.005
"""What is left of the time below this share is not worth another epoch."""


class Schedule(Protocol):
    """What the loop asks."""

    def size(self, epoch: int) -> tuple[int, int]:
        """Height and width of the pictures of an epoch that begins now [pixels]."""

    def rate(self, step: int) -> float:
        """The learning rate of a step that begins now."""

    def steps(self, step: int) -> int:
        """How many steps the run will have, as far as that is known in this one."""

    def done(self, step: int) -> float:
        """How much of the run's work is done after a step that ends now, 0..1."""

    def is_over(self, epoch: int) -> bool:
        """Whether the run is over, so many epochs being done."""

    def cuts(self, epoch: int) -> bool:
        """Whether the epoch that runs now ends before its last batch."""

    def judges(self, epoch: int, seconds: float) -> bool:
        """Whether the epoch that has just ended is judged, which takes so many seconds."""


class StepSchedule:
    """A known number of epochs; each is judged."""

    def __init__(self, config: TrainConfig, per_epoch: int) -> None:
        """Make the schedule.

        Args:
            config: The settings, `size` filled in.
            per_epoch: Steps of an epoch.
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
        """As of `Schedule`; a step's work is its pixels."""
        epochs = (step + 1) / self._per_epoch
        pixels = np.interp(epochs, range(len(self._pixels)), self._pixels)
        return float(pixels / self._pixels[-1])

    def is_over(self, epoch: int) -> bool:
        """As of `Schedule`."""
        return epoch >= self._config.epochs

    def cuts(self, epoch: int) -> bool:
        """As of `Schedule`."""
        return False

    def judges(self, epoch: int, seconds: float) -> bool:
        """As of `Schedule`."""
        return True


class ClockSchedule:
    """A known number of seconds.

    Epochs end where the size grows and where time is out; an epoch is judged if judging has
    taken a small part of the time so far, and the last one is left to the run's end.
    """

    _FINE = 10_000  # shares are told apart so finely

    def __init__(
        self,
        config: TrainConfig,
        end: float,
        spent: float = 0.0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Start the clock.

        Args:
            config: The settings, `size` filled in.
            end: When training must be over, on that clock [s].
            spent: Seconds that the run has taken before, if it goes on.
            clock: Gives the time [s], the same to all processes of the run; left out,
                `time.monotonic`.
        """
        self._config = config
        self._clock = clock or time.monotonic
        self._begun = self._clock() - spent
        self._seconds = max(end - self._begun, 1e-3)
        self._judged = 0.0
        self._stepped = self._clock()
        self._over = False
        self._first_step: int | None = None
        self._sizes: dict[int, tuple[int, int]] = {}

    @property
    def share(self) -> float:
        """How much of the run is done, 0..1."""
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
        # whatever happened before it, a run has a first step, and so a checkpoint
        return epoch > 0 and (self._over or self.share >= 1 - _STEP)

    def cuts(self, epoch: int) -> bool:
        """As of `Schedule`."""
        now = self._clock()
        # the end is met as nearly as whole steps allow
        step, self._stepped = now - self._stepped, now
        self._over = now - self._begun + step / 2 >= self._seconds
        return self._over or size_at(self.share, self._config) != self._sizes[epoch]

    def judges(self, epoch: int, seconds: float) -> bool:
        """As of `Schedule`."""
        passed = self._clock() - self._begun
        rest = self._seconds - passed
        if seconds >= rest or self._judged + seconds > _JUDGING * passed:
            return False
        self._judged += seconds
        return True


def size_in(epoch: int, config: TrainConfig) -> tuple[int, int]:
    """The working size [pixels] of an epoch of a run that counts epochs."""
    for part in config.growth:
        # the last epoch always runs at the full size, however few there are
        if epoch < min(round(part.until * config.epochs), config.epochs - 1):
            return scaled_size(config.window, part.scale)
    return config.window


def size_at(share: float, config: TrainConfig) -> tuple[int, int]:
    """The working size [pixels] when a share 0..1 of the run is done."""
    for part in config.growth:
        if share < part.until:
            return scaled_size(config.window, part.scale)
    return config.window


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Scale height and width [pixels], rounded."""
    return round(size[0] * scale), round(size[1] * scale)


def learning_rate_at(
    step: int, steps: int, highest: float, schedule: str, warm_up: float | None = None
) -> float:
    """Give the learning rate of a step.

    Args:
        step: Number of the step, from 0.
        steps: Steps of the whole run.
        highest: The highest learning rate.
        schedule: What follows the warm-up. "one-cycle" and "cosine": half a cosine down to
            zero, after a warm-up of `WARM_UP` (Smith and Topin 2017, arXiv 1708.07120) and of
            nothing (Loshchilov and Hutter 2016, arXiv 1608.03983); "poly": (1 - t)^0.9 (Liu et
            al. 2015, arXiv 1506.04579); "constant".
        warm_up: Share of the steps in which the rate rises straight to the highest; left out,
            as the schedule has it.

    Returns:
        The learning rate.

    Raises:
        ValueError: There is no such schedule.
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
    raise ValueError(f"There is no schedule {schedule!r}.")
