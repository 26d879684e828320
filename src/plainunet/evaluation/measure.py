"""Measurements of each image, and the scores of a set computed from them."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from plainunet.dataset.borders import find_objects
from plainunet.dataset.coding import Instances
from plainunet.dataset.dataset import SegmentationDataset
from plainunet.dataset.pairs import Pair
from plainunet.errors import Error
from plainunet.evaluation.metrics import (
    PER_CLASS,
    TOLERANCE,
    Boundary,
    ClusterScores,
    Counts,
    Floats,
    Labels,
    Metrics,
    ObjectCounts,
    accuracy,
    boundary_scores,
    calibration,
    cluster_scores,
    confusion_matrix,
    count_probabilities,
    json_number,
    label_objects,
    match_objects,
    nan_mean,
    of_images,
    score_masks,
    scores,
    summarise,
    threshold_curve,
)
from plainunet.evaluation.scores import LEVEL, Bootstrap, json_interval
from plainunet.formats.sources import path_of
from plainunet.formats.windows import as_windows
from plainunet.prediction.predictor import Predictor
from plainunet.system import keep_freed_memory, work_ahead

THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""Thresholds on the foreground probability that separate objects, for `cluster_scores`."""


class PredictedImage(NamedTuple):
    """An image with its ground truth and its predicted mask."""

    image: NDArray[Any]
    """[H, W, C], as stored."""
    truth: NDArray[np.uint8]
    """[H, W] class ids; 255 is ignored."""
    prediction: NDArray[np.uint8]
    """[H, W] class ids."""
    histogram: Counts
    """[2, 100], as by `count_probabilities`."""
    probabilities: NDArray[np.float32] | None = None
    """[K, H, W], if requested."""


class ObjectScores(NamedTuple):
    """How well the objects of a class are separated in an image."""

    counts: ObjectCounts
    clusters: list[ClusterScores]
    """One for each of `THRESHOLDS`; with more than two classes a single one, of the argmax."""


class Measurement(NamedTuple):
    """The measurements of an image from which all scores are computed."""

    counts: Counts
    """Confusion matrix [K, K], rows ground truth, columns prediction."""
    histogram: Counts
    """As in `PredictedImage`."""
    size: tuple[int, int]
    """Height and width [pixels]."""
    boundary: list[Boundary] | None = None
    """One per foreground class."""
    objects: list[ObjectScores] | None = None
    """One per foreground class."""
    of_masks: Floats = np.zeros((0, 0))
    """The user's metrics of masks, [M, K]."""


def predict_images(
    predictor: Predictor, dataset: SegmentationDataset, keep_probabilities: bool = False
) -> Iterator[PredictedImage]:
    """Predict the images of a dataset in order, reading the next one in the background.

    Raises:
        ValueError: An image or mask cannot be read or predicted; the message names it.
    """
    if predictor.memory is None:
        keep_freed_memory()
    read_ahead = work_ahead(dataset.__getitem__, range(len(dataset)), threads=1)
    for pair, (image, truth) in zip(dataset.pairs, read_ahead, strict=True):
        try:
            yield _predict(predictor, image, truth, keep_probabilities)
        except ValueError as error:
            raise Error(f"{pair.image}: {error}") from error


def _predict(
    predictor: Predictor, image: NDArray[Any], truth: NDArray[np.uint8], keep: bool
) -> PredictedImage:
    ids, counts, kept, top = [], [], [], 0
    for band, probabilities in predictor.both_bands(as_windows(image)):
        ids.append(band)
        counts.append(count_probabilities(truth[top : top + len(band)], probabilities))
        kept += [probabilities] * keep
        top += len(band)
    prediction = predictor.clean(np.concatenate(ids))
    whole = np.concatenate(kept, axis=1) if keep else None
    return PredictedImage(image, truth, prediction, np.sum(counts, axis=0), whole)


