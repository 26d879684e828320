"""Are the two classes of a mask exchanged, while the others' of the set are right?

In: pictures and binary masks. Out: which masks are the wrong way round: what they show looks
like the set once exchanged, and like nothing in it as it is. Limitations: if more than some
tenth of the masks are, nothing tells which way is right; nor where both classes look alike and
take up as much; nor is anything said of masks with more than two classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plainunet.data.doctor.edges import reduce_image
from plainunet.data.encodings.colors import IGNORED

# reduced to this [pixels of the long side]
_SIDE = 256
# a share of 0.02 or less is none, as the border of a picture with one object in its middle
_LEAST_SHARE = 0.02
# how far pictures of one set may be apart and be alike: share, share at the border, contrast
_WIDTHS = np.array([0.7, 1.0, 0.25])
# fewer pictures are no set
_FEWEST = 6
# once exchanged, a mask must be like this share of the others, and like so many times more of
# them than as it is
_ALIKE, _TIMES = 0.05, 10.0


def appearance(image: NDArray[Any] | None, ids: NDArray[np.uint8]) -> list[float]:
    """Measure what changes its sign when the two classes of a mask are exchanged.

    Args:
        image: [H, W, C], numbers of any range; or None, if there is no picture.
        ids: [H, W] uint8, 0 and 1; 255 where ignored.

    Returns:
        The log-odds of class 1 in the mask, and along its border, -3.9..3.9; with a picture,
        the correlation of its brightness with class 1, -1..1. All 0 if all is ignored; empty if
        the mask has more classes.
    """
    known = ids != IGNORED
    if ((ids > 1) & known).any():
        return []
    height, width = ids.shape
    scale = max(1.0, max(height, width) / _SIDE)
    size = max(1, round(height / scale)), max(1, round(width / scale))
    # the share of a pixel that is class 1, and that is any: [h, w] each
    ones, known = (
        reduce_image(plane[..., None] * np.uint8(255), size)[..., 0] / np.float32(255)
        for plane in (ids == 1, known)
    )
    frame = np.ones_like(ones, dtype=bool)
    frame[1:-1, 1:-1] = False
    features = [
        _log_odds(ones.sum(), known.sum()),
        _log_odds(ones[frame].sum(), known[frame].sum()),
    ]
    if image is not None:
        bright = reduce_image(image, size).mean(axis=2)
        features.append(_correlation(bright, ones, known))
    return features


def find_inverted(appearances: Sequence[list[float] | None]) -> list[int]:
    """Tell which masks have their two classes exchanged.

    Args:
        appearances: Of each pair, as by `appearance`, or None.

    Returns:
        Their indices; none if any mask has more than two classes.
    """
    indices = [index for index, each in enumerate(appearances) if each is not None]
    found = [each for each in appearances if each is not None]
    if len(found) < _FEWEST or not all(found):
        return []
    given = np.full((len(found), len(_WIDTHS)), np.nan)
    for row, each in zip(given, found, strict=True):
        row[: len(each)] = each
    # how many others are like this one, as it is and exchanged: Parzen's windows, so that a set
    # may be of several kinds, dark cells on bright ground and bright ones on dark
    as_is, exchanged = _alike(given, given), _alike(-given, given)
    others = len(found) - 1
    is_odd = (exchanged > max(1.0, _ALIKE * others)) & (exchanged > _TIMES * as_is)
    return [index for index, odd in zip(indices, is_odd, strict=True) if odd]


def _alike(some: NDArray[np.float64], given: NDArray[np.float64]) -> NDArray[np.float64]:
    apart = (some[:, None] - given[None]) / _WIDTHS
    # what was not measured in one of two sets nothing apart
    weights = np.exp(-0.5 * np.nansum(apart**2, axis=2))
    np.fill_diagonal(weights, 0)
    alike: NDArray[np.float64] = weights.sum(axis=1)
    return alike


def _log_odds(part: float, whole: float) -> float:
    if whole <= 0:
        return 0.0
    share = float(np.clip(part / whole, _LEAST_SHARE, 1 - _LEAST_SHARE))
    return float(np.log(share / (1 - share)))


def _correlation(
    bright: NDArray[np.float32], ones: NDArray[np.float32], known: NDArray[np.float32]
) -> float:
    total = float(known.sum())
    if total <= 0:
        return 0.0
    light = bright - (bright * known).sum() / total
    share = ones.sum() / total
    both = (light * (ones - share * known)).sum()
    # class 1 as yes or no: its variance is that of the share
    spread = np.sqrt((light**2 * known).sum() * total * share * (1 - share))
    return float(both / spread) if spread > 0 else 0.0
