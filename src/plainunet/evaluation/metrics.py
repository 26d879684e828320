"""Segmentation metrics, all computed from counts.

In this order: the confusion matrix and its scores (Dice, IoU, precision, recall, accuracy); Dice by
threshold and the calibration of probabilities; distances between boundaries; objects.

Example:
    ```python
    from plainunet import metrics, read_mask

    truth = (read_mask("my-data/masks/a.png") > 0).astype("uint8")
    confusion = metrics.confusion_matrix(truth, truth, num_classes=2)
    print(metrics.dice(confusion), metrics.iou(confusion), metrics.accuracy(confusion))
    ```
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from plainunet.errors import Error
from plainunet.parts import Part, PartError, running

__all__ = [
    "Boundary",
    "ClusterScores",
    "ObjectCounts",
    "accuracy",
    "cluster_scores",
    "compare_boundaries",
    "confusion_matrix",
    "dice",
    "iou",
    "label_objects",
    "match_objects",
    "precision",
    "recall",
    "summarise",
]

Counts: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]
Labels: TypeAlias = NDArray[np.integer[Any]]
PROTOCOL = (
    "Pixels are counted at the native resolution of each image, against its own mask. Ignored "
    "pixels are excluded; no image is. Pooled: counts are summed over all images, then scored "
    "(micro-average). Per image: the mean of the images' scores (macro-average). A class absent "
    "from both the ground truth and the prediction of an image is skipped in that image's mean; "
    "a class in only one of the two scores 0. Means over classes exclude the background unless "
    "labelled otherwise."
)
BINS = 100
"""Bins of the probability histograms."""
TOLERANCE = 2.0
"""Largest distance at which boundaries agree, for `surface_dice` [pixels]."""
BAND = 0.02
"""Depth of the band inside a boundary, for `boundary_iou`, as a fraction of the image diagonal
(Cheng et al. 2021, Boundary IoU, section 4)."""
OVERLAPS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""IoU thresholds above which an object counts as found."""
_IDS = 256  # class ids and the ignore index are bytes
_SHOWN = 10  # bins of the reliability diagram
_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


def confusion_matrix(
    truth: NDArray[np.integer[Any]],
    prediction: NDArray[np.integer[Any]],
    num_classes: int,
    ignore_index: int = 255,
) -> Counts:
    """Count the pixels of each pair of true and predicted class.

    Args:
        truth: Ground truth of any shape, class ids 0..K-1 or `ignore_index`.
        prediction: Same shape, class ids 0..K-1; any value where the ground truth is ignored.
        num_classes: K, at most 255.
        ignore_index: Value of the ground truth whose pixels are not counted.

    Returns:
        [K, K] int64, rows ground truth, columns prediction.

    Raises:
        ValueError: The shapes differ, or an id is not one of the K classes.
    """
    if truth.shape != prediction.shape:
        raise Error(
            f"The ground truth has shape {list(truth.shape)}, the prediction "
            f"{list(prediction.shape)}: both must be masks of one image at the same size."
        )
    if not truth.dtype == prediction.dtype == np.uint8:  # ignored values need not fit in a byte
        kept = truth != ignore_index
        truth, prediction = truth[kept], prediction[kept]
    rows = _as_bytes(truth, "ground truth", num_classes)
    columns = _as_bytes(prediction, "prediction", num_classes)
    # every possible pair has its own bin, so unknown ids show up in the counts
    pairs = np.left_shift(rows, 8, dtype=np.uint16)
    pairs |= columns
    counts = np.bincount(pairs, minlength=_IDS * _IDS).reshape(_IDS, _IDS)
    if 0 <= ignore_index < _IDS:
        counts[ignore_index] = 0
    for name, per_id in (("ground truth", counts.sum(axis=1)), ("prediction", counts.sum(axis=0))):
        unknown = np.flatnonzero(per_id[num_classes:])
        if unknown.size:
            value = num_classes + int(unknown[0])
            raise _unknown_id(name, value, int(per_id[value]), num_classes)
    return counts[:num_classes, :num_classes].astype(np.int64)


