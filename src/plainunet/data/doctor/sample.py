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
from plainunet.data.resizing import halve, resize

MOST = 64
_FEWEST, _MOST_PIXELS = 24, 110_000_000
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


def draw_sample(
    pairs: Sequence[Pair], seed: int = 0, most: int = MOST, area: float = 0
) -> list[int]:
    """Draw pairs.

    Args:
        pairs: The pairs.
        seed: Of the draw.
        most: How many at the most.
        area: Pixels of a picture, by the mean; of large ones, fewer are drawn.

    Returns:
        Their indices, ascending.
    """
    large = max(_FEWEST, int(_MOST_PIXELS / max(area, 1)))
    count = min(most, len(pairs), large)
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
    said = [coding.values, coding.ignore, coding.kind, coding.colors, Evidence._fields]
    kind = f"fit 1 {said}"
    for facts in recall(kind, [(pair.image, pair.mask) for pair in pairs], measure):
        yield facts if isinstance(facts, DataError) else Fit(_unpack(facts[0]), *facts[1:])


def _pack(evidence: Evidence) -> list[Any]:
    """Turn evidence into what goes through JSON."""
    packed: list[Any] = []
    for value in evidence:
        if isinstance(value, np.ndarray):
            data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
            packed.append([value.dtype.str, list(value.shape), data])
        else:
            packed.append(list(value) if isinstance(value, tuple) else value)
    return packed


def _unpack(packed: Sequence[Any]) -> Evidence:
    values: list[Any] = []
    for value in packed:
        if isinstance(value, list) and isinstance(value[0], str):
            dtype, shape, data = value
            values.append(np.frombuffer(base64.b64decode(data), dtype).reshape(shape))
        else:
            values.append(tuple(value) if isinstance(value, list) else value)
    return Evidence(*values)


def _ceiling(ids: NDArray[np.uint8], num_classes: int) -> list[float] | None:
    # 255 where a class is, and where any is
    truths = [_where(ids == class_id) for class_id in range(1, num_classes)]
    known = _where(ids != IGNORED)
    scores = [_kept(truths, known, side) for side in SIZES]
    return None if None in scores else [score for score in scores if score is not None]


def _kept(truths: Sequence[NDArray[np.uint8]], known: NDArray[np.uint8], side: int) -> float | None:
    """Dice of a mask reduced to side x side pixels of area as it is for training, and back."""
    height, width = known.shape
    scale = min(1.0, side / (height * width) ** 0.5)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    planes = [_there_and_back(truth, size) for truth in truths]
    # what is left is the background's
    rest: Any = known if known.all() else _there_and_back(known, size)
    for plane in planes:
        rest = cv2.subtract(rest, plane)
    most = rest
    for plane in planes:
        most = cv2.max(most, plane)
    # of equal shares, the lower class has it
    free: Any = cv2.bitwise_and(known, cv2.compare(rest, most, cv2.CMP_LT))
    dices = []
    for truth, plane in zip(truths, planes, strict=True):
        found: Any = cv2.bitwise_and(free, cv2.compare(plane, most, cv2.CMP_EQ))
        free = cv2.subtract(free, found)
        area = cv2.countNonZero(truth) + cv2.countNonZero(found)
        if area:
            dices.append(2 * cv2.countNonZero(cv2.bitwise_and(truth, found)) / area)
    return float(np.mean(dices)) if dices else None


def _where(inside: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return inside.view(np.uint8) * np.uint8(255)


def _there_and_back(plane: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    small = resize(halve(plane[..., None], size), size)
    back: NDArray[np.uint8] = resize(small, (plane.shape[0], plane.shape[1]))[..., 0]
    return back
