"""All epochs of a run: train, judge, keep the best, save what is needed to go on."""

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from plainunet.config import NetworkConfig, TrainConfig
from plainunet.data.dataset import Samples, TrainingSet
from plainunet.data.loader import EpochBatches, make_loader
from plainunet.data.targets import balanced_weights
from plainunet.files import write_whole
from plainunet.network.checkpoint import Card, save_checkpoint
from plainunet.network.device import (
    choose_device,
    choose_precision,
    keep_freed_memory,
    to_device,
)
from plainunet.network.losses import LOSSES
from plainunet.network.transfer import freeze_encoder
from plainunet.network.unet import UNet
from plainunet.prediction.predictor import Predictor
from plainunet.training.curves import draw_curves
from plainunet.training.events import Advance, EpochDone, Note, OnEvent, Rate, Stage, StepDone
from plainunet.training.loop import train_epoch, validate
from plainunet.training.optim import WeightAverage, learning_rate_at, make_optimizers
from plainunet.training.prepare import size_in
from plainunet.training.state import TrainingState

BEST_FILE = "best.safetensors"
METRICS_FILE = "metrics.jsonl"
CURVES_PERIOD = 20.0
"""Seconds between two drawings of the curves; they cost most of a second."""


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

    Raises:
        FloatingPointError: The loss became infinite or not a number.
    """
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    network = to_device(network, device)
    if device.type == "cpu":
        keep_freed_memory()
    frozen = freeze_encoder(network) if config.freeze == "encoder" else []
    optimizers = make_optimizers(
        network, config.optimizer, config.learning_rate, config.weight_decay
    )
    average = WeightAverage(network, config.ema) if config.ema else None
    state = TrainingState(network, optimizers, average)
    if saved:
        state.restore(saved)
    else:
        begin()
        state.save(out, data)
    rows = _rows_until(out / METRICS_FILE, state.epoch)

    weights = (
        balanced_weights(parts["train"].class_shares())
        if config.class_weights == "balanced"
        else None
    )
    border = (config.border_weight, config.border_sigma) if config.border_weight else None
    batches = EpochBatches(len(parts["train"]), config.batch_size, config.seed)
    steps = config.epochs * len(batches)
    workers = config.workers if config.workers is not None else (0 if device.type == "cpu" else 4)
    on_event(
        Note(
            f"U-Net, {config.base_channels} base channels, depth {config.depth}, "
            f"{_describe_options(config)}"
            f"{sum(p.numel() for p in network.parameters()):,} parameters; "
            f"{str(precision).removeprefix('torch.')} on {device}"
        )
    )

    def rate_at(step: int) -> float:
        return learning_rate_at(step, steps, config.learning_rate, config.schedule, config.warm_up)

    drawn = float("-inf")
    for epoch in range(state.epoch, config.epochs):
        if config.patience and state.waited >= config.patience:
            on_event(Note(f"stopped: no better validation Dice for {state.waited} epochs"))
            break
        size = size_in(epoch, config)
        start = time.perf_counter()
        torch.manual_seed(int(np.random.SeedSequence([config.seed, epoch]).generate_state(1)[0]))
        dataset = TrainingSet(
            parts["train"],
            config.augment,
            config.seed,
            size,
            elastic=config.elastic,
            border=border,
        )
        batches.epoch = epoch
        loader = make_loader(dataset, batches, workers, pin_memory=device.type == "cuda")
        report = partial(_report_step, on_event, len(batches), steps, Rate())

        loss = train_epoch(
            network,
            loader,
            LOSSES[config.loss],
            optimizers,
            rate_at,
            first_step=state.step,
            device=device,
            precision=precision,
            average=average,
            class_weights=weights,
            accumulation=config.accumulation,
            clip=config.clip,
            frozen=frozen,
            on_step=report,
        )
        trained = time.perf_counter()

        judged = []
        for candidate in [network, *([average.network] if average else [])]:
            predictor = Predictor(
                candidate,
                dataclasses.replace(card, size=size, training={}),
                device=config.device,
                precision=config.precision,
            )
            on_event(Stage("validating", len(parts["val"])))
            scores = validate(predictor, parts["val"], size, lambda done: on_event(Advance(done)))
            judged.append(
                (scores["per_image"]["dice"]["mean_foreground"] or 0.0, scores, candidate)
            )
        # the average of the weights, where there is one, unless the last weights are better
        score, validation, live = max(reversed(judged), key=lambda each: each[0])
        state.epoch, state.step = epoch + 1, state.step + len(batches)
        state.seconds += time.perf_counter() - start
        state.waited += size == config.size
        if size == config.size and score > state.best:
            state.best, state.waited = score, 0
            save_checkpoint(out / BEST_FILE, live, dataclasses.replace(card, scores=validation))
        row = {
            "epoch": epoch + 1,
            "step": state.step,
            "size": size,
            "loss": loss,
            "learning_rate": rate_at(state.step - 1),
            "images_per_second": len(parts["train"]) / (trained - start),
            "seconds": state.seconds,
            "validation": validation,
        }
        rows.append(row)
        _write_rows(out / METRICS_FILE, rows)
        if time.monotonic() - drawn > CURVES_PERIOD or epoch + 1 == config.epochs:
            draw_curves(out / "curves.png", rows)
            drawn = time.monotonic()
        state.save(out, data)
        on_event(EpochDone(row))


def _describe_options(config: TrainConfig) -> str:
    """What is not as usual about the network, as in "valid, dropout 0.5, "."""
    usual = NetworkConfig()
    said = ""
    for name, value in config.network_arguments().items():
        if name not in ("base_channels", "depth") and value != getattr(usual, name):
            said += name.replace("_", " ") + ("" if value is True else f" {value}") + ", "
    return said


def _report_step(
    on_event: OnEvent, per_epoch: int, steps: int, rate: Rate, step: int, loss: float, images: int
) -> None:
    on_event(StepDone(step // per_epoch, step, steps, loss, rate.add(images)))


def _rows_until(file: Path, epoch: int) -> list[dict[str, Any]]:
    """Rows of the epochs that the saved state has seen."""
    if not file.is_file():
        return []
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if row["epoch"] <= epoch]


def _write_rows(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    with write_whole(file) as part:
        part.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
