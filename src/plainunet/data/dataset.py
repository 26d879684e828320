"""Pairs of files -> samples, at their working size, augmented."""

from collections.abc import Callable, Sequence
from functools import cached_property
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
from plainunet.data.images import image_shape, match_channels, read_image, to_unit
from plainunet.data.masks import MaskCoding
from plainunet.data.pairing import Pair
from plainunet.data.patches import cut_patch, pad
from plainunet.data.places import stem_of
from plainunet.data.resizing import area_shares, fit_size, reduce_size, resize

Draw = tuple[int, int, int]
"""Epoch, draw number in it, and number of the sample drawn."""


class Samples:
    """Pictures at a working size, with the shares of the classes at the same size or finer.

    With a box, a picture is reduced to fit (never enlarged), then padded at the right and bottom:
    the image by its edge, the shares by nothing, so that the padding does not count. Without
    one, every picture is reduced by the same factor, and sizes differ as the pictures' do.

    Attributes:
        told: So many last channels of the images are no light but what is told of each pixel.
    """

    told = 0

    def __init__(
        self,
        pairs: Sequence[Pair],
        coding: MaskCoding,
        box: tuple[int, int] | None,
        channels: int = 3,
        target_scale: int = 1,
        objects: bool = False,
        factor: float = 1.0,
    ) -> None:
        """Name the samples; nothing is read yet.

        Args:
            pairs: Images with their masks.
            coding: How mask values become class ids.
            box: Working height and width [pixels], or None to reduce by `factor`.
            channels: Channels of the images; a grey picture is shown as RGB where it is 3.
            target_scale: Stored pixels along one working pixel.
            objects: Whether samples have a third part, the labels of their objects.
            factor: Length of a picture's side at the working size, as a share of its own.
        """
        # as text: with the paths of 100,000 pairs, a worker process would take seconds to start
        self._files = [(str(pair.image), str(pair.mask)) for pair in pairs]
        self.coding = coding
        self.box = box
        self.factor = factor
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
            box, or else the reduced picture's size, times `target_scale`.
        """
        if self._cache is not None:
            try:
                return self._cache[index]
            except FileNotFoundError:  # another process needed its room
                self._cache = None
        return self._load(index)

    def name(self, index: int) -> str:
        """Name a sample.

        Args:
            index: Its number.

        Returns:
            The picture's name without suffix; others may have the same.
        """
        return stem_of(Path(self._files[index][0]))

    def file(self, index: int) -> str:
        """Say where a sample comes from.

        Args:
            index: Its number.

        Returns:
            The picture's path.
        """
        return self._files[index][0]

    def fill_cache(self, on_progress: Callable[[int, int], None] | None = None) -> None:
        """Decode everything once, if there is room for it.

        Args:
            on_progress: Told how many of how many samples are ready.
        """
        files = [Path(file) for pair in self._files for file in pair]
        settings = self._settings()
        sizes = None
        if self.box is None:
            t = self.target_scale
            sizes = [(height * t, width * t) for height, width in self.sizes]
        try:
            self._cache = cached(files, settings, self._load, on_progress, sizes)
        except MixedDepthsError:
            self._as_float = True
            settings["float"] = True
            self._cache = cached(files, settings, self._load, on_progress, sizes)
        # without a cache nobody knows whether a picture deeper than 8 bits will come
        self._as_float = self._as_float or self._cache is None

    def _settings(self) -> dict[str, Any]:
        """What samples depend on beside their files."""
        coding = self.coding
        settings: dict[str, Any] = {
            "count": len(self),
            "box": self.box,
            "target_scale": self.target_scale,
            "channels": self.channels,
            "coding": [*coding.values, coding.ignore, coding.kind, *coding.colors],
        }
        if self.objects:
            settings["objects"] = True
        if self.box is None:
            settings["factor"] = self.factor
        return settings

    @cached_property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of each sample [working pixels]."""
        if self.box is not None:
            return [self.box] * len(self)
        return [self._reduced(image_shape(Path(image))[:2]) for image, _ in self._files]

    def _reduced(self, size: tuple[int, int]) -> tuple[int, int]:
        return fit_size(size, self.box) if self.box else reduce_size(size, self.factor)

    def statistics(self) -> tuple[list[float], list[float]]:
        """Measure the images, at most 200 of them, spread evenly.

        Returns:
            Mean and standard deviation of each channel, in the network's range.
        """
        chosen = range(0, len(self), -(-len(self) // 200))
        moments = []
        for index in chosen:
            image, shares = self[index][:2]
            moments.append(_moments(image[shares.any(axis=2)]))
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
        height, width = self._reduced((image.shape[0], image.shape[1]))
        size = (height * self.target_scale, width * self.target_scale)
        parts = [resize(image, size), area_shares(mask, self.coding.num_classes, size)]
        if self.objects:
            labels = find_objects(stored, self.coding, mask_file)
            parts.append(resize_labels(labels[..., None], size))
        if self.box is None:
            return tuple(parts)
        return pad(parts, (self.box[0] * self.target_scale, self.box[1] * self.target_scale))


class TrainingSet(Dataset[tuple[Tensor, ...]]):
    """Augmented samples at one working size, addressed by `Draw`."""

    def __init__(
        self,
        samples: Samples,
        augment: str,
        seed: int,
        size: tuple[int, int],
        *,
        patch: tuple[int, int] | None = None,
        elastic: float = 0.0,
        border: tuple[float, float] | None = None,
    ) -> None:
        """Make the set.

        Working pixels are those of the samples; where `size` is smaller than what is seen of
        them, lengths shrink with it.

        Args:
            samples: What is drawn from.
            augment: Strength of augmentation, see `Augment`.
            seed: Of the run.
            size: Height and width of the images given out [pixels].
            patch: Height and width of what is seen of a sample [working pixels], see
                `cut_patch`; left out, the samples' box.
            elastic: Standard deviation of displacements [working pixels], see `Augment`.
            border: Weight and sigma [working pixels] of `border_weights`; None for none.

        Raises:
            ValueError: There is a border, but the samples have no objects; or neither a patch
                nor a box.
        """
        if border and not samples.objects:
            raise ValueError("Border weights need Samples(..., objects=True).")
        seen = patch or samples.box
        if seen is None:
            raise ValueError("Samples of different sizes need a patch.")
        self._samples = samples
        self._seed = seed
        self._size = size
        self._patch = patch and (patch[0] * samples.target_scale, patch[1] * samples.target_scale)
        # reduced first: augmenting costs by the pixel
        self._fine = (size[0] * samples.target_scale, size[1] * samples.target_scale)
        scale = self._fine[0] / seen[0]
        self._augment = Augment(augment, elastic * scale, samples.told)
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
        sample = self._samples[index]
        image, shares, *objects = cut_patch(sample, self._patch, state) if self._patch else sample
        image, shares = self._augment(resize(image, self._fine), resize(shares, self._fine), state)
        image = resize(image, self._size)
        if self._border is None:
            return _tensor(image), _tensor(shares)
        moved = self._augment.move(resize_labels(objects[0], self._fine), state)
        labels, shares = part_objects(moved[..., 0], shares)
        return _tensor(image), _tensor(shares), _tensor(border_weights(labels, *self._border))


def _moments(pixels: NDArray[Any]) -> tuple[Any, ...]:
    """Count pixels [n, C]; of each channel, in the network's range, add them and their squares."""
    if pixels.dtype != np.uint8:
        values = to_unit(pixels).astype(np.float64)
        return len(values), values.sum(axis=0), (values**2).sum(axis=0)
    counts = np.stack([np.bincount(channel, minlength=256) for channel in pixels.T])
    levels = np.arange(256) / 255
    return len(pixels), counts @ levels, counts @ levels**2


def _tensor(array: NDArray[Any]) -> Tensor:
    writable = array if array.flags.writeable else array.copy()
    return torch.from_numpy(np.ascontiguousarray(writable))