def _as_bytes(ids: NDArray[np.integer[Any]], name: str, num_classes: int) -> NDArray[np.uint8]:
    """Flatten ids to [n] uint8, without a copy if they are uint8."""
    if ids.dtype.kind not in "bui":
        raise Error(f"The {name} holds {ids.dtype} values; expected class ids, which are integers.")
    flat = ids.reshape(-1)
    if flat.dtype != np.uint8 and flat.size:
        for value in (int(flat.min()), int(flat.max())):
            if not 0 <= value < _IDS:
                raise _unknown_id(name, value, int((flat == value).sum()), num_classes)
    return flat.astype(np.uint8, copy=False)


def _unknown_id(name: str, value: int, pixels: int, num_classes: int) -> ValueError:
    return Error(
        f"The {name} has the class id {value} in {pixels} pixels, but there are {num_classes} "
        f"classes (ids 0 to {num_classes - 1}). Fix the mask or the number of classes."
    )


def dice(confusion: Counts) -> Floats:
    """Dice, 2 TP / (2 TP + FP + FN), for each class.

    Args:
        confusion: [..., K, K] int64, rows ground truth, columns prediction.

    Returns:
        [..., K] in [0, 1]; nan where a class is absent from ground truth and prediction.
    """
    hits, true, predicted = _areas(confusion)
    return ratio(2 * hits, true + predicted, true + predicted)


def iou(confusion: Counts) -> Floats:
    """Intersection over union, TP / (TP + FP + FN), for each class; as `dice`."""
    hits, true, predicted = _areas(confusion)
    return ratio(hits, true + predicted - hits, true + predicted)


def precision(confusion: Counts) -> Floats:
    """TP / (TP + FP) for each class, as `dice`; 0 where it is never predicted."""
    hits, true, predicted = _areas(confusion)
    return ratio(hits, predicted, true + predicted)


def recall(confusion: Counts) -> Floats:
    """TP / (TP + FN) for each class, as `dice`; 0 where it is not in the ground truth."""
    hits, true, predicted = _areas(confusion)
    return ratio(hits, true, true + predicted)


def accuracy(confusion: Counts) -> Floats:
    """Fraction [...] of correctly classified pixels; nan where none was counted."""
    hits, true, _ = _areas(confusion)
    total = true.sum(axis=-1)
    return ratio(hits.sum(axis=-1), total, total)


Metrics: TypeAlias = Mapping[str, Callable[[Counts], Floats]]
"""By name, a function from confusion matrices [..., K, K] to a score of each class [..., K]."""
PER_CLASS: Metrics = {"dice": dice, "iou": iou, "precision": precision, "recall": recall}
"""The scores of each class; whatever shows or logs scores takes their names from the results."""
_LABELS = {"dice": "Dice", "iou": "IoU"}
_LOGGED = ("dice", "iou")
# the other keys of an image's scores in the results
_TAKEN = ("image", "group", "size", "areas", "boundary", "objects")


