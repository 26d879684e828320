"""From settings to all that training needs, and then epoch after epoch."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from plainunet.config import NetworkConfig, TrainConfig
from plainunet.data.dataset import Samples, TrainingSet
from plainunet.data.loader import EpochBatches, make_loader
from plainunet.data.patches import patches_each
from plainunet.data.targets import balanced_weights
from plainunet.network.checkpoint import Card
from plainunet.network.device import choose_device, choose_precision, to_device
from plainunet.network.losses import LOSSES
from plainunet.network.synchronised import synchronise
from plainunet.network.transfer import freeze_encoder
from plainunet.network.unet import UNet
from plainunet.training.distributed import ALONE, Processes
from plainunet.training.epochs import Epochs
from plainunet.training.events import Note, OnEvent
from plainunet.training.interrupt import Stop
from plainunet.training.optim import WeightAverage, make_optimizers
from plainunet.training.saving import Saver
from plainunet.training.schedule import ClockSchedule, Schedule, StepSchedule
from plainunet.training.state import TrainingState
from plainunet.training.step import Step

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
