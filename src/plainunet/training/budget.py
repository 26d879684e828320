"""A run's time: what a step and the judging take on this machine.

In: a network, a picture size, pictures to judge. Out: seconds, measured by doing it.
"""

import time
from collections.abc import Collection, Sequence

import torch

from plainunet.config import Growth, TrainConfig
from plainunet.data.images import image_shape, read_image
from plainunet.data.masks import MaskCoding
from plainunet.data.pairing import Pair
from plainunet.evaluation.metrics import confusion_matrix
from plainunet.network.device import arithmetic, choose_device, choose_precision, to_device
from plainunet.network.losses import cross_entropy_dice
from plainunet.network.unet import UNet
from plainunet.prediction.predictor import Predictor
from plainunet.training.optim import make_optimizers
from plainunet.training.plan import plan_budget

_STEPS = 3
_WRITING = 0.15
"""Seconds for each million pixels of a comparison picture that is drawn and written."""
_LAST = 1.5
"""Seconds for curves, checkpoints and tables at a run's end."""


def fit_budget(
    config: TrainConfig,
    given: Collection[str],
    pairs: Sequence[Pair],
    sizes: Sequence[tuple[int, int]],
    coding: MaskCoding,
    spent: float,
) -> tuple[TrainConfig, list[str]]:
    """Fill in what the settings leave to the clock.

    Args:
        config: The settings, with a budget.
        given: Names of the settings that the user gave; these stay.
        pairs: All pairs, each with its part.
        sizes: Height and width of each picture [pixels].
        coding: What mask values mean.
        spent: Seconds of the budget that are over.

    Returns:
        The settings, and a line on each with its reason.

    Raises:
        ValueError: The budget is too short to train at all.
    """
    assert config.budget is not None
    start = time.perf_counter()
    channels = [image_shape(pair.image)[2] for pair in pairs[:: max(1, len(pairs) // 8)]]
    reading = []
    for pair in pairs[:: max(1, len(pairs) // 3)][:3]:
        begun = time.perf_counter()
        coding.read(pair.mask)
        read_image(pair.image)
        reading.append(time.perf_counter() - begun)
    narrow = config.model_copy(update={"base_channels": 16} if "base_channels" not in given else {})
    pixel = measure_pixel(max(channels), coding.num_classes, narrow)
    # every picture is read once for the cache, by two threads or more, and judged at the end
    judged = sum(pair.part == "val" for pair in pairs)
    reserve = min(reading) * (len(pairs) / 2 + 3 * judged) + 2
    seconds = config.budget - spent - (time.perf_counter() - start) - reserve
    if seconds < 0.25 * config.budget:
        raise ValueError(
            f"--budget {config.budget:.0f} s is too short: reading {len(pairs)} pictures and "
            f"judging {judged} take about {config.budget - seconds:.0f} s. Give a longer one, or "
            "--epochs."
        )
    trained = sum(pair.part == "train" for pair in pairs)
    plan = plan_budget(seconds, pixel, sizes, trained, config.depth)
    changed = {name: value for name, (value, _) in plan.items() if name not in given}
    growth = changed.get("growth")
    if growth is not None:
        changed["growth"] = tuple(Growth(**part) for part in growth)
    lines = [f"plan for {config.budget:.0f} s, of which {seconds:.0f} s to train:"]
    for name, (value, reason) in plan.items():
        flag = name.replace("_", " ")
        if name in given:
            lines.append(f"  {flag}: {getattr(config, name)} (as given)")
        else:
            said = [f"{part['scale']:.2f}" for part in value] if name == "growth" else value
            lines.append(f"  {flag}: {said} ({reason})")
    return config.model_copy(update=changed), lines


def measure_pixel(in_channels: int, num_classes: int, config: TrainConfig) -> float:
    """Time training steps on random pictures.

    Args:
        in_channels: Channels C of the pictures.
        num_classes: Classes K.
        config: The settings; the network is as they say.

    Returns:
        Seconds that one working pixel of one picture takes in a training step.
    """
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    with torch.random.fork_rng():
        network = UNet(in_channels, num_classes, **config.network_arguments())
        height, width = 96, 128
        image = torch.rand(config.batch_size, in_channels, height, width, device=device)
    network = to_device(network, device).train()
    image = image.contiguous(memory_format=torch.channels_last)
    target = torch.zeros(config.batch_size, num_classes, height, width, device=device)
    target[:, 0] = 1
    weight = torch.ones(config.batch_size, height, width, device=device)
    optimizers = make_optimizers(network, config.optimizer, 1e-9, 0.0)
    times = []
    for _ in range(_STEPS):
        start = time.perf_counter()
        with arithmetic(device, precision):
            logits = network(image)
        if config.valid:
            logits = torch.nn.functional.interpolate(logits, (height, width))
        cross_entropy_dice(logits, target, weight).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times) / (config.batch_size * height * width)


def measure_end(
    predictor: Predictor, pairs: Sequence[Pair], coding: MaskCoding, pictures: int
) -> float:
    """Say how long the end of a run will take: judging natively, and saving pictures.

    Args:
        predictor: The network, at the run's working size.
        pairs: The pictures that will be judged; three of them are, now.
        coding: What their masks mean.
        pictures: How many of them will be drawn.

    Returns:
        Seconds.
    """
    times, areas = [], []
    for pair in pairs[:: max(1, len(pairs) // 3)][:3]:
        start = time.perf_counter()
        truth = coding.read(pair.mask)
        prediction = predictor.predict(read_image(pair.image))
        confusion_matrix(truth, prediction, predictor.network.num_classes)
        times.append(time.perf_counter() - start)
        areas.append(truth.size)
    # the first has waited for memory to be mapped
    each = sum(times[1:]) / (len(times) - 1) if len(times) > 1 else times[0]
    drawing = each + _WRITING * sum(areas) / len(areas) / 1e6
    return len(pairs) * each + min(pictures, len(pairs)) * drawing + _LAST
