"""Analysis of the regions of each value: numbered objects, or smoothed edges."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from plainunet.dataset.coding import MaskCounts, values_of
from plainunet.formats.masks import VOID, read_mask

_SAMPLE = 16
_NEARLY_ALL = 0.95
_MOSTLY_WHOLE = 0.5
_ALIKE = 0.75
_IN_PLACE = 0.5
_MOST_GREY = 0.1
_MOST_OBJECTS, _GAPS = 255, 0.2
_MANY = 32
_WHITE = 255
_RARE = 1e-3
_Numbered = tuple[NDArray[Any], list[int]]  # a mask, and the numbers in it


def _sample(counts: Sequence[MaskCounts], most: int = _SAMPLE) -> Sequence[MaskCounts]:
    """Select some masks, spread evenly."""
    return counts[:: -(-len(counts) // most)]


def number_objects(counts: Sequence[MaskCounts], ignore: int | None) -> str:
    """Whether values number objects: "yes", "maybe" or "no".

    They may if each is one region in its mask and the number of values differs between masks,
    from 1 on, with few gaps (any are allowed in 16 bits). Without gaps it is certain if a mask has
    four or more (three in 16 bits), their numbers vary widely and so do their positions: class ids
    hardly ever do. With fewer, regions that touch or stay in place are classes, such as a tumour
    in an organ.
    """
    busy = [each for each in counts if len(_numbers(each, ignore))]
    lengths = Counter(len(_numbers(each, ignore)) for each in busy)
    most = max(lengths, default=0)
    is_deep = 2 * sum(each.is_deep for each in counts) > len(counts)
    gaps = sum(len(found := _numbers(each, ignore)) != found[-1] for each in busy)
    # an erased object leaves a gap; masks of classes have them all over
    if not 2 <= most <= _MOST_OBJECTS or (gaps > _GAPS * len(busy) and not is_deep):
        return "no"
    # class ids are nearly always the same, except for mistakes
    if len(busy) < (3 if most > 2 else 5) or lengths.most_common(1)[0][1] > _ALIKE * len(busy):
        return "no"
    sample = _sample(busy, _SAMPLE if most <= _MANY else _SAMPLE // 4)
    masks = [(read_mask(each.path), _numbers(each, ignore).tolist()) for each in sample]
    if _share_whole(masks) < _NEARLY_ALL:
        return "no"
    in_place = _share_in_place(masks) > _IN_PLACE
    is_sure = most >= (3 if is_deep else 4) and len(lengths) > 2 and not gaps
    if most < 4 and (in_place or _share_touching(masks) > _NEARLY_ALL):
        return "no"
    return "yes" if is_sure and not in_place and _spread(masks) > _IN_PLACE else "maybe"


def are_in_pieces(counts: Sequence[MaskCounts], ignore: int | None) -> bool:
    """Whether most values are several regions in their mask, as class ids are, unlike objects.

    At least one mask must have foreground. A few masks and values are looked at, spread evenly.
    """
    masks = []
    for each in _sample([each for each in counts if len(_numbers(each, ignore))], _SAMPLE // 4):
        numbers = _numbers(each, ignore)
        masks.append((read_mask(each.path), numbers[:: -(-len(numbers) // _MANY)].tolist()))
    return _share_whole(masks) < _MOSTLY_WHOLE


def _numbers(mask: MaskCounts, ignore: int | None) -> NDArray[np.int64]:
    no_number = [0, VOID] if ignore is None else [0, VOID, ignore]
    return np.setdiff1d(mask.values, no_number)


def _share_whole(masks: Sequence[_Numbered]) -> float:
    """Fraction of values that are one region in their mask."""
    return float(np.mean([_is_whole(mask == k) for mask, numbers in masks for k in numbers]))


def _is_whole(region: NDArray[np.bool_]) -> bool:
    return cv2.connectedComponents(region.astype(np.uint8), connectivity=8)[0] == 2


def _share_in_place(masks: Sequence[_Numbered]) -> float:
    """Mean overlap of each number's regions across masks: 1 if they are identical."""
    sizes = {mask.shape for mask, _ in masks}
    shares = []
    for number in {number for _, numbers in masks for number in numbers}:
        regions = [mask == number for mask, numbers in masks if number in numbers]
        if len(sizes) == 1 and len(regions) > 2:
            total = np.sum(regions, axis=0)
            shares.append(total.sum() / (total > 0).sum() / len(regions))
    return float(np.mean(shares)) if shares else 0.0