class OwnMetric:
    """A user's metric.

    It is a function from confusion matrices [..., K, K] to scores [..., K]; or from the ground
    truth and the prediction of a class in an image, [H, W] bool, to a number.

    Attributes:
        name: The function's name.
        is_of_masks: Whether it is of the second kind. Such a metric has no pooled score.
    """

    def __init__(self, part: Part) -> None:
        """Wrap the function; its own name is the metric's."""
        self._function, self._flag = part.made, f"--metrics {part.name}"
        self.is_of_masks = _count_arguments(part.made) == 2
        self.name = part.name.rpartition(":")[2].rpartition(".")[2]
        if not callable(part.made) or not self.name.isidentifier():
            raise PartError(f"{self._flag}: is no function with a name. Define one with def.")
        if self.name in (*PER_CLASS, "accuracy", *_TAKEN):
            raise PartError(
                f"{self._flag}: {self.name} has a meaning in the results. Give it another name."
            )

    def __call__(self, confusion: Counts) -> Floats:
        """Compute the scores.

        A metric of masks has none, nan.

        Raises:
            PartError: The function fails, or returns something else than [..., K].
        """
        if self.is_of_masks:
            return np.full(confusion.shape[:-1], np.nan)
        with running(f"{self._flag} failed"), np.errstate(divide="ignore", invalid="ignore"):
            found = np.asarray(self._function(confusion))
        if found.shape != confusion.shape[:-1] or found.dtype.kind not in "fiu":
            raise PartError(
                f"{self._flag}: returns {found.dtype} {list(found.shape)} for confusion matrices "
                f"{list(confusion.shape)}, not a score of each class, {list(confusion.shape[:-1])}."
            )
        scores: Floats = found.astype(np.float64)
        scores[~np.isfinite(scores)] = np.nan
        return scores

    def score_masks(self, truth: Labels, prediction: Labels, num_classes: int) -> Floats:
        """Compute the scores [K] of an image, if it is a metric of masks.

        Truth and prediction are class ids [H, W]; pixels that the truth ignores are in no mask. A
        class in neither has no score.

        Raises:
            PartError: The function fails, or returns something else than a number.
        """
        valid = truth < num_classes
        scores = np.full(num_classes, np.nan)
        for number in range(num_classes):
            masks = truth == number, (prediction == number) & valid
            if not (masks[0].any() or masks[1].any()):
                continue
            with running(f"{self._flag} failed"), np.errstate(divide="ignore", invalid="ignore"):
                found = np.asarray(self._function(*masks))
            if found.shape or found.dtype.kind not in "fiub":
                raise PartError(
                    f"{self._flag}: returns {found.dtype} {list(found.shape)} for two masks "
                    f"{list(truth.shape)}, not a number."
                )
            scores[number] = found if np.isfinite(found) else np.nan
        return scores


def _count_arguments(function: Any) -> int:
    """Number of arguments without a default."""
    try:
        given = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # of some functions written in C
        return 1
    positional = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    return sum(each.kind in positional and each.default is each.empty for each in given)


def metrics_of_masks(metrics: Metrics) -> list[OwnMetric]:
    """The metrics that need masks."""
    return [each for each in metrics.values() if isinstance(each, OwnMetric) and each.is_of_masks]


def score_masks(metrics: Metrics, truth: Labels, prediction: Labels, num_classes: int) -> Floats:
    """Compute the metrics of masks for an image, class ids [H, W]: scores [M, K]."""
    of_masks = metrics_of_masks(metrics)
    found = [each.score_masks(truth, prediction, num_classes) for each in of_masks]
    return np.reshape(found, (len(found), num_classes)).astype(np.float64)


def of_images(metrics: Metrics, of_masks: Floats) -> Metrics:
    """The metrics of n images, of which those of masks are known, [n, M, K]."""

    def known(scores: Floats) -> Callable[[Counts], Floats]:
        return lambda confusions: scores

    found = metrics_of_masks(metrics)
    return {**metrics, **{each.name: known(of_masks[:, m]) for m, each in enumerate(found)}}


def with_own(given: Sequence[Part], classes: int) -> Metrics:
    """The built-in metrics and the user's own, tried on made-up counts of a number of classes.

    Raises:
        PartError: One does not do what it should.
    """
    own = {metric.name: metric for metric in map(OwnMetric, given)}
    if len(own) < len(given):
        names = ", ".join(part.name for part in given)
        raise PartError(f"metrics: two have the same name ({names}). Leave one out, or rename it.")
    counts = np.arange(2 * classes**2, dtype=np.int64).reshape(2, classes, classes)
    for metric in own.values():
        metric(counts)
        metric(np.zeros((classes, classes), np.int64))
        if metric.is_of_masks:
            ids = np.indices((24, 24)).sum(axis=0) // 3 % classes
            for other in (np.roll(ids, 2), np.zeros_like(ids)):
                metric.score_masks(ids, other, classes)
                metric.score_masks(other, ids, classes)
    return {**PER_CLASS, **own}


