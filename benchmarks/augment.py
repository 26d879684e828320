"""Time the extra cost of border weights and elastic deformation per training sample.

The images are synthetic discs on noise, read from the cache as in training, by one process with one
thread. Every setting makes each sample once per round, so a slow moment of the machine affects all
of them. The table holds medians over the rounds, and each ratio is a median of ratios within a
round. A training step is timed in the same rounds for comparison. Prints a table; files go to a
temporary folder. Limitation: one kind of image with round objects.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from plainunet import UNet
from plainunet.dataset.coding import Instances
from plainunet.dataset.pairs import Pair
from plainunet.dataset.samples import Samples, TrainingSet, make_batch
from plainunet.network.losses import cross_entropy_dice

SETTINGS: dict[str, dict[str, object]] = {
    "neither": {},
    "elastic": {"elastic": 10.0},
    "border weights": {"border": (10.0, 5.0)},
    "both": {"elastic": 10.0, "border": (10.0, 5.0)},
}
STEP = "a training step"


def draw_pairs(folder: Path, count: int, objects: int, side: int) -> list[Pair]:
    """Write images of numbered discs that cover about 40 % of each image.

    Args:
        folder: The output folder.
        count: Number of images.
        objects: Number of discs per image; later ones occlude earlier ones.
        side: Height and width [pixels].

    Returns:
        The pairs of files.
    """
    random = np.random.default_rng(objects)
    radius = side * np.sqrt(0.4 / np.pi / objects)
    pairs = []
    for number in range(count):
        mask = np.zeros((side, side), np.uint16)
        for label in range(1, objects + 1):
            centre = [int(place) for place in random.integers(0, side, 2)]
            cv2.circle(mask, centre, int(radius * random.uniform(0.7, 1.3)), label, -1)
        image = random.integers(0, 90, (side, side, 3)) + np.where(mask > 0, 120, 30)[..., None]
        pair = Pair(folder / f"{number}.png", folder / f"{number}_mask.png", str(number), None)
        Image.fromarray(image.astype(np.uint8)).save(pair.image)
        Image.fromarray(mask).save(pair.mask)
        pairs.append(pair)
    return pairs


def make_step(dataset: TrainingSet, batch_size: int, base_channels: int) -> Callable[[], None]:
    """Make a function that runs one training step on the CPU.

    Args:
        dataset: The source of the batch.
        batch_size: Batch size.
        base_channels: Width of the network.

    Returns:
        A function without arguments.
    """
    torch.manual_seed(0)
    network = UNet(base_channels=base_channels).to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4)
    samples = [dataset[0, number, number] for number in range(batch_size)]
    stacked = [torch.stack(parts) for parts in zip(*samples, strict=True)]

    def step() -> None:
        image, target, weight = make_batch(stacked, torch.device("cpu"))
        optimiser.zero_grad()
        cross_entropy_dice(network(image), target, weight).backward()
        optimiser.step()

    return step


def measure(arguments: argparse.Namespace, objects: int) -> dict[str, list[float]]:
    """Time every setting, and a training step, in interleaved rounds.

    Args:
        arguments: The command line.
        objects: Number of discs per image.

    Returns:
        Milliseconds per sample, for each setting and round.
    """
    side, count = arguments.side, arguments.images
    with tempfile.TemporaryDirectory() as name:
        os.environ["PLAINUNET_CACHE"] = f"{name}/cache"
        pairs = draw_pairs(Path(name), count, objects, side)
        coding = Instances()
        samples = {
            wanted: Samples(pairs, coding, (side, side), objects=wanted) for wanted in (False, True)
        }
        for each in samples.values():
            each.fill_cache()
        sets = {
            setting: TrainingSet(
                samples["border" in others], arguments.augment, 0, (side, side), **others
            )
            for setting, others in SETTINGS.items()
        }
        step = make_step(sets["neither"], count, arguments.base_channels)
        times: dict[str, list[float]] = {setting: [] for setting in [*SETTINGS, STEP]}
        for epoch in range(arguments.rounds + 1):
            for setting, dataset in sets.items():
                started = time.perf_counter()
                for number in range(count):
                    dataset[epoch, number, number]
                times[setting].append(time.perf_counter() - started)
            started = time.perf_counter()
            step()
            times[STEP].append(time.perf_counter() - started)
    # the first round warms up
    return {key: [1000 * t / count for t in values[1:]] for key, values in times.items()}


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description="Time the creation of training samples.")
    parser.add_argument("--objects", type=int, nargs="+", default=[30, 100])
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--images", type=int, default=8, help="images per round and per batch")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--augment", default="light")
    parser.add_argument("--base-channels", type=int, default=16)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)

    print(
        f"Making a sample: {arguments.side}x{arguments.side}, augment {arguments.augment}, "
        f"{arguments.rounds} rounds of {arguments.images} images; times are per image.\n"
        f"The step: base {arguments.base_channels}, fp32, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads of {os.cpu_count()} cores, {platform.machine()}, "
        f"load {os.getloadavg()[0]:.1f}"
    )
    for objects in arguments.objects:
        times = measure(arguments, objects)
        print(f"\n{f'{objects} objects':20}{'median ms':>12}{'least ms':>10}{'ratio':>8}")
        for setting, values in times.items():
            ratio = statistics.median(a / b for a, b in zip(values, times["neither"], strict=True))
            median = statistics.median(values)
            print(f"{setting:20}{median:12.2f}{min(values):10.2f}{ratio:7.2f}x")


if __name__ == "__main__":
    main()
