"""What is measured of each picture: its pixels, outlines, objects and probabilities.

In: a model, and pictures with their masks. Out: for each picture the numbers of which all scores
are made. Every picture goes the Predictor's road and is measured at its own size, on its own mask.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from plainunet.data.ahead import work_ahead
from plainunet.data.borders import find_objects
from plainunet.data.images import read_image
from plainunet.data.masks import MaskCoding
from plainunet.data.pairing import Pair
from plainunet.data.windows import as_windows
from plainunet.evaluation.boundary import Boundary, boundary_scores
from plainunet.evaluation.curves import count_probabilities
from plainunet.evaluation.instances import (
    Found,
    Labels,
    Together,
    keep_together,
    match_objects,
    number_objects,
)
from plainunet.evaluation.metrics import Counts, confusion_matrix
from plainunet.memory import keep_freed_memory
from plainunet.prediction.predictor import Predictor

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
    predictor: Predictor, pairs: Sequence[Pair], coding: MaskCoding, keep: bool = False
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
    coding: MaskCoding,
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


def _tell_apart(pair: Pair, coding: MaskCoding, seen: Seen) -> list[Objects]:
    assert seen.given is not None  # `measure` has asked for it
    valid = seen.truth < coding.num_classes
    numbered: Labels | None = None
    if coding.kind == "instances":
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
