"""Masks on disk -> class ids, by what their values or colours mean.

In: a mask, and the `MaskCoding` of its set. Out: class ids. Limitations: one class per pixel.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from plainunet.data.ahead import work_ahead
from plainunet.data.encodings.colors import (
    IGNORED,
    Colors,
    encode_colors,
    read_colors,
)
from plainunet.data.encodings.stored import read_mask
from plainunet.data.encodings.values import THRESHOLD, list_values


@dataclass(frozen=True)
class MaskCoding:
    """Which stored value or colour is which class.

    Attributes:
        values: The value of class 0, of class 1, and so on; for "instances", (0, 1), where
            1 stands for everything above 0; for "threshold", (0, 255), where each stands for
            its half of 0..255; for "colors", the class ids themselves.
        ignore: The value of pixels that belong to no class, or None; for "colors", a grey.
        kind: "ids", "two values", "values", "instances", "threshold" or "colors".
        colors: For "colors", R, G and B of class 0, of class 1, and so on.
        names: The classes' names, where the masks or a legend beside them have them.
    """

    values: tuple[int, ...]
    ignore: int | None
    kind: str
    colors: Colors = ()
    names: tuple[str, ...] = field(default=(), compare=False)

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.values)

    def read(self, path: Path) -> NDArray[np.uint8]:
        """Read the class ids of a mask.

        Args:
            path: The file.

        Returns:
            [H, W] uint8: 0..K-1, or 255 where ignored.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It cannot be read, or holds a value that is no class's.
        """
        return self.encode(self.read_stored(path), path)

    def read_stored(self, path: Path) -> NDArray[Any]:
        """Read what `encode` turns into class ids.

        Args:
            path: The file.

        Returns:
            [H, W]: the stored values as by `read_mask`; for "colors", as by `read_colors`.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It cannot be read.
        """
        return read_colors(path) if self.kind == "colors" else read_mask(path)

    def encode(self, mask: NDArray[Any], path: Path | None = None) -> NDArray[np.uint8]:
        """Turn stored values into class ids.

        Args:
            mask: [H, W] uint8 or uint16, or uint32 for "colors", as from `read_stored`.
            path: The mask's file, for the message.

        Returns:
            [H, W] uint8: 0..K-1, or 255 where ignored.

        Raises:
            ValueError: The mask holds a value that is no class's. Colours that are no class's
                are ignored.
        """
        if self.kind == "colors":
            return encode_colors(mask, self.colors, self.ignore)
        table = class_table(self, 256 if mask.dtype == np.uint8 else 65536)
        if mask.dtype == np.uint8 and mask.size:
            # several times as fast as indexing
            present = cv2.calcHist([mask], [0], None, [256], [0, 256]).ravel() > 0
            unknown = np.flatnonzero(present & (table < 0))
            encoded: NDArray[Any] = cv2.LUT(mask, table.astype(np.uint8))
        else:
            ids = table[mask]
            unknown = np.unique(mask[ids < 0])
            encoded = ids.astype(np.uint8)
        if unknown.size:
            value = int(unknown[0])
            prefix = "the mask" if path is None else str(path)
            raise ValueError(
                f"{prefix} has {int((mask == value).sum())} pixels of value {value}; known are "
                f"{list_values(self.values)}"
                + ("" if self.ignore is None else f", and {self.ignore} to be ignored")
                + f". Replace {value} in it by one of these."
            )
        return encoded


@lru_cache(maxsize=8)
def class_table(coding: MaskCoding, size: int) -> NDArray[np.int16]:
    """List the class of each value.

    Args:
        coding: What values mean.
        size: How many values, from 0 on.

    Returns:
        [size] int16: the class id, 255 where ignored, -1 where the value is no class's.
    """
    table = np.full(size, -1, np.int16)
    if coding.kind == "instances":
        table[:] = 1
    if coding.kind == "threshold":
        table[:256] = np.arange(256) >= THRESHOLD
    for class_id, value in enumerate(coding.values):
        if value < size:
            table[value] = class_id
    if coding.ignore is not None and coding.ignore < size:
        table[coding.ignore] = IGNORED
    return table


def foreground_shares(paths: Sequence[Path], coding: MaskCoding) -> NDArray[np.float64]:
    """Measure which share of each mask is not background.

    Args:
        paths: The masks.
        coding: What their values or colours mean.

    Returns:
        [n] float64, pixels of class 1 and above by pixels of any class; NaN where all are
        ignored.

    Raises:
        FileNotFoundError: A mask is missing.
        ValueError: A mask cannot be read, or holds a value that is no class's.
    """

    def share(path: Path) -> float:
        ids = coding.read(path)
        valid = int((ids != IGNORED).sum())
        return float((ids[ids != IGNORED] > 0).sum() / valid) if valid else float("nan")

    return np.array(list(work_ahead(share, paths)))
