"""The objects of a mask, connected regions of a class; small ones, and small holes, removed.

Pixels of an object touch along a side or at a corner; those of a hole along a side.
"""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from plainunet.formats.colors import IGNORED


class Object(NamedTuple):
    """A connected region of a class."""

    number: int
    """Its number in the mask, from 1."""
    class_id: int
    """Its class, from 1."""
    area: int
    """Its size [pixels]."""
    box: tuple[int, int, int, int]
    """Its first column and row, its width and height [pixels]."""
    middle: tuple[float, float]
    """The mean column and row of its pixels."""


def find_objects(mask: NDArray[np.uint8]) -> tuple[NDArray[np.int32], list[Object]]:
    """Number the connected regions of each class but the background and what is ignored.

    Returns [H, W] int32, the number of each pixel's object, 0 for background; and the objects,
    class after class, each class's in the order of their first pixels.
    """
    labels = np.zeros(mask.shape, np.int32)
    objects: list[Object] = []
    for class_id in _classes(mask):
        if class_id in (0, IGNORED):
            continue
        count, own, stats, middles = cv2.connectedComponentsWithStats(
            (mask == class_id).astype(np.uint8), connectivity=8, ltype=cv2.CV_32S
        )
        labels += own + len(objects) * (own > 0)
        for index in range(1, count):
            left, top, width, height, area = (int(value) for value in stats[index])
            middle = float(middles[index][0]), float(middles[index][1])
            box = left, top, width, height
            objects.append(Object(len(objects) + 1, class_id, area, box, middle))
    return labels, objects


def remove_small(mask: NDArray[np.uint8], least: int) -> NDArray[np.uint8]:
    """Give objects of fewer than `least` pixels the class of most pixels around them.

    The mask is [H, W] uint8 class ids; 0 is background. Several small ones that touch may be large
    enough together.
    """
    while True:
        labels, objects = find_objects(mask)
        boxes = {each.number: each.box for each in objects if each.area < least}
        changed = _give_away(mask, labels, boxes)
        if np.array_equal(changed, mask):
            return mask
        mask = changed


def fill_holes(mask: NDArray[np.uint8], most: int) -> NDArray[np.uint8]:
    """Fill holes of up to `most` pixels: background that does not reach the image's edge.

    Each gets the class of most pixels around it.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        (mask == 0).astype(np.uint8), connectivity=4, ltype=cv2.CV_32S
    )
    height, width = mask.shape
    boxes = {}
    for index in range(1, count):
        left, top, across, down, area = (int(value) for value in stats[index])
        inside = left > 0 and top > 0 and left + across < width and top + down < height
        if area <= most and inside:
            boxes[index] = left, top, across, down
    return _give_away(mask, labels, boxes)


def _give_away(
    mask: NDArray[np.uint8],
    labels: NDArray[np.int32],
    boxes: dict[int, tuple[int, int, int, int]],
) -> NDArray[np.uint8]:
    """Give regions the class of most pixels around each, or background where there are none."""
    result = mask.copy()
    for number, (left, top, width, height) in boxes.items():
        window = (
            slice(max(top - 1, 0), top + height + 1),
            slice(max(left - 1, 0), left + width + 1),
        )
        inside = labels[window] == number
        grown = cv2.dilate(inside.astype(np.uint8), np.ones((3, 3), np.uint8))
        around = result[window][grown.astype(bool) & ~inside]
        around = around[around != IGNORED]
        result[window][inside] = np.bincount(around).argmax() if around.size else 0
    return result


def _classes(mask: NDArray[np.uint8]) -> list[int]:
    """The classes that occur."""
    counts = cv2.calcHist([mask], [0], None, [256], [0, 256]).ravel()
    return [int(value) for value in np.flatnonzero(counts)]
