"""The epochs of a run: batches, steps, validation, the best checkpoint, logging.

A step is forward, loss, backward, update; a failed one is undone. All its randomness follows from
the seed and the number of the step, so that a step can be repeated, and a run resumed, without
saving a random state.
"""

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from plainunet.config import NetworkConfig
from plainunet.dataset.loader import EpochBatches, ShardBatches, iterate, make_loader
from plainunet.dataset.resize import patches_each
from plainunet.dataset.samples import Samples, balanced_weights, make_batch
from plainunet.dataset.shards import ShardSamples
from plainunet.network.card import Card
from plainunet.network.checkpoint import freeze_encoder, save_checkpoint
from plainunet.network.device import (
    autocast,
    choose_device,
    choose_precision,
    free_memory,
    peak_memory,
    to_device,
)
from plainunet.network.losses import deep_loss
from plainunet.network.own import Network, OwnNetwork
from plainunet.network.unet import UNet, deep_logits
from plainunet.reporter import StepDone
from plainunet.system import is_out_of_memory, loader_processes, resident_memory
from plainunet.text import plural
from plainunet.training.distributed import synchronise
from plainunet.training.optim import WeightAverage, make_optimizers
from plainunet.training.run import Run, StoppedError, draw_curves, rows_until, write_rows
from plainunet.training.schedule import ClockSchedule, Schedule, StepSchedule
from plainunet.training.state import Saver, TrainingState
from plainunet.training.training_data import make_training_set
from plainunet.training.validate import has_foreground, validate_epoch

FAULTS = 5
"""Training ends after this many consecutive skipped steps."""
EPOCH = 25
"""Minimum steps per epoch of a run with a time budget."""
CURVES_PERIOD = 20.0
"""Minimum time between two drawings of the curves, which take half a second [s]."""


class StepResult(NamedTuple):
    """The result of a step."""

    loss: float
    """Loss of the whole batch."""
    images: int
    """Number of images in the batch."""
    is_finite: bool
    """Whether loss and gradient were finite; if not, the step was skipped."""


