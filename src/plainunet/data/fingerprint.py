"""A data set's fingerprint: what a plan for training on it is made from.

In: the training pairs, and what their masks mean. Out: sizes, class shares, what smaller sizes
keep of the masks, how small objects are, how far classes are spread, whether pictures are alike and
have an upright side; measured on a few pictures spread evenly, and remembered for files that have
not changed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from plainunet.data.ceiling import SIZES, measure_ceiling
from plainunet.data.images import read_image, to_unit
from plainunet.data.ledger import recall
from plainunet.data.masks import MaskCoding
from plainunet.data.pairing import Pair
from plainunet.data.problems import DataError
from plainunet.data.resizing import area_shares

_MOST, _FEWEST_MASKS, _PIXELS = 32, 12, 30_000_000
_SPECK = 4  # pixels: what is smaller is no object
_GRID = 8  # cells along each side, in which the upper and the lower half are compared
_FEWEST = 8  # pictures
_UPRIGHT, _SEEN, _CELLS = 12.0, 0.1, 3  # standard errors, share of a cell's area, and cells


class Fingerprint(NamedTuple):
    """What is known of a data set.

    Attributes:
        sizes: Height and width of each picture [pixels].
        trained: How many pictures are trained on.
        shares: For each class by name, its share of all pixels, 0..1.
        kept: By N, the Dice that true masks keep that are reduced to N x N pixels of area, see
            `measure_ceiling`; empty where no mask that was looked at has foreground, or the
            median picture has no more pixels than the least of these.
        smallest: Diameter of a disc as large as the smaller objects, of which a tenth are smaller
            still [pixels of the picture]; None where there are none.
        typical: The same of the object at which half of the foreground's area is in larger ones.
        spread: In how many of a picture's sixteenths (4 x 4) the class is to be found that is in
            the fewest of them, 0..1, on average: near 1, a part of a picture shows what all of it
            does.
        unlike: Standard deviation of the pictures' mean values, as a share of that of the values
            in a picture: above 1, pictures are of more than one kind.
        upright: Whether classes lie otherwise in the upper half of pictures than in the lower; true
            where there are too few to tell.
    """

    sizes: Sequence[tuple[int, int]]
    trained: int
    shares: dict[str, float]
    kept: dict[int, float]
    smallest: float | None
    typical: float | None
    spread: float
    unlike: float
    upright: bool


def take_fingerprint(
    pairs: Sequence[Pair],
    sizes: Sequence[tuple[int, int]],
    coding: MaskCoding,
    shares: dict[str, float],
) -> Fingerprint:
    """Look at a data set.

    Args:
        pairs: All pairs, each with its part.
        sizes: Height and width of each picture [pixels].
        coding: What mask values mean.
        shares: For each class by name, its share of all pixels.

    Returns:
        The fingerprint.

    Raises:
        ValueError: A picture or mask cannot be read.
    """
    trained = [(pair.image, pair.mask) for pair in pairs if pair.part == "train"]
    largest = max(height * width for height, width in sizes)
    most = min(_MOST, max(_FEWEST_MASKS, _PIXELS // largest))
    looked_at = trained[:: -(-len(trained) // most)]
    known = [coding.values, coding.ignore, coding.kind, coding.colors]

    def measure(image: Path, mask: Path) -> Any:
        ids, number = coding.read(mask), coding.num_classes
        cells = area_shares(ids, number, (_GRID, _GRID)).astype(np.int64)
        known = measure_ceiling(ids, number), _diameters(ids, number)
        values = to_unit(read_image(image))
        light = float(values.mean()), float(values.std())
        return [*known, _spread(cells), _lean(cells), light]

    facts = []
    for found in recall(f"fingerprint 6 {known}", looked_at, measure):
        if isinstance(found, DataError):
            raise found
        facts.append(found)
    all_kept, all_diameters, spreads, leans, light = zip(*facts, strict=True)
    ceilings = [ceiling for ceiling in all_kept if ceiling]
    diameters = [both for both in all_diameters if both]
    smallest, typical = np.median(diameters, axis=0).tolist() if diameters else (None, None)
    kept = np.mean(ceilings, axis=0).tolist() if ceilings else []
    if np.median([height * width for height, width in sizes]) <= SIZES[0] ** 2:
        kept = []  # none of these sizes is smaller
    return Fingerprint(
        sizes=sizes,
        trained=len(trained),
        shares=shares,
        kept=dict(zip(SIZES, kept, strict=False)),
        smallest=smallest,
        typical=typical,
        spread=float(np.mean(spreads)),
        unlike=_unlike(np.array(light)),
        upright=_is_upright(np.array(leans)),
    )


def _diameters(ids: NDArray[np.uint8], num_classes: int) -> list[float] | None:
    """Diameters of discs as large as the smaller and the typical object."""
    areas: list[NDArray[Any]] = []
    for class_id in range(1, num_classes):
        inside = (ids == class_id).view(np.uint8)
        _, _, statistics, _ = cv2.connectedComponentsWithStats(inside, connectivity=8)
        areas.append(statistics[1:, cv2.CC_STAT_AREA])
    found = np.sort(np.concatenate(areas))
    found = found[found >= _SPECK]
    if not len(found):
        return None
    summed = np.cumsum(found)
    both = np.percentile(found, 10), found[np.searchsorted(summed, summed[-1] / 2)]
    return [float(2 * np.sqrt(area / np.pi)) for area in both]


def _spread(cells: NDArray[np.int64]) -> float:
    """In how many blocks of 2 x 2 cells the class is that is in the fewest."""
    blocks = cells.reshape(_GRID // 2, 2, _GRID // 2, 2, -1).sum(axis=(1, 3)) > 0
    shares = blocks.mean(axis=(0, 1))
    return float(shares[shares > 0].min()) if shares.any() else 0.0


def _unlike(light: NDArray[np.float64]) -> float:
    """How much pictures' means [n, 2: mean and standard deviation] differ."""
    within = light[:, 1].mean()
    return float(light[:, 0].std() / within) if within > 0 else 0.0


def _lean(cells: NDArray[np.int64]) -> list[int]:
    """By how much each class covers the cells of the upper half more than those opposite."""
    upper, opposite = cells[: _GRID // 2], cells[::-1][: _GRID // 2]
    return [int(difference) for difference in (upper - opposite).ravel()]


def _is_upright(leans: NDArray[np.int64]) -> bool:
    """Whether several cells differ in the same way in most pictures, and by enough to be seen."""
    if len(leans) < _FEWEST:
        return True  # nobody knows; a turned picture may be one that never occurs
    mean = np.abs(leans.mean(axis=0)) / 255
    error = leans.std(axis=0, ddof=1) / 255 / len(leans) ** 0.5
    return int(((mean > _UPRIGHT * error) & (mean > _SEEN)).sum()) >= _CELLS
