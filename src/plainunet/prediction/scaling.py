"""Pictures reduced, and logits enlarged, band by band of their rows.

In: windows of a picture of any size, or bands of logits from top to bottom. Out: the same at
another size, a few rows at a time, as if all had been in memory at once.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from plainunet.data.images import to_unit
from plainunet.data.resizing import resize
from plainunet.data.windows import ArrayWindows, Windows

_AT_ONCE = 32 * 2**20
"""Bytes of a picture's rows that are averaged at a time."""


class Reduced:
    """A picture as the network takes it: reduced by averaging areas, integers divided, padded.

    Attributes:
        size: Height and width, padding included [pixels].
    """

    def __init__(
        self,
        picture: Windows,
        reduced: tuple[int, int],
        size: tuple[int, int],
        device: torch.device,
    ) -> None:
        """Take a picture.

        Args:
            picture: Its windows.
            reduced: Height and width that it is reduced to, or enlarged [pixels].
            size: What its edge is repeated to fill, at the right and bottom [pixels].
            device: Where what is read goes.
        """
        self.size = size
        self._reduced, self._device = reduced, device
        self._strip: tuple[int, int, NDArray[np.float32]] | None = None
        if isinstance(picture, ArrayWindows) and reduced != picture.shape[:2]:
            picture = ArrayWindows(reduce_once(picture, reduced))
        self._picture = picture

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        """As of `tiling.Source`; channels lie last in memory."""
        # of what is padded, the last row or column of the picture
        first, start = min(top, self._reduced[0] - 1), min(left, self._reduced[1] - 1)
        rows = min(top + height, self._reduced[0]) - first
        columns = min(left + width, self._reduced[1]) - start
        if self._reduced == self._picture.shape[:2]:
            part = to_unit(self._picture.read(first, start, rows, columns))
        else:
            part = self._rows(first, rows)[:, start : start + columns]
        margin = ((0, height - rows), (0, width - columns), (0, 0))
        if height > rows or width > columns:
            part = np.pad(part, margin, mode="edge")
        return torch.from_numpy(np.ascontiguousarray(part)).permute(2, 0, 1).to(self._device)

    def _rows(self, first: int, count: int) -> NDArray[np.float32]:
        """Some rows of a picture that is reduced part by part; the last ones are kept."""
        if self._strip is None or self._strip[:2] != (first, count):
            self._strip = first, count, _averaged(self._picture, self._reduced, first, count)
        return self._strip[2]


def reduce_once(picture: ArrayWindows, size: tuple[int, int]) -> NDArray[Any]:
    """Bring a picture to another size, if that was not done before.

    Args:
        picture: The picture; the result is kept with it.
        size: New height and width [pixels].

    Returns:
        [size[0], size[1], C], uint8 as it was, anything else as float32 by `to_unit`.
    """
    if size not in picture.reduced:
        image = picture.read(0, 0, *picture.shape[:2])
        image = image if image.dtype == np.uint8 else to_unit(image)
        picture.reduced[size] = resize(image, size)
    return picture.reduced[size]


def _averaged(
    picture: Windows, size: tuple[int, int], first: int, count: int
) -> NDArray[np.float32]:
    """Average areas of a picture that is read in parts: some rows of the result."""
    height, width, channels = picture.shape
    scale = height / size[0]
    top, end = math.floor(first * scale), min(height, math.ceil((first + count) * scale - 1e-9))
    at_once = max(1, _AT_ONCE // (4 * width * channels))
    total = np.zeros((count, size[1] * channels), np.float32)
    for begin in range(top, end, at_once):
        rows = min(at_once, end - begin)
        values = to_unit(picture.read(begin, 0, rows, width))
        parts = [
            cv2.resize(values[..., c : c + 4], (size[1], rows), interpolation=cv2.INTER_AREA)
            for c in range(0, channels, 4)
        ]
        narrow = np.concatenate([part.reshape(rows, size[1], -1) for part in parts], axis=2)
        # how much of each stored row lies in each row of the result
        edges = (first + np.arange(count + 1)) * scale
        lines = begin + np.arange(rows)
        inside = np.minimum(edges[1:, None], lines + 1) - np.maximum(edges[:-1, None], lines)
        share = (np.clip(inside, 0, None) / scale).astype(np.float32)
        total += share @ narrow.reshape(rows, -1)
    return total.reshape(count, size[1], channels)


def enlarged(
    bands: Iterable[tuple[int, Tensor]],
    size: tuple[int, int],
    wanted: tuple[int, int],
    at_once: int,
    first: int = 0,
) -> Iterator[Tensor]:
    """Bring logits bilinearly to the size of their picture.

    Args:
        bands: Number of the first row and logits [K, n, w] float32, from top to bottom, from
            `row_above(first, ...)` on or before it.
        size: h and w [pixels].
        wanted: H and W [pixels].
        at_once: So many rows are given at a time, at most.
        first: The row of the result that is given first.

    Yields:
        Logits [K, N, W], from top to bottom, the rows from `first` on.
    """
    if size == wanted:
        for top, band in bands:
            if top + band.shape[1] > first:
                yield band[:, max(first - top, 0) :]
        return
    place = _places(size[0], wanted[0])
    above = place.floor().long().clamp(max=size[0] - 1)
    below = (above + 1).clamp(max=size[0] - 1)
    share = (place - above).float()
    held, top, done = torch.empty(0), 0, first
    for number, band in bands:
        if held.numel():
            held = torch.cat([held, band], dim=1)
        else:
            held, top = band, number
        while done < wanted[0]:
            known = int(torch.searchsorted(below, top + held.shape[1]))
            rows = slice(done, min(known, done + at_once))
            if rows.start >= rows.stop:
                break
            weight = share[rows].to(held.device)[:, None]
            upper, lower = held[:, above[rows] - top], held[:, below[rows] - top]
            mixed = torch.lerp(upper, lower, weight)
            to = (mixed.shape[1], wanted[1])
            yield F.interpolate(mixed[None], size=to, mode="bilinear", align_corners=False)[0]
            done = rows.stop
        if done < wanted[0]:
            gone = min(max(int(above[done]) - top, 0), held.shape[1])
            held, top = held[:, gone:], top + gone


def row_above(row: int, height: int, wanted: int) -> int:
    """Say which row of logits is needed first.

    Args:
        row: A row of the result.
        height: Rows of the logits.
        wanted: Rows of the result.

    Returns:
        The upper one of the two rows that it lies between.
    """
    return row if height == wanted else int(_places(height, wanted)[row].floor())


def _places(height: int, wanted: int) -> Tensor:
    """Where the rows of a result lie among those of the logits, as F.interpolate has it."""
    middles = torch.arange(wanted, dtype=torch.float64) + 0.5
    return (middles * (height / wanted) - 0.5).clamp(min=0)
