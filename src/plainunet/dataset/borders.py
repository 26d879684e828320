"""Border weights: extra loss weight of the background between close objects.

Following section 3 of Ronneberger, Fischer and Brox 2015 (arXiv 1505.04597): a background pixel
between two objects weighs w_0 exp(-(d1 + d2)^2 / (2 sigma^2)) more than others, with d1 and d2
its distances to the nearest and second nearest object. Touching objects have no such pixel
between them, so they are separated first.

Objects are `labels`, uint16: 0 for none (background and void), else the object's number.
"""

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from plainunet.dataset.coding import Coding, Instances
from plainunet.errors import Error
from plainunet.formats.sources import Source

REACH = 5.0
"""Sum of distances, in sigmas, beyond which a border weight is 0.

It would be below exp(-5^2 / 2) = 4e-6 of w_0 there."""
_MOST_OBJECTS = 65535


def find_objects(
    mask: NDArray[Any], coding: Coding, path: Source | None = None
) -> NDArray[np.uint16]:
    """Number the objects of a mask as stored, [H, W], from 1 without gaps.

    If its values number objects, every value above 0 is one; else every connected component of a
    foreground class (8-connectivity).
    """
    ids = coding.encode(mask, path)
    if isinstance(coding, Instances):
        values = np.where(ids == 1, mask, 0)
        present = np.bincount(values.ravel(), minlength=1) > 0
        present[0] = False
        return present.cumsum().astype(np.uint16)[values]
    labels, count = np.zeros(mask.shape, np.int32), 0
    for class_id in range(1, coding.num_classes):
        parts, numbers = cv2.connectedComponents((ids == class_id).astype(np.uint8), connectivity=8)
        np.add(numbers, count, out=labels, where=numbers > 0)
        count += parts - 1
    if count > _MOST_OBJECTS:
        prefix = "the mask" if path is None else str(path)
        raise Error(
            f"{prefix} holds {count} objects (connected components of a class); border weights "
            f"support at most {_MOST_OBJECTS}. Train without them, or remove its speckles."
        )
    return labels.astype(np.uint16)


def resize_labels(labels: NDArray[np.uint16], size: tuple[int, int]) -> NDArray[np.uint16]:
    """Resize labels [H, W, 1] by nearest neighbour."""
    if labels.shape[:2] == size:
        return labels
    # EXACT: pixel centres match those of `resize`
    resized = cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return resized.astype(np.uint16, copy=False).reshape(*size, 1)


def part_touching(labels: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Return the pixels, [H, W] bool, with two different objects in their 3 x 3 neighbourhood."""
    around = np.ones((3, 3), np.uint8)
    highest = cv2.dilate(labels, around)
    lowest = cv2.erode(np.where(labels == 0, np.uint16(65535), labels), around)
    meets: NDArray[np.bool_] = lowest < highest
    return meets


def part_objects(
    labels: NDArray[np.uint16], shares: NDArray[np.uint8]
) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Insert background between touching objects of one class.

    Objects of different classes are not separated. Returns labels, 0 where objects meet, and
    shares [H, W, K], with all valid area there in class 0.
    """
    parting = part_touching(labels)
    if shares.shape[2] > 2 and parting.any():
        class_ids = 1 + shares[..., 1:].argmax(axis=2)
        parting[:] = False
        for class_id in range(1, shares.shape[2]):
            parting |= part_touching(np.where(class_ids == class_id, labels, np.uint16(0)))
    parted = shares.copy()
    parted[parting] = 0
    parted[parting, 0] = shares[parting].sum(axis=1, dtype=np.int64).clip(max=255)
    return np.where(parting, np.uint16(0), labels), parted


def border_weights(labels: NDArray[np.uint16], weight: float, sigma: float) -> NDArray[np.float32]:
    """Return the extra weight of each pixel between two objects: [H, W] float32.

    This is the exponential term only, 0..`weight` (w_0, 10 in the paper), decaying with `sigma`
    [pixels of `labels`; 5 in the paper]; distances are between pixel centres. It is 0 on objects,
    if there are fewer than two, and where it would be below 4e-6 w_0.
    """
    reach = math.ceil(REACH * sigma)
    nearest = np.full(labels.shape, np.inf, np.float32)
    second = nearest.copy()
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        area = tuple(slice(max(0, side.start - reach), side.stop + reach) for side in box)
        outside = labels[area] != label
        if not labels[area][outside].any():
            continue  # no other object within reach
        distance = cv2.distanceTransform(
            outside.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE
        )
        # OpenCV's last bit depends on memory alignment; squares are integers
        square = np.rint(distance**2)
        # views, so both are updated in place
        first, other = nearest[area], second[area]
        np.minimum(other, np.maximum(first, square), out=other)
        np.minimum(first, square, out=first)
    total = np.sqrt(nearest) + np.sqrt(second)  # infinite if fewer than two are in reach
    border: NDArray[np.float32] = np.float32(weight) * np.exp(-(total**2) / (2 * sigma**2))
    border[(labels > 0) | (total > REACH * sigma)] = 0
    return border
