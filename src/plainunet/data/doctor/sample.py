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

import numpy as np

from plainunet.data.ceiling import measure_ceiling
from plainunet.data.doctor.alignment import Evidence, edge_evidence
from plainunet.data.doctor.inversion import appearance
from plainunet.data.images import read_image, stored_shape
from plainunet.data.ledger import recall
from plainunet.data.masks import MaskCoding
from plainunet.data.pairing import Pair
from plainunet.data.places import find_place
from plainunet.data.problems import DataError

MOST = 64
_FEWEST, _MOST_PIXELS = 24, 110_000_000


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
        return [_pack(evidence), known, measure_ceiling(ids, coding.num_classes)]

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
