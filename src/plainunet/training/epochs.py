"""Epoch after epoch: train, judge, keep the best, save what is needed to go on."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader

from plainunet.config import TrainConfig
from plainunet.data.dataset import Samples
from plainunet.data.loader import EpochBatches, iterate
from plainunet.network.checkpoint import Card, save_checkpoint
from plainunet.network.unet import UNet
from plainunet.training.curves import draw_curves
from plainunet.training.distributed import Processes
from plainunet.training.events import Advance, EpochDone, Note, OnEvent, Stage
from plainunet.training.interrupt import Stop, StoppedError
from plainunet.training.loop import train_epoch
from plainunet.training.pictures import VALIDATION_FOLDER
from plainunet.training.records import rows_until, write_rows
from plainunet.training.saving import Saver
from plainunet.training.schedule import Schedule
from plainunet.training.state import TrainingState
from plainunet.training.step import Step
from plainunet.training.steps import StepReport
from plainunet.training.validation import has_foreground, judge_epoch

BEST_FILE = "best.safetensors"
CURVES_PERIOD = 20.0
"""Seconds between two drawings of the curves; they cost most of a second."""

Batches = DataLoader[tuple[Tensor, ...]]


class Epochs:
    """The epochs of a run that are left."""

    def __init__(
        self,
        state: TrainingState,
        step: Step,
        batches: EpochBatches,
        make_loader: Callable[[tuple[int, int]], Batches],
        schedule: Schedule,
        save: Saver,
        *,
        card: Card,
        parts: dict[str, Samples],
        config: TrainConfig,
        run: Path,
        on_event: OnEvent,
        end: float | None,
        frozen: Sequence[nn.Module],
        processes: Processes,
        stop: Stop,
    ) -> None:
        """Join what was made for them.

        Args:
            state: Where the run is.
            step: Makes the steps.
            batches: The order of the samples, for what `make_loader` gives.
            make_loader: Makes the batches of a size, height and width [pixels].
            schedule: How far the run has come.
            save: Saves the state.
            card: The network's description.
            parts: Samples of "train" and "val".
            config: The settings.
            run: The run folder.
            on_event: Told what happens.
            end: When training must be over, if a clock decides.
            frozen: Parts of the network that stay in eval mode.
            processes: Those of the run; the first one writes.
            stop: Becomes true when the run shall stop.
        """
        self._state, self._step, self._batches = state, step, batches
        self._make_loader, self._schedule, self._save = make_loader, schedule, save
        self._card, self._parts, self._config, self._run = card, parts, config, run
        self._on_event, self._end, self._frozen = on_event, end, frozen
        self._processes, self._stop = processes, stop
        self._rows = rows_until(run, state.epoch)
        self._loaders: dict[tuple[int, int], Batches] = {}
        self._judging = 0.0  # seconds that the last judging took
        self._drawn = float("-inf")

    def train(self) -> None:
        """Train all of them.

        Raises:
            FloatingPointError: Loss or gradient was not finite in several steps in a row.
            StoppedError: The run was asked to stop.
        """
        state = self._state
        if state.batch:
            state.resumed_at.append(state.step)
        is_over = self._schedule.is_over(state.epoch)
        if is_over:
            self._on_event(Note("training is over already; its result is judged again"))
        while not is_over:
            if self._config.patience and state.waited >= self._config.patience:
                said = f"stopped: no better validation Dice for {state.waited} epochs"
                self._on_event(Note(said))
                break
            is_over = self._do_epoch()

    def _do_epoch(self) -> bool:
        """Train an epoch, or what is left of it; judge it and write it down; was it the last?"""
        state = self._state
        size = self._schedule.size(state.epoch)
        begun, before = time.perf_counter(), state.seconds
        self._train_steps(size)
        validation = self._judge(size)
        is_last = self._schedule.is_over(state.epoch + 1)
        if self._end is not None and is_last and (validation is None or not self._is_full(size)):
            # the clock leaves no time to judge the last weights; their rate has come down
            self._keep(self._candidates()[-1], self._card)
        state.seconds = before + time.perf_counter() - begun
        row = {
            "epoch": state.epoch + 1,
            "step": state.step,
            "size": size,
            "loss": state.loss_sum / state.images if state.images else None,
            "learning_rate": state.optimizers[0].param_groups[0]["lr"],
            "images_per_second": state.images / state.training_seconds,
            "seconds": state.seconds,
            "skipped": state.skipped,
            "validation": validation,
        }
        if state.resumed_at:
            row["resumed_at"] = state.resumed_at
        state.end_epoch()
        self._rows.append(row)
        if self._processes.is_first:
            write_rows(self._run, self._rows)
            if time.monotonic() - self._drawn > CURVES_PERIOD or is_last:
                draw_curves(self._run / "curves.png", self._rows)
                self._drawn = time.monotonic()
        if self._save.is_cheap() or is_last:
            self._save()
        self._on_event(EpochDone(row, state.best if state.best >= 0 else None))
        return is_last

    def _train_steps(self, size: tuple[int, int]) -> None:
        """Make the steps of an epoch that are left."""
        state = self._state
        if size not in self._loaders:
            self._loaders = {size: self._make_loader(size)}
        self._batches.epoch, self._batches.first = state.epoch, state.batch
        report = StepReport(
            self._on_event,
            state.epoch,
            self._schedule,
            state.optimizers[0],
            len(self._batches),
            self._step.device,
            self._end,
            first=state.batch,
        )
        last = time.perf_counter()

        def ends() -> bool:
            """After each step: stop or save where it is time to; whether the epoch ends here."""
            nonlocal last
            now = time.perf_counter()
            took, last = now - last, now
            state.seconds += took
            state.training_seconds += took
            state.accumulation = self._step.accumulation
            if self._step.is_stopping or (self._stop and not self._processes.joined):
                self._leave()
            if self._save.is_due(took):
                self._save()
            return self._schedule.cuts(state.epoch)

        def files(batch: int) -> list[str]:
            return [self._parts["train"].file(each) for each in self._batches.samples(batch)]

        train_epoch(
            self._step,
            iterate(self._loaders[size]),
            state,
            self._schedule.rate,
            frozen=self._frozen,
            files=files,
            on_note=lambda said: self._on_event(Note(said)),
            on_step=report,
            ends=ends,
        )

    def _judge(self, size: tuple[int, int]) -> dict[str, Any] | None:
        """Judge the epoch's weights, if it is time to, and keep them if they are the best."""
        state = self._state
        if not self._schedule.judges(state.epoch, self._judging):
            return None
        begun = self._processes.clock()
        if self._save.is_due(self._judging or math.inf):
            self._save()
        score, validation, network, pictures = judge_epoch(
            self._candidates(),
            self._card,
            size,
            self._parts["val"],
            self._config,
            run=self._run,
            what=f"epoch {state.epoch + 1}, step {state.step}",
            processes=self._processes,
            on_start=lambda count: self._on_event(Stage("validating", count)),
            on_progress=self._go_on,
        )
        if self._processes.is_first:
            pictures.write(self._run / VALIDATION_FOLDER)
        if not self._judging and not has_foreground(validation, len(self._parts["val"])):
            said = "note: no held-out picture has foreground, so Dice says nothing of this run; "
            self._on_event(Note(f"{said}hold out others: --stratify, --seed or --validation"))
        self._judging = self._processes.clock() - begun
        if self._is_full(size):
            is_better = score > state.best
            state.waited = 0 if is_better else state.waited + 1
            if is_better or score == state.best == 0:  # where nothing is found, the latest
                state.best = score
                self._keep(network, dataclasses.replace(self._card, scores=validation))
        return validation

    def _candidates(self) -> list[UNet]:
        """The network, and the average of its weights where there is one."""
        average = self._state.average
        return [self._state.network, *([average.network] if average else [])]

    def _is_full(self, size: tuple[int, int]) -> bool:
        return size == self._config.window

    def _keep(self, network: UNet, card: Card) -> None:
        if self._processes.is_first:
            save_checkpoint(self._run / BEST_FILE, network, card)

    def _go_on(self, done: int) -> None:
        """While judging: tell how far it is, and stop if that was asked."""
        self._on_event(Advance(done))
        if self._stop:
            self._leave()

    def _leave(self) -> None:
        """Save, and stop as asked."""
        self._save()
        raise StoppedError(self._run, f"after step {self._state.step}", self._stop.code)
