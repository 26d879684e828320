"""The objects of a mask: connected regions of a class; removal of small objects and holes.

Objects are 8-connected, holes are 4-connected.
"""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from plainunet.formats.colors import IGNORED


class Object(NamedTuple):
    """A connected region of a class."""

    number: int
    """Number in the mask, from 1."""
    class_id: int
    """Class id, from 1."""
    area: int
    """Area [pixels]."""
    box: tuple[int, int, int, int]
    """Bounding box: first column, first row, width, height [pixels]."""
    centroid: tuple[float, float]
    """Centroid: mean column and row."""


def find_objects(mask: NDArray[np.uint8]) -> tuple[NDArray[np.int32], list[Object]]:
    """Label the connected regions of each class except background and ignored pixels.

    Returns [H, W] int32, the object number of each pixel, 0 for background; and the objects,
    ordered by class and then by their first pixel.
    """
    labels = np.zeros(mask.shape, np.int32)
    objects: list[Object] = []
    for class_id in _classes(mask):
        if class_id in (0, IGNORED):
            continue
        count, own, stats, centroids = cv2.connectedComponentsWithStats(
            (mask == class_id).astype(np.uint8), connectivity=8, ltype=cv2.CV_32S
        )
        labels += own + len(objects) * (own > 0)
        for index in range(1, count):
            left, top, width, height, area = (int(value) for value in stats[index])
            centroid = float(centroids[index][0]), float(centroids[index][1])
            box = left, top, width, height
            objects.append(Object(len(objects) + 1, class_id, area, box, centroid))
    return labels, objects


def remove_small(mask: NDArray[np.uint8], least: int) -> NDArray[np.uint8]:
    """Give objects of fewer than `least` pixels the most frequent class around them.

    The mask is [H, W] uint8 class ids; 0 is background. Small objects that merge may become large
    enough to stay.
    """
    while True:
        labels, objects = find_objects(mask)
        boxes = {each.number: each.box for each in objects if each.area < least}
        changed = _reassign(mask, labels, boxes)
        if np.array_equal(changed, mask):
            return mask
        mask = changed


def fill_holes(mask: NDArray[np.uint8], most: int) -> NDArray[np.uint8]:
    """Fill holes of up to `most` pixels: background that does not touch the image's edge.

    Each hole gets the most frequent class around it.
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
    return _reassign(mask, labels, boxes)


def _reassign(
    mask: NDArray[np.uint8],
    labels: NDArray[np.int32],
    boxes: dict[int, tuple[int, int, int, int]],
) -> NDArray[np.uint8]:
    """Give each region the most frequent class around it, or background if there is none."""
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
    """The class ids that occur."""
    counts = cv2.calcHist([mask], [0], None, [256], [0, 256]).ravel()
    return [int(value) for value in np.flatnonzero(counts)]
