"""Pairs of files -> samples, at their working size, augmented."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

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
from plainunet.data.resizing import area_shares, fit_size, resize

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
        # as text: with the paths of 100,000 pairs, a worker process would take seconds to start
        self._files = [(str(pair.image), str(pair.mask)) for pair in pairs]
        self.coding = coding
        self.box = box
        self.target_scale = target_scale
        self.channels = channels
        self.objects = objects
        self._cache: Cache | None = None
        self._as_float = False

    def __len__(self) -> int:
        """Count the samples."""
        return len(self._files)

    def __getitem__(self, index: int) -> Sample:
        """Read one sample.

        Args:
            index: Its number.

        Returns:
            Image [h, w, C] uint8, or float32 in the network's range, shares [h, w, K] uint8,
            and, if asked for, labels [h, w, 1] uint16 as by `find_objects`, with (h, w) the
            box times `target_scale`.
        """
        if self._cache is not None:
            try:
                return self._cache[index]
            except FileNotFoundError:  # another process needed its room
                self._cache = None
        return self._load(index)

    def fill_cache(self, on_progress: Callable[[int, int], None] | None = None) -> None:
        """Decode everything once, if there is room for it.

        Args:
            on_progress: Told how many of how many samples are ready.
        """
        files = [Path(file) for pair in self._files for file in pair]
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
        image_file, mask_file = map(Path, self._files[index])
        image = read_image(image_file)
        try:
            image = match_channels(image, self.channels)
        except ValueError as error:
            raise ValueError(f"{image_file}: {error}") from error
        stored = self.coding.read_stored(mask_file)
        mask = self.coding.encode(stored, mask_file)
        if image.dtype != np.uint8 or self._as_float:
            image = to_unit(image)
        height, width = fit_size(image.shape[:2], self.box)
        size = (height * self.target_scale, width * self.target_scale)
        parts = [resize(image, size), area_shares(mask, self.coding.num_classes, size)]
        if self.objects:
            labels = find_objects(stored, self.coding, mask_file)
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


def _tensor(array: NDArray[Any]) -> Tensor:
    writable = array if array.flags.writeable else array.copy()
    return torch.from_numpy(np.ascontiguousarray(writable))
