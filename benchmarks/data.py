"""Compare the loading speed of Carvana's images with a plain PyTorch `Dataset`.

    python benchmarks/data.py --data DATA/carvana

The plain dataset does what public tutorials do for every image in every epoch: Pillow opens image
and mask; Albumentations resizes, flips, rotates, changes brightness and contrast (as in plainunet's
default, "light"), normalises and makes tensors. plainunet decodes once into a cache in a temporary
folder. "warm" is the second and every later epoch; "cold" is the first epoch including the filling
of the cache, which uses one thread per core for any number of workers.

Both use the same number of workers, start method and batch size, and files in the page cache.
Except for the filling, timing starts with the first batch, so it excludes the start of workers
(some seconds if they are spawned). The batches are not used, so only the loader is timed. The two
alternate; "ratio" is the warm rate divided by the plain rate within a round: median, minimum and
maximum. Rates are the best over all rounds. Prints tables; files go to a temporary folder.
Limitation: one dataset; during training the workers would share the cores.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from plainunet.dataset.coding import Values
from plainunet.dataset.loader import EpochBatches, make_loader
from plainunet.dataset.pairs import Pair, find_pairs
from plainunet.dataset.samples import Draw, Samples, TrainingSet

import albumentations as A  # isort: skip -- after plainunet, which keeps it off the network
from albumentations.pytorch import ToTensorV2  # isort: skip

Setting = tuple[int, str | None]
"""Number of workers, and their start method."""
WORKERS: list[Setting] = [(0, None), (1, "fork"), (1, "spawn"), (2, "fork"), (2, "spawn")]
AUGMENT = "light"


class PlainDataset(Dataset[tuple[Tensor, Tensor]]):
    """The images, loaded as in tutorials."""

    def __init__(self, pairs: list[Pair], size: tuple[int, int]) -> None:
        """Set the pairs and the transforms: resizing, then those of `Augment("light")`."""
        self.pairs = pairs
        self.transform = A.Compose(
            [
                A.Resize(*size),
                A.HorizontalFlip(p=0.5),
                A.Affine(
                    scale=(0.85, 1.15),
                    rotate=(-5, 5),
                    translate_percent=(-0.05, 0.05),
                    border_mode=cv2.BORDER_REFLECT_101,
                    p=0.8,
                ),
                A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.2, p=0.5),
                A.Normalize(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), max_pixel_value=255.0),
                ToTensorV2(),
            ]
        )

    def __len__(self) -> int:
        """Number of images."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Decode, resize and augment one image: [3, H, W] and [H, W], both float32."""
        image = np.array(Image.open(self.pairs[index].image).convert("RGB"))
        mask: NDArray[Any] = np.array(Image.open(self.pairs[index].mask).convert("L"), np.float32)
        mask[mask == 255.0] = 1.0
        changed = self.transform(image=image, mask=mask)
        return changed["image"], changed["mask"]


class Epochs(EpochBatches):
    """Endless epochs, without restarting the workers."""

    def __iter__(self) -> Iterator[list[Draw]]:
        """Yield batches of all epochs."""
        while True:
            yield from super().__iter__()
            self.epoch += 1


def time_batches(
    loader: DataLoader[Any], start: str | None, seconds: float, images: int
) -> tuple[float, float]:
    """Measure the rate of a loader, without the first batch.

    Args:
        loader: The loader.
        start: Start method of its workers; None without workers.
        seconds: Minimum duration of the second measurement.
        images: Minimum number of images of the first measurement.

    Returns:
        Images per second of the first `images` images, and of the `seconds` after them.
    """
    if start:
        loader.multiprocessing_context = start
    batches = iter(loader)
    rates = []
    next(batches)
    for least_seconds, least_images in ((0.0, images), (seconds, 1)):
        began = time.perf_counter()
        taken, elapsed = 0, 0.0
        while elapsed < least_seconds or taken < least_images:
            taken += len(next(batches)[0])
            elapsed = time.perf_counter() - began
        rates.append(taken / elapsed)
    return rates[0], rates[1]


def measure(pairs: list[Pair], arguments: argparse.Namespace, size: tuple[int, int]) -> None:
    """Time all settings at one input size, and print them.

    Args:
        pairs: The pairs of files.
        arguments: The command line.
        size: Input height and width [pixels].
    """
    count, batch, opencv_threads = len(pairs), arguments.batch, cv2.getNumThreads()
    rows: dict[Setting, list[tuple[float, float, float]]] = {each: [] for each in WORKERS}
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            os.environ["PLAINUNET_CACHE"] = folder
            samples = Samples(pairs, Values((0, 1)), size)
            began = time.perf_counter()
            samples.fill_cache()
            filling = time.perf_counter() - began
            for workers, start in WORKERS:
                # a process forked while OpenCV has threads may hang at exit
                cv2.setNumThreads(1 if workers else opencv_threads)
                theirs: DataLoader[Any] = DataLoader(
                    PlainDataset(pairs, size),
                    batch_size=batch,
                    sampler=_shuffle_forever(count),
                    num_workers=workers,
                )
                _, plain = time_batches(theirs, start, arguments.seconds, 1)
                dataset = TrainingSet(samples, AUGMENT, 0, size)
                ours = make_loader(dataset, Epochs(count, batch, 0), workers)
                first, warm = time_batches(ours, start, arguments.seconds, count)
                rows[workers, start].append((plain, count / (filling + count / first), warm))
    heads = ("plain", "cold", "warm", "ratio", "from", "to")
    print(f"\n{'{}x{}'.format(*size):12}" + "".join(f"{head:>9}" for head in heads))
    for (workers, start), rates in rows.items():
        ratios = [warm / plain for plain, _, warm in rates]
        numbers = [*map(max, *rates, (0, 0, 0)), statistics.median(ratios)]
        numbers += [min(ratios), max(ratios)]
        print(f"{workers} {start or '':10}" + "".join(f"{number:9.1f}" for number in numbers))


def main() -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(description="Time the loading of images.")
    parser.add_argument("--data", type=Path, required=True, help="Carvana's folder")
    parser.add_argument("--sizes", nargs="+", default=["160x240", "640x960"])
    parser.add_argument("--images", type=int, default=160)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="duration of each measurement")
    arguments = parser.parse_args()

    pairs = find_pairs(arguments.data)[: arguments.images]
    for pair in pairs:
        pair.image.read_bytes(), pair.mask.read_bytes()  # fill the page cache
    print(
        f"Images per second: {len(pairs)} images, batches of {arguments.batch}, augment "
        f"{AUGMENT}, {arguments.rounds} rounds of {arguments.seconds:g} s.\n"
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, torch "
        f"{torch.__version__}, OpenCV {cv2.__version__}, Pillow {PIL.__version__}, "
        f"load {os.getloadavg()[0]:.1f}"
    )
    for size in arguments.sizes:
        height, width = (int(side) for side in size.split("x"))
        measure(pairs, arguments, (height, width))


def _shuffle_forever(count: int) -> Iterator[int]:
    random = np.random.default_rng(0)
    while True:
        yield from random.permutation(count).tolist()


if __name__ == "__main__":
    main()
