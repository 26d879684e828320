"""What a run begins with: samples of both parts, the network, and what a checkpoint says of it."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from plainunet.config import NetworkConfig, TrainConfig
from plainunet.data.dataset import Samples
from plainunet.data.images import read_image
from plainunet.data.masks import MaskCoding
from plainunet.data.pairing import Pair
from plainunet.evaluation.parts import data_digest, sample_sizes
from plainunet.network.checkpoint import Card, load_checkpoint, versions
from plainunet.network.transfer import OWN, take_weights
from plainunet.network.unet import UNet
from plainunet.palette import default_colors
from plainunet.training.distributed import Processes
from plainunet.training.events import Advance, Note, OnEvent, Stage
from plainunet.training.refining import UnsureWindows, with_coarse

_SOME = 16
"""Pictures whose type of numbers is looked at."""
Shape = tuple[int, int, int]
"""Height, width [pixels] and channels of a picture."""


def with_checkpoints(
    config: TrainConfig, data: Path, on_event: OnEvent
) -> tuple[TrainConfig, dict[str, str]]:
    """Fill in what follows from checkpoints that a run begins with.

    Args:
        config: The settings as given, and as the data folder says.
        data: The data folder.
        on_event: Told what is taken from another run.

    Returns:
        The settings, and for each that was filled in, why.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: It is none, or a setting contradicts.
    """
    taken: dict[str, str] = {}
    given = config.model_fields_set
    if config.start_from:
        network, _ = load_checkpoint(Path(config.start_from))
        kept = (NetworkConfig.model_fields.keys() & network.architecture.keys()) - given - set(OWN)
        config = config.model_copy(update={name: network.architecture[name] for name in kept})
        taken |= dict.fromkeys(kept, "as in the checkpoint that it starts from")
    if config.refine_of is not None:
        given = config.model_fields_set
        config = with_coarse(config, data, on_event)
        taken |= dict.fromkeys(config.model_fields_set - given, "as refining has it")
    return config, taken


def read_samples(
    pairs: Sequence[Pair],
    coding: MaskCoding,
    config: TrainConfig,
    shapes: Sequence[Shape],
    processes: Processes,
    on_event: OnEvent,
) -> dict[str, Samples]:
    """Decode all pictures once, if there is room for it.

    Args:
        pairs: All pairs of the run.
        coding: How mask values become class ids.
        config: The settings, filled in.
        shapes: Of each pair's picture.
        processes: Those of the run; on each machine, one of them decodes.
        on_event: Told what happens.

    Returns:
        Samples of "train" and "val".
    """
    if grey := _grey(shapes):
        on_event(Note(f"note: {grey} grey pictures are shown as RGB, like the others"))

    def choose(part: str) -> Samples:
        chosen = [pair for pair in pairs if pair.part == part]
        channels = _channels(shapes)
        objects = part == "train" and config.border_weight > 0
        if config.refine_of is not None:
            return UnsureWindows(chosen, coding, config, channels, objects, judged=part == "val")
        return Samples(
            chosen, coding, config.size, channels, config.target_scale, objects, config.factor
        )

    parts = {part: choose(part) for part in ("train", "val")}

    def fill() -> None:
        for samples in parts.values():
            on_event(Stage("reading pictures", len(samples)))
            samples.fill_cache(lambda done, total: on_event(Advance(done)))
            on_event(Advance(len(samples)))  # what was in the cache is not told

    processes.in_turn(fill)
    return parts


def make_network(
    config: TrainConfig,
    shapes: Sequence[Shape],
    samples: Samples,
    is_new: bool,
    on_event: OnEvent,
) -> UNet:
    """Make the network, its weights fresh or another checkpoint's.

    Args:
        config: The settings, filled in.
        shapes: Of each picture.
        samples: The training part, whose mean and standard deviation it takes.
        is_new: Whether the run begins; else a state will be restored into it.
        on_event: Told what happens.

    Returns:
        The network, on the CPU.
    """
    torch.manual_seed(config.seed)
    channels = _channels(shapes) + samples.told
    network = UNet(channels, len(config.classes), **config.network_arguments())
    if config.start_from and is_new:
        fresh = take_weights(network, Path(config.start_from))
        said = f"; fresh or averaged: {', '.join(fresh)}" if fresh else ""
        on_event(Note(f"weights from {config.start_from}{said}"))
    network.set_normalisation(*samples.statistics())
    return network


def describe_run(
    data: Path,
    pairs: Sequence[Pair],
    coding: MaskCoding,
    config: TrainConfig,
    shapes: Sequence[Shape],
) -> Card:
    """Say what a checkpoint of the run says of itself.

    Args:
        data: The data folder.
        pairs: All pairs of the run.
        coding: How mask values become class ids.
        config: The settings, filled in.
        shapes: Of each pair's picture.

    Returns:
        The description, without scores.
    """
    areas = sorted(height * width for height, width, _ in shapes)
    masks = {"values": coding.values, "ignore": coding.ignore, "kind": coding.kind}
    # not every second one, as where two cameras took turns
    some = random.Random(0).sample(pairs, min(_SOME, len(pairs)))
    training: dict[str, Any] = {
        "digest": data_digest(pairs, data),
        "sample": sample_sizes([pair for pair in pairs if pair.part == "train"], data),
        "areas": [areas[0], areas[-1]],
        "grey": _grey(shapes),
        "dtypes": sorted({read_image(pair.image).dtype.name for pair in some}),
        "pictures": {part: sum(pair.part == part for pair in pairs) for part in ("train", "val")},
        "settings": config.model_dump(mode="json"),
    }
    return Card(
        class_names=config.classes,
        colors=coding.colors or default_colors(len(config.classes)),
        size=config.size,
        factor=config.factor,
        refines=config.refine_of is not None,
        masks={**masks, "colors": coding.colors} if coding.colors else masks,
        training=training,
        versions=versions(),
    )


def _channels(shapes: Sequence[Shape]) -> int:
    """Channels of the network's input."""
    return max(channels for _, _, channels in shapes)


def _grey(shapes: Sequence[Shape]) -> int:
    """How many pictures are grey among RGB ones."""
    return sum(channels == 1 for _, _, channels in shapes) if _channels(shapes) == 3 else 0
