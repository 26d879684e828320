"""All epochs of a run: train, judge, keep the best, save what is needed to go on."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from plainunet.config import NetworkConfig, TrainConfig
from plainunet.data.dataset import Samples, TrainingSet
from plainunet.data.loader import EpochBatches, make_loader
from plainunet.data.patches import patches_each
from plainunet.data.targets import balanced_weights
from plainunet.network.checkpoint import Card, save_checkpoint
from plainunet.network.device import choose_device, choose_precision, to_device
from plainunet.network.losses import LOSSES
from plainunet.network.transfer import freeze_encoder
from plainunet.network.unet import UNet
from plainunet.prediction.predictor import Predictor
from plainunet.training.curves import draw_curves
from plainunet.training.events import Advance, EpochDone, Note, OnEvent, Stage
from plainunet.training.loop import train_epoch, validate
from plainunet.training.optim import WeightAverage, make_optimizers
from plainunet.training.pictures import VALIDATION_FOLDER, Pictures
from plainunet.training.records import rows_until, write_rows
from plainunet.training.schedule import ClockSchedule, Schedule, StepSchedule
from plainunet.training.state import TrainingState
from plainunet.training.steps import StepReport

BEST_FILE = "best.safetensors"
CURVES_PERIOD = 20.0
"""Seconds between two drawings of the curves; they cost most of a second."""
EPOCH = 25
"""Steps that an epoch of a run by the clock has at least."""
SAVING = 0.05
"""Share of the time that saving the state may take in a run by the clock."""


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
        end: When training must be over, on the clock of `time.monotonic` [s], instead of after
            so many epochs.

    Raises:
        FloatingPointError: The loss became infinite or not a number.
    """
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    network = to_device(network, device)
    frozen = freeze_encoder(network) if config.freeze == "encoder" else []
    optimizers = make_optimizers(
        network, config.optimizer, config.learning_rate, config.weight_decay
    )
    average = WeightAverage(network, config.ema) if config.ema else None
    scaler = torch.amp.GradScaler(device.type) if precision == torch.float16 else None
    state = TrainingState(network, optimizers, average, scaler)
    if saved:
        state.restore(saved)
    else:
        begin()
        state.save(out, data)
    rows = rows_until(out, state.epoch)

    weights = (
        balanced_weights(parts["train"].class_shares())
        if config.class_weights == "balanced"
        else None
    )
    border = (config.border_weight, config.border_sigma) if config.border_weight else None
    repeats = patches_each(parts["train"].sizes, config.patch) if config.patch else 1
    if end is not None:  # what is done once an epoch is not to take much of the time
        repeats = max(repeats, math.ceil(EPOCH * config.batch_size / len(parts["train"])))
    batches = EpochBatches(len(parts["train"]), config.batch_size, config.seed, repeats)
    schedule: Schedule = (
        StepSchedule(config, len(batches))
        if end is None
        else ClockSchedule(config, end, state.seconds)
    )
    workers = config.workers if config.workers is not None else (0 if device.type == "cpu" else 4)
    on_event(
        Note(
            f"U-Net, {config.base_channels} base channels, depth {config.depth}, "
            f"{_describe_options(config)}"
            f"{sum(p.numel() for p in network.parameters()):,} parameters; "
            f"{str(precision).removeprefix('torch.')} on {device}"
        )
    )

    loaders: dict[tuple[int, int], DataLoader[tuple[Tensor, ...]]] = {}
    drawn = saved_at = float("-inf")
    judging = saving = 0.0
    while not schedule.is_over(epoch := state.epoch):
        if config.patience and state.waited >= config.patience:
            on_event(Note(f"stopped: no better validation Dice for {state.waited} epochs"))
            break
        size = schedule.size(epoch)
        start = time.perf_counter()
        torch.manual_seed(int(np.random.SeedSequence([config.seed, epoch]).generate_state(1)[0]))
        if size not in loaders:
            dataset = TrainingSet(
                parts["train"],
                config.augment,
                config.seed,
                size,
                patch=config.patch,
                elastic=config.elastic,
                border=border,
            )
            pinned = device.type == "cuda"
            loaders = {size: make_loader(dataset, batches, workers, pin_memory=pinned)}
        batches.epoch = epoch
        report = StepReport(on_event, epoch, schedule, optimizers[0], len(batches), device, end)

        loss = train_epoch(
            network,
            loaders[size],
            LOSSES[config.loss],
            optimizers,
            schedule.rate,
            first_step=state.step,
            device=device,
            precision=precision,
            average=average,
            class_weights=weights,
            accumulation=config.accumulation,
            clip=config.clip,
            frozen=frozen,
            scaler=scaler,
            cuts=partial(schedule.cuts, epoch),
            on_step=report,
        )
        trained = time.perf_counter()

        state.epoch, state.step = epoch + 1, state.step + report.steps
        candidates = [network, *([average.network] if average else [])]
        validation: dict[str, Any] | None = None
        if schedule.judges(epoch, judging):
            score, validation, live, pictures = _judge(
                candidates, card, size, parts["val"], config, on_event
            )
            pictures.write(out / VALIDATION_FOLDER)
            judging = time.perf_counter() - trained
            if size == config.window:
                state.waited += 1
                if score > state.best:
                    state.best, state.waited = score, 0
                    said = dataclasses.replace(card, scores=validation)
                    save_checkpoint(out / BEST_FILE, live, said)
        unknown = validation is None or size != config.window
        if end is not None and unknown and schedule.is_over(state.epoch):
            # the clock leaves no time to judge the last weights; their rate has come down
            save_checkpoint(out / BEST_FILE, candidates[-1], card)
        state.seconds += time.perf_counter() - start
        row = {
            "epoch": epoch + 1,
            "step": state.step,
            "size": size,
            "loss": loss,
            "learning_rate": optimizers[0].param_groups[0]["lr"],
            "images_per_second": report.images / (trained - start),
            "seconds": state.seconds,
            "validation": validation,
        }
        rows.append(row)
        write_rows(out, rows)
        if time.monotonic() - drawn > CURVES_PERIOD or schedule.is_over(state.epoch):
            draw_curves(out / "curves.png", rows)
            drawn = time.monotonic()
        due = end is None or time.monotonic() - saved_at >= saving / SAVING
        if due or schedule.is_over(state.epoch):
            begun = time.monotonic()
            state.save(out, data)
            saved_at = time.monotonic()
            saving = saved_at - begun
        on_event(EpochDone(row, state.best if state.best >= 0 else None))


