"""Images and masks at another size, and the best Dice that each size allows."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from plainunet.formats.colors import IGNORED


def fit_size(size: tuple[int, int], box: tuple[int, int]) -> tuple[int, int]:
    """The size of an image that is reduced, never enlarged, to fit in a box [pixels]."""
    scale = min(1.0, box[0] / size[0], box[1] / size[1])
    return reduce_size(size, scale)


def reduce_size(size: tuple[int, int], factor: float) -> tuple[int, int]:
    """The size of an image whose sides are reduced by a factor, at least 1 [pixels]."""
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
    """Reduce an image by whole blocks of 2 x 2, which is fast, as far as `size` allows.

    What `resize` makes of the result differs from what it makes of the image by a little,
    where an area ends inside a block.
    """
    height, width, channels = image.shape
    while not height % 2 and not width % 2 and height >= 2 * size[0] and width >= 2 * size[1]:
        height, width = height // 2, width // 2
        image = resize(image, (height, width)).reshape(height, width, channels)
    return image


def area_shares(
    mask: NDArray[np.uint8], num_classes: int, size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Bring class ids [H, W] to another size as the share of area of each class, in 1/255."""
    planes = [resize(_where(mask == k)[..., None], size) for k in range(num_classes)]
    return np.concatenate(planes, axis=2)


SIZES = (128, 256, 512)
"""Input sizes of which the ceiling is told: N stands for an area of N x N pixels."""


def measure_ceiling(ids: NDArray[np.uint8], num_classes: int) -> list[float] | None:
    """Measure what smaller sizes keep of a mask: class ids [H, W], of which 255 does not count.

    That is the Dice of the mask itself, reduced to each of `SIZES` and brought back: the mean
    over the foreground classes that it shows; None where it shows none.
    """
    truths, known = _planes(ids, num_classes)
    scores = []
    for side in SIZES:
        scale = min(1.0, side / ids.size**0.5)
        scores.append(_kept(truths, known, reduce_size((ids.shape[0], ids.shape[1]), scale)))
    return None if None in scores else [score for score in scores if score is not None]


def kept_at(ids: NDArray[np.uint8], num_classes: int, size: tuple[int, int]) -> float | None:
    """Measure what a size [pixels] keeps of a mask, as of `measure_ceiling`."""
    return _kept(*_planes(ids, num_classes), size)


def _planes(
    ids: NDArray[np.uint8], num_classes: int
) -> tuple[list[NDArray[np.uint8]], NDArray[np.uint8]]:
    """255 where each foreground class is, and where any class is."""
    truths = [_where(ids == class_id) for class_id in range(1, num_classes)]
    return truths, _where(ids != IGNORED)


def _kept(
    truths: Sequence[NDArray[np.uint8]], known: NDArray[np.uint8], size: tuple[int, int]
) -> float | None:
    """Dice of a mask reduced to a size as it is for training, and back."""
    planes = [_there_and_back(truth, size) for truth in truths]
    # what is left is the background's
    rest: Any = known if known.all() else _there_and_back(known, size)
    for plane in planes:
        rest = cv2.subtract(rest, plane)
    most = rest
    for plane in planes:
        most = cv2.max(most, plane)
    # of equal shares, the lower class has it
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
    """Say how many patches are together as large as an image on average, at least 1."""
    mean = sum(height * width for height, width in sizes) / len(sizes)
    return max(1, round(mean / (patch[0] * patch[1])))