class Trainer:
    """Trains a network epoch by epoch, and saves the best and the last state in the run folder.

    Attributes:
        state: Everything that changes during training.
    """

    def __init__(self, run: Run, network: Network, card: Card, samples: dict[str, Samples]) -> None:
        """Prepare training; nothing is written yet.

        Args:
            run: The run.
            network: The network, with its initial weights.
            card: Its card.
            samples: The samples of "train" and "val".
        """
        config = run.config
        self._run, self._card, self._samples = run, card, samples
        self._device = choose_device(config.device)
        self._precision = choose_precision(config.precision, self._device)
        network = to_device(network, self._device)
        self._frozen = []
        if config.freeze == "encoder" and isinstance(network, UNet):
            self._frozen = freeze_encoder(network)
        if config.sync_batch_norm:
            synchronise(network)
        self.state = TrainingState(
            network,
            make_optimizers(
                network,
                config.optimizer,
                config.learning_rate,
                config.weight_decay,
                self._precision,
                config.momentum,
            ),
            WeightAverage(network, config.ema) if config.ema else None,
            torch.amp.GradScaler(self._device.type, enabled=self._precision == torch.float16),
            accumulation=config.gradient_accumulation,
        )
        self._batches = self._make_batches()
        self._loaders: dict[tuple[int, int], DataLoader[tuple[Tensor, ...]]] = {}
        self._validating = 0.0  # duration of the last validation [s]
        self._drawn = time.monotonic()

    def restore(self, saved: dict[str, Any]) -> None:
        """Restore a saved state, as by `read_state`."""
        self.state.restore(saved)
        self.state.accumulation = max(
            self.state.accumulation, self._run.config.gradient_accumulation
        )

    def fit(self) -> None:
        """Train the remaining epochs.

        Raises:
            FloatingPointError: Loss or gradient was not finite in `FAULTS` consecutive steps; the
                weights are those from before the first of them.
            StoppedError: The run was interrupted; its state is saved.
        """
        run, state = self._run, self.state
        run.where = f"after step {state.step}"
        self._rows = rows_until(run.folder, state.epoch)
        self._save = Saver(run, state)
        self._schedule = self._make_schedule()
        self._step = Step(run, state, self._device, self._precision, self._class_weights())
        run.reporter.note(self._describe())
        if state.batch:
            state.resumed_at.append(state.step)
        is_over = state.is_over or self._schedule.is_over(state.epoch)
        if is_over:
            run.reporter.note("training is already complete; evaluating the result again")
            # stopped before it was validated at full size, or so late that the budget has ended
            is_new = state.batch > 0 or (self._rows and self._rows[-1]["validation"] is None)
            is_late = run.end is not None and not state.is_over and is_new
            if is_late or not run.folder.best.exists():
                self._keep_last()
        while not is_over:
            if run.config.patience and state.waited >= run.config.patience:
                waited = plural(state.waited, "epoch")
                run.reporter.note(f"early stopping: no better validation Dice for {waited}")
                break
            size = self._schedule.size(state.epoch)
            begun, before = time.perf_counter(), state.seconds
            self._train_epoch(size)
            scores = self._validate(size)
            is_over = self._schedule.is_over(state.epoch + 1)
            if run.end is not None and is_over and (scores is None or not self._is_full(size)):
                # no time left to validate the last weights, but the learning rate has annealed
                self._keep_last()
            state.seconds = before + time.perf_counter() - begun
            row = self._log(size, scores)
            state.is_over = is_over and run.end is not None  # without a budget, epochs tell
            if self._save.is_cheap() or is_over:
                self._save()
            run.reporter.epoch(row, state.best if state.best >= 0 else None)
            if not is_over and run.processes.first_decides(run.reporter.should_stop):
                run.reporter.note("stopped early by the reporter")
                is_over = True
                if state.best < 0:  # not validated at full size so far
                    self._keep_last()
        if run.processes.is_first:
            self._draw_curves()

    def _train_epoch(self, size: tuple[int, int]) -> None:
        """Run the remaining steps of an epoch."""
        state = self.state
        if size not in self._loaders:
            self._loaders = {size: self._make_loader(size)}
        if not state.batch:
            state.readers = self._run.processes.count, max(1, self._workers())
        self._batches.epoch, self._batches.first = state.epoch, state.batch
        self._batches.readers = state.readers
        state.network.train()
        for part in self._frozen:
            part.eval()
        rate = Rate()
        last = time.perf_counter()
        for batch in iterate(self._loaders[size]):
            result = self._step(batch, state.step, self._schedule.rate(state.step))
            self._count(result)
            self._report_step(result, rate.add(result.images))
            state.step += 1
            state.batch += 1
            self._run.where = f"after step {state.step}"
            now = time.perf_counter()
            took, last = now - last, now
            state.seconds += took
            state.training_seconds += took
            if self._step.is_stopping or (self._run.stop and not self._run.processes.joined):
                self._save()
                raise self._run.stopped()
            if self._save.is_due(took):
                self._save()
            if self._schedule.ends_epoch(state.epoch):
                break

    def _count(self, result: StepResult) -> None:
        """Count a step; report the images of a skipped one."""
        state = self.state
        if result.is_finite:
            state.in_a_row = 0
            state.loss_sum += result.loss * result.images
            state.images += result.images
            return
        state.in_a_row += 1
        state.skipped += 1
        numbers = self._batches.samples(state.batch)
        named = ", ".join(self._samples["train"].file(number) for number in numbers)
        what = f"step {state.step + 1}: loss {result.loss:g}, gradient not finite"
        if state.in_a_row >= FAULTS:
            raise FloatingPointError(
                f"{what}, as in the {FAULTS - 1} steps before. Start again with a smaller "
                "--learning-rate or --precision fp32, and another --out; or check the images of "
                f"the last batch: {named}"
            )
        self._run.reporter.note(f"note: {what}; step skipped. Its batch: {named}")

    def _report_step(self, result: StepResult, images_per_second: float) -> None:
        state = self.state
        self._run.reporter.step(
            StepDone(
                epoch=state.epoch,
                step=state.step,
                steps=self._schedule.steps(state.step),
                loss=result.loss,
                images_per_second=images_per_second,
                learning_rate=state.optimizers[0].param_groups[0]["lr"],
                epoch_step=state.batch + 1,
                epoch_steps=len(self._batches),
                share=self._schedule.done(state.step),
                end=self._run.end,
                memory=resident_memory(),
                gpu_memory=peak_memory(self._device),
            )
        )

    def _validate(self, size: tuple[int, int]) -> dict[str, Any] | None:
        """Validate the weights if the schedule asks for it, and save the best ones."""
        run, state, samples = self._run, self.state, self._samples["val"]
        # until it was timed: as the final prediction, which is at full size
        part = math.prod(size) / math.prod(run.config.window)
        if not self._schedule.validates(state.epoch, self._validating or run.predicting * part):
            return None
        begun = run.processes.clock()
        if self._save.is_due(self._validating or math.inf):
            self._save()
        try:
            found = validate_epoch(run, state, self._card, samples, size)
        except StoppedError:
            self._save()
            raise
        if run.processes.is_first:
            files = found.images.write(run.folder.validation)
            run.reporter.images("validation previews", files)
        if not self._validating and not has_foreground(found.scores, len(samples)):
            run.reporter.note(
                "note: no validation image has foreground, so the Dice of this run means nothing; "
                "change the split: --stratify, --seed or --validation"
            )
        self._validating = run.processes.clock() - begun
        if self._is_full(size):
            is_better = found.dice > state.best
            state.waited = 0 if is_better else state.waited + 1
            if is_better or found.dice == state.best == 0:  # while Dice is 0, the latest
                state.best = found.dice
                self._save_best(found.network, found.scores)
        return found.scores

    def _is_full(self, size: tuple[int, int]) -> bool:
        """Whether this is the full size, not an earlier stage of progressive resizing."""
        return size == self._run.config.window

    def _keep_last(self) -> None:
        """Save the last weights as the best, without scores."""
        state = self.state
        self._save_best(state.average.network if state.average else state.network)

    def _save_best(self, network: Network, scores: dict[str, Any] | None = None) -> None:
        if self._run.processes.is_first:
            card = dataclasses.replace(self._card, scores=scores or {})
            save_checkpoint(self._run.folder.best, network, card)

    def _log(self, size: tuple[int, int], scores: dict[str, Any] | None) -> dict[str, Any]:
        """End the epoch: write its row and, from time to time, the curves."""
        run, state = self._run, self.state
        row = {
            "epoch": state.epoch + 1,
            "step": state.step,
            "size": size,
            "loss": state.loss_sum / state.images if state.images else None,
            "learning_rate": state.optimizers[0].param_groups[0]["lr"],
            "images_per_second": state.images / state.training_seconds,
            "seconds": state.seconds,
            "skipped": state.skipped,
            "validation": scores,
        }
        if state.resumed_at:
            row["resumed_at"] = state.resumed_at
        state.end_epoch()
        self._rows.append(row)
        if run.processes.is_first:
            write_rows(run.folder, self._rows)
            if time.monotonic() - self._drawn > CURVES_PERIOD:
                self._draw_curves()
                self._drawn = time.monotonic()
        return row

    def _draw_curves(self) -> None:
        """Draw the curves of the epochs so far."""
        curves = self._run.folder.curves
        draw_curves(curves, self._rows)
        self._run.reporter.images("curves", [curves])

    def _make_batches(self) -> EpochBatches:
        """Make the sampler of batches."""
        config, samples, processes = self._run.config, self._samples["train"], self._run.processes
        repeats = patches_each(samples.sizes, config.patch) if config.patch else 1
        if self._run.end is not None:  # longer epochs, so that their overhead stays small
            repeats = max(repeats, math.ceil(EPOCH * config.batch_size / len(samples)))
        if repeats > 1:
            what = "patches of each image" if config.patch else "passes over the images"
            self._run.reporter.note(f"an epoch of the log is {repeats} {what}")
        shared = config.batch_size, config.seed, repeats, processes.rank, processes.count
        if isinstance(samples, ShardSamples):
            return ShardBatches(samples.counts, *shared)
        return EpochBatches(len(samples), *shared)

    def _make_loader(self, size: tuple[int, int]) -> DataLoader[tuple[Tensor, ...]]:
        """Make the data loader of one image size."""
        config = self._run.config
        dataset = make_training_set(config, self._run.parts, self._samples["train"], size)
        pin_memory = self._device.type == "cuda"
        return make_loader(dataset, self._batches, self._workers(), pin_memory=pin_memory)

    def _workers(self) -> int:
        """The number of worker processes that load batches."""
        workers = self._run.config.workers
        usual = 0 if self._device.type == "cpu" else loader_processes()
        return usual if workers is None else workers

    def _make_schedule(self) -> Schedule:
        config, end = self._run.config, self._run.end
        if end is None:
            return StepSchedule(config, len(self._batches))
        return ClockSchedule(config, end, self.state.seconds, self._run.processes.clock)

    def _class_weights(self) -> Tensor | None:
        if self._run.config.class_weights != "balanced":
            return None
        return balanced_weights(self._samples["train"].class_shares())

    def _describe(self) -> str:
        """The network, its non-default options, precision, device and processes."""
        config, processes, network = self._run.config, self._run.processes, self.state.network
        default = NetworkConfig()
        options = ""
        for name, value in config.network_arguments().items():
            if name not in ("base_channels", "depth") and value != getattr(default, name):
                options += name.replace("_", " ") + ("" if value is True else f" {value}") + ", "
        parameters = sum(weight.numel() for weight in network.parameters())
        what = f"U-Net, {config.base_channels} base channels, depth {config.depth}, {options}"
        if isinstance(network, OwnNetwork):
            what = f"{network.name}, "
        return (
            f"{what}{parameters:,} parameters; {str(self._precision).removeprefix('torch.')} on "
            f"{self._device}" + (f", {processes.count} processes" if processes.count > 1 else "")
        )


class Rate:
    """Images per second over the last 20 steps."""

    def __init__(self) -> None:
        """Start the clock."""
        self._marks = [(time.perf_counter(), 0)]

    def add(self, images: int) -> float:
        """Count the images of a step; returns the rate."""
        self._marks.append((time.perf_counter(), self._marks[-1][1] + images))
        self._marks = self._marks[-20:]
        (start, before), (end, after) = self._marks[0], self._marks[-1]
        return (after - before) / max(end - start, 1e-9)


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
                self._state.scaler.scale(loss).backward()
        return value

    def _update(self, value: Tensor, rate: float) -> tuple[bool, float]:
        """Update the weights if loss and gradient are finite; returns whether, and the loss."""
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
        is_seeking = self._state.scaler.get_scale() > 1
        if not np.isfinite(total) or not (np.isfinite(length) or is_seeking):
            for optimizer in self._state.optimizers:
                optimizer.zero_grad(set_to_none=True)
            self._state.scaler.update()
            return False, total
        if self._run.config.gradient_clip:
            torch.nn.utils.clip_grads_with_norm_(weights, self._run.config.gradient_clip, norm)
        for optimizer in self._state.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            self._state.scaler.step(optimizer)
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
