"""What is told of each step while an epoch runs."""

import torch
from torch.optim import Optimizer

from plainunet.memory import resident_memory
from plainunet.network.device import most_memory
from plainunet.training.events import OnEvent, Rate, StepDone
from plainunet.training.schedule import Schedule


class StepReport:
    """Tells of each step of an epoch."""

    def __init__(
        self,
        on_event: OnEvent,
        epoch: int,
        schedule: Schedule,
        optimizer: Optimizer,
        batches: int,
        device: torch.device,
        end: float | None = None,
        first: int = 0,
    ) -> None:
        """Begin an epoch.

        Args:
            on_event: Told of each step.
            epoch: Its number, from 0.
            schedule: Says how far the run has come.
            optimizer: Knows the learning rate.
            batches: Steps of the epoch, unless the clock ends it before.
            device: Where the network is.
            end: When training must be over, on the clock of `time.monotonic` [s], if a clock
                decides.
            first: Steps of the epoch that were made before the run was taken up again.
        """
        self._on_event, self._epoch, self._schedule = on_event, epoch, schedule
        self._optimizer, self._batches = optimizer, batches
        self._device, self._end = device, end
        self._rate = Rate()
        self._done = first

    def __call__(self, step: int, loss: float, images: int) -> None:
        """Tell of a step that has just been made.

        Args:
            step: Its number in the run, from 0.
            loss: Its loss.
            images: How many it has seen.
        """
        self._done += 1
        self._on_event(
            StepDone(
                epoch=self._epoch,
                step=step,
                steps=self._schedule.steps(step),
                loss=loss,
                images_per_second=self._rate.add(images),
                learning_rate=self._optimizer.param_groups[0]["lr"],
                epoch_step=self._done,
                epoch_steps=self._batches,
                share=self._schedule.done(step),
                end=self._end,
                memory=resident_memory(),
                gpu_memory=most_memory(self._device),
            )
        )
