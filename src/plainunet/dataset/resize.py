"""Resizing of images and masks, and the Dice ceiling of each size."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from plainunet.formats.colors import IGNORED


def fit_size(size: tuple[int, int], box: tuple[int, int]) -> tuple[int, int]:
    """Return the size of an image reduced, never enlarged, to fit in a box [pixels]."""
    scale = min(1.0, box[0] / size[0], box[1] / size[1])
    return reduce_size(size, scale)


def reduce_size(size: tuple[int, int], factor: float) -> tuple[int, int]:
    """Return the size of an image reduced by a factor, at least 1 [pixels]."""
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def resize(image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Reduce an image [H, W, C] of any dtype by averaging areas; enlarge it bilinearly."""
    if image.shape[:2] == size:
        return image
    height, width = size
    larger = height > image.shape[0] or width > image.shape[1]
    how = cv2.INTER_LINEAR if larger else cv2.INTER_AREA
    # OpenCV averages areas of at most four channels at a time
    parts = [
        cv2.resize(image[..., first : first + 4], (width, height), interpolation=how)
        for first in range(0, image.shape[2], 4)
    ]
    return np.concatenate([part.reshape(height, width, -1) for part in parts], axis=2)


def halve(image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Reduce an image by blocks of 2 x 2, which is fast, without falling below `size`.

    Applying `resize` to the result is not exactly `resize` of the image, as areas may end inside
    a block.
    """
    height, width, channels = image.shape
    while not height % 2 and not width % 2 and height >= 2 * size[0] and width >= 2 * size[1]:
        height, width = height // 2, width // 2
        image = resize(image, (height, width)).reshape(height, width, channels)
    return image


def area_shares(
    mask: NDArray[np.uint8], num_classes: int, size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Resize class ids [H, W] to the area fraction of each class, [h, w, K] in 1/255."""
    planes = [resize(_where(mask == k)[..., None], size) for k in range(num_classes)]
    return np.concatenate(planes, axis=2)


SIZES = (128, 256, 512)
"""Input sizes whose ceiling is reported: N is an area of N x N pixels."""


def measure_ceiling(ids: NDArray[np.uint8], num_classes: int) -> list[float] | None:
    """Return the highest possible Dice at each of `SIZES` for class ids [H, W], 255 ignored.

    It is the Dice of the mask itself, reduced and resized back: the mean over its foreground
    classes; None if it has none.
    """
    truths, known = _planes(ids, num_classes)
    scores = []
    for side in SIZES:
        scale = min(1.0, side / ids.size**0.5)
        scores.append(_kept(truths, known, reduce_size((ids.shape[0], ids.shape[1]), scale)))
    return None if None in scores else [score for score in scores if score is not None]


def kept_at(ids: NDArray[np.uint8], num_classes: int, size: tuple[int, int]) -> float | None:
    """Return the Dice ceiling of a mask at a size [pixels], see `measure_ceiling`."""
    return _kept(*_planes(ids, num_classes), size)


def _planes(
    ids: NDArray[np.uint8], num_classes: int
) -> tuple[list[NDArray[np.uint8]], NDArray[np.uint8]]:
    """Planes of each foreground class, and of all classes; 255 inside."""
    truths = [_where(ids == class_id) for class_id in range(1, num_classes)]
    return truths, _where(ids != IGNORED)


def _kept(
    truths: Sequence[NDArray[np.uint8]], known: NDArray[np.uint8], size: tuple[int, int]
) -> float | None:
    """Dice of a mask reduced to a size as in training, and back."""
    planes = [_there_and_back(truth, size) for truth in truths]
    # the rest is background
    rest: Any = known if known.all() else _there_and_back(known, size)
    for plane in planes:
        rest = cv2.subtract(rest, plane)
    most = rest
    for plane in planes:
        most = cv2.max(most, plane)
    # for equal shares, the lower class wins
    free: Any = cv2.bitwise_and(known, cv2.compare(rest, most, cv2.CMP_LT))
    dices = []
    for truth, plane in zip(truths, planes, strict=True):
        found: Any = cv2.bitwise_and(free, cv2.compare(plane, most, cv2.CMP_EQ))
        free = cv2.subtract(free, found)
        area = cv2.countNonZero(truth) + cv2.countNonZero(found)
        if area:
            dices.append(2 * cv2.countNonZero(cv2.bitwise_and(truth, found)) / area)
    return float(np.mean(dices)) if dices else None


def _where(inside: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return inside.view(np.uint8) * np.uint8(255)


def _there_and_back(plane: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    small = resize(halve(plane[..., None], size), size)
    back: NDArray[np.uint8] = resize(small, (plane.shape[0], plane.shape[1]))[..., 0]
    return back


def patches_each(sizes: Sequence[tuple[int, int]], patch: tuple[int, int]) -> int:
    """Return the number of patches with the area of an average image, at least 1."""
    mean = sum(height * width for height, width in sizes) / len(sizes)
    return max(1, round(mean / (patch[0] * patch[1])))
