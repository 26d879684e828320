"""The fingerprint of a dataset: the statistics that the plan of its training rests on."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from plainunet.dataset.cache import recall
from plainunet.dataset.coding import Coding, Instances, read_pair
from plainunet.dataset.pairs import Pair
from plainunet.dataset.resize import SIZES, area_shares, measure_ceiling
from plainunet.formats.images import to_unit
from plainunet.formats.problems import DataError

_MOST, _FEWEST_MASKS, _PIXELS = 32, 12, 30_000_000
_AT_ONCE, _SAMPLED = 200_000_000, 1_000_000
"""Pixels of images that are measured at the same time; of each, for its brightness."""
_SPECK = 4  # pixels: smaller regions are not objects
_GRID = 8  # cells along each side, in which the upper and the lower half are compared
FEWEST = 8
"""Images that it takes to tell whether they have an upright orientation."""
_UPRIGHT, _MIN_AREA, _CELLS = 12.0, 0.1, 3  # standard errors; fraction of a cell; cells
_SHADED, _MIN_SHADE, _SHADES = 6.0, 0.5, 10
"""The same for brightness: standard errors; standard deviations within images; cells of the 32 in
the upper half. Of cars and streets 17 to 27 differ that much, of cells, retinas, fields and images
from above at most 4."""


class Fingerprint(NamedTuple):
    """Statistics of a dataset.

    Attributes:
        sizes: Height and width of each image [pixels].
        trained: Number of training images.
        shares: For each class by name, its fraction of all pixels, 0..1.
        ceilings: By N, the mean Dice of ground truth reduced to N x N pixels of area and back, see
            `measure_ceiling`; empty if no sampled mask has foreground, or if the median image is
            not larger than the smallest N.
        smallest: 10th percentile of the objects' equivalent diameters [pixels of the image]; None
            without objects.
        typical: Area-weighted median of the same: larger objects hold half of the foreground.
        spread: Fraction of an image's 4 x 4 regions that contain its least widespread class, 0..1,
            on average: near 1, a patch shows the same classes as the whole image.
        variation: Standard deviation of the image means, divided by the mean standard deviation
            within an image: above 1, there is more than one kind of image.
        upright: Whether classes or brightness differ between the upper and lower half of images;
            true if there are too few images to tell.
    """

    sizes: Sequence[tuple[int, int]]
    trained: int
    shares: dict[str, float]
    ceilings: dict[int, float]
    smallest: float | None
    typical: float | None
    spread: float
    variation: float
    upright: bool


def take_fingerprint(
    pairs: Sequence[Pair],
    sizes: Sequence[tuple[int, int]],
    coding: Coding,
    shares: dict[str, float],
) -> Fingerprint:
    """Compute the statistics of a dataset from a sample of its training images.

    Args:
        pairs: All pairs, each with its split.
        sizes: Height and width of each image [pixels].
        coding: The mask encoding.
        shares: For each class by name, its fraction of all pixels, 0..1.

    Returns:
        The fingerprint.

    Raises:
        ValueError: An image or mask cannot be read.
    """
    trained = [(pair.image, pair.mask) for pair in pairs if pair.part == "train"]
    largest = max(height * width for height, width in sizes)
    most = min(_MOST, max(_FEWEST_MASKS, _PIXELS // largest))
    threads = max(1, min(os.cpu_count() or 1, _AT_ONCE // largest))
    sampled = trained[:: -(-len(trained) // most)]

    def measure(image: Path, mask: Path) -> Any:
        pixels, ids = read_pair(image, mask, coding)
        number = coding.num_classes
        cells = area_shares(ids, number, (_GRID, _GRID)).astype(np.int64)
        of_mask = measure_ceiling(ids, number), _diameters(_find_areas(mask, ids, coding))
        return [*of_mask, _spread(cells), _lean(cells), *_measure_brightness(pixels)]

    rows = []
    for found in recall(f"fingerprint 10 {coding}", sampled, measure, threads):
        if isinstance(found, DataError):
            raise found
        rows.append(found)
    all_ceilings, all_diameters, spreads, leans, shades, brightness = zip(*rows, strict=True)
    known = [each for each in all_ceilings if each]
    diameters = [both for both in all_diameters if both]
    smallest, typical = np.median(diameters, axis=0).tolist() if diameters else (None, None)
    ceilings = np.mean(known, axis=0).tolist() if known else []
    if np.median([height * width for height, width in sizes]) <= SIZES[0] ** 2:
        ceilings = []  # none of these sizes is smaller
    return Fingerprint(
        sizes=sizes,
        trained=len(trained),
        shares=shares,
        ceilings=dict(zip(SIZES, ceilings, strict=False)),
        smallest=smallest,
        typical=typical,
        spread=float(np.mean(spreads)),
        variation=_variation(np.array(brightness)),
        upright=_is_upright(np.array(leans), np.array(shades)),
    )


def _measure_brightness(image: NDArray[Any]) -> tuple[list[float], tuple[float, float]]:
    """How the halves of an image [H, W, C] differ, see `_is_upright`; its mean and deviation."""
    step = max(1, math.isqrt(image.shape[0] * image.shape[1] // _SAMPLED))
    values = to_unit(image[::step, ::step])
    mean, deviation = float(values.mean()), float(values.std())
    cells = cv2.resize(values.mean(axis=-1), (_GRID, _GRID), interpolation=cv2.INTER_AREA)
    return _lean(cells / (deviation or 1.0)), (mean, deviation)


def _find_areas(mask: Path, ids: NDArray[np.uint8], coding: Coding) -> NDArray[np.int64]:
    """Pixels of each object: as numbered, so that touching ones are apart, else as components."""
    if isinstance(coding, Instances):
        numbers = coding.read_stored(mask)
        return np.bincount(numbers[ids == 1], minlength=1)
    areas = []
    for class_id in range(1, coding.num_classes):
        inside = (ids == class_id).view(np.uint8)
        _, _, statistics, _ = cv2.connectedComponentsWithStats(inside, connectivity=8)
        areas.append(statistics[1:, cv2.CC_STAT_AREA].astype(np.int64))
    return np.concatenate(areas)


def _diameters(areas: NDArray[np.int64]) -> list[float] | None:
    """Equivalent diameters of the smaller and the typical objects."""
    found = np.sort(areas[areas >= _SPECK])
    if not len(found):
        return None
    summed = np.cumsum(found)
    both = np.percentile(found, 10), found[np.searchsorted(summed, summed[-1] / 2)]
    return [float(2 * np.sqrt(area / np.pi)) for area in both]


def _spread(cells: NDArray[np.int64]) -> float:
    """Fraction of 2 x 2-cell blocks that contain the least widespread class."""
    blocks = cells.reshape(_GRID // 2, 2, _GRID // 2, 2, -1).sum(axis=(1, 3)) > 0
    shares = blocks.mean(axis=(0, 1))
    return float(shares[shares > 0].min()) if shares.any() else 0.0


def _variation(brightness: NDArray[np.float64]) -> float:
    """Spread of the image means relative to that within images [n, 2: mean and std]."""
    within = brightness[:, 1].mean()
    return float(brightness[:, 0].std() / within) if within > 0 else 0.0


def _lean(cells: NDArray[Any]) -> list[float]:
    """What the cells of the upper half hold, minus what the mirrored cells hold."""
    upper, opposite = cells[: _GRID // 2], cells[::-1][: _GRID // 2]
    return [float(difference) for difference in (upper - opposite).ravel()]


def _is_upright(leans: NDArray[np.float64], shades: NDArray[np.float64]) -> bool:
    """Whether classes or brightness of the halves differ consistently, and by enough to matter.

    Args:
        leans: By `_lean`, of the coverage of each class in n images [n, cells, 0..255].
        shades: The same of brightness, in standard deviations within images.
    """
    if len(leans) < FEWEST:
        return True  # unknown, and a rotated image may be one that never occurs
    of_classes = _count_consistent(leans / 255, _UPRIGHT, _MIN_AREA)
    return of_classes >= _CELLS or _count_consistent(shades, _SHADED, _MIN_SHADE) >= _SHADES


def _count_consistent(leans: NDArray[np.float64], errors: float, least: float) -> int:
    """Number of cells whose mean exceeds `errors` standard errors, and `least`."""
    mean, error = np.abs(leans.mean(axis=0)), leans.std(axis=0, ddof=1) / len(leans) ** 0.5
    return int(((mean > errors * error) & (mean > least)).sum())
