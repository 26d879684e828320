"""Sizes of images and of their logits, and reflection padding; without PyTorch.

Valid convolutions give logits smaller than the image. Reflection padding gives such a network
context beyond the image border (Ronneberger et al. 2015, section 2).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from plainunet.errors import Error


@dataclass(frozen=True)
class Sizes:
    """Which image sizes fit a network.

    Attributes:
        depth: Number of times that the network halves the image.
        valid: Whether its convolutions are valid (unpadded).
        smallest: Minimum height and width of an image [pixels], with padded convolutions.
    """

    depth: int
    valid: bool
    smallest: int

    @classmethod
    def of(cls, architecture: Mapping[str, Any]) -> Self:
        """Take them from the arguments of a `UNet`."""
        depth = architecture["depth"]
        # group and instance normalisation turn a channel of one pixel into zeros
        by_image = architecture["normalisation"] in ("group", "instance")
        return cls(depth, architecture["valid"], 2**depth * (2 if by_image else 1))

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """As `UNet.output_size`."""
        if self.valid:
            return valid_output_size(height, width, self.depth)
        if height < self.smallest or width < self.smallest:
            raise Error(
                f"An image of {height} x {width} pixels (height x width) is too small for "
                f"depth {self.depth}. Pad it to {max(height, self.smallest)} x "
                f"{max(width, self.smallest)}, or use a smaller depth."
            )
        return height, width

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """As `UNet.input_size`."""
        if self.valid:
            return input_side(height, self.depth), input_side(width, self.depth)
        return max(height, self.smallest), max(width, self.smallest)

    def reflection_indices(
        self, size: tuple[int, int]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Indices of reflection padding to `input_size(*size)`, without repeated border pixels.

        The first logit is that of the first pixel. Returns the source row of each row of the
        padded image, [H'] int64, and the source column of each column, [W'] int64.
        """
        padded = self.input_size(*size)
        kept = self.output_size(*padded)
        rows, columns = (
            _reflected(new, side, (new - inner) // 2)
            for new, side, inner in zip(padded, size, kept, strict=True)
        )
        return rows, columns


def output_side(side: int, depth: int) -> int | None:
    """Height or width of the logits with valid convolutions; None if the image does not fit."""
    for _ in range(depth):
        side -= 4
        if side < 2 or side % 2:
            return None
        side //= 2
    for _ in range(depth):
        side = 2 * (side - 4)
    return side - 4 if side > 4 else None


def input_side(side: int, depth: int) -> int:
    """Smallest height or width of an image whose logits have at least this side."""
    return next(n for n in count(side) if (output_side(n, depth) or 0) >= side)


def valid_output_size(height: int, width: int, depth: int) -> tuple[int, int]:
    """`UNet.output_size` with valid convolutions."""
    left = output_side(height, depth), output_side(width, depth)
    if left[0] and left[1]:
        return left[0], left[1]
    name, side = ("width", width) if left[0] else ("height", height)
    above = next(n for n in count(side) if output_side(n, depth))
    below = next((n for n in range(side, 0, -1) if output_side(n, depth)), None)
    nearest = f"{below} or {above}" if below else f"{above}, the smallest"
    raise Error(
        f"An image of {height} x {width} pixels (height x width) does not fit valid "
        f"convolutions of depth {depth}: with this {name} a feature has an odd side, or nothing is "
        f"left. The nearest valid {name} is {nearest}."
    )


def _reflected(length: int, side: int, before: int) -> NDArray[np.int64]:
    """Source index 0..`side` - 1 of `length` positions, after a margin of `before`."""
    period = max(1, 2 * (side - 1))  # repeated, for images smaller than the margin
    index = (np.arange(length, dtype=np.int64) - before) % period
    reflected: NDArray[np.int64] = np.minimum(index, period - index)
    return reflected
