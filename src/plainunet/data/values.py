"""What the values in a set of masks mean.

In: how often each value occurs, and where. Out: the value of each class, the value to be
ignored, and the kind of coding; or an error that names the file that does not fit. No
picture is read here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Kind = Literal["ids", "two values", "instances"]

_MOST_IDS = 64
_MANY_IN_ONE_FILE = 8


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
    """

    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(65536, np.int64))
    files: NDArray[np.int64] = field(default_factory=lambda: np.zeros(65536, np.int64))
    first: NDArray[np.int64] = field(default_factory=lambda: np.zeros(65536, np.int64))
    paths: list[Path] = field(default_factory=list)
    distinct: list[int] = field(default_factory=list)
    with_both: int = 0

    def add(self, path: Path, counts: NDArray[np.int64], is_deep: bool) -> None:
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
    """What the values mean: the value of each class, the ignored value, and the kind."""

    values: tuple[int, ...]
    ignore: int | None
    kind: Kind


def find_values(census: Census, num_classes: int | None, ignore: int | None) -> Meaning:
    """Tell what the values of a set of masks mean.

    Two values, whichever, are two classes, the smaller one first. Values 0..K-1 are class
    ids; 255 beside them is ignored. Many values in 16 bits, or more than 64 of them, are
    numbered objects: everything above 0 is class 1.

    Args:
        census: How often each value occurs.
        num_classes: Number of classes K, where it is known.
        ignore: The value of pixels that belong to no class, where it is known.

    Returns:
        The meaning.

    Raises:
        ValueError: There is only one value, or one that fits with no reading of the others.
    """
    if num_classes is not None and not 2 <= num_classes <= 255:
        raise ValueError(f"num_classes is {num_classes}; it must be from 2 to 255.")
    values = [int(value) for value in np.flatnonzero(census.pixels) if value != ignore]
    if len(values) < 2:
        only = f"only the value {values[0]}" if values else f"only the ignored value {ignore}"
        raise ValueError(
            f"All {len(census.paths)} masks hold {only}, so there is nothing to learn. Check that "
            f"{census.paths[0]} and the others are the right files."
            if census.paths
            else "There are no masks."
        )
    if len(values) == 2 and num_classes in (None, 2):
        low, high = values
        return Meaning((low, high), ignore, "ids" if high == 1 else "two values")
    if num_classes in (None, 2):
        _require_hard_edges(census, values)
    many = bool(census.distinct) and np.median(census.distinct) > _MANY_IN_ONE_FILE
    has_void = ignore is None and values[-1] == 255
    ids = values[:-1] if has_void else values
    if num_classes in (None, 2) and values[0] == 0 and (many or len(ids) > _MOST_IDS):
        if not census.distinct:
            raise ValueError(
                f"The masks hold {len(values)} values in 8 bits, for example "
                f"{census.place(ids[1])} of value {ids[1]}: too many for classes. If they are "
                "smoothed or were saved as JPEG, threshold them and save them as PNG; if they "
                "number objects, save them in 16 bits."
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
    return Meaning(tuple(wanted), ignore, "ids")


def _require_hard_edges(census: Census, values: list[int]) -> None:
    pixels = census.pixels[values]
    ends = values[0] == 0 and values[-1] == 255 and pixels[-1] > pixels[1:-1].sum()
    if ends and len(values) > _MANY_IN_ONE_FILE and pixels[0] + pixels[-1] > 0.9 * pixels.sum():
        moved = 1 - (pixels[0] + pixels[-1]) / pixels.sum()
        raise ValueError(
            f"The masks are black and white but for {moved:.2%} of the pixels, which hold "
            f"{len(values) - 2} values between, from smoothing or JPEG compression; for example "
            f"{census.place(values[1])} of value {values[1]}. Threshold the masks at 128 and save "
            "them as PNG."
        )


def _require_clear_255(census: Census) -> None:
    if census.pixels[255] > census.pixels[1] or not census.with_both:
        raise ValueError(
            "The masks hold 0, 1 and 255, and it is not clear whether 255 is to be ignored or is "
            f"the foreground of some of them: 1 has {census.place(1)}, 255 has "
            f"{census.place(255)}. If 255 is to be ignored, say so (train --ignore 255); if not, "
            "write the same value for the foreground in every mask."
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
        return ValueError(f"{known}: {len(values)} classes, and at most 255 can be told apart.")
    stray = strays[0]
    more = f" ({len(strays) - 1} other values neither)" if len(strays) > 1 else ""
    return ValueError(
        f"{known}. Value {stray} does not fit beside {list_values(expected)}{more}: "
        f"{census.place(stray)}. Mend it there; or, if it marks pixels that belong to no class, "
        f"say so (train --ignore {stray}); or, if the values are class ids of which some never "
        "occur, name every class (train --class-names)."
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
