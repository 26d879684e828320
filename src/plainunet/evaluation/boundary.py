"""How far outlines lie from each other.

In: truth and prediction of a picture as class ids. Out: for each class, distances of their
outlines, the share of outlines within a tolerance, and how far bands along them overlap.

The outline of a class are its pixels with a side neighbour of another class, or at the picture's
edge. Distances are Euclidean, in pixels, between pixels' middles. Ignored pixels belong to no
class, in truth and prediction. A class that is absent from both has no distance; one that is
absent from one of the two is as far off as the picture is across, and shares nothing.
"""

import math
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

TOLERANCE = 2.0
"""Outlines within so many pixels of each other agree, for `surface_dice`."""
BAND = 0.02
"""Depth of the band inside an outline, for `boundary_iou`, as a share of the picture's diagonal
(Cheng et al. 2021, Boundary IoU, section 4)."""
_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


class Boundary(NamedTuple):
    """Agreement of a class's outlines in a picture; nan where the class is in neither mask."""

    hd95: float
    """The 95th percentile of distances from one outline to the other, the larger of the two ways
    (robust Hausdorff distance) [pixels]."""
    distance: float
    """Mean distance of all outline pixels to the other outline (average symmetric surface
    distance) [pixels]."""
    surface_dice: float
    """Share of all outline pixels within `TOLERANCE` of the other outline, 0..1 (Nikolov et al.
    2018, on pixels instead of surface elements)."""
    boundary_iou: float
    """Intersection over union of the bands inside both outlines, 0..1."""


NOTHING = Boundary(math.nan, math.nan, math.nan, math.nan)


def boundary_scores(
    truth: NDArray[np.uint8], prediction: NDArray[np.uint8], num_classes: int
) -> list[Boundary]:
    """Compare the outlines of each class but the first.

    Args:
        truth: [H, W] uint8 class ids 0..K-1; what is above is ignored.
        prediction: [H, W] uint8 class ids.
        num_classes: K.

    Returns:
        K - 1 entries.
    """
    valid = truth < num_classes
    return [
        compare((truth == number) & valid, (prediction == number) & valid)
        for number in range(1, num_classes)
    ]


def compare(truth: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> Boundary:
    """Compare the outlines of two masks.

    Args:
        truth: [H, W] bool.
        prediction: [H, W] bool.

    Returns:
        The agreement.
    """
    diagonal = math.hypot(*truth.shape)
    there = truth.any(), prediction.any()
    if not any(there):
        return NOTHING
    if not all(there):
        return Boundary(diagonal, diagonal, 0.0, 0.0)
    depth = max(1, round(BAND * diagonal))
    masks = [mask.astype(np.uint8) for mask in (truth, prediction)]
    outlines = [mask - _eroded(mask, _CROSS) for mask in masks]
    to_truth, to_prediction = (_distances(outline) for outline in outlines)
    from_truth = to_prediction[outlines[0] > 0]
    from_prediction = to_truth[outlines[1] > 0]
    both = np.concatenate([from_truth, from_prediction])
    square = np.ones((2 * depth + 1, 2 * depth + 1), np.uint8)
    bands = [(mask - _eroded(mask, square)) > 0 for mask in masks]
    return Boundary(
        max(float(np.percentile(each, 95)) for each in (from_truth, from_prediction)),
        float(both.mean(dtype=np.float64)),
        float((both <= TOLERANCE).mean()),
        float((bands[0] & bands[1]).sum() / (bands[0] | bands[1]).sum()),
    )


def _eroded(mask: NDArray[np.uint8], shape: NDArray[Any]) -> NDArray[np.uint8]:
    """What is left of a mask; beyond the picture there is none of it."""
    left: NDArray[np.uint8] = np.asarray(
        cv2.erode(mask, shape, borderType=cv2.BORDER_CONSTANT, borderValue=0), np.uint8
    )
    return left


def _distances(outline: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Distance of each pixel to the outline."""
    away: NDArray[np.float32] = np.asarray(
        cv2.distanceTransform(1 - outline, cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32
    )
    return away
