"""Masks on disk -> how often each value or colour occurs in each of them.

In: the masks of a set. Out: counts, remembered for files that have not changed. What they mean
is for `masks` to tell.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from plainunet.data.codecs.encoded import open_encoded
from plainunet.data.encodings.colors import ColoredMaskError, count_colors, count_runs, read_colors
from plainunet.data.encodings.stored import read_mask
from plainunet.data.ledger import recall
from plainunet.data.places import files_of
from plainunet.data.problems import DataError


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

    path: Path
    size: tuple[int, int]
    values: NDArray[np.int64]
    pixels: NDArray[np.int64]
    digest: str
    kind: str
    is_deep: bool
    is_colored: bool


def count_masks(paths: Sequence[Path]) -> Iterator[MaskCounts | DataError]:
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
    paths: Sequence[Path],
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


def _count(path: Path) -> Any:
    kind = ""
    if files_of(path) == [path]:
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


def _count_colors(path: Path) -> Any:
    return [part.tolist() for part in count_colors(path)]
