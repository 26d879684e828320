"""The scores of a model on a set of images, and their bootstrap confidence intervals.

The intervals show how much a score would vary with other images. Whole groups are resampled with
replacement (Efron 1979, percentile method), not images or pixels, since those of one car or patient
are correlated.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from plainunet.errors import require_choice
from plainunet.evaluation.metrics import Counts, Floats, metric_labels
from plainunet.page import interval, plural, score, text_table

Aggregate = Literal["per_image", "pooled"]
"""Mean over the scores of images, or score of the counts of all images together."""
AGGREGATES: tuple[Aggregate, ...] = ("per_image", "pooled")
LEVEL = 0.95
"""Confidence level: fraction of the resampled scores inside an interval."""
RESAMPLES = 2000
FEW = 10
"""With fewer groups, confidence intervals are too narrow."""
_BLOCK = 100  # resamples summed at once


@dataclass(frozen=True)
class Scores:
    """The scores of a model on the images of a split; prints as a table.

    Scores are in [0, 1], and None where there is nothing to score: no foreground, for instance.

    Example:
        ```python
        from plainunet import evaluate

        scores = evaluate("runs/first", "my-data")
        print(scores)
        print(scores.dice, scores.interval("dice"), scores.score("iou", "pooled"))
        worst, dice = next(iter(scores.of_images().items()))
        content = scores.as_dict()  # as written by `plainunet evaluate --json`
        ```
    """

    checkpoint: Path
    """The model: a checkpoint, an exported file, or the folder of a cross-validation."""
    content: dict[str, Any] = field(repr=False)
    """Everything, ready for JSON."""
    report: Path | None = None
    """The report, if it was written."""

    @property
    def split(self) -> str:
        """Name of the split: "train", "val", "test", "all" or "out-of-fold"."""
        return str(self.content["split"])

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, background first."""
        return tuple(self.content["pooled"]["dice"]["per_class"])

    @property
    def dice(self) -> float | None:
        """Dice, the mean over foreground classes and images."""
        return self.score("dice")

    @property
    def iou(self) -> float | None:
        """IoU, the mean over foreground classes and images."""
        return self.score("iou")

    @property
    def accuracy(self) -> float | None:
        """Fraction of correct pixels, the mean over images."""
        return self.score("accuracy")

    @property
    def confusion(self) -> NDArray[np.int64]:
        """Confusion matrix [K, K]: pixels of all images, rows ground truth, columns prediction."""
        return np.array(self.content["confusion"], np.int64)

    def score(
        self,
        metric: str = "dice",
        aggregate: Aggregate = "per_image",
        class_name: str | None = None,
    ) -> float | None:
        """Return a score.

        Args:
            metric: "dice", "iou", "precision", "recall", "accuracy", or one of your own.
            aggregate: "per_image" for the mean over images, or "pooled" for the score of the
                counts of all images together.
            class_name: One class; default: the mean over the foreground classes.

        Raises:
            Error: There is no such metric or class.
        """
        found: float | None = self._find(self.content, metric, aggregate, class_name)
        return found

    def interval(
        self,
        metric: str = "dice",
        aggregate: Aggregate = "per_image",
        class_name: str | None = None,
    ) -> tuple[float, float] | None:
        """Return the 95% bootstrap confidence interval of a score; the arguments are the same.

        None if it is unknown, as for the images of a single group.
        """
        found = self._find(self.content["intervals"], metric, aggregate, class_name)
        return None if found is None else (found[0], found[1])

    def of_images(self, metric: str = "dice") -> dict[Path, float | None]:
        """Return the score of each image, the mean over its foreground classes, lowest first."""
        found = {
            Path(row["image"]): self._choose(row, metric, None) for row in self.content["images"]
        }
        return dict(sorted(found.items(), key=lambda each: (each[1] is None, each[1] or 0)))

    def as_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON, as written by `plainunet evaluate --json`."""
        return dict(self.content)

    def _find(
        self, content: dict[str, Any], metric: str, aggregate: str, class_name: str | None
    ) -> Any:
        require_choice(aggregate, AGGREGATES, "aggregate")
        return self._choose(content[aggregate], metric, class_name)

    def _choose(self, scores: dict[str, Any], metric: str, class_name: str | None) -> Any:
        require_choice(metric, ["accuracy", *metric_labels(self.content["pooled"])], "metric")
        if class_name is not None:
            require_choice(class_name, self.class_names, "class_name")
        if metric == "accuracy":
            return scores[metric]
        if class_name is None:
            return scores[metric]["mean_foreground"]
        return scores[metric]["per_class"][class_name]

    def rows(self) -> list[Sequence[str]]:
        """Lay out the scores as text, below a header: per class, per image and pooled."""
        intervals = self.content["intervals"]
        labels = metric_labels(self.content["pooled"])
        columns = [*labels, "accuracy"]
        rows: list[Sequence[str]] = [("", *labels.values(), "accuracy")]
        if len(self.class_names) > 2:
            for name in self.class_names[1:]:
                values = [score(self.score(each, class_name=name)) for each in labels]
                rows.append((f"{name}, per image", *values, ""))
        for way in AGGREGATES:
            title = way.replace("_", " ")
            rows.append((title, *(score(self.score(each, way)) for each in columns)))
            bounds = [interval(self.interval(each, way)) for each in columns]
            rows += [(f"{intervals['level']:.0%} CI", *bounds)] * any(bounds)
        return rows

    @property
    def title(self) -> str:
        """What was evaluated: the number of images and groups, and their split."""
        images, groups = len(self.content["images"]), self.content["intervals"]["groups"]
        return f"{plural(images, 'image')} in {plural(groups, 'group')}, split: {self.split}"

    def __str__(self) -> str:
        """Format the scores as a table of text."""
        report = f"   report: {self.report}" if self.report else ""
        return f"{self.title}\n{text_table(self.rows())}\nmodel: {self.checkpoint}{report}"


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
