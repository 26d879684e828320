"""Codings from stored values or colours of masks to classes, and counts of both."""

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from plainunet.dataset.cache import recall
from plainunet.errors import Error
from plainunet.formats.colors import (
    IGNORED,
    ColoredMaskError,
    count_colors,
    count_runs,
    encode_colors,
    match_colors,
    read_colors,
    unpack,
)
from plainunet.formats.encoded import open_encoded
from plainunet.formats.images import read_with_missing
from plainunet.formats.legends import Color
from plainunet.formats.masks import VOID, mask_traits, read_mask
from plainunet.formats.problems import DataError
from plainunet.formats.sources import ImageSource, Source
from plainunet.reporter import Reporter
from plainunet.system import work_ahead

_FEW_MASKS = 0.05
_RARE = 1e-3
_WHITE = 0xFFFFFF
_ALIKE = 8


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
    """Values number objects: all above 0 is class 1."""

    kind: ClassVar[str] = "instances"
    values: tuple[int, ...] = field(default=(0, 1), init=False)
    ignore: int | None = None
    names: tuple[str, ...] = field(default=(), compare=False, repr=False)


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


class MaskCounts(NamedTuple):
    """Contents of a mask."""

    path: Source
    size: tuple[int, int]
    values: NDArray[np.int64]  # [n] as stored, ascending; empty if coloured
    pixels: NDArray[np.int64]  # [n], of each value
    digest: str  # of its values or colours and its size; "" if there is only one
    kind: str  # file format, see `find_kind`; "" if it has no file of its own
    is_deep: bool  # whether it has 16 bits
    is_colored: bool  # whether its channels differ, so it is read by colour
    palette: tuple[int, ...] = ()  # [n], the colour of each value, if it has a palette
    is_inverted: bool = False  # whether 0 is white
    has_void: bool = False  # whether -1, read as `VOID`, marks pixels of no class
    hides: bool = False  # whether pixels of one colour differ in opacity
    nodata: int | None = None  # the nodata value of its file
    edge: tuple[int, ...] = ()  # [n], pixels of each value along the borders


def values_of(counts: Iterable[MaskCounts]) -> set[int]:
    """All values that occur in masks."""
    return {value for each in counts for value in each.values.tolist()}


def count_masks(paths: Sequence[Source]) -> Iterator[MaskCounts | DataError]:
    """Count the values of masks, in parallel; yields an error for an unreadable mask."""
    found = recall("mask values 6", [(path,) for path in paths], _count)
    for path, facts in zip(paths, found, strict=True):
        if isinstance(facts, DataError):
            yield facts
            continue
        digest, kind, is_deep, size, *columns, (palette, *marks) = facts
        values, pixels = (np.array(column, np.int64) for column in columns)
        is_colored = not len(values)
        known = digest, kind, is_deep, is_colored, tuple(palette)
        yield MaskCounts(path, tuple(size), values, pixels, *known, *marks)


@dataclass
class Census:
    """How often each value occurs in a set of masks; arrays are [65536] int64, by value."""

    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(65536, np.int64))
    files: NDArray[np.int64] = field(default_factory=lambda: np.zeros(65536, np.int64))
    """Masks with the value."""
    first: NDArray[np.int64] = field(default_factory=lambda: np.zeros(65536, np.int64))
    """The first of them, as an index into `paths`."""
    edge: NDArray[np.int64] = field(default_factory=lambda: np.zeros(65536, np.int64))
    """Pixels along the borders of the masks."""
    paths: list[Source] = field(default_factory=list)
    distinct: list[int] = field(default_factory=list)
    """Number of values in each 16-bit mask."""
    with_both: int = 0
    """Masks with the values 1 and 255."""
    up_to_one: int = 0
    """Masks in which 1 is the largest value."""

    def add(
        self,
        path: Source,
        counts: NDArray[np.int64],
        is_deep: bool,
        edge: NDArray[np.int64] | None = None,
    ) -> None:
        """Add a mask: `counts` [n <= 65536] int64 are its pixels of value 0..n-1.

        `edge` [n] are those along its borders; by default, the same as `counts`.
        """
        values = np.flatnonzero(counts)
        self.edge[: len(counts)] += counts if edge is None else edge
        self.first[values] = np.where(self.files[values] == 0, len(self.paths), self.first[values])
        self.files[values] += 1
        self.pixels[values] += counts[values]
        self.paths.append(path)
        if is_deep:
            self.distinct.append(len(values))
        self.with_both += bool(counts.size > 255 and counts[1] and counts[255])
        self.up_to_one += bool(values.size and values[-1] == 1)

    def ground(self, ignore: int | None = None, least: float = 0.5) -> int | None:
        """The value with more than this fraction of the pixels and of the borders; or None."""
        pixels, edge = self.pixels.copy(), self.edge.copy()
        if ignore is not None:
            pixels[ignore] = edge[ignore] = 0
        top = int(pixels.argmax())
        is_ground = pixels[top] > least * pixels.sum() and edge[top] > least * edge.sum()
        return top if is_ground else None

    def is_slip(self, value: int) -> bool:
        """Whether a value is rare enough to be a mistake."""
        few = self.files[value] <= max(1, _FEW_MASKS * len(self.paths))
        rare = self.pixels[value] < _RARE * self.pixels.sum()
        half = 2 * self.files[value] > len(self.paths) > 1
        return bool((few or rare) and not half)

    def place(self, value: int) -> str:
        """Describe where a value occurs: pixels, first mask, and number of other masks."""
        more = int(self.files[value]) - 1
        others = f" and {more} more mask{'s' * (more > 1)}" if more else ""
        return f"{self.pixels[value]} pixels in {self.paths[self.first[value]]}{others}"