def measure(
    predictor: Predictor,
    dataset: SegmentationDataset,
    *,
    boundary: bool = True,
    objects: bool = False,
    metrics: Metrics = PER_CLASS,
) -> Iterator[Measurement]:
    """Predict and measure the images one by one."""
    num_classes = len(predictor.card.class_names)

    def count(predicted: PredictedImage, found: list[ObjectScores] | None) -> Measurement:
        truth, prediction = predicted.truth, predicted.prediction
        return Measurement(
            confusion_matrix(truth, prediction, num_classes),
            predicted.histogram,
            (truth.shape[0], truth.shape[1]),
            boundary_scores(truth, prediction, num_classes) if boundary else None,
            found,
            score_masks(metrics, truth, prediction, num_classes),
        )

    # boundaries are compared in a thread while the network runs
    with ThreadPoolExecutor(1) as pool:
        waiting: deque[Any] = deque()
        # more classes are compared by their masks, since no threshold gives these
        images = predict_images(predictor, dataset, objects and num_classes == 2)
        for pair, predicted in zip(dataset.pairs, images, strict=True):
            found = _score_objects(pair, dataset, predicted) if objects else None
            waiting.append(pool.submit(count, predicted._replace(probabilities=None), found))
            if len(waiting) > 2:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _score_objects(
    pair: Pair, dataset: SegmentationDataset, predicted: PredictedImage
) -> list[ObjectScores]:
    classes = dataset.coding.num_classes
    valid = predicted.truth < classes
    truths = label_truth(pair, dataset, predicted.truth)
    result = []
    for number, truth in enumerate(truths, start=1):
        found, separate = predicted.prediction == number, truth
        if not isinstance(dataset.coding, Instances):
            separate = label_objects(predicted.truth == number, corners=False)
        masks = [found]
        if predicted.probabilities is not None:
            masks = [predicted.probabilities[1] >= t for t in THRESHOLDS]
        clusters = [cluster_scores(separate, label_objects(each, corners=False)) for each in masks]
        counts = match_objects(truth, label_objects(found & valid))
        result.append(ObjectScores(counts, clusters))
    return result


def label_truth(pair: Pair, dataset: SegmentationDataset, truth: NDArray[np.uint8]) -> list[Labels]:
    """Number the true objects of each foreground class of an image.

    Args:
        pair: The image.
        dataset: Its dataset.
        truth: Its class ids [H, W]; 255 is ignored.

    Returns:
        For each foreground class [H, W], 0 for none: the numbers of instance masks, connected
        components (8-connectivity) of others.
    """
    coding = dataset.coding
    if isinstance(coding, Instances):
        numbered = find_objects(coding.read_stored(pair.mask), coding, pair.mask)
        numbered[truth >= coding.num_classes] = 0
        return [numbered]
    return [label_objects(truth == number) for number in range(1, coding.num_classes)]


def score_images(
    measured: Sequence[Measurement],
    pairs: Sequence[Pair],
    class_names: Sequence[str],
    threshold: float = 0.5,
    metrics: Metrics = PER_CLASS,
) -> dict[str, Any]:
    """Score a set of images.

    Args:
        measured: The measurements of each image.
        pairs: The images, in the same order.
        class_names: K names, background first.
        threshold: With two classes, the probability from which on a pixel is class 1, in [0, 1].
        metrics: The scores of each class.

    Returns:
        The dictionary of `summarise`, and: "intervals" {"groups", "level", "pooled", "per_image"},
        laid out as the scores, with [low, high] or None; "confusion" [K][K]; "boundary" and
        "objects" by class, if they were measured; "calibration" and, with two classes,
        "threshold_curve"; "images": the path, group, size, areas and scores of each image.

    Raises:
        ValueError: There is no image, the number of names is not K, or two names are equal.
    """
    counts = np.stack([each.counts for each in measured])
    of_masks = np.stack([each.of_masks for each in measured])
    result = summarise(counts, class_names, metrics, of_masks)
    bootstrap = Bootstrap([pair.group for pair in pairs])
    histograms = np.stack([each.histogram for each in measured])
    of_each = of_images(metrics, of_masks)
    result["intervals"] = _pixel_intervals(counts, bootstrap, class_names, (metrics, of_each))
    result["confusion"] = counts.sum(axis=0).tolist()
    result["calibration"] = calibration(histograms.sum(axis=0), len(class_names))
    if len(class_names) == 2:
        result["threshold_curve"] = {**threshold_curve(histograms), "chosen": threshold}
    if measured[0].boundary is not None:
        result["boundary"] = _boundary_means(measured, bootstrap, class_names)
    if measured[0].objects is not None:
        result["objects"] = _object_means(measured, result, class_names)
    result["images"] = [
        _image_entry(each, pair, class_names, metrics)
        for each, pair in zip(measured, pairs, strict=True)
    ]
    return result


