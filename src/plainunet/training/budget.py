"""The time budget of a run: seconds per step and per evaluation, measured on this machine."""

import math
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from plainunet.config import Growth, TrainConfig
from plainunet.dataset.dataset import SegmentationDataset
from plainunet.dataset.shards import ShardedDataset
from plainunet.errors import Error
from plainunet.evaluation.measure import PredictedImage, predict_images
from plainunet.evaluation.metrics import confusion_matrix
from plainunet.evaluation.report import (
    CEILING,
    MEDIAN,
    WORST,
    fit_panels,
    measure_ceiling,
    show,
)
from plainunet.formats.images import image_shape, read_image
from plainunet.network.device import autocast, choose_device, choose_precision, to_device
from plainunet.network.losses import cross_entropy_dice
from plainunet.network.own import Network, copy_part, make_own_network
from plainunet.network.unet import UNet, deep_logits
from plainunet.parts import Part
from plainunet.prediction.drawing import Colors, write_comparison, write_mask
from plainunet.prediction.predictor import Predictor
from plainunet.system import total_memory
from plainunet.text import plural
from plainunet.training.fingerprint import Fingerprint, take_fingerprint
from plainunet.training.optim import make_optimizers
from plainunet.training.plan import (
    OPTIMIZER,
    Machine,
    largest_side,
    make_plan,
)
from plainunet.training.run import Run
from plainunet.training.teacher import TrainedTeacher
from plainunet.training.validate import SAVED_IMAGES

_STEPS, _BATCH, _SIZE, _LONG = 3, 8, (128, 160), 2.0
"""Steps to time, their batch size, and height and width; no more steps after this time [s]."""
_GPU_WIDTHS, _GPU_SIDE = (16, 32, 64), 1024
"""Base channels to time on a GPU, and the largest side of images for it."""
_MOST_EPOCHS, _LEAST = 1000, 60.0
"""The default budget is cut to about this many epochs, but not below this time [s]."""
_EVALUATED = 8
_LEAST_SHARE = 0.25
"""Fraction of a budget that must be left for training when it is planned."""
_FORWARD = 1 / 3
"""Time of the forward pass relative to forward and backward."""
_LITTLE = 0.1
"""Fraction of a budget that must be left for training."""
_PANELS = 200_000
"""Approximate bytes of an image in the report."""
_OF_UNETS = ("base_channels", "depth", "normalisation")
"""Settings that another network does not have."""
_LAST = 2.0
"""Time for curves, charts, checkpoints and tables at the end of a run [s]."""