def metric_labels(scores: Mapping[str, Any]) -> dict[str, str]:
    """The names of the metrics in scores, as by `summarise`, with their labels for people."""
    names = [name for name, score in scores.items() if isinstance(score, dict)]
    return {name: metric_label(name) for name in names}


def metric_label(name: str) -> str:
    """The label of a metric for people."""
    return _LABELS.get(name, name.replace("_", " "))


def logged_metrics(scores: Mapping[str, Any]) -> list[str]:
    """The names of the metrics in scores that trackers and tables of epochs hold."""
    return [name for name in metric_labels(scores) if name in _LOGGED or name not in PER_CLASS]


def scores(
    confusion: Counts, class_names: Sequence[str], metrics: Metrics = PER_CLASS
) -> dict[str, Any]:
    """Compute all scores of one confusion matrix [K, K], laid out as in `summarise`."""
    return _mean_over_images(confusion[None], class_names, metrics)


def summarise(
    confusions: Counts,
    class_names: Sequence[str],
    metrics: Metrics = PER_CLASS,
    of_masks: Floats | None = None,
) -> dict[str, Any]:
    """Compute all scores of a set of images, following `PROTOCOL`.

    Args:
        confusions: [n, K, K] int64, one matrix per image.
        class_names: K names, background first.
        metrics: The scores of each class.
        of_masks: [n, M, K], those of `metrics_of_masks`.

    Returns:
        {"protocol": text, "pooled": scores, "per_image": scores, "absent": {name:
        {"left_out": images without the class in ground truth and prediction, "scored_zero":
        images with the class in the prediction alone}}}, ready for JSON. Scores are
        {"accuracy": x, "dice": {"mean_foreground": x, "mean_with_background": x,
        "per_class": {name: x}}, "iou": ..., "precision": ..., "recall": ...}: floats in
        [0, 1], None where there is nothing to score.

    Raises:
        ValueError: There is no image, the number of names is not K, or two names are equal.
    """
    if len(confusions) == 0:
        raise Error("There are 0 images to score; at least 1 is needed.")
    _, true, predicted = _areas(confusions)
    images = metrics if of_masks is None else of_images(metrics, of_masks)
    left_out = ((true == 0) & (predicted == 0)).sum(axis=0)
    scored_zero = ((true == 0) & (predicted > 0)).sum(axis=0)
    return {
        "protocol": PROTOCOL,
        "pooled": scores(confusions.sum(axis=0), class_names, metrics),
        "per_image": _mean_over_images(confusions, class_names, images),
        "absent": {
            name: {"left_out": int(left_out[k]), "scored_zero": int(scored_zero[k])}
            for k, name in enumerate(class_names)
        },
    }


def _mean_over_images(
    confusions: Counts, class_names: Sequence[str], metrics: Metrics
) -> dict[str, Any]:
    num_classes = confusions.shape[-1]
    if len(class_names) != num_classes or len(set(class_names)) != num_classes:
        raise Error(
            f"The confusion matrix has {num_classes} classes, the names are {list(class_names)}: "
            "give each class a unique name."
        )
    means: dict[str, Any] = {"accuracy": json_number(nan_mean(accuracy(confusions)))}
    for name, score in metrics.items():
        per_image = score(confusions)  # [n, K]
        per_class = nan_mean(per_image, axis=0)
        means[name] = {
            # average within each image first: a class absent from one image is skipped there only
            "mean_foreground": json_number(nan_mean(nan_mean(per_image[:, 1:], axis=1))),
            "mean_with_background": json_number(nan_mean(nan_mean(per_image, axis=1))),
            "per_class": {
                class_name: json_number(value)
                for class_name, value in zip(class_names, per_class, strict=True)
            },
        }
    return means


