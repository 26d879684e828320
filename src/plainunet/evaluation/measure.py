"""What is measured of each image, and the results made from all of them."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from plainunet.dataset.borders import find_objects
from plainunet.dataset.coding import Coding, Instances
from plainunet.dataset.pairs import Pair
from plainunet.evaluation.metrics import (
    PER_CLASS,
    TOLERANCE,
    Boundary,
    Counts,
    Floats,
    Found,
    Labels,
    Together,
    accuracy,
    boundary_scores,
    calibration,
    confusion_matrix,
    count_probabilities,
    for_json,
    keep_together,
    match_objects,
    mean_known,
    number_objects,
    scores,
    summarise,
    threshold_curve,
)
from plainunet.evaluation.statistics import LEVEL, Resampling, pair_for_json
from plainunet.formats.images import read_image
from plainunet.formats.sources import path_of
from plainunet.formats.windows import as_windows
from plainunet.prediction.predictor import Predictor
from plainunet.system import keep_freed_memory, work_ahead

THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""Probabilities from which on a pixel belongs to an object, for `keep_together`."""


class Seen(NamedTuple):
    """A picture that was predicted."""

    image: NDArray[Any]
    """[H, W, C], as stored."""
    truth: NDArray[np.uint8]
    """[H, W] class ids; 255 does not count."""
    prediction: NDArray[np.uint8]
    """[H, W] class ids."""
    probabilities: Counts
    """[2, 100], as by `count_probabilities`."""
    given: NDArray[np.float32] | None = None
    """[K, H, W], the probabilities themselves, where they were asked for."""


class Objects(NamedTuple):
    """How well a class's objects are told apart in a picture."""

    found: Found
    together: list[Together]
    """At each of `THRESHOLDS`; of more than two classes, once, for the class as it was given."""


class Measured(NamedTuple):
    """The numbers of a picture."""

    counts: Counts
    """[K, K], rows truth, columns prediction."""
    probabilities: Counts
    """As of `Seen`."""
    size: tuple[int, int]
    """Height and width [pixels]."""
    boundary: list[Boundary] | None = None
    """Of each class but the first."""
    objects: list[Objects] | None = None
    """The same."""


def judged(
    predictor: Predictor, pairs: Sequence[Pair], coding: Coding, keep: bool = False
) -> Iterator[Seen]:
    """Predict pictures one after the other, reading the next ones meanwhile.

    Args:
        predictor: The model.
        pairs: The pictures with their masks.
        coding: How mask values become class ids.
        keep: Whether the probabilities are given as well.

    Yields:
        What was seen, for each pair in turn.
    """
    if predictor.memory is None:
        keep_freed_memory()

    def read(pair: Pair) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        return read_image(pair.image), coding.read(pair.mask)

    for pair, (image, truth) in zip(pairs, work_ahead(read, pairs, threads=1), strict=True):
        try:
            yield _predict(predictor, image, truth, keep)
        except ValueError as error:
            raise ValueError(f"{pair.image}: {error}") from error


def _predict(
    predictor: Predictor, image: NDArray[Any], truth: NDArray[np.uint8], keep: bool
) -> Seen:
    ids, counts, kept, top = [], [], [], 0
    for band, probabilities in predictor.both_bands(as_windows(image)):
        ids.append(band)
        counts.append(count_probabilities(truth[top : top + len(band)], probabilities))
        kept += [probabilities] * keep
        top += len(band)
    prediction = predictor.clean(np.concatenate(ids))
    given = np.concatenate(kept, axis=1) if keep else None
    return Seen(image, truth, prediction, np.sum(counts, axis=0), given)


