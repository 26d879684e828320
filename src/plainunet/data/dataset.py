"""Pairs of files -> samples -> batches, the same for any number of worker processes."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from plainunet.data.augment import Augment
from plainunet.data.borders import (
    border_weights,
    find_objects,
    part_objects,
    resize_labels,
)
from plainunet.data.cache import Cache, MixedDepthsError, Sample, cached
from plainunet.data.images import match_channels, read_image, to_unit
from plainunet.data.masks import MaskCoding
from plainunet.data.pairing import Pair
from plainunet.data.targets import area_shares, fit_size, resize

Draw = tuple[int, int, int]
"""Epoch, draw number in it, and number of the sample drawn."""


class Samples:
    """Pictures fitted into a box, with the shares of the classes at the same size or finer.

    A picture is reduced to fit (never enlarged), then padded at the right and bottom: the
    image by its edge, the shares by nothing, so that the padding does not count.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        coding: MaskCoding,
        box: tuple[int, int],
        channels: int = 3,
        target_scale: int = 1,
        objects: bool = False,
    ) -> None:
        """Name the samples; nothing is read yet.

        Args:
            pairs: Images with their masks.
            coding: How mask values become class ids.
            box: Working height and width [pixels].
            channels: Channels of the images; a grey picture is shown as RGB where it is 3.
            target_scale: Stored pixels along one working pixel.
            objects: Whether samples have a third part, the labels of their objects.
        """
        self.pairs = list(pairs)
        self.coding = coding
        self.box = box
        self.target_scale = target_scale
        self.channels = channels
        self.objects = objects
        self._cache: Cache | None = None
        self._as_float = False

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Read one sample.

        Args:
            index: Its number.

        Returns:
            Image [h, w, C] uint8, or float32 in the network's range, shares [h, w, K] uint8,
            and, if asked for, labels [h, w, 1] uint16 as by `find_objects`, with (h, w) the
            box times `target_scale`.
        """
        return self._cache[index] if self._cache else self._load(index)

    def fill_cache(self, on_progress: Callable[[int, int], None] | None = None) -> None:
        """Decode everything once, if there is room for it.

        Args:
            on_progress: Told how many of how many samples are ready.
        """
        files = [file for pair in self.pairs for file in (pair.image, pair.mask)]
        settings: dict[str, Any] = {
            "count": len(self),
            "box": self.box,
            "target_scale": self.target_scale,
            "channels": self.channels,
            "coding": [
                *(*self.coding.values, self.coding.ignore, self.coding.kind),
                *self.coding.colors,
            ],
        }
        if self.objects:
            settings["objects"] = True
        try:
            self._cache = cached(files, settings, self._load, on_progress)
        except MixedDepthsError:
            self._as_float = True
            self._cache = cached(files, {**settings, "float": True}, self._load, on_progress)
        # without a cache nobody knows whether a picture deeper than 8 bits will come
        self._as_float = self._as_float or self._cache is None

    def statistics(self) -> tuple[list[float], list[float]]:
        """Measure the images, at most 200 of them, spread evenly.

        Returns:
            Mean and standard deviation of each channel, in the network's range.
        """
        chosen = range(0, len(self), -(-len(self) // 200))
        moments = []
        for index in chosen:
            image, shares = self[index][:2]
            inside = to_unit(image)[shares.any(axis=2)].astype(np.float64)
            moments.append((len(inside), inside.sum(axis=0), (inside**2).sum(axis=0)))
        count, total, squares = (np.sum(part, axis=0) for part in zip(*moments, strict=True))
        mean = total / count
        return mean.tolist(), np.sqrt(np.maximum(squares / count - mean**2, 0)).tolist()

    def class_shares(self) -> NDArray[np.float64]:
        """Measure how much of the valid area each class covers.

        Returns:
            [K] float64, sums to 1.
        """
        areas = sum(self[index][1].sum(axis=(0, 1), dtype=np.int64) for index in range(len(self)))
        shares: NDArray[np.float64] = areas / np.maximum(np.sum(areas), 1)
        return shares

    def _load(self, index: int) -> Sample:
        pair = self.pairs[index]
        image = read_image(pair.image)
        try:
            image = match_channels(image, self.channels)
        except ValueError as error:
            raise ValueError(f"{pair.image}: {error}") from error
        stored = self.coding.read_stored(pair.mask)
        mask = self.coding.encode(stored, pair.mask)
        if image.dtype != np.uint8 or self._as_float:
            image = to_unit(image)
        height, width = fit_size(image.shape[:2], self.box)
        size = (height * self.target_scale, width * self.target_scale)
        parts = [resize(image, size), area_shares(mask, self.coding.num_classes, size)]
        if self.objects:
            labels = find_objects(stored, self.coding, pair.mask)
            parts.append(resize_labels(labels[..., None], size))
        below = self.box[0] * self.target_scale - size[0]
        right = self.box[1] * self.target_scale - size[1]
        border = ((0, below), (0, right), (0, 0))
        image, *others = parts
        return np.pad(image, border, mode="edge"), *(np.pad(part, border) for part in others)


class TrainingSet(Dataset[tuple[Tensor, ...]]):
    """Augmented samples at one working size, addressed by `Draw`."""

    def __init__(
        self,
        samples: Samples,
        augment: str,
        seed: int,
        size: tuple[int, int],
        *,
        elastic: float = 0.0,
        border: tuple[float, float] | None = None,
    ) -> None:
        """Make the set.

        Working pixels are those of the samples' box; where `size` is smaller, lengths shrink
        with it.

        Args:
            samples: What is drawn from.
            augment: Strength of augmentation, see `Augment`.
            seed: Of the run.
            size: Height and width of the images given out [pixels].
            elastic: Standard deviation of displacements [working pixels], see `Augment`.
            border: Weight and sigma [working pixels] of `border_weights`; None for none.

        Raises:
            ValueError: There is a border, but the samples have no objects.
        """
        if border and not samples.objects:
            raise ValueError("Border weights need Samples(..., objects=True).")
        self._samples = samples
        self._seed = seed
        self._size = size
        # reduced first: augmenting costs by the pixel
        self._fine = (size[0] * samples.target_scale, size[1] * samples.target_scale)
        scale = self._fine[0] / samples.box[0]
        self._augment = Augment(augment, elastic * scale)
        self._border = (border[0], border[1] * scale) if border else None

    def __getitem__(self, draw: Draw) -> tuple[Tensor, ...]:
        """Make one augmented sample.

        Args:
            draw: Epoch, draw number, and sample number.

        Returns:
            Image [H, W, C] uint8 or float32, shares [H', W', K] uint8, where H' and W' are
            `target_scale` times H and W, and, if asked for, border weights [H', W'] float32;
            objects that touch are parted then, see `part_objects`.
        """
        epoch, number, index = draw
        state = (self._seed, epoch, number)
        image, shares, *objects = self._samples[index]
        image, shares = self._augment(resize(image, self._fine), resize(shares, self._fine), state)
        image = resize(image, self._size)
        if self._border is None:
            return _tensor(image), _tensor(shares)
        moved = self._augment.move(resize_labels(objects[0], self._fine), state)
        labels, shares = part_objects(moved[..., 0], shares)
        return _tensor(image), _tensor(shares), _tensor(border_weights(labels, *self._border))


class EpochBatches(Sampler[list[Draw]]):
    """A fresh order of all samples in each epoch, in batches that differ by at most one."""

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        """Make the order.

        Args:
            count: Number of samples.
            batch_size: Largest batch.
            seed: Of the run.
        """
        self._count = count
        self._batches = -(-count // batch_size)
        self._seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        return self._batches

    def __iter__(self) -> Iterator[list[Draw]]:
        """Draw the batches of `epoch`.

        Yields:
            Draws of one batch.
        """
        order = np.random.default_rng([self._seed, self.epoch]).permutation(self._count)
        draws = [(self.epoch, number, int(index)) for number, index in enumerate(order)]
        for numbers in np.array_split(np.arange(self._count), self._batches):
            yield [draws[number] for number in numbers]


def make_loader(
    dataset: TrainingSet, batches: EpochBatches, workers: int, pin_memory: bool = False
) -> "DataLoader[tuple[Tensor, ...]]":
    """Join a set and an order into a loader of stacked samples.

    Args:
        dataset: The augmented samples.
        batches: Their order; set its `epoch` before each pass.
        workers: Processes that prepare batches; 0 for none.
        pin_memory: Whether batches go to page-locked memory, for copying to a GPU.

    Returns:
        Batches of images [N, H, W, C], shares [N, H', W', K] and, where the set has them,
        border weights [N, H', W'].
    """
    if workers == 0:
        _one_thread_for_opencv()
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=_one_thread,
        prefetch_factor=4 if workers else None,
    )


def _one_thread(_: int) -> None:
    # workers share the machine with the training: more threads each would only be in its way
    _one_thread_for_opencv()
    torch.set_num_threads(1)


def _one_thread_for_opencv() -> None:
    # more would wait for cores that PyTorch's threads do not let go of
    cv2.setNumThreads(1)


def _tensor(array: NDArray[Any]) -> Tensor:
    writable = array if array.flags.writeable else array.copy()
    return torch.from_numpy(np.ascontiguousarray(writable))
