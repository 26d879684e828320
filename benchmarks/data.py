"""Time the loading of Carvana's pictures, beside a plain PyTorch `Dataset` over the same files.

    python benchmarks/data.py --data DATA/carvana

The plain one does what public tutorials do for every picture in every epoch: Pillow opens image
and mask, and Albumentations resizes, flips, turns, changes brightness and contrast (as our
default, "light"), normalises and makes tensors. Ours decodes once, into a cache in a temporary
folder; "warm" is the second epoch and all later ones, "cold" the first one together with the
filling of an empty cache, which takes as many threads as there are cores, whatever the workers.

Both have the same number of workers, started alike, batches of the same size, and files that the
system has in memory already. But for the filling, each clock starts when the first batch has
come, so that the start of workers (some seconds where they are spawned) is in no figure, and
nothing is done with the batches, so that the loader alone is timed. The two take turns; "ratio"
is the warm loader's rate by the plain one's within a round: the median, the least and the
greatest; rates are the best of all rounds. Prints tables; what it writes goes to a temporary
folder. Limitation: one data set; beside a training the workers would have to share the cores.
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
"""Number of workers, and how they are started."""
WORKERS: list[Setting] = [(0, None), (1, "fork"), (1, "spawn"), (2, "fork"), (2, "spawn")]
AUGMENT = "light"


class PlainDataset(Dataset[tuple[Tensor, Tensor]]):
    """The pictures as tutorials read them."""

    def __init__(self, pairs: list[Pair], size: tuple[int, int]) -> None:
        """Name the pictures, and the changes of `Augment("light")`, after a resizing."""
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
        """Count the pictures."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Decode, resize and change one picture: [3, H, W] and [H, W], both float32."""
        image = np.array(Image.open(self.pairs[index].image).convert("RGB"))
        mask: NDArray[Any] = np.array(Image.open(self.pairs[index].mask).convert("L"), np.float32)
        mask[mask == 255.0] = 1.0
        changed = self.transform(image=image, mask=mask)
        return changed["image"], changed["mask"]


class Epochs(EpochBatches):
    """Epoch after epoch, without an end and without a new start of the workers."""

    def __iter__(self) -> Iterator[list[Draw]]:
        """Draw on and on."""
        while True:
            yield from super().__iter__()
            self.epoch += 1


def time_batches(
    loader: DataLoader[Any], start: str | None, seconds: float, images: int
) -> tuple[float, float]:
    """Take batches for a while; the first one is not counted.

    Args:
        loader: Where from.
        start: How its workers are started; None where it has none.
        seconds: How long, after
        images: so many.

    Returns:
        Images per second until `images` had come, and from then on.
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
    """Time all settings at one working size, and print them.

    Args:
        pairs: The pictures.
        arguments: The command line.
        size: Working height and width [pixels].
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
                # a process forked while OpenCV has threads may not end in peace
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
    parser = argparse.ArgumentParser(description="Time the loading of pictures.")
    parser.add_argument("--data", type=Path, required=True, help="Carvana's folder")
    parser.add_argument("--sizes", nargs="+", default=["160x240", "640x960"])
    parser.add_argument("--pictures", type=int, default=160)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    arguments = parser.parse_args()

    pairs = find_pairs(arguments.data)[: arguments.pictures]
    for pair in pairs:
        pair.image.read_bytes(), pair.mask.read_bytes()  # so that the system has them in memory
    print(
        f"Images per second: {len(pairs)} pictures, batches of {arguments.batch}, augment "
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
