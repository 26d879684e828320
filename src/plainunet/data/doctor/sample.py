"""A sample of pictures and masks, looked at together.

In: pairs. Out: for at most 64 of them, drawn with a seed, how the mask fits its picture, what
tells its classes apart, and how much of it a smaller size would keep; remembered for files that
have not changed.
"""

import base64
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from plainunet.data.doctor.alignment import Evidence, edge_evidence
from plainunet.data.doctor.inversion import appearance
from plainunet.data.encodings.colors import IGNORED
from plainunet.data.images import read_image, stored_shape
from plainunet.data.ledger import recall
from plainunet.data.masks import MaskCoding
from plainunet.data.pairing import Pair
from plainunet.data.places import find_place
from plainunet.data.problems import DataError
from plainunet.data.resizing import area_shares, resize

MOST = 64
SIZES = (128, 256, 512)
"""Working sizes of which the ceiling is told: N stands for an area of N x N pixels."""


class Fit(NamedTuple):
    """How a mask fits its picture.

    Attributes:
        evidence: Of its borders, see `edge_evidence`.
        appearance: Of its two classes, see `appearance`; None where there are more.
        ceiling: Dice of the mask itself, reduced to each of `SIZES` and brought back: the mean
            over the foreground classes that it shows; None where it shows none.
    """

    evidence: Evidence
    appearance: list[float] | None
    ceiling: list[float] | None


def draw_sample(pairs: Sequence[Pair], seed: int = 0, most: int = MOST) -> list[int]:
    """Draw pairs.

    Args:
        pairs: The pairs.
        seed: Of the draw.
        most: How many at the most.

    Returns:
        Their indices, ascending.
    """
    count = min(most, len(pairs))
    return sorted(random.Random(seed).sample(range(len(pairs)), count))


def measure_fits(pairs: Sequence[Pair], coding: MaskCoding) -> Iterator[Fit | DataError]:
    """Look at pictures and masks together.

    Args:
        pairs: The pairs; several are read at a time.
        coding: What mask values mean.

    Yields:
        The fit of each in turn, or what is wrong with it.
    """

    def measure(image_path: Path, mask_path: Path) -> Any:
        image, ids = read_image(image_path), coding.read(mask_path)
        orientation = 1 if find_place(image_path) else stored_shape(image_path)[3]
        evidence = edge_evidence(image, ids, orientation)
        known = appearance(image, ids) if coding.num_classes == 2 else None
        return [_pack(evidence), known, _ceiling(ids, coding.num_classes)]

    # all that the ids depend on
    kind = f"fit 1 {coding.values} {coding.ignore} {coding.kind} {coding.colors}"
    for facts in recall(kind, [(pair.image, pair.mask) for pair in pairs], measure):
        yield facts if isinstance(facts, DataError) else Fit(_unpack(facts[0]), *facts[1:])


def _pack(evidence: Evidence) -> list[Any]:
    """Turn evidence into what goes through JSON."""
    packed: list[Any] = []
    for value in evidence:
        if isinstance(value, np.ndarray):
            data = base64.b85encode(np.ascontiguousarray(value).tobytes()).decode()
            packed.append([value.dtype.str, list(value.shape), data])
        else:
            packed.append(list(value) if isinstance(value, tuple) else value)
    return packed


def _unpack(packed: Sequence[Any]) -> Evidence:
    values: list[Any] = []
    for value in packed:
        if isinstance(value, list) and isinstance(value[0], str):
            dtype, shape, data = value
            values.append(np.frombuffer(base64.b85decode(data), dtype).reshape(shape))
        else:
            values.append(tuple(value) if isinstance(value, list) else value)
    return Evidence(*values)


def _ceiling(ids: NDArray[np.uint8], num_classes: int) -> list[float] | None:
    scores = [_kept(ids, num_classes, side) for side in SIZES]
    return None if None in scores else [score for score in scores if score is not None]


def _kept(ids: NDArray[np.uint8], num_classes: int, side: int) -> float | None:
    """Dice of a mask reduced to side x side pixels of area as it is for training, and back."""
    height, width = ids.shape
    scale = min(1.0, side / (height * width) ** 0.5)
    shares = area_shares(
        ids, num_classes, (max(1, round(height * scale)), max(1, round(width * scale)))
    )
    back, best = np.zeros_like(ids), np.zeros(ids.shape, np.uint8)
    for class_id in range(num_classes):
        plane = resize(shares[..., class_id : class_id + 1], (height, width))[..., 0]
        cv2.copyTo(np.full_like(ids, class_id), (plane > best).astype(np.uint8), back)
        np.maximum(best, plane, out=best)
    back[ids == IGNORED] = IGNORED
    dices = []
    for class_id in range(1, num_classes):
        truth, found = ids == class_id, back == class_id
        area = np.count_nonzero(truth) + np.count_nonzero(found)
        if area:
            dices.append(2 * np.count_nonzero(truth & found) / area)
    return float(np.mean(dices)) if dices else None
