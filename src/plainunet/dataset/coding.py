"""Masks -> class ids, and how often each value occurs."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from plainunet.dataset.cache import recall
from plainunet.formats.colors import (
    IGNORED,
    ColoredMaskError,
    Colors,
    count_colors,
    count_runs,
    encode_colors,
    read_colors,
)
from plainunet.formats.encoded import open_encoded
from plainunet.formats.masks import THRESHOLD, read_mask
from plainunet.formats.problems import DataError
from plainunet.formats.sources import Source
from plainunet.system import work_ahead

Kind = Literal["ids", "two values", "values", "instances", "threshold"]
Encoding = Literal["ids", "instances", "threshold"]
_MOST_IDS = 64
_MANY_IN_ONE_FILE = 8
_NEAR_END = 32


@dataclass
class Census:
    """How often each value occurs in a set of masks.

    Attributes:
        pixels: [65536] int64, pixels of each value.
        files: [65536] int64, masks in which the value occurs.
        first: [65536] int64, the first such mask, as an index into `paths`.
        paths: The masks.
        distinct: Of each 16-bit mask, how many values it has.
        with_both: Masks that have pixels of value 1 and of value 255.
        up_to_one: Masks in which 1 is the largest value.
    """

    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(65536, np.int64))
    files: NDArray[np.int64] = field(default_factory=lambda: np.zeros(65536, np.int64))
    first: NDArray[np.int64] = field(default_factory=lambda: np.zeros(65536, np.int64))
    paths: list[Source] = field(default_factory=list)
    distinct: list[int] = field(default_factory=list)
    with_both: int = 0
    up_to_one: int = 0

    def add(self, path: Source, counts: NDArray[np.int64], is_deep: bool) -> None:
        """Count one more mask.

        Args:
            path: Its file.
            counts: [n <= 65536] int64, its pixels of value 0, 1, ..., n - 1.
            is_deep: Whether it is stored in 16 bits.
        """
        values = np.flatnonzero(counts)
        self.first[values] = np.where(self.files[values] == 0, len(self.paths), self.first[values])
        self.files[values] += 1
        self.pixels[values] += counts[values]
        self.paths.append(path)
        if is_deep:
            self.distinct.append(len(values))
        self.with_both += bool(counts.size > 255 and counts[1] and counts[255])
        self.up_to_one += bool(values.size and values[-1] == 1)

    def place(self, value: int) -> str:
        """Say where a value occurs.

        Args:
            value: One that does.

        Returns:
            The first mask that has it, and how many pixels and masks have it in all.
        """
        more = int(self.files[value]) - 1
        others = f" and {more} more mask{'s' * (more > 1)}" if more else ""
        return f"{self.pixels[value]} pixels in {self.paths[self.first[value]]}{others}"


class Meaning(NamedTuple):
    """What the values mean: each class's value, the ignored one, the kind, and what to say."""

    values: tuple[int, ...]
    ignore: int | None
    kind: Kind
    note: str = ""