def fit_budget(
    config: TrainConfig,
    given: Collection[str],
    dataset: SegmentationDataset,
    spent: float,
    taken: Mapping[str, str] | None = None,
    own: Part | None = None,
    teacher: TrainedTeacher | None = None,
) -> tuple[TrainConfig, list[str]]:
    """Choose the settings that the user left to the time budget.

    Args:
        config: The settings, with a budget.
        given: Names of the settings that the user gave; they are kept.
        dataset: The data, each pair with its split.
        spent: Part of the budget that has passed [s].
        taken: Those in `given` that come from a checkpoint, each with the reason.
        own: The user's own network.
        teacher: The teacher, whose predictions are part of the budget.

    Returns:
        The settings, and the lines of the plan: each setting with its reason.

    Raises:
        ValueError: The budget is too short for training.
    """
    assert config.budget is not None
    given = {name for name in given if getattr(config, name) is not None}
    given |= {*(_OF_UNETS if own else ())}
    start = time.perf_counter()
    pairs, coding, counts = dataset.excerpt(), dataset.coding, dataset.counts()
    stats = take_fingerprint(pairs, dataset.sizes, coding, dataset.shares)
    stats = stats._replace(trained=counts["train"])
    channels = [image_shape(pair.image)[2] for pair in pairs[:: max(1, len(pairs) // 8)]]
    reading = []
    for pair in pairs[:: max(1, len(pairs) // 3)][:3]:
        begun = time.perf_counter()
        coding.read(pair.mask)
        read_image(pair.image)
        reading.append(time.perf_counter() - begun)
    machine = measure_machine(max(channels), coding.num_classes, config, given, own)
    # every image is read once for the cache, by two threads or more; held-out ones again at the end
    held_out = counts["val"]
    cached = 0 if isinstance(dataset, ShardedDataset) else len(dataset)
    reserve = min(reading) * (cached / 2 + 3 * held_out) + 2
    teaching = teacher.measure(dataset) if teacher else 0.0
    reserve += teaching
    seconds = config.budget - spent - (time.perf_counter() - start) - reserve
    if seconds < _LEAST_SHARE * config.budget:
        raise Error(
            f"--budget {config.budget:.0f} s is too short: starting, reading {len(dataset)} images "
            f"and evaluating {held_out} takes about {config.budget - seconds:.0f} s"
            + (f", {teaching:.0f} s of it for --teacher" if teacher else "")
            + f". Set at least {math.ceil((config.budget - seconds) / (1 - _LEAST_SHARE)):d} s, or "
            "--epochs."
        )
    settings = {name: getattr(config, name) for name in given}
    plan = make_plan(stats, machine, seconds, settings, taken)
    if "patch" in plan:  # the network sees every pixel of the held-out images at the end
        pixels = sum(height * width for height, width in dataset.sizes) / len(dataset)
        scaled = held_out * pixels * plan["factor"][0] ** 2
        seconds = max(seconds - scaled * machine.pixel * _FORWARD, _LITTLE * config.budget)
        plan = make_plan(stats, machine, seconds, settings, taken)
    budget = config.budget
    if "budget" not in given and plan["epochs"][0] > _MOST_EPOCHS:
        less = min(seconds, max(_LEAST, seconds * _MOST_EPOCHS / plan["epochs"][0]))
        budget, seconds = budget - seconds + less, less
        plan = make_plan(stats, machine, seconds, settings, taken)
    changed = {name: value for name, (value, _) in plan.items() if name not in given}
    if changed.get("growth"):
        changed["growth"] = tuple(Growth(**stage) for stage in changed["growth"])
    changed["budget"] = budget
    return config.model_copy(update=changed), [
        f"plan for {budget:.0f} s ({seconds:.0f} s of training) on {machine.name}:",
        *_describe_data(stats),
        *(
            f"  {name.replace('_', ' ')}: {_format(*each)}"
            for name, each in plan.items()
            if not own or name not in _OF_UNETS
        ),
    ]


def _describe_data(stats: Fingerprint) -> list[str]:
    ceilings = ", ".join(f"{side}: {dice:.3f}" for side, dice in stats.ceilings.items())
    lines = []
    if ceilings:
        lines.append(f"  max. Dice by input size: {ceilings}")
    if stats.smallest:
        lines.append(f"  10 % of the objects are less than {stats.smallest:.0f} pixels across")
    return lines


def _format(value: Any, reason: str) -> str:
    if isinstance(value, tuple) and value and not isinstance(value[0], int):
        value = ", ".join(f"{dict(p)['scale']:.2f} until {dict(p)['until']:.0%}" for p in value)
    elif isinstance(value, tuple):
        value = " x ".join(map(str, value)) or "none"
    return f"{value} ({reason})"


def measure_machine(
    in_channels: int,
    num_classes: int,
    config: TrainConfig,
    given: Collection[str],
    own: Part | None = None,
) -> Machine:
    """Time training steps on the device of the settings.

    Args:
        in_channels: Channels of the images.
        num_classes: Number of classes.
        config: The settings.
        given: Names of the settings that the user gave.
        own: The user's own network.

    Returns:
        Speed and memory of the device.
    """
    device = choose_device(config.device)
    precision = str(choose_precision(config.precision, device)).removeprefix("torch.")

    def measure(size: tuple[int, int] = _SIZE, base: int = 16) -> StepTime:
        planned = {"base_channels": base, "optimizer": OPTIMIZER}
        chosen = {name: value for name, value in planned.items() if name not in given}
        return measure_step(in_channels, num_classes, config.model_copy(update=chosen), own, size)

    small = measure()
    batch = min(config.batch_size, _BATCH)
    pixels = batch * _SIZE[0] * _SIZE[1]
    if device.type != "cuda":
        threads = torch.get_num_threads()
        name = f"{plural(threads, 'CPU thread')}, {precision}"
        if device.type == "mps":
            name = f"an Apple GPU, {precision}"
        return Machine(small.passes / pixels, total_memory(), name, small.update)
    name = f"{torch.cuda.get_device_name(device)}, {precision}"
    free, memory = torch.cuda.mem_get_info(device)
    # small images take as long as the start of their kernels: what a pixel takes, large ones show
    widths = (config.base_channels,) if "base_channels" in given else _GPU_WIDTHS
    side = min(_GPU_SIDE, largest_side(free, batch, max(widths), num_classes))
    large = {base: measure((side, side), base).passes for base in widths}
    first = large[widths[0]]
    pixel = max((first - small.passes) / (batch * side**2 - pixels), 0.5 * first / batch / side**2)
    step = small.update + max(0.0, small.passes - pixel * pixels)
    relative = {base: passes / first for base, passes in large.items()}
    return Machine(pixel, memory, name, step, relative, large_batches=True)


class StepTime(NamedTuple):
    """Seconds of a training step.

    Attributes:
        passes: Forward and backward pass of a batch.
        update: The optimiser, whose time depends on the weights alone.
    """

    passes: float
    update: float


def measure_step(
    in_channels: int,
    num_classes: int,
    config: TrainConfig,
    own: Part | None = None,
    size: tuple[int, int] = _SIZE,
) -> StepTime:
    """Time training steps on random images of a size [pixels], up to 8 to a batch."""
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    with torch.random.fork_rng():
        network: Network
        if own:
            network = make_own_network(copy_part(own), in_channels, num_classes)
        else:
            network = UNet(in_channels, num_classes, **config.network_arguments())
        batch_size = min(config.batch_size, _BATCH)
        image = torch.rand(batch_size, in_channels, *size, device=device)
    network = to_device(network, device).train()
    image = image.contiguous(memory_format=torch.channels_last)
    target = torch.zeros(batch_size, num_classes, *size, device=device)
    target[:, 0] = 1
    weight = torch.ones(batch_size, *size, device=device)
    optimizers = make_optimizers(network, config.optimizer, 1e-9, 0.0, precision)

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        elif device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter()

    passes, updates = [], []
    for _ in range(_STEPS):
        start = now()
        with autocast(device, precision):
            # mirrored at the edges for valid convolutions, as in training
            logits = deep_logits(network, image)[0] if isinstance(network, UNet) else network(image)
        cross_entropy_dice(logits, target, weight).backward()
        between = now()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        passes.append(between - start)
        updates.append(now() - between)
        # never the first alone, which prepares the kernels
        if len(passes) > 1 and sum(passes) + sum(updates) > _LONG:
            break
    return StepTime(min(passes), min(updates))


def find_end(run: Run, evaluation: float, *, is_new: bool) -> float:
    """When training must end [s, `time.monotonic`] to leave time for the evaluation [s].

    A resumed run has the time that is left, or is over.
    """
    budget = run.config.budget
    assert budget is not None
    spent = time.monotonic() - run.begun
    if is_new and budget - spent - evaluation < _LITTLE * budget:
        raise Error(
            f"--budget {budget:.0f} s is too short: starting took {spent:.0f} s, and the final "
            f"evaluation takes about {evaluation:.0f} s. Set at least "
            f"{math.ceil((spent + evaluation) / (1 - _LITTLE))} s, or --epochs."
        )
    return run.begun + budget - evaluation


class EndTime(NamedTuple):
    """Estimated seconds of the end of a run.

    Attributes:
        prediction: Of all held-out images, once.
        total: Evaluation, saved images and the report.
    """

    prediction: float
    total: float


def measure_end(predictor: Predictor, dataset: SegmentationDataset) -> EndTime:
    """Estimate the seconds for the end of a run from some images of its validation split."""
    # the first image pays for page faults and has no prefetch, so it is not timed
    count = len(dataset)
    chosen = dataset.subset([0, *range(0, count, -(-count // _EVALUATED))])
    times, areas = [time.perf_counter()], []
    colors = predictor.card.colors
    with tempfile.TemporaryDirectory() as folder:
        for predicted in predict_images(predictor, chosen):
            confusion_matrix(predicted.truth, predicted.prediction, predictor.network.num_classes)
            times.append(time.perf_counter())
            areas.append(predicted.truth.size)
        tasks = (
            partial(_save, predicted, colors, Path(folder)),
            lambda: fit_panels(show(0, "worst", predicted), colors, _PANELS),
            lambda: measure_ceiling(predictor.card, chosen.subset([len(chosen) - 1])),
        )
        drawing, packing, reducing = (_time_second(task) / areas[-1] for task in tasks)
    each = (times[-1] - times[1]) / sum(areas[1:])
    mean = sum(height * width for height, width in dataset.sizes) / count
    saved, shown, reduced = (
        mean * min(most, count) for most in (SAVED_IMAGES, WORST + MEDIAN, CEILING)
    )
    again = mean * min(SAVED_IMAGES + WORST + MEDIAN, count)  # some are both saved and shown
    drawn = saved * drawing + shown * packing + reduced * reducing
    return EndTime(mean * count * each, (mean * count + again) * each + drawn + _LAST)


def _save(predicted: PredictedImage, colors: Colors, folder: Path) -> None:
    write_mask(folder / "mask.png", predicted.prediction, colors)
    write_comparison(folder / "comparison.png", *predicted[:3], colors)


def _time_second(work: Callable[[], object]) -> float:
    """Call `work` twice and time the second call [s]: the first one loads modules."""
    work()
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