def measure(
    predictor: Predictor,
    pairs: Sequence[Pair],
    coding: Coding,
    *,
    boundary: bool = True,
    objects: bool = False,
) -> Iterator[Measured]:
    """Measure picture after picture.

    Args:
        predictor: The model.
        pairs: The pictures with their masks.
        coding: How mask values become class ids.
        boundary: Whether outlines are compared as well.
        objects: Whether objects are told apart as well.

    Yields:
        The numbers of each pair in turn.
    """
    classes = predictor.network.num_classes
    # outlines are compared beside the network
    with ThreadPoolExecutor(1) as beside:
        waiting: deque[Any] = deque()
        for pair, seen in zip(pairs, judged(predictor, pairs, coding, objects), strict=True):
            told = _tell_apart(pair, coding, seen) if objects else None
            waiting.append(beside.submit(_measure, seen, classes, boundary, told))
            if len(waiting) > 2:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _measure(seen: Seen, classes: int, boundary: bool, told: list[Objects] | None) -> Measured:
    return Measured(
        confusion_matrix(seen.truth, seen.prediction, classes),
        seen.probabilities,
        (seen.truth.shape[0], seen.truth.shape[1]),
        boundary_scores(seen.truth, seen.prediction, classes) if boundary else None,
        told,
    )


def _tell_apart(pair: Pair, coding: Coding, seen: Seen) -> list[Objects]:
    assert seen.given is not None  # `measure` has asked for it
    valid = seen.truth < coding.num_classes
    numbered: Labels | None = None
    if isinstance(coding, Instances):
        numbered = find_objects(coding.read_stored(pair.mask), coding, pair.mask)
    result = []
    for number in range(1, coding.num_classes):
        there, true = seen.prediction == number, seen.truth == number
        truth = number_objects(true) if numbered is None else numbered
        apart = number_objects(true, corners=False) if numbered is None else numbered
        cuts = [there] if len(seen.given) > 2 else [seen.given[1] >= t for t in THRESHOLDS]
        together = [keep_together(apart, number_objects(cut, corners=False)) for cut in cuts]
        result.append(Objects(match_objects(truth, number_objects(there & valid)), together))
    return result


def put_together(
    measured: Sequence[Measured],
    pairs: Sequence[Pair],
    class_names: Sequence[str],
    threshold: float = 0.5,
) -> dict[str, Any]:
    """Score a set of pictures.

    Args:
        measured: Of each picture.
        pairs: The pictures.
        class_names: K names, the background's first.
        threshold: With two classes, the probability that was asked for.

    Returns:
        `summarise`'s dictionary, and: "intervals" {"groups", "level", "pooled", "per_image"},
        laid out as the scores, with [low, high] or None; "confusion" [K][K]; "boundary" and
        "objects" by class, where they were measured; "calibration" and, with two classes,
        "threshold_curve"; "images": for each picture its path, group, size, areas and scores.

    Raises:
        ValueError: There is no picture, there are not K names, or two are equal.
    """
    counts = np.stack([each.counts for each in measured])
    result = summarise(counts, class_names)
    drawn = Resampling([pair.group for pair in pairs])
    given = np.stack([each.probabilities for each in measured])
    result["intervals"] = _bound_pixels(counts, drawn, class_names)
    result["confusion"] = counts.sum(axis=0).tolist()
    result["calibration"] = calibration(given.sum(axis=0), len(class_names))
    if len(class_names) == 2:
        result["threshold_curve"] = {**threshold_curve(given), "chosen": threshold}
    if measured[0].boundary is not None:
        result["boundary"] = _boundary(measured, drawn, class_names)
    if measured[0].objects is not None:
        result["objects"] = _objects(measured, result, class_names)
    result["images"] = [
        _of_picture(each, pair, class_names) for each, pair in zip(measured, pairs, strict=True)
    ]
    return result