def find_values(
    census: Census,
    num_classes: int | None,
    ignore: int | None,
    values: Sequence[int] = (),
    encoding: Encoding | None = None,
) -> Meaning:
    """Tell what the values of a set of masks mean.

    Two values, whichever, are two classes, the smaller one first. Values 0..K-1 are class
    ids; 255 beside them is ignored. Black and white with many values between, nearly all of
    the pixels within 32 of either, are smoothed or JPEG-damaged: values from 128 on are class
    1. Many values in 16 bits, or more than 64 of them, are numbered objects: everything above 0
    is class 1.

    Args:
        census: How often each value occurs.
        num_classes: Number of classes K, where it is known.
        ignore: The value of pixels that belong to no class, where it is known.
        values: The value of each class, where they are known.
        encoding: How values are to be read, if it is not to be found.

    Returns:
        The meaning.

    Raises:
        ValueError: There is only one value, or one that fits with no reading of the others.
    """
    if num_classes is not None and not 2 <= num_classes <= 255:
        raise ValueError(f"num_classes is {num_classes}; it must be from 2 to 255.")
    present = [int(value) for value in np.flatnonzero(census.pixels) if value != ignore]
    if values:
        return _as_said(census, present, num_classes, ignore, tuple(values))
    if len(values := present) < 2:
        only = f"only the value {values[0]}" if values else f"only the ignored value {ignore}"
        raise DataError(
            f"All {len(census.paths)} masks hold {only}, so there is nothing to learn. Check that "
            f"{census.paths[0]} and the others are the right files."
            if census.paths
            else "There are no masks.",
            "one-class",
        )
    if encoding in ("instances", "threshold") and num_classes not in (None, 2):
        raise ValueError(
            f"--encoding {encoding} tells a foreground from a background, but {num_classes} "
            "classes are named. Name two, the background's first (--classes)."
        )
    if encoding == "instances":
        return Meaning((0, 1), ignore, "instances")
    if encoding == "threshold" or (encoding is None and _is_smoothed(census, values, num_classes)):
        return _thresholded(census, values, ignore)
    if len(values) == 2 and num_classes in (None, 2):
        low, high = values
        return Meaning((low, high), ignore, "ids" if high == 1 else "two values")
    # one deep mask among many others is a slip
    mostly_deep = 2 * len(census.distinct) > len(census.paths)
    many = mostly_deep and np.median(census.distinct) > _MANY_IN_ONE_FILE
    has_void = ignore is None and values[-1] == 255
    ids = values[:-1] if has_void else values
    objects = values[0] == 0 and (many or len(ids) > _MOST_IDS)
    if objects and encoding is None and num_classes in (None, 2):
        if not census.distinct:
            raise DataError(
                f"The masks hold {len(values)} values in 8 bits, for example "
                f"{census.place(ids[1])} of value {ids[1]}: too many for classes. If they are "
                f"smoothed or were saved as JPEG, say --encoding threshold: {THRESHOLD} and more "
                "is class 1; if they number objects, --encoding instances: all above 0 is class 1.",
                "many-values",
            )
        return Meaning((0, 1), ignore, "instances")
    if has_void:
        ignore = 255
    # ids may begin at 1 where 0 is what is ignored
    start = 1 if ignore == 0 else 0
    wanted = range(start, start + num_classes if num_classes else ids[-1] + 1)
    fits = set(ids) <= set(wanted) if num_classes else ids == list(wanted)
    if not fits or not 2 <= len(ids) <= 255:
        raise _misfit(census, values, start, num_classes)
    if has_void and len(wanted) == 2:
        _require_clear_255(census)
    note = ""
    if census.distinct and num_classes is None and len(wanted) > 2:
        note = (
            f"note: the 16-bit masks hold {list_values(wanted)}, which are read as class ids; if "
            "they number objects, say --encoding instances"
        )
    return Meaning(tuple(wanted), ignore, "ids", note)


def _as_said(
    census: Census,
    present: list[int],
    num_classes: int | None,
    ignore: int | None,
    values: tuple[int, ...],
) -> Meaning:
    if len(set(values)) < len(values) or not 2 <= len(values) <= 255:
        raise ValueError(
            f"The values {list_values(values)}: 2 to 255 classes need one each, all different."
        )
    if num_classes not in (None, len(values)):
        raise ValueError(
            f"{num_classes} classes are named, but {len(values)} values are given for them "
            f"({list_values(values)}). Give one for each class, in the order of the names."
        )
    strays = set(present) - set(values)
    if strays:
        stray = max(strays, key=lambda value: census.pixels[value])
        raise DataError(
            f"The masks hold the values {list_values(present)}, and {stray} is no class's (they "
            f"are {list_values(values)}): {census.place(stray)}. Give it a class (train --values); "
            f"or, if it marks pixels that belong to no class, say so (train --ignore {stray}).",
            "stray-value",
            [census.paths[census.first[stray]]],
            f"--ignore {stray}",
        )
    if values == tuple(range(len(values))):
        return Meaning(values, ignore, "ids")
    return Meaning(values, ignore, "two values" if len(values) == 2 else "values")