def take_census(counts: Sequence[MaskCounts]) -> Census:
    """Sum up the counts of masks."""
    census = Census()
    for each in counts:
        pixels = np.bincount(each.values, each.pixels).astype(np.int64)
        edge = np.bincount(each.values, each.edge).astype(np.int64)
        census.add(each.path, pixels, each.is_deep, edge)
    return census


def require_opaque(counts: Sequence[MaskCounts]) -> None:
    """Refuse masks with pixels that differ in opacity only."""
    hiding = [each.path for each in counts if each.hides]
    if hiding:
        raise DataError(
            f"{len(hiding)} of {len(counts)} masks have pixels of one colour but different "
            f"opacity, so colours do not identify the classes: {hiding[0]}. Flatten the masks "
            "onto a colour that no class has.",
            "transparent",
            hiding,
        )


def note_inverted(counts: Sequence[MaskCounts], reporter: Reporter) -> None:
    """Tell of TIFF masks in which 0 is white."""
    inverted = [each.path for each in counts if each.is_inverted]
    if inverted:
        reporter.note(
            f"note: in {len(inverted)} TIFF masks, 0 is white (ImageJ's inverting lookup table); "
            "labels are read as stored, and 1-bit masks as shown (white is 1). For example "
            f"{inverted[0]}"
        )


def palettes_differ(counts: Sequence[MaskCounts]) -> bool:
    """Whether the masks' palettes map one index to different colours.

    Black and white masks are ignored next to palettes of other colours; if all are black and
    white, grey 0 and 255 are compared as well, and white must be one value.
    """
    pairs = [{*zip(each.values.tolist(), each.palette, strict=False)} for each in counts]
    plain = {(0, 0), (1, _WHITE), (255, _WHITE)}
    if all(color in (0, _WHITE) for each in pairs for _, color in each):
        greys = [each for each in counts if not each.palette]
        if len(greys) == len(counts) or any({*each.values.tolist()} - {0, 255} for each in greys):
            greys = []
        pairs += [{(value, value * 0x010101) for value in each.values.tolist()} for each in greys]
        both = set().union(*pairs)
        return (
            len({color for _, color in both}) < len(both)
            and (len({value for value, _ in both}) < len(both) or bool(greys))
            and not _same_borders(counts)
        )
    known: dict[int, tuple[int, int, int]] = {}
    for value, color in {pair for each in pairs if not each <= plain for pair in each}:
        other = known.setdefault(value, unpack(color))
        if max(abs(a - b) for a, b in zip(other, unpack(color), strict=True)) > _ALIKE:
            return True
    return False


def _same_borders(counts: Sequence[MaskCounts]) -> bool:
    """Whether the borders of masks have the same value rather than the same colour."""
    values: Counter[int] = Counter()
    colors: Counter[int] = Counter()
    for each in (each for each in counts if not each.is_colored):
        top = int(np.argmax(each.edge))
        value = int(each.values[top])
        values[value] += 1
        colors[each.palette[top] if each.palette else value * 0x010101] += 1
    return max(values.values()) > max(colors.values())


def count_all_colors(
    paths: Sequence[Source],
) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.int64]]]:
    """Count the colours of masks: 0xRRGGBB [n], ascending, with all and border pixels of each."""

    def count(path: Source) -> Any:
        return [part.tolist() for part in count_colors(path)]

    for facts in recall("mask colours 2", [(path,) for path in paths], count):
        if isinstance(facts, DataError):
            raise facts
        colors, pixels, edge = facts
        yield np.array(colors, np.uint32), np.array(pixels, np.int64), np.array(edge, np.int64)


def _count(path: Source) -> Any:
    kind = ""
    if isinstance(path, Path):
        with open_encoded(path) as (kind, _):
            pass
    try:
        mask = read_mask(path)
    except ColoredMaskError:
        colors = read_colors(path)
        digest = _digest(colors.shape, *count_runs(colors))
        marks = [[], False, False, mask_traits(path).hides, None, []]
        return [digest, kind, False, colors.shape, [], [], marks]
    traits = mask_traits(path)
    runs, lengths = count_runs(mask)
    pixels = np.bincount(runs, weights=lengths).astype(np.int64)
    digest = _digest(mask.shape, runs, lengths)
    values = np.flatnonzero(pixels)
    columns = values.tolist(), pixels[values].tolist()
    has_void = (traits.is_signed or traits.nodata == VOID) and columns[0][-1] == VOID
    is_deep = mask.dtype == np.uint16 and not (has_void and max(columns[0][:-1], default=0) < 256)
    is_known = columns[0][-1] < len(traits.palette)
    palette = [traits.palette[value] for value in columns[0]] if is_known else []
    nodata = traits.nodata if traits.nodata in columns[0] else None
    around = np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]])
    edge = np.bincount(around, minlength=len(pixels))[values].tolist()
    marks = [palette, traits.is_inverted, has_void, traits.hides, nodata, edge]
    return [digest, kind, is_deep, mask.shape, *columns, marks]


def _digest(shape: tuple[int, ...], runs: NDArray[Any], lengths: NDArray[np.int64]) -> str:
    # of the runs, which are far fewer than pixels; masks of one value are all equal
    if runs.min() == runs.max():
        return ""
    data = np.array(shape).tobytes() + runs.tobytes() + lengths.tobytes()
    return hashlib.blake2b(data, digest_size=16).hexdigest()


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
