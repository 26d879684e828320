"""Counts of pixels, and the scores made from them.

In: masks of class ids, truth and prediction, at the picture's own size. Out: a confusion
matrix for each image (integers, rows truth, columns prediction), and from those alone every
score, so that the figures cannot depend on how the images were batched.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Counts: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]

PROTOCOL = (
    "Pixels are counted at each picture's own resolution, on its own mask; ignored pixels are "
    "left out, no picture is. Pooled: counts added over the set, then scored. Per image: the "
    "mean of the pictures' scores. A class absent from both truth and prediction of a picture is "
    "left out of that picture's mean; absent from the truth but predicted, or the other way "
    "round, it scores 0. Means over classes leave the background out unless they say otherwise."
)

_IDS = 256  # class ids and the ignored value are bytes


def confusion_matrix(
    truth: NDArray[np.integer[Any]],
    prediction: NDArray[np.integer[Any]],
    num_classes: int,
    ignore_index: int = 255,
) -> Counts:
    """Count how often each true class was given each class.

    Args:
        truth: Any shape, class ids 0..K-1 or `ignore_index`.
        prediction: Same shape, class ids 0..K-1; anything where the truth is ignored.
        num_classes: K, at most 255.
        ignore_index: Value of the truth whose pixels are not counted.

    Returns:
        [K, K] int64, rows truth, columns prediction.

    Raises:
        ValueError: The shapes differ, or an id is not one of the K classes.
    """
    if truth.shape != prediction.shape:
        raise ValueError(
            f"The truth has the shape {list(truth.shape)}, the prediction "
            f"{list(prediction.shape)}: both must be of the same picture at the same size."
        )
    rows = _as_bytes(truth, "truth", num_classes)
    columns = _as_bytes(prediction, "prediction", num_classes)
    # every possible pair has its own bin: unknown ids are found in the counts, not in the pixels
    pairs = np.left_shift(rows, 8, dtype=np.uint16)
    pairs |= columns
    counts = np.bincount(pairs, minlength=_IDS * _IDS).reshape(_IDS, _IDS)
    if 0 <= ignore_index < _IDS:
        counts[ignore_index] = 0
    for name, per_id in (("truth", counts.sum(axis=1)), ("prediction", counts.sum(axis=0))):
        unknown = np.flatnonzero(per_id[num_classes:])
        if unknown.size:
            value = num_classes + int(unknown[0])
            raise _unknown_id(name, value, int(per_id[value]), num_classes)
    return counts[:num_classes, :num_classes].astype(np.int64)


def dice(confusion: Counts) -> Floats:
    """Dice, 2 TP / (2 TP + FP + FN), for each class.

    Args:
        confusion: [..., K, K] int64, rows truth, columns prediction.

    Returns:
        [..., K] in [0, 1]; nan where a class is absent from truth and prediction.
    """
    hits, true, predicted = _areas(confusion)
    return ratio(2 * hits, true + predicted, true + predicted)


def iou(confusion: Counts) -> Floats:
    """Intersection over union, TP / (TP + FP + FN), for each class.

    Args:
        confusion: [..., K, K] int64, rows truth, columns prediction.

    Returns:
        [..., K] in [0, 1]; nan where a class is absent from truth and prediction.
    """
    hits, true, predicted = _areas(confusion)
    return ratio(hits, true + predicted - hits, true + predicted)


def precision(confusion: Counts) -> Floats:
    """Share of a class's predicted pixels that are right, TP / (TP + FP), for each class.

    Args:
        confusion: [..., K, K] int64, rows truth, columns prediction.

    Returns:
        [..., K] in [0, 1]; 0 where a class is in the truth but never predicted, nan where it
        is absent from both.
    """
    hits, true, predicted = _areas(confusion)
    return ratio(hits, predicted, true + predicted)


def recall(confusion: Counts) -> Floats:
    """Share of a class's true pixels that were found, TP / (TP + FN), for each class.

    Args:
        confusion: [..., K, K] int64, rows truth, columns prediction.

    Returns:
        [..., K] in [0, 1]; 0 where a class is predicted but not in the truth, nan where it is
        absent from both.
    """
    hits, true, predicted = _areas(confusion)
    return ratio(hits, true, true + predicted)


def accuracy(confusion: Counts) -> Floats:
    """Share of the counted pixels that got their true class.

    Args:
        confusion: [..., K, K] int64, rows truth, columns prediction.

    Returns:
        [...] in [0, 1]; nan where no pixel was counted.
    """
    hits, true, _ = _areas(confusion)
    total = true.sum(axis=-1)
    return ratio(hits.sum(axis=-1), total, total)


PER_CLASS = {"dice": dice, "iou": iou, "precision": precision, "recall": recall}
"""The scores that each class has."""


def scores(confusion: Counts, class_names: Sequence[str]) -> dict[str, Any]:
    """All scores of one confusion matrix: of one picture, or of a set pooled.

    Args:
        confusion: [K, K] int64, rows truth, columns prediction.
        class_names: K names, the background's first.

    Returns:
        {"accuracy": x, "dice": {"mean_foreground": x, "mean_with_background": x,
        "per_class": {name: x}}, "iou": ..., "precision": ..., "recall": ...}, ready for JSON:
        floats in [0, 1], None where there is nothing to score.

    Raises:
        ValueError: There are not K names, or two are equal.
    """
    return _mean_over_images(confusion[None], class_names)


def summarise(confusions: Counts, class_names: Sequence[str]) -> dict[str, Any]:
    """All scores of a set of pictures, after the protocol.

    Args:
        confusions: [n, K, K] int64, one matrix for each picture.
        class_names: K names, the background's first.

    Returns:
        {"protocol": text, "pooled": scores, "per_image": scores, "absent": {name:
        {"left_out": pictures without the class in truth and prediction, "scored_zero":
        pictures where it was predicted but is not in the truth}}}, ready for JSON; scores
        are laid out as by `scores`.

    Raises:
        ValueError: There is no picture, there are not K names, or two are equal.
    """
    if len(confusions) == 0:
        raise ValueError("There are 0 pictures to score; at least 1 is needed.")
    _, true, predicted = _areas(confusions)
    left_out = ((true == 0) & (predicted == 0)).sum(axis=0)
    scored_zero = ((true == 0) & (predicted > 0)).sum(axis=0)
    return {
        "protocol": PROTOCOL,
        "pooled": scores(confusions.sum(axis=0), class_names),
        "per_image": _mean_over_images(confusions, class_names),
        "absent": {
            name: {"left_out": int(left_out[k]), "scored_zero": int(scored_zero[k])}
            for k, name in enumerate(class_names)
        },
    }


def _mean_over_images(confusions: Counts, class_names: Sequence[str]) -> dict[str, Any]:
    num_classes = confusions.shape[-1]
    if len(class_names) != num_classes or len(set(class_names)) != num_classes:
        raise ValueError(
            f"The counts are of {num_classes} classes; the names given are {list(class_names)}: "
            "give each class one name of its own."
        )
    means: dict[str, Any] = {"accuracy": for_json(mean_known(accuracy(confusions)))}
    for name, score in PER_CLASS.items():
        per_image = score(confusions)  # [n, K]
        per_class = mean_known(per_image, axis=0)
        means[name] = {
            # within each picture first: a class it does not have is left out of its mean only
            "mean_foreground": for_json(mean_known(mean_known(per_image[:, 1:], axis=1))),
            "mean_with_background": for_json(mean_known(mean_known(per_image, axis=1))),
            "per_class": {
                class_name: for_json(value)
                for class_name, value in zip(class_names, per_class, strict=True)
            },
        }
    return means


def _areas(confusion: Counts) -> tuple[Counts, Counts, Counts]:
    """Pixels [..., K] of each class: rightly found, true, predicted."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    return hits, confusion.sum(axis=-1), confusion.sum(axis=-2)


