"""Bootstrap confidence intervals: how much a score would vary with other images.

Whole groups are resampled with replacement (Efron 1979, percentile method), not images or pixels,
since those of one car or patient are correlated.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from plainunet.evaluation.metrics import Counts, Floats

LEVEL = 0.95
"""Confidence level: fraction of the resampled scores inside an interval."""
RESAMPLES = 2000
FEW = 10
"""With fewer groups, confidence intervals are too narrow."""
_BLOCK = 100  # resamples summed at once


class Bootstrap:
    """Resampled groups, drawn once, so that all scores and models share the same resamples.

    `groups` is the number of groups; with a single one all bounds are nan.
    """

    def __init__(self, groups: Sequence[str], seed: int = 0) -> None:
        """Resample the groups; `groups` holds the group of each image."""
        names, self._group = np.unique(
            np.array(groups, dtype=object).astype(str), return_inverse=True
        )
        self.groups = len(names)
        random = np.random.default_rng(seed)
        # [resamples, groups]: how often each group is drawn; uint16 saves memory
        self._times = random.multinomial(
            self.groups, np.full(self.groups, 1 / self.groups), size=RESAMPLES
        ).astype(np.uint16)

    def mean_interval(self, scores: Floats) -> Floats:
        """Interval [2, ...] of the mean of per-image scores [n, ...]; nan means no score."""
        return self.interval(self.means(scores))

    def means(self, scores: Floats) -> Floats:
        """Means [resamples, ...] of per-image scores [n, ...]; nan means no score."""
        known = ~np.isnan(scores)
        total, count = (self._sums(part) for part in (np.where(known, scores, 0.0), known))
        means: Floats = np.full(total.shape, np.nan)
        np.divide(total, count, out=means, where=count > 0)
        return means

    def pooled(self, confusions: Counts) -> Counts:
        """Sums [resamples, K, K] of per-image confusion matrices [n, K, K]."""
        return self._sums(confusions).round().astype(np.int64)

    def interval(self, resampled: Floats) -> Floats:
        """Lower and upper bound [2, ...] of resampled scores; nan if a tenth are nan."""
        known = ~np.isnan(resampled)
        enough = (known.mean(axis=0) > 0.9) & (self.groups > 1)
        tail = (1 - LEVEL) / 2
        # NumPy warns of a column that is all nan
        bounds = np.nanquantile(np.where(enough, resampled, 0.0), [tail, 1 - tail], axis=0)
        result: Floats = np.where(enough, bounds, np.nan)
        return result

    def _sums(self, values: NDArray[np.generic]) -> Floats:
        """Sums [resamples, ...] of per-image values [n, ...]."""
        each = np.zeros((self.groups, *values.shape[1:]))
        np.add.at(each, self._group, values)
        flat = each.reshape(self.groups, -1)
        sums = [
            self._times[first : first + _BLOCK].astype(np.float64) @ flat
            for first in range(0, RESAMPLES, _BLOCK)
        ]
        return np.concatenate(sums).reshape(RESAMPLES, *values.shape[1:])


def json_interval(bounds: Floats) -> list[float] | None:
    """Convert an interval for JSON: None if it is nan."""
    return None if np.isnan(bounds).any() else [float(bound) for bound in bounds]
