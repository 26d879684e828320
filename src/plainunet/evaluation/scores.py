"""Scores of a model on a set of images, and of a cross-validation, with confidence intervals.

The bootstrap intervals show how much a score would vary with other images. Whole groups are
resampled with replacement (Efron 1979, percentile method), not images or pixels, since those of one
car or patient are correlated.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from plainunet.errors import require_choice
from plainunet.evaluation.charts import Dot, strip_chart
from plainunet.evaluation.metrics import PER_CLASS, Counts, Floats, metric_labels
from plainunet.text import interval, plural, score, text_table

Aggregate = Literal["per_image", "pooled"]
"""Mean over the scores of images, or score of the counts of all images together."""
AGGREGATES: tuple[Aggregate, ...] = ("per_image", "pooled")
LEVEL = 0.95
"""Confidence level: fraction of the resampled scores inside an interval."""
RESAMPLES = 2000
FEW = 10
"""With fewer groups, confidence intervals are too narrow."""
_BLOCK = 100  # resamples summed at once
OUT_OF_FOLD = "out-of-fold"
"""Name of the split in the scores of out-of-fold predictions."""
_MOST_DRAWN = 20  # folds in a chart
_SHOWN: tuple[tuple[str, Aggregate], ...] = (
    ("dice", "per_image"),
    ("dice", "pooled"),
    ("iou", "per_image"),
)
_HEADER = ("", "images", "Dice per image", "95% CI", "Dice pooled", "IoU per image")
"""Names of the columns of `CrossValidation.rows`, without own metrics."""


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


class Spread(NamedTuple):
    """The spread of a score over folds or seeds."""

    mean: float
    deviation: float | None
    """Standard deviation of the sample (n - 1); None for a single score."""
    lowest: float
    highest: float

    @classmethod
    def of(cls, scores: Iterable[float | None]) -> "Spread | None":
        """Summarise the scores that are known; None if there is none."""
        known = [each for each in scores if each is not None]
        if not known:
            return None
        deviation = stdev(known) if len(known) > 1 else None
        return cls(mean(known), deviation, min(known), max(known))


@dataclass(frozen=True)
class FoldScores:
    """The scores of a run on the images of its fold."""

    fold: int
    """Number of the fold, from 0."""
    seed: int
    """Seed of the training."""
    checkpoint: Path
    images: int
    scores: dict[str, Any]
    """As `Scores.as_dict`, without the rows of the images."""

    def score(self, metric: str = "dice", aggregate: Aggregate = "per_image") -> float | None:
        """Return the mean over foreground classes of "dice", "iou" or another metric.

        Raises:
            Error: There is no such metric.
        """
        require_choice(aggregate, AGGREGATES, "aggregate")
        require_choice(metric, ["accuracy", *metric_labels(self.scores["pooled"])], "metric")
        found = self.scores[aggregate][metric]
        mean: float | None = found if metric == "accuracy" else found["mean_foreground"]
        return mean


@dataclass(frozen=True)
class CrossValidation:
    """The result of a cross-validation; prints as a table.

    Example:
        ```python
        from plainunet import TrainConfig, cross_validate

        settings = TrainConfig(epochs=1, base_channels=4, depth=2, batch_size=4)
        result = cross_validate("my-data", "runs/cv-small", settings, folds=2)
        print(result)
        print(result.over_folds("iou").mean, result.out_of_fold[0].dice)
        ```
    """

    data: Path
    """The data folder."""
    out: Path
    """The folder of its runs."""
    folds: tuple[FoldScores, ...]
    """One for each run: all folds of the first seed, then those of the next."""
    out_of_fold: dict[int, Scores]
    """By seed: scores of all images, each predicted by the run that held it out."""
    test: Scores | None = None
    """Scores of the ensemble of all runs on the test split, if there is one."""

    @property
    def checkpoints(self) -> list[Path]:
        """The checkpoints of all runs, an ensemble for `Predictor.load`."""
        return [each.checkpoint for each in self.folds]

    @property
    def seeds(self) -> list[int]:
        """The seeds of the runs."""
        return list(self.out_of_fold)

    def fold_scores(
        self, metric: str = "dice", aggregate: Aggregate = "per_image"
    ) -> dict[int, float | None]:
        """Return the score of each fold, its mean over the seeds."""
        found: dict[int, float | None] = {}
        for number in dict.fromkeys(each.fold for each in self.folds):
            of_fold = [each for each in self.folds if each.fold == number]
            spread = Spread.of(each.score(metric, aggregate) for each in of_fold)
            found[number] = spread and spread.mean
        return found

    def over_folds(self, metric: str = "dice", aggregate: Aggregate = "per_image") -> Spread | None:
        """Return the spread of a score over the folds, each the mean of its seeds.

        It has `mean`, `deviation` (None for a single score), `lowest` and `highest`. `metric` and
        `aggregate` ("per_image" or "pooled") are as in `FoldScores.score`.
        """
        return Spread.of(self.fold_scores(metric, aggregate).values())

    def over_seeds(self, metric: str = "dice", aggregate: Aggregate = "per_image") -> Spread | None:
        """Return the spread of the out-of-fold score over the seeds: the noise of training."""
        return Spread.of(each.score(metric, aggregate) for each in self.out_of_fold.values())

    def as_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        first = next(iter(self.out_of_fold.values()))
        metrics = [*PER_CLASS, *self.own_metrics]
        return {
            "protocol": first.content["protocol"],
            "data": str(self.data),
            "folds": [
                {
                    "fold": each.fold,
                    "seed": each.seed,
                    "checkpoint": each.checkpoint.relative_to(self.out).as_posix(),
                    "images": each.images,
                    **each.scores,
                }
                for each in self.folds
            ],
            "spread": {
                way: {
                    aggregate: {metric: _plain(over(metric, aggregate)) for metric in metrics}
                    for aggregate in AGGREGATES
                }
                for way, over in (("folds", self.over_folds), ("seeds", self.over_seeds))
            },
            "out_of_fold": [
                {"seed": seed, **scores.content} for seed, scores in self.out_of_fold.items()
            ],
            "test": self.test and self.test.content,
        }

    @property
    def own_metrics(self) -> dict[str, str]:
        """The names of the user's own metrics, with their labels."""
        first = next(iter(self.out_of_fold.values()))
        labels = metric_labels(first.content["per_image"])
        return {name: label for name, label in labels.items() if name not in PER_CLASS}

    @property
    def header(self) -> tuple[str, ...]:
        """The names of the columns of `rows`."""
        return *_HEADER, *(f"{label} per image" for label in self.own_metrics.values())

    def rows(self) -> list[tuple[str, ...]]:
        """Lay out the scores as text, in the columns of `header`.

        The rows are the folds, the mean of the folds, the out-of-fold predictions of each seed,
        and the test split.
        """
        found: list[tuple[str, ...]] = []
        own = tuple(self.own_metrics)
        others = [self.fold_scores("dice", "pooled"), *map(self.fold_scores, ("iou", *own))]
        of_fold = {each.fold: each for each in reversed(self.folds)}
        several = len(self.seeds) > 1
        for number, dice in self.fold_scores().items():
            bounds = "" if several else _interval(of_fold[number].scores)
            numbers = (score(dice), bounds, *(score(each[number]) for each in others))
            found.append((f"fold {number}", str(of_fold[number].images), *numbers))
        found += _spread_rows("mean of folds", self.over_folds, own)
        for seed, scores in self.out_of_fold.items():
            name = f"out-of-fold, seed {seed}" if several else "out-of-fold"
            found.append((name, *_cells(scores, own)))
        if several:
            found += _spread_rows("mean of seeds", self.over_seeds, own)
        if self.test:
            found.append(("test (ensemble)", *_cells(self.test, own)))
        return found

    def __str__(self) -> str:
        """Format the scores as a table of text."""
        return text_table([self.header, *self.rows()])