def ratio(part: Counts, whole: Counts, counted: Counts) -> Floats:
    """Divide counts.

    Args:
        part: Any shape.
        whole: The same.
        counted: The same.

    Returns:
        `part / whole`; 0 where the whole is 0, nan where nothing was counted at all.
    """
    return np.where(counted > 0, part / np.maximum(whole, 1), np.nan)


def mean_known(values: Floats, axis: int | None = None) -> Any:
    """Average what is not nan.

    Args:
        values: Any shape.
        axis: Along which; left out, all.

    Returns:
        The mean; nan where there are none.
    """
    known = ~np.isnan(values)
    total = np.where(known, values, 0.0).sum(axis=axis)
    number = known.sum(axis=axis)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def for_json(value: Any) -> float | None:
    """Turn a score into what JSON has.

    Args:
        value: A number, or nan.

    Returns:
        The number, or None.
    """
    return None if np.isnan(value) else float(value)


def _as_bytes(ids: NDArray[np.integer[Any]], name: str, num_classes: int) -> NDArray[np.uint8]:
    """Ids [n] uint8, without a copy if they are uint8 already."""
    flat = ids.reshape(-1)
    if flat.dtype != np.uint8 and flat.size:
        for value in (int(flat.min()), int(flat.max())):
            if not 0 <= value < _IDS:
                raise _unknown_id(name, value, int((flat == value).sum()), num_classes)
    return flat.astype(np.uint8, copy=False)


def _unknown_id(name: str, value: int, pixels: int, num_classes: int) -> ValueError:
    return ValueError(
        f"The {name} has the class id {value} in {pixels} pixels, but there are {num_classes} "
        f"classes (ids 0 to {num_classes - 1}): mend the mask, or give the right number of classes."
    )
