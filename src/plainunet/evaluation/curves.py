"""What probabilities are worth: scores at other thresholds, and whether they come true.

In: how often each probability was given, right and wrong, picture by picture. Out: the curve of
Dice over thresholds, and the calibration diagram (Guo et al. 2017, On Calibration of Modern Neural
Networks, section 2).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from plainunet.evaluation.metrics import Counts, Floats, for_json, mean_known, ratio

BINS = 100
"""Probabilities are told apart by hundredths."""
_SHOWN = 10  # bars of the calibration diagram


def count_probabilities(truth: NDArray[np.uint8], probabilities: NDArray[np.float32]) -> Counts:
    """Count how often each probability was given.

    Args:
        truth: [h, w] uint8 class ids 0..K-1; what is above does not count.
        probabilities: [K, h, w] float32.

    Returns:
        [2, `BINS`] int64. Of two classes, the probability of the second: where the truth is the
        first class, and where it is the second. Of more, that of the likeliest class: where it
        is wrong, and where it is right.
    """
    classes = len(probabilities)
    if classes == 2:
        row, given = truth == 1, probabilities[1]
    else:
        row, given = probabilities.argmax(axis=0) == truth, probabilities.max(axis=0)
    bins = np.minimum(given * np.float32(BINS), BINS - 1).astype(np.uint8)
    valid = truth < classes
    bins[row] += BINS
    counts = np.bincount((bins if valid.all() else bins[valid]).ravel(), minlength=2 * BINS)
    return counts.reshape(2, BINS)


def threshold_curve(counts: Counts) -> dict[str, Any]:
    """Score the second of two classes at each threshold.

    Args:
        counts: [n, 2, `BINS`], as by `count_probabilities`, of each picture.

    Returns:
        {"thresholds", "pooled_dice", "per_image_dice"}: three lists of equal length. Pictures
        without the class in truth and prediction are left out of the mean.
    """
    above = counts[..., ::-1].cumsum(axis=-1)[..., ::-1]  # pixels at or above each threshold
    wrong, hits = above[:, 0], above[:, 1]
    true = counts[:, 1].sum(axis=-1)[:, None]
    per_image = _dice(hits, wrong, true)
    pooled = _dice(hits.sum(axis=0), wrong.sum(axis=0), true.sum(axis=0))
    means = np.nan_to_num(mean_known(per_image, axis=0))
    return {
        "thresholds": [round(number / BINS, 2) for number in range(1, BINS)],
        "pooled_dice": np.nan_to_num(pooled[1:]).tolist(),
        "per_image_dice": means[1:].tolist(),
    }


def calibration(counts: Counts, classes: int) -> dict[str, Any]:
    """Compare how sure the model is of the class that it gives with how often it is right.

    Args:
        counts: [2, `BINS`], added over the pictures.
        classes: K.

    Returns:
        {"confidence", "accuracy", "pixels", "error"}: for ten steps of the probability from 0 to
        1, its mean, the share of right pixels (None without pixels) and their number; and the
        expected calibration error, the mean difference of the first two, weighed by pixels.
    """
    middles = (np.arange(BINS) + 0.5) / BINS
    if classes == 2:  # below a half, the first class is given
        half = BINS // 2
        wrong = np.concatenate([np.zeros(half), counts[0, half:] + counts[1, half - 1 :: -1]])
        right = np.concatenate([np.zeros(half), counts[1, half:] + counts[0, half - 1 :: -1]])
    else:
        wrong, right = counts.astype(float)
    pixels = (wrong + right).reshape(_SHOWN, -1).sum(axis=1)
    sure = ((wrong + right) * middles).reshape(_SHOWN, -1).sum(axis=1)
    hits = right.reshape(_SHOWN, -1).sum(axis=1)
    some = pixels > 0
    confidence, accuracy = ratio(sure, pixels, pixels), ratio(hits, pixels, pixels)
    off = np.abs(confidence - accuracy)[some] @ pixels[some] / max(pixels.sum(), 1)
    return {
        "confidence": [for_json(each) for each in confidence],
        "accuracy": [for_json(each) for each in accuracy],
        "pixels": [int(each) for each in pixels],
        "error": float(off),
    }


def _dice(hits: Counts, wrong: Counts, true: Counts) -> Floats:
    total = hits + wrong + true
    return ratio(2 * hits, total, total)
