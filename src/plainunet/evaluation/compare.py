"""Compare two models on the same images: which is better, by how much, and where.

The bootstrap is paired: both models share the same resampled groups of images, so the difficulty of
an image cancels out in the interval of the difference.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from plainunet.dataset.dataset import SegmentationDataset
from plainunet.errors import Error, require_choice, require_types, take_path
from plainunet.evaluation.evaluate import open_dataset
from plainunet.evaluation.measure import Measurement, measure, predict_images
from plainunet.evaluation.metrics import (
    PER_CLASS,
    PROTOCOL,
    Counts,
    Floats,
    Metrics,
    accuracy,
    dice,
    json_number,
    metric_label,
    metrics_of_masks,
    nan_mean,
    of_images,
    with_own,
)
from plainunet.evaluation.scores import AGGREGATES, LEVEL, Aggregate, Bootstrap, json_interval
from plainunet.files import write_whole
from plainunet.formats.sources import path_of, stem_of
from plainunet.parts import parts_of
from plainunet.prediction.drawing import draw_comparison, write_rgb
from plainunet.prediction.predictor import Predictor
from plainunet.reporter import Reporter, or_default
from plainunet.text import interval, plural, score, text_table

DRAWN = 12
"""Maximum number of images that are drawn."""
_GAP = 8  # pixels between the models' rows


class Difference(NamedTuple):
    """A score of two models; None where there is nothing to score."""

    first: float | None
    second: float | None
    difference: float | None
    """Second minus first."""
    interval: tuple[float, float] | None
    """95% confidence interval of the difference, by a paired bootstrap."""
    better: float | None
    """Fraction of resamples in which the second is better."""


@dataclass(frozen=True)
class Comparison:
    """Two models on the same images; prints as a table."""

    first: Path
    second: Path
    content: dict[str, Any] = field(repr=False)
    """Everything, ready for JSON."""
    figures: Path | None = None
    """The folder of the table of all images and the figures, if it was made."""

    @property
    def split(self) -> str:
        """Name of the split."""
        return str(self.content["split"])

    def difference(self, metric: str = "dice", aggregate: Aggregate = "per_image") -> Difference:
        """Return a score of both, and its difference.

        Args:
            metric: "accuracy", or "dice", "iou", "precision" or "recall" as the mean over
                foreground classes.
            aggregate: "per_image" or "pooled", as in `Scores.score`.

        Raises:
            Error: There is no such metric.
        """
        require_choice(aggregate, AGGREGATES, "aggregate")
        known = self.content["scores"][aggregate]
        require_choice(metric, known, "metric")
        bounds = known[metric]["interval"]
        found = {**known[metric], "interval": bounds and (bounds[0], bounds[1])}
        return Difference(**found)

    def as_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON, as written by `plainunet compare --json`."""
        return dict(self.content)

    def __str__(self) -> str:
        """Format the differences as a table of text."""
        header = ("", "first", "second", "difference", f"{self.content['level']:.0%} CI", "better")
        rows: list[tuple[str, ...]] = [header]
        for way in AGGREGATES:
            for name in self.content["scores"][way]:
                each = self.difference(name, way)
                better = "" if each.better is None else f"{each.better:.1%}"
                numbers = map(score, each[:3])
                title = f"{metric_label(name)}, {way.replace('_', ' ')}"
                rows.append((title, *numbers, interval(each.interval), better))
        images = plural(self.content["pictures"], "image")
        where = f"{images}, split: {self.split}\nfirst: {self.first}\nsecond: {self.second}"
        return f"{where}\n{text_table(rows)}"


