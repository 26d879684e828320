"""The epochs of a run and their steps: train, validate, keep the best, save what resuming needs."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from plainunet.config import NetworkConfig, TrainConfig
from plainunet.dataset.loader import EpochBatches, iterate, make_loader
from plainunet.dataset.samples import Samples, TrainingSet, balanced_weights, patches_each
from plainunet.network.checkpoint import Card, freeze_encoder, save_checkpoint
from plainunet.network.device import choose_device, choose_precision, most_memory, to_device
from plainunet.network.losses import LOSSES
from plainunet.network.unet import UNet
from plainunet.system import resident_memory
from plainunet.training.distributed import ALONE, Processes, synchronise
from plainunet.training.events import Advance, EpochDone, Note, OnEvent, Rate, Stage, StepDone
from plainunet.training.optim import WeightAverage, make_optimizers
from plainunet.training.run import BEST_FILE, draw_curves, rows_until, write_rows
from plainunet.training.schedule import ClockSchedule, Schedule, StepSchedule
from plainunet.training.state import Saver, Stop, StoppedError, TrainingState
from plainunet.training.step import Step
from plainunet.training.validate import VALIDATION_FOLDER, has_foreground, judge_epoch

FAULTS = 5
"""After so many steps in a row that could not be made, training ends."""


def train_epoch(
    step: Step,
    loader: Iterable[Sequence[Tensor]],
    state: TrainingState,
    rate_at: Callable[[int], float],
    *,
    frozen: Sequence[nn.Module] = (),
    files: Callable[[int], Sequence[str]] = lambda batch: (),
    on_note: Callable[[str], None] = lambda said: None,
    on_step: Callable[[int, float, int], None],
    ends: Callable[[], bool] = lambda: False,
) -> None:
    """Train on each batch of an epoch that has not been trained on.

    Args:
        step: Makes the steps; its network is left in train mode.
        loader: The batches, from number `state.batch` on.
        state: Where the run is; it is moved on with each step.
        rate_at: Learning rate of a step, by its number in the run.
        frozen: Parts of the network that stay in eval mode.
        files: Names the pictures of a batch, by its number in the epoch.
        on_note: Told of steps that could not be made.
        on_step: Told the step's number in the run, its loss, and its number of images.
        ends: Asked after each step whether the epoch ends here.

    Raises:
        FloatingPointError: Loss or gradient was not finite in `FAULTS` steps in a row; the
            weights are as before the first of them.
    """
    step.network.train()
    for part in frozen:
        part.eval()
    for batch in loader:
        loss, images, is_made = step(batch, state.step, rate_at(state.step))
        if is_made:
            state.in_a_row = 0
            state.loss_sum += loss * images
            state.images += images
        else:
            state.in_a_row += 1
            state.skipped += 1
            named = ", ".join(files(state.batch))
            what = f"step {state.step + 1}: the loss was {loss:g}, its gradient not finite"
            if state.in_a_row >= FAULTS:
                raise FloatingPointError(
                    f"{what}, and so in {FAULTS} steps in a row. Begin anew with a smaller "
                    "--learning-rate, or --precision fp32, and another --out; or look at the "
                    f"pictures of the last batch: {named}"
                )
            on_note(f"note: {what}; the step is left out. Its batch: {named}")
        on_step(state.step, loss, images)
        state.step += 1
        state.batch += 1
        if ends():
            break


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


EPOCH = 25
"""Steps that an epoch of a run by the clock has at least."""


def fit(
    network: UNet,
    card: Card,
    parts: dict[str, Samples],
    config: TrainConfig,
    data: Path,
    out: Path,
    saved: dict[str, Any] | None,
    on_event: OnEvent,
    begin: Callable[[], None] = lambda: None,
    end: float | None = None,
    processes: Processes = ALONE,
    stop: Stop | None = None,
) -> None:
    """Train and judge epoch by epoch; the best and the last state are in the run folder.

    Args:
        network: The network, fresh; a saved state is restored into it.
        card: Its description.
        parts: Samples of "train" and "val".
        config: The settings, `size` filled in.
        data: The data folder, noted in the state.
        out: The run folder.
        saved: The state to go on from, as by `read_state`, or None for a new run.
        on_event: Told what happens.
        begin: Called when a new run has all that it needs: writes what the run folder holds
            from the start. What fails or is killed before leaves no half run.
        end: When training must be over, on the clock of `processes` [s], instead of after
            so many epochs.
        processes: Those that share each batch and each judging; the first of them writes.
        stop: Becomes true when the run shall stop: it is saved then.

    Raises:
        FloatingPointError: Loss or gradient was not finite in several steps in a row.
        StoppedError: It was asked to stop.
    """
    stop = Stop() if stop is None else stop  # one that was not asked is false
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    network = to_device(network, device)
    frozen = freeze_encoder(network) if config.freeze == "encoder" else []
    if config.sync_batch_norm:
        synchronise(network)
    state = TrainingState(
        network,
        make_optimizers(network, config.optimizer, config.learning_rate, config.weight_decay),
        WeightAverage(network, config.ema) if config.ema else None,
        torch.amp.GradScaler(device.type) if precision == torch.float16 else None,
        accumulation=config.accumulation,
    )
    batches = _make_batches(config, parts["train"], processes, by_clock=end is not None)
    if saved:
        state.restore(saved)
        state.accumulation = max(state.accumulation, config.accumulation)
    elif processes.is_first:
        begin()
    save = Saver(lambda: state.save(out, data) if processes.is_first else None)

    def note(said: str) -> None:
        on_event(Note(said))

    schedule: Schedule = (
        StepSchedule(config, len(batches))
        if end is None
        else ClockSchedule(config, end, state.seconds, processes.clock)
    )
    step = Step(
        network,
        LOSSES[config.loss],
        state.optimizers,
        device=device,
        precision=precision,
        average=state.average,
        class_weights=(
            balanced_weights(parts["train"].class_shares())
            if config.class_weights == "balanced"
            else None
        ),
        accumulation=state.accumulation,
        clip=config.clip,
        scaler=state.scaler,
        seed=config.seed,
        processes=processes,
        is_asked_to_stop=lambda: bool(stop),
        on_note=note,
    )
    shared = f", {processes.count} processes" if processes.count > 1 else ""
    note(
        f"U-Net, {config.base_channels} base channels, depth {config.depth}, "
        f"{_describe_options(config)}"
        f"{sum(p.numel() for p in network.parameters()):,} parameters; "
        f"{str(precision).removeprefix('torch.')} on {device}{shared}"
    )

    def loader(size: tuple[int, int]) -> "DataLoader[tuple[Tensor, ...]]":
        return _make_loader(config, parts["train"], batches, size, device)

    Epochs(
        state,
        step,
        batches,
        loader,
        schedule,
        save,
        card=card,
        parts=parts,
        config=config,
        run=out,
        on_event=on_event,
        end=end,
        frozen=frozen,
        processes=processes,
        stop=stop,
    ).train()


def _make_batches(
    config: TrainConfig, samples: Samples, processes: Processes, by_clock: bool
) -> EpochBatches:
    """Order the samples into batches."""
    repeats = patches_each(samples.sizes, config.patch) if config.patch else 1
    if by_clock:  # what is done once an epoch is not to take much of the time
        repeats = max(repeats, math.ceil(EPOCH * config.batch_size / len(samples)))
    return EpochBatches(
        len(samples),
        config.batch_size,
        config.seed,
        repeats,
        processes.rank,
        processes.count,
    )


def _make_loader(
    config: TrainConfig,
    samples: Samples,
    batches: EpochBatches,
    size: tuple[int, int],
    device: torch.device,
) -> "DataLoader[tuple[Tensor, ...]]":
    """Make the batches of one size."""
    dataset = TrainingSet(
        samples,
        config.augment,
        config.seed,
        size,
        patch=config.patch,
        elastic=config.elastic,
        border=(config.border_weight, config.border_sigma) if config.border_weight else None,
    )
    workers = config.workers
    if workers is None:
        workers = 0 if device.type == "cpu" else 4
    return make_loader(dataset, batches, workers, pin_memory=device.type == "cuda")


def _describe_options(config: TrainConfig) -> str:
    """What is not as usual about the network, as in "valid, dropout 0.5, "."""
    usual = NetworkConfig()
    said = ""
    for name, value in config.network_arguments().items():
        if name not in ("base_channels", "depth") and value != getattr(usual, name):
            said += name.replace("_", " ") + ("" if value is True else f" {value}") + ", "
    return said