def _image_entry(
    each: Measurement, pair: Pair, class_names: Sequence[str], metrics: Metrics
) -> dict[str, Any]:
    areas = each.counts.sum(axis=1).tolist()
    entry: dict[str, Any] = {
        "image": path_of(pair.image).as_posix(),
        "group": pair.group,
        "size": list(each.size),
        "areas": dict(zip(class_names, areas, strict=True)),
        **scores(each.counts, class_names, of_images(metrics, each.of_masks[None])),
    }
    if each.boundary is not None:
        entry["boundary"] = {
            name: {key: json_number(value) for key, value in boundary._asdict().items()}
            for name, boundary in zip(class_names[1:], each.boundary, strict=True)
        }
    if each.objects is not None:
        entry["objects"] = {
            name: {
                "true": objects.counts.true,
                "predicted": objects.counts.predicted,
                "f1": json_number(objects.counts.f1),
                "average_precision": json_number(objects.counts.average_precision),
            }
            for name, objects in zip(class_names[1:], each.objects, strict=True)
        }
    return entry


def _pixel_intervals(
    counts: Counts,
    bootstrap: Bootstrap,
    class_names: Sequence[str],
    metrics: tuple[Metrics, Metrics],
) -> dict[str, Any]:
    """Intervals of all scores; `metrics` are those of pooled counts, and of each image."""
    pooled = bootstrap.pooled(counts)
    intervals: dict[str, dict[str, Any]] = {
        "pooled": {"accuracy": json_interval(bootstrap.interval(accuracy(pooled)))},
        "per_image": {"accuracy": json_interval(bootstrap.mean_interval(accuracy(counts)))},
    }
    for name, score in metrics[0].items():
        of_each = metrics[1][name](counts)
        for key, found in (
            ("pooled", bootstrap.interval(_with_means(score(pooled)))),
            ("per_image", bootstrap.mean_interval(_with_means(of_each))),
        ):
            *per_class, foreground, everything = map(json_interval, found.T)
            intervals[key][name] = {
                "mean_foreground": foreground,
                "mean_with_background": everything,
                "per_class": dict(zip(class_names, per_class, strict=True)),
            }
    return {"groups": bootstrap.groups, "level": LEVEL, **intervals}


def _with_means(per_class: Floats) -> Floats:
    """Append the means without and with background: [n, K] to [n, K + 2]."""
    means = [nan_mean(per_class[:, 1:], axis=1), nan_mean(per_class, axis=1)]
    return np.concatenate([per_class, np.stack(means, axis=1)], axis=1)


def _boundary_means(
    measured: Sequence[Measurement], bootstrap: Bootstrap, class_names: Sequence[str]
) -> dict[str, Any]:
    """Means over the images with the class, and their confidence intervals."""
    values = np.array([each.boundary for each in measured])  # [n, K - 1, 4]
    means, bounds = nan_mean(values, axis=0), bootstrap.mean_interval(values)
    names = list(enumerate(class_names[1:]))
    fields = list(enumerate(Boundary._fields))
    return {
        "tolerance": TOLERANCE,
        "per_class": {
            name: {field: json_number(means[k, f]) for f, field in fields} for k, name in names
        },
        "intervals": {
            name: {field: json_interval(bounds[:, k, f]) for f, field in fields}
            for k, name in names
        },
    }


def _object_means(
    measured: Sequence[Measurement], result: dict[str, Any], class_names: Sequence[str]
) -> dict[str, Any]:
    per_class: dict[str, Any] = {}
    for number, name in enumerate(class_names[1:]):
        of_class = [each.objects[number] for each in measured if each.objects is not None]
        counts = [objects.counts for objects in of_class]
        total = sum(counts[1:], start=counts[0])
        rand, information = np.moveaxis(np.array([each.clusters for each in of_class]), 2, 0)
        per_class[name] = {
            "true": total.true,
            "predicted": total.predicted,
            **{
                field: {
                    "pooled": json_number(getattr(total, field)),
                    "per_image": json_number(
                        nan_mean(np.array([getattr(each, field) for each in counts]))
                    ),
                }
                for field in ("f1", "average_precision")
            },
            "together": {
                key: [json_number(value) for value in nan_mean(values, axis=0)]
                for key, values in (("rand", rand), ("information", information))
            },
        }
        if len(class_names) == 2:
            curve = result["threshold_curve"]
            per_class[name]["together"] |= {"thresholds": THRESHOLDS, "chosen": curve["chosen"]}
            per_class[name]["pixel_error"] = 1 - max(curve["pooled_dice"])
    return {"per_class": per_class}
