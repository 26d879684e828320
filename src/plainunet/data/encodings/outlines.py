"""Outlines of objects -> class ids.

In: for each object a class and an outline: polygons, or run-length codes as COCO writes them
(column by column, from 0, the first run outside; compressed or not). Out: one class for each
pixel. pycocotools says which pixels are inside of a polygon.

Outlines of one class may overlap. Of two classes, drawn one after the other, they overlap by a
pixel or two wherever the objects touch, however large these are (where both use the same
points, not at all). So strips of up to 2 pixels do not count, and of what is wider, up to 1 % of
the labelled pixels of a picture may have two classes: the smaller object lies on top. Where one
thing lies on another on purpose (a tie on a person), the share is larger, and is refused.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask  # type: ignore[import-untyped]

_MOST_SHARE = 0.01
_OVER = np.ones((3, 3), np.uint8)  # what is at most 2 pixels wide has no room for it

Outline = list[NDArray[Any]] | NDArray[np.int64] | bytes
"""Polygons [x, y, x, y, ...], run lengths, or compressed run lengths."""
_Runs = NDArray[np.int64]
"""[R, 2]: first pixel and the one after the last, counted column by column."""


class Labelled(NamedTuple):
    """An object.

    Attributes:
        label: What it is called in messages.
        class_id: Its class, 0..254.
        outline: Its outline; coordinates [pixels] are counted from the picture's corner.
    """

    label: str
    class_id: int
    outline: Outline


def read_outline(raw: Any, height: int, width: int) -> Outline:
    """Take over what a COCO file has under `segmentation`.

    Args:
        raw: What JSON gives.
        height: The picture's height [pixels].
        width: Its width [pixels].

    Returns:
        The outline; its numbers are looked at when it is painted.

    Raises:
        ValueError: It is no outline, of another size, or a polygon lacks coordinates. The
            message goes on from the name of the object.
    """
    if isinstance(raw, dict):
        if raw.get("size") != [height, width]:
            raise ValueError(
                f"has a run-length code of the size {raw.get('size')!r}, its image has "
                f"{[height, width]} (height, width)"
            )
        counts = raw.get("counts")
        if isinstance(counts, str) and counts.isascii():
            return counts.encode()
        numbers = _numbers(counts)
        if numbers is None or numbers.dtype.kind not in "iu":
            raise ValueError(
                "has a run-length code that is neither plain text nor a list of whole numbers"
            )
        return numbers.astype(np.int64, copy=False)
    polygons = []
    for each in raw if isinstance(raw, list) else [raw]:
        numbers = _numbers(each)
        if numbers is None:
            raise ValueError(
                "has a segmentation that is neither a list of polygons nor a run-length code"
            )
        if len(numbers) % 2 or len(numbers) < 6:
            raise ValueError(
                f"has a polygon of {len(numbers)} coordinates; there must be an even number, at "
                "least 6"
            )
        polygons.append(numbers.astype(np.float64, copy=False))
    return polygons


def paint_ids(
    objects: Sequence[Labelled], height: int, width: int, names: Sequence[str]
) -> NDArray[np.uint8]:
    """Paint the objects of a picture.

    Args:
        objects: The objects.
        height: The picture's height [pixels].
        width: Its width [pixels].
        names: The names of the classes, for the message.

    Returns:
        [H, W] uint8: the class ids, 0 where there is no object.

    Raises:
        ValueError: An outline is damaged, of another size or outside of the picture, or
            objects of different classes overlap.
    """
    found = []
    for label, class_id, outline in objects:
        try:
            found.append((class_id, _find_runs(outline, height, width)))
        except ValueError as error:
            raise ValueError(
                f"{label} {error}. Export the file again, or mend or remove this one."
            ) from None
    ids = np.zeros(height * width, np.uint8)
    found.sort(key=lambda each: -int((each[1][:, 1] - each[1][:, 0]).sum()))
    for class_id, runs in found:
        _paint(ids, runs, class_id)
    if len({class_id for class_id, _ in found}) > 1:
        _require_apart(found, height, width, names)
    return np.ascontiguousarray(ids.reshape(width, height).T)


def _paint(pixels: NDArray[Any], runs: _Runs, value: int) -> None:
    for start, end in runs.tolist():
        pixels[start:end] = value


def _require_apart(
    objects: list[tuple[int, _Runs]], height: int, width: int, names: Sequence[str]
) -> None:
    def layer(class_id: int) -> NDArray[np.uint8]:
        pixels = np.zeros(height * width, np.uint8)
        for each, runs in objects:
            if each == class_id:
                _paint(pixels, runs, 1)
        return pixels

    class_ids = sorted({class_id for class_id, _ in objects})
    count = np.zeros(height * width, np.uint8)
    for class_id in class_ids:
        count += layer(class_id)
    several = (count > 1).astype(np.uint8).reshape(width, height)
    if not several.any():
        return
    wide = cv2.morphologyEx(several, cv2.MORPH_OPEN, _OVER).ravel() > 0
    share = np.count_nonzero(wide) / np.count_nonzero(count)
    if share <= _MOST_SHARE:
        return
    inside = {class_id: layer(class_id)[wide] for class_id in class_ids}
    both = {
        (one, other): int(np.count_nonzero(inside[one] & inside[other]))
        for one, other in combinations(class_ids, 2)
    }
    most = max(both, key=lambda pair: both[pair])
    raise ValueError(
        f"{share:.1%} of its labelled pixels have two classes, at most {_MOST_SHARE:.0%} may; "
        f"{both[most]} pixels are both '{names[most[0]]}' and '{names[most[1]]}'. Mend the "
        "outlines so that each pixel has one class, leave one of the categories out, or save "
        "the masks as PNG files."
    )


def _find_runs(outline: Outline, height: int, width: int) -> _Runs:
    if isinstance(outline, list):
        outline = _rasterise(outline, height, width)
    counts = _decompress(outline) if isinstance(outline, bytes) else outline
    if counts.min(initial=0) < 0 or counts.max(initial=0) > height * width:
        raise ValueError("has a run-length code with a run below 0 or longer than the picture")
    total = int(counts.sum())
    if total != height * width:
        raise ValueError(
            f"has a run-length code for {total} pixels, but the image has {height * width} "
            f"(height {height}, width {width})"
        )
    ends = np.cumsum(counts)
    return np.stack([ends - counts, ends], axis=1)[1::2]


def _rasterise(polygons: list[NDArray[Any]], height: int, width: int) -> bytes:
    points = np.concatenate(polygons).reshape(-1, 2)
    low, high = points.min(axis=0), points.max(axis=0)
    reach = max(height, width)
    # NaN is in no range
    if not (low.min() >= -reach and high.max() <= 2 * reach):
        raise ValueError(
            f"has coordinates from {low.min():g} to {high.max():g}; those of a picture of "
            f"height {height} and width {width} are finite and in or near it"
        )
    if (high <= 0).any() or low[0] >= width or low[1] >= height:
        raise ValueError(
            f"lies outside of the picture: x from {low[0]:g} to {high[0]:g}, y from {low[1]:g} "
            f"to {high[1]:g}, in a picture of height {height} and width {width}"
        )
    codes = coco_mask.frPyObjects(polygons, height, width)
    return bytes(coco_mask.merge(codes)["counts"])


def _decompress(code: bytes) -> NDArray[np.int64]:
    # pycocotools reads and writes past the end where a code is damaged, so it is decoded here:
    # little-endian groups of 5 bits, bit 5 says that more follow, and from the fourth number
    # on, each is the difference to the last but one
    groups = np.frombuffer(code, np.uint8).astype(np.int64) - 48
    if not len(groups) or groups.min() < 0 or groups.max() > 63 or groups[-1] & 32:
        raise ValueError("has a compressed run-length code that is damaged or cut off")
    last = np.flatnonzero(groups & 32 == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    lengths = last - first + 1
    if lengths.max() > 7:
        raise ValueError("has a compressed run-length code with a number that is too large")
    places = np.arange(len(groups)) - np.repeat(first, lengths)
    counts = np.add.reduceat((groups & 31) << (5 * places), first)
    counts -= np.where(groups[last] & 16, np.int64(1) << (5 * lengths), 0)
    for start in (1, 2):
        counts[start::2] = np.cumsum(counts[start::2])
    return counts


def _numbers(raw: Any) -> NDArray[Any] | None:
    try:
        numbers = np.array(raw) if isinstance(raw, list) and raw else np.zeros(0)
    except ValueError:
        return None  # lists of different lengths
    known = isinstance(raw, list) and numbers.ndim == 1 and numbers.dtype.kind in "iuf"
    return numbers if known else None
