"""One view of an image: the logits of one network at one scale, resized to the image's size.

When memory runs out, an image continues in smaller parts from the row reached.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from plainunet.dataset.resize import fit_size, reduce_size, resize
from plainunet.errors import Error
from plainunet.formats.images import to_unit
from plainunet.formats.problems import DataError
from plainunet.formats.windows import ArrayWindows, Windows, as_channels
from plainunet.network.card import Card
from plainunet.prediction.backends import Backend, Logits, Turn
from plainunet.prediction.tiling import BYTES, least_values, logit_bands, values_for
from plainunet.reporter import warn
from plainunet.system import first_line, is_out_of_memory, total_memory

TTA: dict[str, tuple[Turn, ...]] = {
    "none": ((0, False),),
    "mirror": ((0, False), (0, True)),
    "flips": ((0, False), (0, True), (2, False), (2, True)),
    "turns": tuple((quarters, flip) for quarters in range(4) for flip in (False, True)),
}
"""The transforms of each kind of test-time augmentation."""
_IMAGE_BYTES = 32 * 2**20
"""Bytes of image rows that are averaged at a time."""
_LOGIT_BYTES = 64 * 2**20
"""Bytes of logits that are enlarged at a time."""
_BATCH = 2**20
"""Largest number of values, as in `tiling.WHOLE`, in a batch of small images."""


class NotFiniteError(Error):
    """The network's logits contain infinities or NaN."""

    code = "not-finite"


