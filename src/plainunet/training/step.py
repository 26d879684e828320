"""One optimiser step: forward, loss, backward, update; and what is undone where one fails.

Everything random in a step follows from the seed and the step's number, so that a step can be
made again, and a run can go on, without any random state being kept.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from plainunet.dataset.samples import make_batch
from plainunet.network.device import autocast, free_memory
from plainunet.network.losses import LOSSES, deep_loss
from plainunet.network.unet import UNet, deep_logits
from plainunet.system import is_out_of_memory
from plainunet.training.run import Run
from plainunet.training.state import TrainingState


class Made(NamedTuple):
    """What came of a step."""

    loss: float
    """Of the whole batch."""
    images: int
    """How many the batch has."""
    is_made: bool
    """Whether loss and gradient were finite, and so the step was made."""


class Step:
    """Makes steps: gradients of a batch, as large a part of it at once as memory allows.

    Attributes:
        network: What is trained.
        is_stopping: Whether a process of the run was asked to stop before the last update.
    """

    def __init__(
        self,
        run: Run,
        state: TrainingState,
        device: torch.device,
        precision: torch.dtype,
        class_weights: Tensor | None = None,
    ) -> None:
        """Join what a step needs.

        Args:
            run: The run.
            state: The network and what moves its weights. `state.accumulation` is the number of
                parts into which a batch is cut, of which one at a time is in memory; it doubles
                when memory is short.
            device: Where the network is.
            precision: Arithmetic of the forward pass.
            class_weights: [K] float32, how much the pixels of each class weigh; None for 1 each.
        """
        self.network, self.is_stopping = state.network, False
        self._run, self._state = run, state
        self._device, self._precision, self._class_weights = device, precision, class_weights
        self._levels = run.processes.wrap(_Levels(state.network), device)

    def __call__(self, batch: Sequence[Tensor], number: int, rate: float) -> Made:
        """Make a step.

        Args:
            batch: As for `make_batch`; with several processes, this one's share.
            number: Of the step in the run, from 0.
            rate: Its learning rate.

        Returns:
            What came of it. If it was not made, weights, buffers and averages are as before.

        Raises:
            RuntimeError: Memory is too short even for one picture at a time.
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
                parts = min(self._state.accumulation, len(image))
                # processes that share a batch would have to fail together
                if not is_out_of_memory(error) or parts == len(image) or self._run.processes.joined:
                    raise
                said = str(error)
            self._put_back(buffers)
            self._state.accumulation = min(2 * parts, len(image))
            is_slower = free_memory(self._device, said)
            most = -(-len(image) // self._state.accumulation)
            self._run.reporter.note(
                f"note: out of memory in step {number + 1}: it is made again, and what follows, "
                f"in {self._state.accumulation} parts of {'one picture' if most == 1 else most} "
                "at most; the batch stays as large"
            )
            if is_slower:
                self._run.reporter.note(
                    "note: with slower convolutions from here on; --resume has fast ones"
                )
        is_made, loss = self._update(value, rate)
        if not is_made:
            self._put_back(buffers)
        elif self._state.average:
            self._state.average.update(self.network, number)
        return Made(loss, len(whole), is_made)

    def _seed_of(self, number: int) -> int:
        entropy = [self._run.config.seed, number, self._run.processes.rank]
        return int(np.random.SeedSequence(entropy).generate_state(1)[0])

    def _add_gradients(
        self, image: Tensor, target: Tensor, weight: Tensor, whole: Tensor
    ) -> Tensor:
        """Leave the gradient of the batch in the weights; its loss, a scalar."""
        for optimizer in self._state.optimizers:
            optimizer.zero_grad(set_to_none=True)
        value = torch.zeros((), device=self._device)
        parts = min(self._state.accumulation, len(image))
        cut = list(zip(*(each.chunk(parts) for each in (image, target, weight)), strict=True))
        for number, (images, targets, weights) in enumerate(cut, 1):
            with self._run.processes.no_sum_before(self._levels, number == len(cut)):
                with autocast(self._device, self._precision):
                    levels = self._levels(images)
                loss = deep_loss(LOSSES[self._run.config.loss], levels, targets, weights, whole)
                value += loss.detach()
                # what is averaged over the processes shall be a sum
                loss = loss * self._run.processes.count
                (self._state.scaler.scale(loss) if self._state.scaler else loss).backward()
        return value

    def _update(self, value: Tensor, rate: float) -> tuple[bool, float]:
        """Move the weights, if loss and gradient are finite; whether, and the loss."""
        if self._state.scaler:
            for optimizer in self._state.optimizers:
                self._state.scaler.unscale_(optimizer)
        weights = [weight for weight in self.network.parameters() if weight.grad is not None]
        norm = torch.nn.utils.get_total_norm([w.grad for w in weights if w.grad is not None])
        told = [
            value,
            norm / self._run.processes.count,
            value.new_tensor(float(bool(self._run.stop))),
        ]
        total, length, stopping = self._run.processes.total(torch.stack(told)).tolist()
        self.is_stopping = stopping > 0
        # in fp16 the scaler finds its scale by letting gradients become infinite
        is_seeking = self._state.scaler is not None and self._state.scaler.get_scale() > 1
        if not np.isfinite(total) or not (np.isfinite(length) or is_seeking):
            for optimizer in self._state.optimizers:
                optimizer.zero_grad(set_to_none=True)
            if self._state.scaler:
                self._state.scaler.update()
            return False, total
        if self._run.config.clip:
            torch.nn.utils.clip_grads_with_norm_(weights, self._run.config.clip, norm)
        for optimizer in self._state.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            self._state.scaler.step(optimizer) if self._state.scaler else optimizer.step()
        if self._state.scaler:
            self._state.scaler.update()
        return True, total

    @torch.no_grad()
    def _put_back(self, buffers: Sequence[Tensor]) -> None:
        for buffer, before in zip(self.network.buffers(), buffers, strict=True):
            buffer.copy_(before)


class _Levels(nn.Module):
    """`deep_logits` as a module, for what wraps modules."""

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> list[Tensor]:
        return deep_logits(self.network, image)
