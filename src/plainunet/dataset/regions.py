"""What the regions of each value look like: numbered objects, or edges that were smoothed."""

from collections import Counter
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from plainunet.dataset.coding import MaskCounts
from plainunet.formats.masks import VOID, read_mask

_SAMPLE = 16
_NEARLY_ALL = 0.95
_ALIKE = 0.75
_MOST_GREY = 0.1
_MOST_OBJECTS = 64
_WHITE = 255


def _sample(counts: Sequence[MaskCounts]) -> Sequence[MaskCounts]:
    """Take some masks, spread evenly."""
    return counts[:: -(-len(counts) // _SAMPLE)] if counts else counts


def number_objects(counts: Sequence[MaskCounts], ignore: int | None) -> str:
    """Tell whether values number objects: "yes", "maybe" or "no".

    They may where each is one region in its mask, and masks have different numbers of them, from
    1 on without a gap; in 16 bits, gaps may be. It is sure where one has four and more, or three
    in 16 bits, and numbers differ widely: class ids are hardly ever like that.
    """
    busy = [numbers for each in counts if len(numbers := _numbers(each, ignore))]
    lengths = Counter(map(len, busy))
    most = max(lengths, default=0)
    is_deep = 2 * sum(each.is_deep for each in counts) > len(counts)
    has_gaps = any(len(numbers) != numbers[-1] for numbers in busy)
    if not 2 <= most <= _MOST_OBJECTS or (has_gaps and not is_deep):
        return "no"
    # class ids that are nearly always the same, but for a slip
    if len(busy) < (3 if most > 2 else 5) or lengths.most_common(1)[0][1] > _ALIKE * len(busy):
        return "no"
    whole = [is_one for each in _sample(counts) for is_one in _are_whole(each, ignore)]
    if np.mean(whole) < _NEARLY_ALL:
        return "no"
    return "yes" if most >= (3 if is_deep else 4) and len(lengths) > 2 and not has_gaps else "maybe"


def _numbers(mask: MaskCounts, ignore: int | None) -> NDArray[np.int64]:
    no_number = [0, VOID] if ignore is None else [0, VOID, ignore]
    return np.setdiff1d(mask.values, no_number)


def _are_whole(mask: MaskCounts, ignore: int | None) -> list[bool]:
    """Tell of each number whether its pixels are one region."""
    stored = read_mask(mask.path)
    return [
        cv2.connectedComponents((stored == number).astype(np.uint8), connectivity=8)[0] == 2
        for number in _numbers(mask, ignore).tolist()
    ]


def are_edges(counts: Sequence[MaskCounts]) -> bool:
    """Tell whether all greys between 0 and 255 are edges of black and white that were smoothed.

    Next to each grey pixel are a darker one and a lighter one, as never inside of a class.
    """
    greys = [_greys(each) for each in counts]
    with_greys = [each for each, of_each in zip(counts, greys, strict=True) if of_each]
    total = sum(int(each.pixels.sum()) for each in counts)
    values = {int(value) for each in counts for value in each.values}
    if not with_greys or not {0, _WHITE} <= values or max(values) > _WHITE:
        return False
    if sum(greys) > _MOST_GREY * total:
        return False
    edges = 0
    grey = 0
    for each in _sample(with_greys):
        stored = read_mask(each.path).astype(np.uint8)
        around = np.ones((3, 3), np.uint8)
        is_edge = (cv2.erode(stored, around) < stored) & (cv2.dilate(stored, around) > stored)
        is_grey = (stored > 0) & (stored < _WHITE)
        grey += int(is_grey.sum())
        edges += int((is_edge & is_grey).sum())
    return edges >= _NEARLY_ALL * grey


def _greys(mask: MaskCounts) -> int:
    return int(mask.pixels[(mask.values > 0) & (mask.values < _WHITE)].sum())