def report_content(result: CrossValidation) -> dict[str, Any]:
    """What the report of a cross-validation shows beyond that of its out-of-fold predictions."""
    first = next(iter(result.out_of_fold.values()))
    runs, seeds = len(result.fold_scores()), len(result.seeds)
    cards = [_card("Mean of the folds", result.over_folds(), plural(runs, "fold"))]
    if seeds > 1:
        cards.append(_card("Mean of the seeds", result.over_seeds(), plural(seeds, "seed")))
    if result.test:
        value = score(result.test.dice)
        note = f"95% CI {_interval(result.test.content) or 'unknown'}; ensemble of all folds"
        cards.append({"label": "Dice on the test split", "value": value, "note": note})
    return {
        "title": f"{runs}-fold cross-validation on {result.data}",
        "cards": cards,
        "folds": {
            "header": result.header,
            "rows": result.rows(),
            "seeds": result.seeds,
            "chart": _fold_chart(result, first),
        },
    }


def _spread_rows(
    name: str, over: Callable[[str, Aggregate], Spread | None], own: Sequence[str]
) -> list[tuple[str, ...]]:
    """Lay out the mean and the standard deviation of the scores."""
    spreads = [over(*each) for each in (*_SHOWN, *((name, "per_image") for name in own))]
    means, deviations = ([score(each and each[place]) for each in spreads] for place in (0, 1))
    return [
        (name, "", means[0], "", *means[1:]),
        ("standard deviation", "", deviations[0], "", *deviations[1:]),
    ]


def _card(label: str, spread: Spread | None, over: str) -> dict[str, str]:
    if spread is None:
        return {"label": label, "value": "no foreground", "note": over}
    note = f"Dice per image, {over}: {score(spread.lowest)} to {score(spread.highest)}"
    if spread.deviation is not None:
        note = f"± {score(spread.deviation)} (standard deviation). {note}"
    return {"label": label, "value": score(spread.mean), "note": note}


def _fold_chart(result: CrossValidation, scores: Scores) -> str:
    """Draw the Dice of each image, by fold; the rows of `scores` are in the order of the folds."""
    of_seed = [each for each in result.folds if each.seed == result.seeds[0]]
    if len(of_seed) > _MOST_DRAWN:
        return ""
    images = iter(scores.content["images"])
    rows: list[tuple[str, Sequence[Dot]]] = []
    for each in of_seed:
        dots = []
        for _ in range(each.images):
            row = next(images)
            dice = row["dice"]["mean_foreground"]
            dots += [] if dice is None else [Dot(row["image"], dice)]
        rows.append((f"fold {each.fold}", dots))
    return strip_chart("Dice of each image, by fold", rows)


def _cells(scores: Scores, own: Sequence[str]) -> tuple[str, ...]:
    shown = (*_SHOWN, *((name, "per_image") for name in own))
    dice, *others = (score(scores.score(*each)) for each in shown)
    return str(len(scores.content["images"])), dice, _interval(scores.content), *others


def _interval(scores: dict[str, Any]) -> str:
    return interval(scores["intervals"]["per_image"]["dice"]["mean_foreground"])


def _plain(spread: Spread | None) -> dict[str, float | None] | None:
    return spread and spread._asdict()
