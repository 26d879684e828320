"""How much a score would vary with other pictures: bootstrap intervals.

In: counts or scores of each picture, and its group. Out: the bounds between which 95 % of the
scores lie when groups are drawn anew, with repetition, as many as there are (Efron 1979; the
percentile method). Groups are drawn as wholes, since pictures of one car or patient are alike;
pixels never are.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from plainunet.evaluation.metrics import Counts, Floats

LEVEL = 0.95
"""Share of the drawn sets whose scores lie between the bounds."""
DRAWN = 2000
"""Sets of groups that are drawn."""
FEW = 10
"""With fewer groups, intervals are too narrow."""
_AT_ONCE = 100


class Resampling:
    """Sets of groups, drawn once, so that several scores and models see the same ones.

    Attributes:
        groups: How many groups there are. With a single one nothing can be said, and all bounds
            are nan.
    """

    def __init__(self, groups: Sequence[str], seed: int = 0) -> None:
        """Draw the sets.

        Args:
            groups: The group of each picture.
            seed: What is drawn depends on it.
        """
        names, self._group = np.unique(
            np.array(groups, dtype=object).astype(str), return_inverse=True
        )
        self.groups = len(names)
        random = np.random.default_rng(seed)
        # [sets, groups]: how often each group is in each set; small, for there may be many
        self._times = random.multinomial(
            self.groups, np.full(self.groups, 1 / self.groups), size=DRAWN
        ).astype(np.uint16)

    def of_mean(self, scores: Floats) -> Floats:
        """Bound the mean of pictures' scores.

        Args:
            scores: [n, ...], nan where a picture has no such score.

        Returns:
            [2, ...]: lower and upper bound.
        """
        return self.bounds(self.means(scores))

    def means(self, scores: Floats) -> Floats:
        """Average pictures' scores in each drawn set.

        Args:
            scores: [n, ...], nan where a picture has no such score.

        Returns:
            [sets, ...].
        """
        known = ~np.isnan(scores)
        total, count = (self._drawn(part) for part in (np.where(known, scores, 0.0), known))
        means: Floats = np.full(total.shape, np.nan)
        np.divide(total, count, out=means, where=count > 0)
        return means

    def pooled(self, confusions: Counts) -> Counts:
        """Add the counts of each drawn set.

        Args:
            confusions: [n, K, K] int64, one matrix for each picture.

        Returns:
            [sets, K, K] int64.
        """
        return self._drawn(confusions).round().astype(np.int64)

    def _drawn(self, values: NDArray[np.generic]) -> Floats:
        """Sums over the pictures of each set, [sets, ...]."""
        each = np.zeros((self.groups, *values.shape[1:]))
        np.add.at(each, self._group, values)
        flat = each.reshape(self.groups, -1)
        sums = [
            self._times[first : first + _AT_ONCE].astype(np.float64) @ flat
            for first in range(0, DRAWN, _AT_ONCE)
        ]
        drawn: Floats = np.concatenate(sums).reshape(DRAWN, *values.shape[1:])
        return drawn

    def bounds(self, drawn: Floats) -> Floats:
        """Say between what the scores of the drawn sets lie.

        Args:
            drawn: [sets, ...], nan where a set has none.

        Returns:
            [2, ...]: lower and upper bound; nan where a tenth of the sets have no score.
        """
        known = ~np.isnan(drawn)
        enough = (known.mean(axis=0) > 0.9) & (self.groups > 1)
        tail = (1 - LEVEL) / 2
        # a column of nothing but nan would be warned of
        bounds = np.nanquantile(np.where(enough, drawn, 0.0), [tail, 1 - tail], axis=0)
        result: Floats = np.where(enough, bounds, np.nan)
        return result


def pair_for_json(bounds: Floats) -> list[float] | None:
    """Turn the bounds of one score into what JSON has.

    Args:
        bounds: [2]: lower and upper one, or nan.

    Returns:
        Both, or None.
    """
    return None if np.isnan(bounds).any() else [float(bound) for bound in bounds]