def compare(
    first: str | Path,
    second: str | Path,
    data: str | Path,
    *,
    out: str | Path | None = None,
    split: str | None = None,
    folder: Mapping[str, Any] | None = None,
    device: str = "auto",
    precision: str = "auto",
    network: Any = None,
    metrics: Any = None,
    reporter: Reporter | None = None,
) -> Comparison:
    """Compare two checkpoints of the same classes.

    Args:
        first: A `best.safetensors`, its run folder, or an exported .onnx or .xml.
        second: Another one.
        data: The folder; the images held out from both models are evaluated.
        out: Folder to create for `images.csv` and the images with the largest differences: image,
            ground truth, prediction and errors, the first model above the second.
        split: As in `evaluate`.
        folder: Fields of `FolderConfig`: where images and masks are.
        device: "auto", "cpu", "cuda" or "mps".
        precision: "auto", "fp32" or "bf16".
        network: The factory of your own network, or both, as in `Predictor.load`.
        metrics: Your own metrics, as for `evaluate`.
        reporter: Receives the progress, and notes on skipped images; default: shown in
            notebooks.

    Returns:
        The scores of both and their differences, second minus first.

    Raises:
        FileNotFoundError: No such checkpoint or folder.
        ValueError: The classes differ, no image was held out from both, the folder cannot be
            read, or `out` is not empty.

    Example:
        ```python
        from plainunet import compare

        found = compare("runs/first", "runs/second", "my-data")
        print(found)
        print(found.difference("dice").interval)
        ```
    """
    require_types(folder=(folder, Mapping))
    reporter = or_default(reporter)
    out = None if out is None else take_path(out, "out")
    if out is not None and out.exists() and any(out.iterdir()):
        raise Error(f"{out} is not empty. Choose another --out.")
    paths = [take_path(first, "first"), take_path(second, "second")]
    data = take_path(data, "data")
    models = _load(paths, network, device, precision)
    datasets, split = _open_common(paths, models, data, split, folder, reporter)
    chosen = with_own(parts_of(metrics, "--metrics"), len(models[0].card.class_names))
    measured = [
        _measure(*each, chosen, reporter) for each in zip(paths, models, datasets, strict=True)
    ]
    counts = [np.stack([each.counts for each in of_model]) for of_model in measured]
    bootstrap = Bootstrap([pair.group for pair in datasets[0].pairs])
    rows, order = _rank_images(datasets[0], counts)
    result: dict[str, Any] = {
        "protocol": PROTOCOL,
        "split": split,
        "pictures": len(datasets[0]),
        "groups": bootstrap.groups,
        "level": LEVEL,
        "models": [str(first), str(second)],
        "scores": _differences(measured, bootstrap, chosen),
        "images": rows,
    }
    if out is not None:
        _write_images(out, rows)
        _draw(out, models, [dataset.subset(order[:DRAWN]) for dataset in datasets], reporter)
    return Comparison(paths[0], paths[1], result, out)


def _load(paths: Sequence[Path], network: Any, device: str, precision: str) -> list[Predictor]:
    own = parts_of(network, "--network")  # of one of the two, perhaps
    models = [
        Predictor.load(path, device=device, precision=precision, network=own) for path in paths
    ]
    first, second = (model.card.class_names for model in models)
    if first != second:
        raise Error(
            f"the models have different classes: {paths[0]}: {', '.join(first)}; {paths[1]}: "
            f"{', '.join(second)}. Compare models with the same classes in the same order."
        )
    return models


def _open_common(
    paths: Sequence[Path],
    models: Sequence[Predictor],
    data: Path,
    split: str | None,
    folder: Mapping[str, Any] | None,
    reporter: Reporter,
) -> tuple[list[SegmentationDataset], str]:
    """Open the images held out from both models, once with each model's coding of the masks."""
    (first, name), (second, other) = (
        open_dataset(model.card, path, data, split, folder, reporter)
        for model, path in zip(models, paths, strict=True)
    )
    others = {pair.image for pair in second.pairs}
    common = first.subset([at for at, pair in enumerate(first.pairs) if pair.image in others])
    if not common:
        raise Error(
            f"{data}: no image was held out from both models. Use --split all or another folder."
        )
    if len(common) < max(len(first), len(second)):
        those, caveat = "both models", ""
        if "all" in (name, other):  # it was trained on another folder, or it is not known on what
            known, unknown = paths if other == "all" else paths[::-1]
            those, caveat = str(known), f"; which of them {unknown} was trained on is not known"
        reporter.note(
            f"only {plural(len(common), 'image')} held out from {those} are compared{caveat}"
        )
    return [common, replace(common, coding=second.coding)], name


def _measure(
    path: Path,
    model: Predictor,
    dataset: SegmentationDataset,
    metrics: Metrics,
    reporter: Reporter,
) -> list[Measurement]:
    """Measure the images of a model."""
    reporter.stage(str(path), len(dataset))
    found = []
    for measured in measure(model, dataset, boundary=False, metrics=metrics):
        found.append(measured)
        reporter.advance(len(found))
    return found