def _is_smoothed(census: Census, values: Sequence[int], num_classes: int | None) -> bool:
    """Tell whether these are black and white, blurred along the outlines."""
    between = census.pixels[1 + _NEAR_END : 255 - _NEAR_END].sum()
    ends = census.pixels[: 1 + _NEAR_END].sum() + census.pixels[255 - _NEAR_END : 256].sum()
    return bool(
        num_classes in (None, 2)
        and len(values) > _MANY_IN_ONE_FILE
        # one mask saved as JPEG, among others of class ids 0 and 1
        and not census.up_to_one
        and (values[0], values[-1]) == (0, 255)
        # class ids with 255 beside them begin with a row of small numbers, and end there
        and values[-2] > _MOST_IDS
        and ends > 0.9 * census.pixels.sum()
        and census.pixels[255] > between
        and census.pixels[0] > between
    )


def _thresholded(census: Census, values: Sequence[int], ignore: int | None) -> Meaning:
    if values[-1] > 255 or not values[0] < THRESHOLD <= values[-1]:
        raise ValueError(
            f"--encoding threshold takes values from 0 to 255 on both sides of {THRESHOLD}; the "
            f"masks hold {list_values(values)}. Say which value is which class: --values."
        )
    ends = census.pixels[[value for value in (0, 255) if value != ignore]].sum()
    moved = 1 - ends / census.pixels[values].sum()
    example = next((value for value in values if value > 0), 255)
    return Meaning(
        (0, 255),
        ignore,
        "threshold",
        f"note: {moved:.2%} of the mask pixels lie between 0 and 255, from smoothing or JPEG "
        f"compression; below {THRESHOLD} they are taken for class 0, else for class 1. For "
        f"example value {example}: {census.place(example)}",
    )


def _require_clear_255(census: Census) -> None:
    if census.pixels[255] > census.pixels[1] or not census.with_both:
        raise DataError(
            "The masks hold 0, 1 and 255, and it is not clear whether 255 is to be ignored or is "
            f"the foreground of some of them: 1 has {census.place(1)}, 255 has "
            f"{census.place(255)}. If 255 is to be ignored, say so (train --ignore 255); if not, "
            "write the same value for the foreground in every mask.",
            "ambiguous-255",
        )


def _misfit(census: Census, values: list[int], start: int, num_classes: int | None) -> ValueError:
    pixels = census.pixels
    run = [value for rank, value in enumerate(values) if value == start + rank]
    if num_classes is not None:
        expected = list(range(start, start + num_classes))
    elif 0 in values and 255 in values and 2 * pixels[255] > pixels[values[1:]].sum():
        expected = [0, 255]
    elif len(run) > 1:
        expected = run
    else:
        expected = sorted(sorted(values, key=lambda value: -pixels[value])[:2])
    strays = sorted(set(values) - set(expected), key=lambda value: pixels[value])
    known = f"The masks hold the values {list_values(values)}"
    if not strays:
        return DataError(
            f"{known}: {len(values)} classes, and at most 255 can be told apart.", "many-values"
        )
    stray = strays[0]
    more = f" ({len(strays) - 1} other values neither)" if len(strays) > 1 else ""
    return DataError(
        f"{known}. Value {stray} does not fit beside {list_values(expected)}{more}: "
        f"{census.place(stray)}. Mend it there; or, if it marks pixels that belong to no class, "
        f"say so (train --ignore {stray}); or, if the values are class ids of which some never "
        "occur, name every class (train --classes); or say which value is which (train --values).",
        "stray-value",
        [census.paths[census.first[stray]]],
        f"--ignore {stray}" if sum(census.first[strays] == census.first[stray]) == 1 else "",
    )


