"""Masks on disk -> class ids, and what their values mean.

In: mask files of a whole data set. Out: one `MaskCoding` that says which stored value or
colour is which class, and how many pixels each class has. Limitations: one class per pixel.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from os import cpu_count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plainunet.data.encodings.colors import (
    IGNORED,
    ColorCensus,
    ColoredMaskError,
    Colors,
    count_colors,
    count_runs,
    encode_colors,
    read_colors,
)
from plainunet.data.encodings.legend import find_meaning
from plainunet.data.encodings.stored import read_mask, stored_names
from plainunet.data.encodings.values import THRESHOLD, Census, Encoding, find_values, list_values


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
        table = _table(self, 256 if mask.dtype == np.uint8 else 65536)
        ids = table[mask]
        if ids.min(initial=0) < 0:
            value = int(mask[ids < 0].min())
            prefix = "the mask" if path is None else str(path)
            raise ValueError(
                f"{prefix} has {int((mask == value).sum())} pixels of value {value}; known are "
                f"{list_values(self.values)}"
                + ("" if self.ignore is None else f", and {self.ignore} to be ignored")
                + f". Replace {value} in it by one of these."
            )
        encoded: NDArray[np.uint8] = ids.astype(np.uint8)
        return encoded


@lru_cache(maxsize=8)
def _table(coding: MaskCoding, size: int) -> NDArray[np.int16]:
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


def understand_masks(
    paths: Sequence[Path],
    num_classes: int | None = None,
    ignore: int | None = None,
    colors: Colors = (),
    values: Sequence[int] = (),
    encoding: Encoding | None = None,
    on_note: Callable[[str], None] = lambda note: None,
) -> tuple[MaskCoding, NDArray[np.int64]]:
    """Look at every mask of a data set, and tell what their values or colours mean.

    Masks are read by their colours if these are given, or if the channels of any of them
    differ; else by their values, palette pictures by their indices.

    Args:
        paths: The masks; every one of them is read, several at a time.
        num_classes: Number of classes K, where it is known.
        ignore: The value of pixels that belong to no class, where it is known; of colours,
            the grey of that value.
        colors: R, G and B of each class, in their order, where they are known.
        values: The value of each class, in their order, where they are known.
        encoding: How values are to be read, if it is not to be found.
        on_note: Told what a user should know: which colours were taken for which class, which
            share of the pixels was moved to a near colour, and which is ignored.

    Returns:
        The coding, and the pixels of each class, [K] int64.

    Raises:
        FileNotFoundError: A mask is missing.
        ValueError: A mask cannot be read, or the values or colours make no sense together; see
            `find_values` and `find_meaning`.
    """
    if colors and (values or encoding):
        raise ValueError(
            "Masks are read by --colors or by --values and --encoding. Leave out one of the two."
        )
    names = common_names(paths)
    if names and ignore is None:
        ignore = IGNORED  # what is in no class's file
    if not colors:
        try:
            known = num_classes or len(names) or None
            coding, pixels = _understand_values(paths, known, ignore, values, encoding, on_note)
            return replace(coding, names=names), pixels
        except ColoredMaskError:
            if values or encoding:
                raise
    census = ColorCensus()
    with _threads() as pool:
        for path, (found, counts) in zip(paths, pool.map(count_colors, paths), strict=True):
            census.add(path, found, counts)
    meaning = find_meaning(census, colors, num_classes, ignore)
    for note in meaning.notes:
        on_note(note)
    ids = tuple(range(len(meaning.colors)))
    return MaskCoding(ids, ignore, "colors", meaning.colors, meaning.names), meaning.pixels


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

    with _threads() as pool:
        return np.array(list(pool.map(share, paths)))


def common_names(paths: Sequence[Path]) -> tuple[str, ...]:
    """Name the classes as the masks' own files do.

    Args:
        paths: The masks.

    Returns:
        The names in the order of the class ids, the background's first; empty where the files
        have none.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file cannot be read, or they name different classes.
    """
    found: dict[tuple[str, ...], Path] = {}
    for path in paths:
        found.setdefault(stored_names(path), path)
    if len(found) > 1:
        (some, first), (other, second) = list(found.items())[:2]
        raise ValueError(
            f"{first} has the classes {', '.join(some) or 'that its values say'}, {second} "
            f"{', '.join(other) or 'those that its values say'}. Name the same in all, in the same "
            "order."
        )
    return next(iter(found), ())


def _understand_values(
    paths: Sequence[Path],
    num_classes: int | None,
    ignore: int | None,
    values: Sequence[int],
    encoding: Encoding | None,
    on_note: Callable[[str], None],
) -> tuple[MaskCoding, NDArray[np.int64]]:
    census = Census()
    with _threads() as pool:
        for path, (counts, is_deep) in zip(paths, pool.map(_count_values, paths), strict=True):
            census.add(path, counts, is_deep)
    meaning = find_values(census, num_classes, ignore, values, encoding)
    lossy = [path for path in paths if path.suffix.lower() in (".jpg", ".jpeg")]
    if lossy and meaning.kind == "ids" and len(meaning.values) > 2 and not (values or encoding):
        raise ValueError(
            f"{lossy[0]} is a JPEG, which changes values, and the masks hold "
            f"{list_values(meaning.values)}. Save the class ids as PNG; or, if these are right, "
            "say --encoding ids."
        )
    if meaning.note:
        on_note(meaning.note)
    coding = MaskCoding(meaning.values, meaning.ignore, meaning.kind)
    class_pixels = census.pixels[list(coding.values)]
    if coding.kind == "instances":
        left_out = 0 if coding.ignore is None else census.pixels[coding.ignore]
        class_pixels[1] = census.pixels.sum() - class_pixels[0] - left_out
    if coding.kind == "threshold":
        ids = _table(coding, 256)
        class_pixels = np.array([census.pixels[:256][ids == k].sum() for k in (0, 1)])
    return coding, class_pixels


def _threads() -> ThreadPoolExecutor:
    # codecs let go of the interpreter while they decode, so threads are enough
    return ThreadPoolExecutor(min(8, cpu_count() or 1))


def _count_values(path: Path) -> tuple[NDArray[np.int64], bool]:
    mask = read_mask(path)
    values, lengths = count_runs(mask)
    counts = np.bincount(values, weights=lengths).astype(np.int64)
    return counts, mask.dtype == np.uint16
