"""Codings: from the stored values or colours of masks to class ids."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from plainunet.config import DataConfig
from plainunet.dataset.census import MaskCounts, count_all_colors
from plainunet.errors import Error
from plainunet.formats.colors import (
    IGNORED,
    ColoredMaskError,
    encode_colors,
    match_colors,
    number_colors,
    read_colors,
)
from plainunet.formats.images import read_with_missing
from plainunet.formats.legends import Color
from plainunet.formats.masks import read_mask
from plainunet.formats.problems import DataError
from plainunet.formats.sources import ImageSource, Source
from plainunet.system import work_ahead


class _Coding(ABC):
    """Base of all codings."""

    ignore: int | None
    names: tuple[str, ...]

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """Number of classes K."""

    @abstractmethod
    def read_stored(self, source: Source) -> NDArray[Any]:
        """Read what `encode` turns into class ids: values or colours [H, W]."""

    @abstractmethod
    def encode(self, mask: NDArray[Any], source: Source | None = None) -> NDArray[np.uint8]:
        """Turn what is stored, [H, W], into class ids [H, W] uint8, 255 where ignored."""

    @abstractmethod
    def classify(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Return the class of values or colours, [n]: 255 where ignored."""

    def read(self, source: Source) -> NDArray[np.uint8]:
        """Read a mask as class ids, [H, W] uint8: 0..K-1, or 255 where ignored."""
        return self.encode(self.read_stored(source), source)

    def count(self, stored: NDArray[Any], pixels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sum up the pixels of each class, [K], from the `pixels` [n] of values or colours [n]."""
        ids = self.classify(stored)
        known = (ids >= 0) & (ids != IGNORED)
        return np.bincount(ids[known], pixels[known], self.num_classes).astype(np.int64)


class _ByValue(_Coding):
    """Base of the codings of values."""

    values: tuple[int, ...]

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.values)

    def read_stored(self, source: Source) -> NDArray[Any]:
        """Read the values, [H, W] uint8 or uint16."""
        return read_mask(source)

    def encode(self, mask: NDArray[Any], source: Source | None = None) -> NDArray[np.uint8]:
        """Turn values into class ids; an unknown value is an error that names `source`."""
        table = _class_table(self, 256 if mask.dtype == np.uint8 else 65536)
        if mask.dtype == np.uint8 and mask.size:
            # several times faster than indexing
            present = cv2.calcHist([mask], [0], None, [256], [0, 256]).ravel() > 0
            unknown = np.flatnonzero(present & (table < 0))
            encoded: NDArray[Any] = cv2.LUT(mask, table.astype(np.uint8))
        else:
            ids = table[mask]
            unknown = np.unique(mask[ids < 0])
            encoded = ids.astype(np.uint8)
        if unknown.size:
            value = int(unknown[0])
            prefix = "the mask" if source is None else str(source)
            raise Error(
                f"{prefix} has {int((mask == value).sum())} pixels of value {value}; known values "
                f"are {list_values(self.values)}"
                + ("" if self.ignore is None else f" and {self.ignore} (ignored)")
                + f". Replace {value} in it by one of these."
            )
        return encoded

    def classify(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Return the class of each value: 255 where ignored, -1 where unknown."""
        ids: NDArray[Any] = _class_table(self, 65536)[stored]
        return ids


@dataclass(frozen=True)
class Values(_ByValue):
    """Each class has its own value, such as its id."""

    values: tuple[int, ...]
    """The value of class 0, of class 1, and so on."""
    ignore: int | None = None
    """The value of pixels that belong to no class."""
    names: tuple[str, ...] = field(default=(), compare=False, repr=False)
    """Class names, if the masks have them."""

    @property
    def kind(self) -> str:
        """Name of the coding: "ids", "two values" or "values"."""
        count = len(self.values)
        # ids may begin at 1 if 0 is ignored
        first = 1 if self.ignore == 0 and count > 2 else 0
        if self.values == tuple(range(first, first + count)):
            return "ids"
        return "two values" if count == 2 else "values"


@dataclass(frozen=True)
class Threshold(_ByValue):
    """Smoothed black and white: values from 128 on (in 16 bits, 32768) are class 1."""

    kind: ClassVar[str] = "threshold"
    ignore: int | None = None
    values: tuple[int, ...] = (0, 255)
    """Black and white."""
    names: tuple[str, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class Instances(_ByValue):
    """Values number objects, or each colour is one: all but 0, or black, is class 1."""

    kind: ClassVar[str] = "instances"
    values: tuple[int, ...] = field(default=(0, 1), init=False)
    ignore: int | None = None
    names: tuple[str, ...] = field(default=(), compare=False, repr=False)

    def read_stored(self, source: Source) -> NDArray[Any]:
        """Read the numbers, [H, W] uint8 or uint16, also from colours."""
        try:
            return read_mask(source)
        except ColoredMaskError:
            colors = read_colors(source)
        found, places = np.unique(colors, return_inverse=True)
        return number_colors(found, self.ignore)[places].reshape(colors.shape)


@dataclass(frozen=True)
class Colors(_Coding):
    """Each class has a colour; other colours belong to the nearest one, or are ignored."""

    kind: ClassVar[str] = "colors"
    colors: tuple[Color, ...]
    """R, G and B of class 0, of class 1, and so on."""
    ignore: int | None = None
    """The grey value of pixels that belong to no class."""
    names: tuple[str, ...] = field(default=(), compare=False, repr=False)
    """Class names, if a legend next to the masks has them."""

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.colors)

    @property
    def values(self) -> tuple[int, ...]:
        """The class ids, in place of values."""
        return tuple(range(len(self.colors)))

    def read_stored(self, source: Source) -> NDArray[Any]:
        """Read the colours, [H, W] uint32, 0xRRGGBB."""
        return read_colors(source)

    def encode(self, mask: NDArray[Any], source: Source | None = None) -> NDArray[np.uint8]:
        """Turn colours into class ids, 255 where ignored or unknown."""
        return encode_colors(mask, self.colors, self.ignore)

    def classify(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Return the class of each colour: 255 if none."""
        return match_colors(stored, self.colors, self.ignore)[0]


Coding = Values | Threshold | Instances | Colors
"""How masks are read: `read` returns class ids, `count` the pixels of each class."""


@lru_cache(maxsize=8)
def _class_table(coding: _ByValue, size: int) -> NDArray[np.int16]:
    """The class of each value below `size`: 255 where ignored, -1 where unknown."""
    table = np.full(size, 1 if isinstance(coding, Instances) else -1, np.int16)
    if isinstance(coding, Threshold):
        white = coding.values[1]
        table[: white + 1] = np.arange(min(size, white + 1)) > white // 2
    for class_id, value in enumerate(coding.values):
        if value < size:
            table[value] = class_id
    if coding.ignore is not None and coding.ignore < size:
        table[coding.ignore] = IGNORED
    return table


def as_objects(counts: Sequence[MaskCounts], known: DataConfig) -> list[MaskCounts]:
    """The contents of masks, of coloured ones as object numbers if each colour is an object."""
    colored = [each.path for each in counts if each.is_colored]
    if known.encoding != "instances" or known.values or not colored:
        return list(counts)
    found = dict(zip(colored, count_all_colors(colored), strict=True))
    if not any(colors[0] == 0 for colors, _, _ in found.values()):
        raise DataError(
            f"{colored[0]} and the others have no black pixels; of coloured masks, --encoding "
            "instances reads black as the background. Save the background in black.",
            "which-background",
        )
    return [
        each._replace(
            values=number_colors(found[each.path][0], known.ignore).astype(np.int64),
            pixels=found[each.path][1],
            edge=tuple(found[each.path][2].tolist()),
            is_colored=False,
        )
        if each.is_colored
        else each
        for each in counts
    ]


def coding_to_json(coding: Coding) -> dict[str, Any]:
    """Serialise a coding for a checkpoint; see `coding_from_json`."""
    saved = {"values": coding.values, "ignore": coding.ignore, "kind": coding.kind}
    return {**saved, "colors": coding.colors} if isinstance(coding, Colors) else saved


def coding_from_json(saved: Mapping[str, Any]) -> Coding:
    """Restore the coding of a checkpoint."""
    ignore, kind = saved["ignore"], saved["kind"]
    if saved.get("colors"):
        return Colors(tuple((r, g, b) for r, g, b in saved["colors"]), ignore)
    if kind == "instances":
        return Instances(ignore)
    values = tuple(saved["values"])
    return Threshold(ignore, values) if kind == "threshold" else Values(values, ignore)


def list_values(values: Sequence[int]) -> str:
    """Format values for a message: "0, 1, 2", or "0, 1, 2 ... 40" if there are many."""
    shown = [str(value) for value in values]
    return ", ".join(shown) if len(shown) <= 6 else f"{', '.join(shown[:3])} ... {shown[-1]}"


def read_pair(
    image: ImageSource, mask: Source, coding: Coding
) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Read an image [H, W, C] as stored, and its class ids [H, W] uint8.

    Class ids are 255 where ignored, and where the image has no data (and is filled).
    """
    pixels, missing = read_with_missing(image)
    ids = coding.read(mask)
    if missing is not None:
        ids[missing] = IGNORED
    return pixels, ids


def foreground_shares(paths: Sequence[Source], coding: Coding) -> NDArray[np.float64]:
    """Return the foreground fraction of each mask, [n]; NaN if all of it is ignored."""

    def share(path: Source) -> float:
        ids = coding.read(path)
        valid = int((ids != IGNORED).sum())
        return float((ids[ids != IGNORED] > 0).sum() / valid) if valid else float("nan")

    return np.array(list(work_ahead(share, paths)))