class View:
    """A network and the scale of its input images.

    Attributes:
        backend: The network.
        box: Height and width that an image is reduced to fit in, or None to use `factor`.
        factor: Input side divided by image side.
        values: Number of values computed at a time, as in `tiling.WHOLE`.
        least: Smallest useful `values`: that of the smallest tile.
    """

    def __init__(
        self, backend: Backend, card: Card, scale: float = 1.0, memory: float | None = None
    ) -> None:
        """Wrap a network; its input is `scale` times as large as the card's size or factor."""
        self.backend = backend
        box = card.size and tuple(max(1, round(side * scale)) for side in card.size)
        self.box = (box[0], box[1]) if box else None
        self.factor = card.factor * scale
        self.values, self.least = values_for(memory), least_values(backend)
        self._memory = total_memory() / 2 if memory is None else memory

    def prepare(self, image: ArrayWindows) -> None:
        """Reduce an image ahead of `bands`; the result is cached in the image."""
        size = self.size_of(image.shape[:2])
        if size != image.shape[:2] and image.shape[2] == self.backend.geometry.in_channels:
            reduce_once(image, size)

    def size_of(self, own: tuple[int, int]) -> tuple[int, int]:
        """Height and width of a reduced image, without padding."""
        return fit_size(own, self.box) if self.box else reduce_size(own, self.factor)

    def bands(self, image: Windows, first: int = 0) -> Iterator[Logits]:
        """Yield logits [K, n, W] at the image's own size, the rows from `first` on.

        Raises:
            NotFiniteError: The logits are not finite.
            ValueError: The image has another number of channels, or needs more memory than there
                is because it cannot be tiled.
        """
        reduced = self._reduce(image)
        self._require_memory(*reduced.size)
        needed = row_above(first, reduced.inside[0], image.shape[0])
        bands = logit_bands(self.backend, reduced, self.values, needed)
        yield from self._at_image_size(bands, reduced, image.shape[:2], first)

    def _require_memory(self, height: int, width: int) -> None:
        """Refuse a size that does not fit into memory in one pass; a GPU says so itself."""
        backend = self.backend
        each = BYTES / (2 if "bf" in str(backend.precision) else 1)  # fp16 computes in float32
        needed = height * width * backend.geometry.base_channels * each
        if backend.geometry.can_tile or str(backend.device) != "cpu" or needed <= self._memory:
            return
        raise DataError(
            f"too large for this model: {height} x {width} pixels at its scale need about "
            f"{needed / 2**20:,.0f} MiB, and {self._memory / 2**20:,.0f} MiB may be used. With "
            "group or instance normalisation an image is not tiled. Crop it, or set --memory "
            "higher.",
            "too-large",
        )

    def batch(self, images: Sequence[Windows]) -> list[Iterator[Logits]]:
        """Predict a batch of small images of one shape in one pass.

        Returns the bands of logits of each image, as by `bands`, with the same errors.
        """
        reduced = [self._reduce(image) for image in images]
        logits = self.backend.run(np.stack([each.read(0, 0, *each.size) for each in reduced]))
        return [
            self._at_image_size([(0, own)], each, image.shape[:2], 0)
            for own, each, image in zip(logits, reduced, images, strict=True)
        ]

    def network_input(self, image: Windows) -> NDArray[np.float32]:
        """The network's input for an image, [H, W, C] with its padding."""
        reduced = self._reduce(image)
        return reduced.read(0, 0, *reduced.size)

    def fits_batch(self, size: tuple[int, int]) -> int:
        """Batch size for images of a height and width [pixels].

        It is 1 for large images, which gain nothing from batches, and for valid convolutions,
        which use tiles.
        """
        height, width = self._input_size(self.size_of(size))
        values = min(self.values, _BATCH) // self.backend.geometry.base_channels
        return 1 if self.backend.geometry.valid else max(1, values // (height * width))

    def _input_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Input height and width, including the padding that the network needs."""
        geometry = self.backend.geometry
        least = self.box or (size if geometry.valid else geometry.input_size(*size))
        return max(size[0], least[0]), max(size[1], least[1])

    def _reduce(self, image: Windows) -> "ReducedImage":
        size = self.size_of(image.shape[:2])
        image = as_channels(image, self.backend.geometry.in_channels)
        return ReducedImage(image, size, self._input_size(size))

    def _at_image_size(
        self,
        bands: Iterable[tuple[int, Logits]],
        image: "ReducedImage",
        own: tuple[int, int],
        first: int,
    ) -> Iterator[Logits]:
        """Crop the padding, and resize logits to the size of their image."""
        backend, inside = self.backend, self._crop(bands, image.inside)
        if image.inside == own:
            yield from _from_row(inside, first)
        else:
            at_once = max(1, _LOGIT_BYTES // (4 * backend.geometry.logit_channels * own[1]))
            yield from enlarge(backend, inside, image.inside[0], own, at_once, first)

    def _crop(
        self, bands: Iterable[tuple[int, Logits]], size: tuple[int, int]
    ) -> Iterator[tuple[int, Logits]]:
        """First rows and logits [K, n, w] of the reduced image, without padding."""
        for top, band in bands:
            if top >= size[0]:
                return
            inside = band[:, : size[0] - top, : size[1]]
            if not self.backend.is_finite(inside):
                raise NotFiniteError(
                    "the network's output for this image is not finite: the weights are damaged, "
                    "or training diverged. Use another checkpoint."
                )
            yield top, inside


class ReducedImage:
    """An image as network input: resized, scaled to floats, padded by repeating edges.

    `size` is its height and width with padding, `inside` without [pixels].
    """

    def __init__(self, image: Windows, reduced: tuple[int, int], size: tuple[int, int]) -> None:
        """Take an image, its reduced size, and its size with padding."""
        self.size, self.inside = size, reduced
        self._strip: tuple[int, int, NDArray[np.float32]] | None = None
        if isinstance(image, ArrayWindows) and reduced != image.shape[:2]:
            image = ArrayWindows(reduce_once(image, reduced))
        self._image = image

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[np.float32]:
        """As in `tiling.InputImage`."""
        # padding repeats the last row and column of the image
        first, start = min(top, self.inside[0] - 1), min(left, self.inside[1] - 1)
        rows = min(top + height, self.inside[0]) - first
        columns = min(left + width, self.inside[1]) - start
        if self.inside == self._image.shape[:2]:
            part = to_unit(self._image.read(first, start, rows, columns))
        else:
            part = self._rows(first, rows)[:, start : start + columns]
        if height > rows or width > columns:
            part = np.pad(part, ((0, height - rows), (0, width - columns), (0, 0)), mode="edge")
        return np.ascontiguousarray(part)

    def _rows(self, first: int, count: int) -> NDArray[np.float32]:
        """Some rows of an image that is resized in parts; the last result is cached."""
        if self._strip is None or self._strip[:2] != (first, count):
            self._strip = first, count, _resized(self._image, self.inside, first, count)
        return self._strip[2]


def reduce_once(image: ArrayWindows, size: tuple[int, int]) -> NDArray[np.uint8 | np.float32]:
    """Resize an image, as uint8 or after `to_unit`; the result is cached in the image."""
    if size not in image.reduced:
        values = image.decoded
        image.reduced[size] = resize(values if values.dtype == np.uint8 else to_unit(values), size)
    return image.reduced[size]


def _resized(image: Windows, size: tuple[int, int], first: int, count: int) -> NDArray[np.float32]:
    """Resize an image that is read in parts, as by `resize`; returns some rows of the result."""
    height, width, channels = image.shape
    scale = height / size[0]
    larger = size[0] > height or size[1] > width
    how = cv2.INTER_LINEAR if larger else cv2.INTER_AREA
    edges = (first + np.arange(count + 1)[:, None]) * scale
    middles = _row_positions(height, size[0])[first : first + count, None].clip(max=height - 1)
    top, end = math.floor(edges[0, 0]), min(height, math.ceil(edges[-1, 0] - 1e-9))
    if larger:
        top, end = int(middles[0, 0]), min(height, int(middles[-1, 0]) + 2)
    at_once = max(1, _IMAGE_BYTES // (4 * width * channels))
    total = np.zeros((count, size[1] * channels), np.float32)
    for begin in range(top, end, at_once):
        rows = min(at_once, end - begin)
        values = to_unit(image.read(begin, 0, rows, width))
        parts = [
            cv2.resize(values[..., c : c + 4], (size[1], rows), interpolation=how)
            for c in range(0, channels, 4)
        ]
        narrow = np.concatenate([part.reshape(rows, size[1], -1) for part in parts], axis=2)
        lines = begin + np.arange(rows)
        if larger:  # bilinear: the two stored rows around each result row, by their distance
            weight = 1 - np.abs(middles - lines)
        else:  # fraction of each result row that each stored row covers
            weight = (np.minimum(edges[1:], lines + 1) - np.maximum(edges[:-1], lines)) / scale
        total += weight.clip(min=0).astype(np.float32) @ narrow.reshape(rows, -1)
    return total.reshape(count, size[1], channels)


def _from_row(bands: Iterable[tuple[int, Logits]], first: int) -> Iterator[Logits]:
    """Bands without the rows before `first`."""
    for top, band in bands:
        if top + band.shape[1] > first:
            yield band[:, max(first - top, 0) :]


def enlarge(
    backend: Backend,
    bands: Iterable[tuple[int, Logits]],
    height: int,
    wanted: tuple[int, int],
    at_once: int,
    first: int = 0,
) -> Iterator[Logits]:
    """Resize logits of a `height` bilinearly to the size of their image, `wanted` [pixels].

    `bands` are first row numbers and logits [K, n, w], from top to bottom, beginning at or before
    `row_above(first, ...)`. Yields logits [K, n, W], the rows from `first` on, at most `at_once` at
    a time.
    """
    position = _row_positions(height, wanted[0])
    above = np.minimum(np.floor(position).astype(np.int64), height - 1)
    below = np.minimum(above + 1, height - 1)
    fraction = (position - above).astype(np.float32)
    held, top, done = None, 0, first
    for number, band in bands:
        held, top = (band, number) if held is None else (backend.concatenate(held, band), top)
        while done < wanted[0]:
            known = int(np.searchsorted(below, top + held.shape[1]))
            end = min(known, done + at_once)
            if end <= done:
                break
            between = above[done:end] - top, below[done:end] - top
            yield backend.enlarge(held, between, fraction[done:end], wanted[1])
            done = end
        if done < wanted[0]:
            gone = min(max(int(above[done]) - top, 0), held.shape[1])
            held, top = held[:, gone:], top + gone


def row_above(row: int, height: int, wanted: int) -> int:
    """The upper of the two rows of logits that are interpolated for a row of the image."""
    return row if height == wanted else int(_row_positions(height, wanted)[row])


def _row_positions(height: int, wanted: int) -> NDArray[np.float64]:
    """Positions of the image's rows among those of the logits, as in `F.interpolate`."""
    middles = np.arange(wanted, dtype=np.float64) + 0.5
    return (middles * (height / wanted) - 0.5).clip(min=0)


def aligned_bands(streams: Sequence[Iterator[Logits]]) -> Iterator[list[Logits]]:
    """Iterate over several streams of bands [K, n, W] in parallel, in bands of equal height."""
    held = [next(stream) for stream in streams]
    while True:
        rows = min(band.shape[1] for band in held)
        yield [band[:, :rows] for band in held]
        held = [band[:, rows:] for band in held]
        for number, stream in enumerate(streams):
            if not held[number].shape[1]:
                following = next(stream, None)
                if following is None:
                    return
                held[number] = following


def in_smaller_parts(
    bands: Callable[[int], Iterator[Logits]], views: Sequence[View], first: int = 0
) -> Iterator[Logits]:
    """Yield bands of rows [K, n, W] from `first` on, in smaller parts after running out of memory.

    The amount that each view computes at a time is then halved, also for all later images. Too
    little memory for the smallest parts is a ValueError.
    """
    backend = views[0].backend
    while True:
        try:
            for band in bands(first):
                yield band
                first += band.shape[1]
            return
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            message = first_line(error)
        # outside the except clause, so that the error no longer holds the tensors that failed
        large = [view for view in views if view.values > view.least]
        if not large:
            device = "" if str(backend.device) == "cpu" else ", or give --device cpu"
            raise Error(
                f"out of memory ({message}), even with the smallest parts. Free memory by ending "
                f"other programs{device}."
            )
        for view in large:
            view.values = max(view.least, view.values // 2)
        is_slower = backend.free_memory(message)
        warn(
            "out of memory: from now on images are predicted in smaller parts"
            f"{' and with slower convolutions' if is_slower else ''}. Set --memory to avoid this.",
            stacklevel=2,
        )