def _areas(confusion: Counts) -> tuple[Counts, Counts, Counts]:
    """Pixels [..., K] of each class: true positives, ground truth, predicted."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    return hits, confusion.sum(axis=-1), confusion.sum(axis=-2)


def ratio(part: Counts, whole: Counts, counted: Counts) -> Floats:
    """Divide `part` by `whole`; 0 where the whole is 0, nan where nothing was counted."""
    return np.where(counted > 0, part / np.maximum(whole, 1), np.nan)


def nan_mean(values: Floats, axis: int | None = None) -> Any:
    """Mean of the values that are not nan; nan, without a warning, if there is none."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0.0).sum(axis=axis)
    number = known.sum(axis=axis)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def json_number(value: Any) -> float | None:
    """Convert a score for JSON: None for nan."""
    return None if np.isnan(value) else float(value)


def count_probabilities(truth: NDArray[np.uint8], probabilities: NDArray[np.float32]) -> Counts:
    """Histogram of the predicted probabilities [K, h, w], as [2, `BINS`].

    With two classes: the probability of class 1, for pixels whose ground truth is class 0 (row 0)
    and class 1 (row 1). With more: the probability of the predicted class, for wrong (row 0) and
    correct pixels (row 1). Ignored pixels are excluded.
    """
    classes = len(probabilities)
    if classes == 2:
        row, values = truth == 1, probabilities[1]
    else:
        row, values = probabilities.argmax(axis=0) == truth, probabilities.max(axis=0)
    bins = np.minimum(values * np.float32(BINS), BINS - 1).astype(np.uint8)
    valid = truth < classes
    bins[row] += BINS
    counts = np.bincount((bins if valid.all() else bins[valid]).ravel(), minlength=2 * BINS)
    return counts.reshape(2, BINS)


def threshold_curve(histograms: Counts) -> dict[str, Any]:
    """Dice of class 1 of two at each threshold, pooled and per image.

    `histograms` are [n, 2, `BINS`]. Images without the class in ground truth and prediction are
    skipped in the mean.
    """
    above = histograms[..., ::-1].cumsum(axis=-1)[..., ::-1]  # pixels at or above each threshold
    wrong, hits = above[:, 0], above[:, 1]
    true = histograms[:, 1].sum(axis=-1)[:, None]
    per_image = _binary_dice(hits, wrong, true)
    pooled = _binary_dice(hits.sum(axis=0), wrong.sum(axis=0), true.sum(axis=0))
    means = np.nan_to_num(nan_mean(per_image, axis=0))
    return {
        "thresholds": [round(number / BINS, 2) for number in range(1, BINS)],
        "pooled_dice": np.nan_to_num(pooled[1:]).tolist(),
        "per_image_dice": means[1:].tolist(),
    }


def _binary_dice(hits: Counts, wrong: Counts, true: Counts) -> Floats:
    total = hits + wrong + true
    return ratio(2 * hits, total, total)


def calibration(histogram: Counts, num_classes: int) -> dict[str, Any]:
    """Compare the confidence of the predicted class with its accuracy.

    `histogram` [2, `BINS`] is summed over the images. Returns, for ten bins of confidence from 0 to
    1, its mean, the accuracy (both None without pixels) and the number of pixels; and the expected
    calibration error (ECE), the mean gap between the first two, weighted by pixels.
    """
    middles = (np.arange(BINS) + 0.5) / BINS
    if num_classes == 2:  # below 0.5, class 0 is predicted
        half = BINS // 2
        wrong, right = (
            np.concatenate(
                [np.zeros(half), histogram[row, half:] + histogram[1 - row, half - 1 :: -1]]
            )
            for row in (0, 1)
        )
    else:
        wrong, right = histogram.astype(float)
    pixels, confident, hits = (
        each.reshape(_SHOWN, -1).sum(axis=1)
        for each in (wrong + right, (wrong + right) * middles, right)
    )
    confidence, accurate = ratio(confident, pixels, pixels), ratio(hits, pixels, pixels)
    some = pixels > 0
    error = np.abs(confidence - accurate)[some] @ pixels[some] / max(pixels.sum(), 1)
    return {
        "confidence": [json_number(each) for each in confidence],
        "accuracy": [json_number(each) for each in accurate],
        "pixels": [int(each) for each in pixels],
        "error": float(error),
    }