def _describe_options(config: TrainConfig) -> str:
    """What is not as usual about the network, as in "valid, dropout 0.5, "."""
    usual = NetworkConfig()
    said = ""
    for name, value in config.network_arguments().items():
        if name not in ("base_channels", "depth") and value != getattr(usual, name):
            said += name.replace("_", " ") + ("" if value is True else f" {value}") + ", "
    return said


def _judge(
    candidates: Sequence[UNet],
    card: Card,
    size: tuple[int, int],
    samples: Samples,
    config: TrainConfig,
    on_event: OnEvent,
) -> tuple[float, dict[str, Any], UNet, Pictures]:
    """Judge the last weights and, where there is one, their average; the better of the two."""
    judged = []
    for candidate in candidates:
        predictor = Predictor(
            candidate,
            dataclasses.replace(card, size=None, factor=1.0, training={}),
            device=config.device,
            precision=config.precision,
        )
        pictures = Pictures(samples, card.colors)
        on_event(Stage("validating", len(samples)))
        scores = validate(
            predictor,
            samples,
            size,
            lambda done: on_event(Advance(done)),
            config.patch,
            pictures.show,
        )
        score: float = scores["per_image"]["dice"]["mean_foreground"] or 0.0
        judged.append((score, scores, candidate, pictures))
    best: tuple[float, dict[str, Any], UNet, Pictures] = max(
        reversed(judged), key=lambda each: each[0]
    )
    return best
