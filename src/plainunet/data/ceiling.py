"""What a smaller size keeps of a mask: the ceiling of what a network can score at it.

In: a mask. Out: its Dice with itself, reduced as it is for training and brought back.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from plainunet.data.encodings.colors import IGNORED
from plainunet.data.resizing import halve, resize

SIZES = (128, 256, 512)
"""Working sizes of which the ceiling is told: N stands for an area of N x N pixels."""


def measure_ceiling(ids: NDArray[np.uint8], num_classes: int) -> list[float] | None:
    """Measure what smaller sizes keep of a mask.

    Args:
        ids: [H, W] uint8, class ids; 255 does not count.
        num_classes: K.

    Returns:
        Dice of the mask itself, reduced to each of `SIZES` and brought back: the mean over the
        foreground classes that it shows; None where it shows none.
    """
    truths, known = _planes(ids, num_classes)
    scores = []
    for side in SIZES:
        scale = min(1.0, side / ids.size**0.5)
        size = max(1, round(ids.shape[0] * scale)), max(1, round(ids.shape[1] * scale))
        scores.append(_kept(truths, known, size))
    return None if None in scores else [score for score in scores if score is not None]


def kept_at(ids: NDArray[np.uint8], num_classes: int, size: tuple[int, int]) -> float | None:
    """Measure what a size keeps of a mask.

    Args:
        ids: [H, W] uint8, class ids; 255 does not count.
        num_classes: K.
        size: Height and width that it is reduced to, as it is for training [pixels].

    Returns:
        As of `measure_ceiling`, for this size.
    """
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