def _spread(masks: Sequence[_Numbered]) -> float:
    """How far the centres of a number spread across masks, relative to those of all numbers."""
    centers: dict[int, list[NDArray[np.float64]]] = {}
    for mask, numbers in masks:
        for number in numbers:
            center = np.argwhere(mask == number).mean(axis=0) / mask.shape
            centers.setdefault(number, []).append(center)
    places = [np.array(each) for each in centers.values() if len(each) > 2]
    if not places:
        return 1.0
    within = np.concatenate([each - each.mean(axis=0) for each in places])
    around = np.concatenate(places)
    degrees = (len(around) - 1) / max(1, len(around) - len(places))
    return float(
        np.sqrt((within**2).sum() / (np.var(around, axis=0).sum() * len(around)) * degrees)
    )


def _share_touching(masks: Sequence[_Numbered]) -> float:
    """Fraction of regions that touch another, in masks with several."""
    around = np.ones((3, 3), np.uint8)
    touching = []
    for mask, numbers in masks:
        for number in numbers if len(numbers) > 1 else ():
            near = mask[cv2.dilate((mask == number).astype(np.uint8), around) > 0]
            touching.append(bool(np.isin(near, [k for k in numbers if k != number]).any()))
    return float(np.mean(touching)) if touching else 0.0


def are_edges(counts: Sequence[MaskCounts], plain: Sequence[int] = ()) -> bool:
    """Whether all greys between black and white come from smoothed edges.

    Each grey pixel then has a darker and a lighter neighbour, unlike inside a class. White is
    255, or 65535 in 16 bits; `plain` are other values that are not such greys.
    """
    white = _WHITE if all(each.values[-1] <= _WHITE for each in counts) else 65535
    plain = (0, white, *plain)
    greys = [int(each.pixels[~np.isin(each.values, plain)].sum()) for each in counts]
    with_greys = [each for each, of_each in zip(counts, greys, strict=True) if of_each]
    total = sum(int(each.pixels.sum()) for each in counts)
    values = values_of(counts)
    if not with_greys or not {0, white} <= values:
        return False
    if sum(greys) > _MOST_GREY * total:
        return False
    edges = 0
    grey = 0
    for each in _sample(with_greys):
        stored = read_mask(each.path)
        is_grey = ~np.isin(stored, plain)
        grey += int(is_grey.sum())
        edges += int((_edges(stored) & is_grey).sum())
    return edges >= _NEARLY_ALL * grey


def _edges(stored: NDArray[Any]) -> NDArray[np.bool_]:
    """The pixels with a darker and a lighter neighbour."""
    around = np.ones((3, 3), np.uint8)
    is_edge: NDArray[np.bool_] = cv2.erode(stored, around) < stored
    return is_edge & (cv2.dilate(stored, around) > stored)


def main_values(counts: Sequence[MaskCounts]) -> list[int]:
    """List the values, except rare ones, whose pixels are mostly not on edges."""
    inside, pixels = np.zeros(65536, np.int64), np.zeros(65536, np.int64)
    for each in _sample(counts):
        stored = read_mask(each.path)
        pixels += np.bincount(stored.ravel(), minlength=65536)
        inside += np.bincount(stored[~_edges(stored)], minlength=65536)
    is_main = (2 * inside > pixels) & (pixels > _RARE * pixels.sum())
    return [int(value) for value in np.flatnonzero(is_main)]