def _of_picture(each: Measured, pair: Pair, class_names: Sequence[str]) -> dict[str, Any]:
    areas = each.counts.sum(axis=1).tolist()
    said: dict[str, Any] = {
        "image": path_of(pair.image).as_posix(),
        "group": pair.group,
        "size": list(each.size),
        "areas": dict(zip(class_names, areas, strict=True)),
        **scores(each.counts, class_names),
    }
    if each.boundary is not None:
        said["boundary"] = {
            name: {key: for_json(value) for key, value in outline._asdict().items()}
            for name, outline in zip(class_names[1:], each.boundary, strict=True)
        }
    if each.objects is not None:
        said["objects"] = {
            name: {
                "true": objects.found.true,
                "predicted": objects.found.predicted,
                "f1": for_json(objects.found.f1),
                "average_precision": for_json(objects.found.average_precision),
            }
            for name, objects in zip(class_names[1:], each.objects, strict=True)
        }
    return said


def _bound_pixels(counts: Any, drawn: Resampling, class_names: Sequence[str]) -> dict[str, Any]:
    """Intervals of all scores of pixels."""
    pooled = drawn.pooled(counts)
    bounds: dict[str, dict[str, Any]] = {
        "pooled": {"accuracy": pair_for_json(drawn.bounds(accuracy(pooled)))},
        "per_image": {"accuracy": pair_for_json(drawn.of_mean(accuracy(counts)))},
    }
    for name, score in PER_CLASS.items():
        for key, found in (
            ("pooled", drawn.bounds(_with_means(score(pooled)))),
            ("per_image", drawn.of_mean(_with_means(score(counts)))),
        ):
            bounds[key][name] = {
                "mean_foreground": pair_for_json(found[:, -2]),
                "mean_with_background": pair_for_json(found[:, -1]),
                "per_class": {
                    class_name: pair_for_json(found[:, number])
                    for number, class_name in enumerate(class_names)
                },
            }
    return {"groups": drawn.groups, "level": LEVEL, **bounds}


def _with_means(per_class: Floats) -> Floats:
    """[n, K] to [n, K + 2]: and their mean without and with background."""
    means = [mean_known(per_class[:, 1:], axis=1), mean_known(per_class, axis=1)]
    return np.concatenate([per_class, np.stack(means, axis=1)], axis=1)


def _boundary(
    measured: Sequence[Measured], drawn: Resampling, class_names: Sequence[str]
) -> dict[str, Any]:
    """Means over the pictures that have the class, and their intervals."""
    values = np.array([each.boundary for each in measured])  # [n, K - 1, 4]
    means, bounds = mean_known(values, axis=0), drawn.of_mean(values)
    names = list(enumerate(class_names[1:]))
    fields = list(enumerate(Boundary._fields))
    return {
        "tolerance": TOLERANCE,
        "per_class": {
            name: {field: for_json(means[k, f]) for f, field in fields} for k, name in names
        },
        "intervals": {
            name: {field: pair_for_json(bounds[:, k, f]) for f, field in fields}
            for k, name in names
        },
    }


def _objects(
    measured: Sequence[Measured], result: dict[str, Any], class_names: Sequence[str]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for number, name in enumerate(class_names[1:]):
        of_class = [each.objects[number] for each in measured if each.objects is not None]
        total = sum((objects.found for objects in of_class[1:]), start=of_class[0].found)
        each_found = [objects.found for objects in of_class]
        rand, information = np.moveaxis(np.array([o.together for o in of_class]), 2, 0)
        together = {
            "rand": mean_known(rand, axis=0),
            "information": mean_known(information, axis=0),
        }
        found[name] = {
            "true": total.true,
            "predicted": total.predicted,
            "f1": {"pooled": for_json(total.f1), "per_image": _mean(each_found, "f1")},
            "average_precision": {
                "pooled": for_json(total.average_precision),
                "per_image": _mean(each_found, "average_precision"),
            },
            "together": {
                key: [for_json(value) for value in values] for key, values in together.items()
            },
        }
        if len(class_names) == 2:
            curve = result["threshold_curve"]
            found[name]["together"] |= {"thresholds": THRESHOLDS, "chosen": curve["chosen"]}
            found[name]["pixel_error"] = 1 - max(curve["pooled_dice"])
    return {"per_class": found}


def _mean(found: Sequence[Found], field: str) -> float | None:
    return for_json(mean_known(np.array([getattr(each, field) for each in found])))