def _rank_images(
    dataset: SegmentationDataset, counts: Sequence[Counts]
) -> tuple[list[dict[str, Any]], list[int]]:
    """Rank the images by their difference in Dice, largest first; rows and indices."""
    first, second = (nan_mean(dice(each)[:, 1:], axis=1) for each in counts)
    # no foreground in mask and prediction is right, so such an image ranks as one with Dice 1
    apart = np.nan_to_num(second, nan=1.0) - np.nan_to_num(first, nan=1.0)
    order = np.argsort(-np.abs(apart), kind="stable").tolist()
    rows = [
        {
            "image": path_of(dataset.pairs[index].image).as_posix(),
            "group": dataset.pairs[index].group,
            "first": json_number(first[index]),
            "second": json_number(second[index]),
            "difference": json_number(second[index] - first[index]),
        }
        for index in order
    ]
    return rows, order


def _differences(
    measured: Sequence[Sequence[Measurement]], bootstrap: Bootstrap, chosen: Metrics
) -> dict[str, Any]:
    """Compute the scores of both and their differences, pooled and per image."""

    def foreground(score: Callable[[Counts], Floats]) -> Callable[[Counts], Floats]:
        return lambda counts: nan_mean(score(counts)[..., 1:], axis=-1)

    def with_accuracy(metrics: Metrics) -> Metrics:
        means = {name: foreground(score) for name, score in metrics.items()}
        return {"accuracy": accuracy, **means}

    counts = [np.stack([each.counts for each in of_model]) for of_model in measured]
    of_masks = [np.stack([each.of_masks for each in of_model]) for of_model in measured]
    per_image = [with_accuracy(of_images(chosen, each)) for each in of_masks]
    resampled = [bootstrap.pooled(each) for each in counts]
    result: dict[str, Any] = {"pooled": {}, "per_image": {}}
    for name, metric in with_accuracy(chosen).items():
        pooled = [metric(each.sum(axis=0)[None])[0] for each in counts]
        differences = metric(resampled[1]) - metric(resampled[0])
        result["pooled"][name] = _entry(pooled, differences, bootstrap)
        of_each = [scores[name](each) for scores, each in zip(per_image, counts, strict=True)]
        means = [nan_mean(each) for each in of_each]
        # an image may have a metric of one model alone
        differences = bootstrap.means(of_each[1]) - bootstrap.means(of_each[0])
        result["per_image"][name] = _entry(means, differences, bootstrap)
    for name in chosen.keys() - PER_CLASS.keys():  # of which the lower may be the better
        for entries in result.values():
            entries[name]["better"] = None
    for metric in metrics_of_masks(chosen):
        del result["pooled"][metric.name]
    return result


def _entry(scores: Sequence[Any], differences: Floats, bootstrap: Bootstrap) -> dict[str, Any]:
    known = differences[~np.isnan(differences)]
    return {
        "first": json_number(scores[0]),
        "second": json_number(scores[1]),
        "difference": json_number(scores[1] - scores[0]),
        "interval": json_interval(bootstrap.interval(differences)),
        "better": float((known > 0).mean()) if len(known) and bootstrap.groups > 1 else None,
    }


def _draw(
    out: Path,
    models: Sequence[Predictor],
    datasets: Sequence[SegmentationDataset],
    reporter: Reporter,
) -> None:
    """Draw the predictions of both models, one above the other, for each image."""
    reporter.stage("drawing", len(datasets[0]))
    predicted = [predict_images(*each) for each in zip(models, datasets, strict=True)]
    colors = models[0].card.colors
    for number, (pair, *both) in enumerate(zip(datasets[0].pairs, *predicted, strict=True), 1):
        rows = [draw_comparison(s.image, s.truth, s.prediction, colors) for s in both]
        gap = np.full((_GAP, rows[0].shape[1], 3), 255, np.uint8)
        name = f"{number:02d}_{stem_of(pair.image)}.png"
        write_rgb(out / name, np.concatenate([rows[0], gap, rows[1]]))
        reporter.advance(number)


def _write_images(out: Path, images: list[dict[str, Any]]) -> None:
    with (
        write_whole(out / "images.csv") as whole,
        whole.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.DictWriter(file, list(images[0]))
        writer.writeheader()
        writer.writerows(images)
