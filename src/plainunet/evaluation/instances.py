"""How well objects are told apart, by the connected regions of a mask.

In: numbered objects of truth and prediction. Out: how many were found, at thresholds of their
overlap (Data Science Bowl 2018), and how well the pixels of each stay together (the ISBI 2012
challenge: Arganda-Carreras et al. 2015, Crowdsourcing the creation of image segmentation
algorithms for connectomics, section 2.3).
"""

import math
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""Overlaps (intersection over union) above which an object counts as found."""
Labels = NDArray[np.integer[Any]]


class Found(NamedTuple):
    """Objects of a picture, or of several, at each of `THRESHOLDS`."""

    hits: NDArray[np.int64]
    """[10]: objects of the truth that the prediction overlaps by more than the threshold."""
    true: int
    """Objects of the truth."""
    predicted: int
    """Objects of the prediction."""

    def __add__(self, other: Any) -> "Found":
        """Add the objects of another picture."""
        hits, true, predicted = other
        return Found(self.hits + hits, self.true + true, self.predicted + predicted)

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN) at an overlap of 0.5; nan without any object."""
        total = self.true + self.predicted
        return float(2 * self.hits[0] / total) if total else math.nan

    @property
    def average_precision(self) -> float:
        """TP / (TP + FP + FN), the mean over the thresholds; nan without any object."""
        total = self.true + self.predicted
        return float((self.hits / (total - self.hits)).mean()) if total else math.nan


class Together(NamedTuple):
    """How well the pixels of objects stay together; nan where the truth has no object."""

    rand: float
    """Foreground-restricted Rand F-score, 0..1."""
    information: float
    """Foreground-restricted information-theoretic F-score, 0..1."""


def number_objects(mask: NDArray[np.bool_], corners: bool = True) -> NDArray[np.int32]:
    """Number the connected regions of a class.

    Args:
        mask: [H, W] bool.
        corners: Whether pixels that touch at a corner are connected; membranes one pixel thick
            part cells only if not.

    Returns:
        [H, W] int32, from 1; 0 elsewhere.
    """
    numbers: NDArray[np.int32] = np.asarray(
        cv2.connectedComponents(mask.astype(np.uint8), connectivity=8 if corners else 4)[1],
        np.int32,
    )
    return numbers


def match_objects(truth: Labels, prediction: Labels) -> Found:
    """Count the objects that were found.

    An object of the truth overlaps at most one of the prediction by more than a half, and the
    other way round, so that no assignment is needed.

    Args:
        truth: [H, W] numbers of objects, 0 for none.
        prediction: The same.

    Returns:
        The counts.
    """
    rows, columns, shared = _pairs(truth, prediction)
    areas, others = np.bincount(truth.ravel()), np.bincount(prediction.ravel())
    objects = (rows > 0) & (columns > 0)
    rows, columns, shared = rows[objects], columns[objects], shared[objects]
    overlap = shared / (areas[rows] + others[columns] - shared)
    hits = np.array([(overlap > threshold).sum() for threshold in THRESHOLDS], np.int64)
    return Found(hits, int((areas[1:] > 0).sum()), int((others[1:] > 0).sum()))


def keep_together(truth: Labels, prediction: Labels) -> Together:
    """Score how well pixels of an object stay in one object, and those of several apart.

    Only pixels in an object of the truth count. Borders of the prediction are thinned to
    nothing: each of their pixels goes to the nearest object.

    Args:
        truth: [H, W] numbers of objects, 0 for what lies between them.
        prediction: The same.

    Returns:
        The scores.
    """
    inside = truth > 0
    if not inside.any():
        return Together(math.nan, math.nan)
    true, predicted = truth[inside], thin_borders(prediction)[inside]
    joint, rows, columns = (
        counts / len(true)
        for counts in (_pairs(true, predicted)[2], np.bincount(true), np.bincount(predicted))
    )
    rand = 2 * (joint**2).sum() / ((rows**2).sum() + (columns**2).sum())
    of_truth, of_prediction = _entropy(rows), _entropy(columns)
    mutual = of_truth + of_prediction - _entropy(joint)
    both = of_truth + of_prediction
    # one object in each: nothing can be mistaken
    information = 2 * mutual / both if both > 1e-12 else 1.0
    return Together(float(rand), float(min(1.0, max(0.0, information))))


def thin_borders(labels: Labels) -> NDArray[np.int32]:
    """Give each pixel between objects to the nearest one.

    Args:
        labels: [H, W] numbers of objects, 0 for none.

    Returns:
        [H, W] int32; the same, without 0 where there is any object.
    """
    numbers: NDArray[np.int32] = labels.astype(np.int32)
    if not numbers.any():
        return numbers
    outside = (numbers == 0).astype(np.uint8)
    # numbers its zeros, which are the pixels of objects, and says which one is nearest
    _, nearest = cv2.distanceTransformWithLabels(
        outside, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    table = np.zeros(int(nearest.max()) + 1, np.int32)
    table[nearest[outside == 0]] = numbers[outside == 0]
    return table[nearest]


def _pairs(
    truth: Labels, prediction: Labels
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Numbers that occur together: of the truth, of the prediction, and in how many pixels."""
    columns = int(prediction.max(initial=0)) + 1
    pairs, counts = np.unique(
        truth.astype(np.int64).ravel() * columns + prediction.ravel(), return_counts=True
    )
    return pairs // columns, pairs % columns, counts.astype(np.int64)


def _entropy(shares: NDArray[np.float64]) -> float:
    known = shares[shares > 0]
    return float(-(known * np.log(known)).sum())