class Boundary(NamedTuple):
    """Agreement of a class's boundaries in an image; nan if the class is in neither mask."""

    hd95: float
    """95th percentile of the distances from one boundary to the other, the larger of the two
    directions (robust Hausdorff distance) [pixels]."""
    distance: float
    """Mean distance of all boundary pixels to the other boundary (average symmetric surface
    distance) [pixels]."""
    surface_dice: float
    """Normalised surface Dice (NSD): fraction of all boundary pixels within `TOLERANCE` of the
    other boundary, 0..1 (Nikolov et al. 2018, on pixels instead of surface elements)."""
    boundary_iou: float
    """IoU of the bands inside both boundaries, 0..1."""


ABSENT = Boundary(math.nan, math.nan, math.nan, math.nan)


def boundary_scores(
    truth: NDArray[np.uint8], prediction: NDArray[np.uint8], num_classes: int
) -> list[Boundary]:
    """Compare the boundaries of each foreground class, ids [H, W]; 255 is ignored."""
    valid = truth < num_classes
    return [
        compare_boundaries((truth == number) & valid, (prediction == number) & valid)
        for number in range(1, num_classes)
    ]


def compare_boundaries(truth: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> Boundary:
    """Compare the boundaries of two binary masks [H, W]."""
    diagonal = math.hypot(*truth.shape)
    if not truth.any() and not prediction.any():
        return ABSENT
    if not (truth.any() and prediction.any()):
        return Boundary(diagonal, diagonal, 0.0, 0.0)
    depth = max(1, round(BAND * diagonal))
    masks = [mask.astype(np.uint8) for mask in (truth, prediction)]
    boundaries = [mask - _eroded(mask, _CROSS) for mask in masks]
    to_truth, to_prediction = (_distances(boundary) for boundary in boundaries)
    from_truth = to_prediction[boundaries[0] > 0]
    from_prediction = to_truth[boundaries[1] > 0]
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
    """Erode a mask; everything outside the image is background."""
    eroded = cv2.erode(mask, shape, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return np.asarray(eroded, np.uint8)


def _distances(boundary: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Distance of each pixel to the boundary."""
    distances = cv2.distanceTransform(1 - boundary, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distances, np.float32)


class ObjectCounts(NamedTuple):
    """Numbers of objects in one or more images, at each of `OVERLAPS`."""

    hits: NDArray[np.int64]
    """[10]: ground-truth objects matched by a predicted one with an IoU above the threshold."""
    true: int
    """Objects in the ground truth."""
    predicted: int
    """Objects in the prediction."""

    def __add__(self, other: Any) -> "ObjectCounts":
        """Add the objects of another image."""
        hits, true, predicted = other
        return ObjectCounts(self.hits + hits, self.true + true, self.predicted + predicted)

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN) at IoU 0.5; nan without any object."""
        total = self.true + self.predicted
        return float(2 * self.hits[0] / total) if total else math.nan

    @property
    def average_precision(self) -> float:
        """TP / (TP + FP + FN), averaged over the thresholds; nan without any object."""
        total = self.true + self.predicted
        return float((self.hits / (total - self.hits)).mean()) if total else math.nan


class ClusterScores(NamedTuple):
    """Agreement of two groupings of pixels into objects; nan if the ground truth has no object."""

    rand: float
    """Foreground-restricted Rand F-score, 0..1."""
    information: float
    """Foreground-restricted information-theoretic F-score, 0..1."""


def label_objects(mask: NDArray[np.bool_], corners: bool = True) -> NDArray[np.int32]:
    """Label the connected components of a mask [H, W] from 1; 0 elsewhere.

    With `corners`, connectivity is 8; without, it is 4, so that membranes one pixel thick separate
    cells.
    """
    connectivity = 8 if corners else 4
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=connectivity)
    return np.asarray(labels, np.int32)


def match_objects(truth: Labels, prediction: Labels) -> ObjectCounts:
    """Count matching objects; both arguments are object ids [H, W], 0 for none.

    With an IoU above 0.5 an object matches at most one other, so no assignment is needed.
    """
    overlap = overlap_objects(truth, prediction)[2]
    hits = np.array([(overlap > threshold).sum() for threshold in OVERLAPS], np.int64)
    true, areas = np.bincount(truth.ravel()), np.bincount(prediction.ravel())
    return ObjectCounts(hits, int((true[1:] > 0).sum()), int((areas[1:] > 0).sum()))


def overlap_objects(truth: Labels, prediction: Labels) -> tuple[Counts, Counts, Floats]:
    """Find the objects that overlap; both arguments are object ids [H, W], 0 for none.

    Returns [n] ids of the ground truth and [n] of the prediction, and their IoU [n].
    """
    both = (truth > 0) & (prediction > 0)
    rows, columns, shared = _joint_counts(truth[both], prediction[both])
    true_areas, areas = np.bincount(truth.ravel()), np.bincount(prediction.ravel())
    return rows, columns, shared / (true_areas[rows] + areas[columns] - shared)


def cluster_scores(truth: Labels, prediction: Labels) -> ClusterScores:
    """Score splits and merges of objects; both arguments are object ids [H, W], 0 for none.

    Only pixels in an object of the ground truth count. Background of the prediction is thinned to
    nothing: each of its pixels goes to the nearest object.
    """
    inside = truth > 0
    if not inside.any():
        return ClusterScores(math.nan, math.nan)
    true, predicted = truth[inside], thin_borders(prediction)[inside]
    joint, rows, columns = (
        counts / len(true)
        for counts in (_joint_counts(true, predicted)[2], np.bincount(true), np.bincount(predicted))
    )
    rand = 2 * (joint**2).sum() / ((rows**2).sum() + (columns**2).sum())
    of_truth, of_prediction = _entropy(rows), _entropy(columns)
    mutual = of_truth + of_prediction - _entropy(joint)
    both = of_truth + of_prediction
    # one object in each: nothing can be split or merged
    information = 2 * mutual / both if both > 1e-12 else 1.0
    return ClusterScores(float(rand), float(min(1.0, max(0.0, information))))


def thin_borders(labels: Labels) -> NDArray[np.int32]:
    """Assign each background pixel to the nearest object, so that no 0 is left."""
    numbers: NDArray[np.int32] = labels.astype(np.int32)
    if not numbers.any():
        return numbers
    outside = (numbers == 0).astype(np.uint8)
    # labels each pixel with its nearest zero, which is a pixel of an object
    _, nearest = cv2.distanceTransformWithLabels(
        outside, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    table = np.zeros(int(nearest.max()) + 1, np.int32)
    table[nearest[outside == 0]] = numbers[outside == 0]
    return table[nearest]


def _joint_counts(
    truth: Labels, prediction: Labels
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of ids that occur together: ground truth, prediction, and number of pixels."""
    columns = int(prediction.max(initial=0)) + 1
    pairs, counts = np.unique(
        truth.astype(np.int64).ravel() * columns + prediction.ravel(), return_counts=True
    )
    return pairs // columns, pairs % columns, counts.astype(np.int64)


def _entropy(fractions: NDArray[np.float64]) -> float:
    known = fractions[fractions > 0]
    return float(-(known * np.log(known)).sum())
