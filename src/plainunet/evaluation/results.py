"""From the numbers of each picture to the result of an evaluation.

In: what was measured of each picture, and its group. Out: one dictionary, ready for JSON: scores
pooled and per image, each with its interval, of pixels, outlines and objects; what probabilities
are worth; and the scores of each picture.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from plainunet.data.pairing import Pair
from plainunet.evaluation.boundary import TOLERANCE, Boundary
from plainunet.evaluation.curves import calibration, threshold_curve
from plainunet.evaluation.instances import Found
from plainunet.evaluation.intervals import LEVEL, Resampling, pair_for_json
from plainunet.evaluation.measure import THRESHOLDS, Measured
from plainunet.evaluation.metrics import (
    PER_CLASS,
    Floats,
    accuracy,
    for_json,
    mean_known,
    scores,
    summarise,
)


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
        "image": pair.image.as_posix(),
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
