"""One optimiser step: forward, loss, backward, update; a failed step is undone.

All randomness of a step follows from the seed and the number of the step, so that a step can be
repeated, and a run resumed, without saving a random state.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from plainunet.dataset.samples import make_batch
from plainunet.network.device import autocast, free_memory
from plainunet.network.losses import deep_loss
from plainunet.network.own import Network, OwnNetwork
from plainunet.network.unet import deep_logits
from plainunet.page import plural
from plainunet.system import is_out_of_memory
from plainunet.training.run import Run
from plainunet.training.state import TrainingState


class StepResult(NamedTuple):
    """The result of a step."""

    loss: float
    """Loss of the whole batch."""
    images: int
    """Number of images in the batch."""
    is_finite: bool
    """Whether loss and gradient were finite; if not, the step was skipped."""


class Step:
    """Runs optimiser steps, with gradient accumulation when memory is short.

    Attributes:
        network: The network in training.
        is_stopping: Whether a process of the run was interrupted before the last update.
    """

    def __init__(
        self,
        run: Run,
        state: TrainingState,
        device: torch.device,
        precision: torch.dtype,
        class_weights: Tensor | None = None,
    ) -> None:
        """Prepare to run steps.

        Args:
            run: The run.
            state: The network and its optimisers. `state.accumulation` is the number of
                micro-batches per step; it doubles when memory runs out.
            device: Device of the network.
            precision: Precision of the forward pass.
            class_weights: [K] float32, loss weight of the pixels of each class; None for 1 each.
        """
        self.network, self.is_stopping = state.network, False
        self._run, self._state, self._loss = run, state, run.loss
        self._device, self._precision, self._class_weights = device, precision, class_weights
        self._levels = run.processes.wrap(_Levels(state.network), device)

    def __call__(self, batch: Sequence[Tensor], number: int, rate: float) -> StepResult:
        """Run a step.

        Args:
            batch: As for `make_batch`; with several processes, this one's share.
            number: Number of the step in the run, from 0.
            rate: Learning rate.

        Returns:
            The result. A skipped step leaves weights, buffers and the EMA unchanged. In fp16, while
            the scale of the loss is still sought, gradients that overflow leave the weights alone.

        Raises:
            RuntimeError: Out of memory even with one image at a time.
            MemoryError: Likewise.
        """
        image, target, weight = make_batch(batch, self._device, self._class_weights)
        whole = self._run.processes.join_batch(weight)
        buffers = [buffer.clone() for buffer in self.network.buffers()]
        while True:
            torch.manual_seed(self._seed_of(number))
            try:
                value = self._add_gradients(image, target, weight, whole)
                break
            except (RuntimeError, MemoryError) as error:
                count = min(self._state.accumulation, len(image))
                # a retry would need all processes that share the batch
                if not is_out_of_memory(error) or count == len(image) or self._run.processes.joined:
                    raise
                message = str(error)
            self._restore(buffers)
            self._state.accumulation = min(2 * count, len(image))
            is_slower = free_memory(self._device, message)
            most = -(-len(image) // self._state.accumulation)
            self._run.reporter.note(
                f"note: out of memory in step {number + 1}: retrying with gradient accumulation, "
                f"{self._state.accumulation} micro-batches of up to {plural(most, 'image')}; the "
                "batch size stays the same"
            )
            if is_slower:
                self._run.reporter.note(
                    "note: convolutions are slower from here on, until the run is resumed"
                )
        is_finite, loss = self._update(value, rate)
        if not is_finite:
            self._restore(buffers)
        elif self._state.average:
            self._state.average.update(self.network, number)
        return StepResult(loss, len(whole), is_finite)

    def _seed_of(self, number: int) -> int:
        entropy = [self._run.config.seed, number, self._run.processes.rank]
        return int(np.random.SeedSequence(entropy).generate_state(1)[0])

    def _add_gradients(
        self, image: Tensor, target: Tensor, weight: Tensor, whole: Tensor
    ) -> Tensor:
        """Compute the gradients of the batch; returns its loss, a scalar."""
        for optimizer in self._state.optimizers:
            optimizer.zero_grad(set_to_none=True)
        value = torch.zeros((), device=self._device)
        count = min(self._state.accumulation, len(image))
        cut = list(zip(*(each.chunk(count) for each in (image, target, weight)), strict=True))
        for number, (images, targets, weights) in enumerate(cut, 1):
            with self._run.processes.no_sync_before(self._levels, number == len(cut)):
                with autocast(self._device, self._precision):
                    levels = self._levels(images)
                loss = deep_loss(self._loss, levels, targets, weights, whole)
                value += loss.detach()
                # gradients are averaged over the processes, but should be summed
                loss = loss * self._run.processes.count
                (self._state.scaler.scale(loss) if self._state.scaler else loss).backward()
        return value

    def _update(self, value: Tensor, rate: float) -> tuple[bool, float]:
        """Update the weights if loss and gradient are finite; returns whether, and the loss."""
        if self._state.scaler:
            for optimizer in self._state.optimizers:
                self._state.scaler.unscale_(optimizer)
        weights = [weight for weight in self.network.parameters() if weight.grad is not None]
        norm = torch.nn.utils.get_total_norm([w.grad for w in weights if w.grad is not None])
        own = [
            value,
            norm / self._run.processes.count,
            value.new_tensor(float(bool(self._run.stop))),
        ]
        total, length, stopping = self._run.processes.total(torch.stack(own)).tolist()
        self.is_stopping = stopping > 0
        # in fp16 the scaler lowers its scale when gradients overflow
        is_seeking = self._state.scaler is not None and self._state.scaler.get_scale() > 1
        if not np.isfinite(total) or not (np.isfinite(length) or is_seeking):
            for optimizer in self._state.optimizers:
                optimizer.zero_grad(set_to_none=True)
            if self._state.scaler:
                self._state.scaler.update()
            return False, total
        if self._run.config.gradient_clip:
            torch.nn.utils.clip_grads_with_norm_(weights, self._run.config.gradient_clip, norm)
        for optimizer in self._state.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            self._state.scaler.step(optimizer) if self._state.scaler else optimizer.step()
        if self._state.scaler:
            self._state.scaler.update()
        return True, total

    @torch.no_grad()
    def _restore(self, buffers: Sequence[Tensor]) -> None:
        for buffer, before in zip(self.network.buffers(), buffers, strict=True):
            buffer.copy_(before)


class _Levels(nn.Module):
    """`deep_logits` as a module, for DistributedDataParallel."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> list[Tensor]:
        if isinstance(self.network, OwnNetwork):
            return self.network.deep_logits(image)
        return deep_logits(self.network, image)