def list_values(values: Sequence[int]) -> str:
    """Write values for a message: all of a few, the first and last of many.

    Args:
        values: Ascending.

    Returns:
        Such as "0, 1, 2" or "0, 1, 2 ... 40".
    """
    shown = [str(value) for value in values]
    return ", ".join(shown) if len(shown) <= 6 else f"{', '.join(shown[:3])} ... {shown[-1]}"


class MaskCounts(NamedTuple):
    """What a mask holds.

    Attributes:
        path: Its path.
        size: Height and width [pixels].
        values: [n] int64, its values as stored, ascending; empty where it is coloured.
        pixels: [n] int64, the pixels of each.
        digest: Of its values or colours and its size, in hexadecimal; "" where there is but one.
        kind: Format of its file, as of `find_kind`; "" where it is no file of its own.
        is_deep: Whether it is stored in 16 bits.
        is_colored: Whether its channels differ, so that colours are its values.
    """

    path: Source
    size: tuple[int, int]
    values: NDArray[np.int64]
    pixels: NDArray[np.int64]
    digest: str
    kind: str
    is_deep: bool
    is_colored: bool


def count_masks(paths: Sequence[Source]) -> Iterator[MaskCounts | DataError]:
    """Count the values of masks.

    Args:
        paths: The masks; several are read at a time.

    Yields:
        The counts of each in turn, or what is wrong with it.
    """
    found = recall("mask values 3", [(path,) for path in paths], _count)
    for path, facts in zip(paths, found, strict=True):
        if isinstance(facts, DataError):
            yield facts
            continue
        digest, kind, is_deep, size, *columns = facts
        values, pixels = (np.array(column, np.int64) for column in columns)
        is_colored = not len(values)
        known = digest, kind, is_deep, is_colored
        yield MaskCounts(path, tuple(size), values, pixels, *known)


def count_all_colors(
    paths: Sequence[Source],
) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.int64]]]:
    """Count the colours of masks.

    Args:
        paths: The masks; several are read at a time.

    Yields:
        Of each in turn, its colours [n] uint32, 0xRRGGBB, ascending, and the pixels of each,
        [n] int64.

    Raises:
        ValueError: A mask is missing or cannot be read.
    """
    for facts in recall("mask colours 1", [(path,) for path in paths], _count_colors):
        if isinstance(facts, DataError):
            raise facts
        colors, pixels = facts
        yield np.array(colors, np.uint32), np.array(pixels, np.int64)


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
        return [digest, kind, False, colors.shape, [], []]
    runs, lengths = count_runs(mask)
    pixels = np.bincount(runs, weights=lengths).astype(np.int64)
    digest = _digest(mask.shape, runs, lengths)
    values = np.flatnonzero(pixels)
    is_deep = mask.dtype == np.uint16
    return [digest, kind, is_deep, mask.shape, values.tolist(), pixels[values].tolist()]


def _digest(shape: tuple[int, ...], runs: NDArray[Any], lengths: NDArray[np.int64]) -> str:
    # by its runs, which are far fewer than its pixels; masks of one value are all the same
    if runs.min() == runs.max():
        return ""
    said = np.array(shape).tobytes() + runs.tobytes() + lengths.tobytes()
    return hashlib.blake2b(said, digest_size=16).hexdigest()


def _count_colors(path: Source) -> Any:
    return [part.tolist() for part in count_colors(path)]


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

    def read(self, path: Source) -> NDArray[np.uint8]:
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

    def read_stored(self, path: Source) -> NDArray[Any]:
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

    def encode(self, mask: NDArray[Any], path: Source | None = None) -> NDArray[np.uint8]:
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


def foreground_shares(paths: Sequence[Source], coding: MaskCoding) -> NDArray[np.float64]:
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

    def share(path: Source) -> float:
        ids = coding.read(path)
        valid = int((ids != IGNORED).sum())
        return float((ids[ids != IGNORED] > 0).sum() / valid) if valid else float("nan")

    return np.array(list(work_ahead(share, paths)))
