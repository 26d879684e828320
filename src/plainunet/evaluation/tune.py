"""Tune prediction on the validation split: threshold, test-time views, minimum object size.

The best settings go into a copy of the checkpoint. No other split is read, so the test split stays
unseen.

By default they are the best by Dice. If objects count, they are the best by the mean of Dice and
F1 of objects: a few specks hardly change Dice but may be half of the predicted objects, while F1 at
IoU 0.5 alone would accept outlines that are far off.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from plainunet.config import TTAName
from plainunet.dataset.coding import Instances
from plainunet.dataset.dataset import SegmentationDataset
from plainunet.errors import Error
from plainunet.evaluation.evaluate import open_dataset
from plainunet.evaluation.measure import (
    THRESHOLDS,
    PredictedImage,
    label_truth,
    predict_images,
)
from plainunet.evaluation.metrics import (
    OVERLAPS,
    Counts,
    Floats,
    Labels,
    confusion_matrix,
    dice,
    label_objects,
    match_objects,
    nan_mean,
    overlap_objects,
    ratio,
    threshold_curve,
)
from plainunet.files import require_own, require_writable
from plainunet.formats.colors import IGNORED
from plainunet.network.card import Card, find_checkpoint
from plainunet.network.checkpoint import load_checkpoint, save_checkpoint
from plainunet.parts import parts_of
from plainunet.prediction.exported import SUFFIXES
from plainunet.prediction.objects import fill_holes, remove_small
from plainunet.prediction.predictor import Predictor
from plainunet.reporter import Reporter, silent

LEAST_OBJECTS = (0, 10, 30, 100, 300, 1000, 3000, 10_000)
"""Minimum object sizes to try [pixels]."""
LEAST_COUNTED = (0, 5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560)
"""The same if objects count: finer, since a speck of any size is a false object."""
MOST_HOLES = (0, 10, 100, 1000)
"""Largest holes to fill, to try if objects count [pixels]."""
GAIN = 0.0005
"""Minimum gain for test-time augmentation and for several scales, since each multiplies the
inference time; for each larger size of holes, since they may be background that objects enclose;
and, if Dice alone counts, for each larger minimum size, since less may be chance."""
_TTA: dict[str, tuple[TTAName, ...]] = {
    "flip": ("none", "mirror"),
    "mild": ("none", "mirror"),
    "light": ("none", "mirror"),
    "strong": ("none", "turns"),
}
"""Test-time augmentation to try, by the augmentation in training."""
_SCALES = (0.8, 1.0, 1.25)
"""Scales whose probabilities are averaged, to try in addition if objects count: it helped to part
cells, but gained no Dice for vessels and weeds (docs/results.md)."""
_SPLIT = "val"
_SETTINGS = ("threshold", "tta", "scales", "min_object", "fill_holes")
_SCORES = ("dice", "f1")


class _Grid(NamedTuple):
    """Settings to try with each other; the default is the prediction as it is."""

    threshold: tuple[float | None, ...] = (None,)
    """None: the predicted classes."""
    fill_holes: tuple[int, ...] = (0,)
    min_object: tuple[int, ...] = (0,)

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of values of each setting."""
        return tuple(map(len, self))

    def at(self, place: tuple[int, ...]) -> dict[str, Any]:
        """The settings at a place of the grid, by name."""
        chosen = (values[index] for values, index in zip(self, place, strict=True))
        named = zip(self._fields, chosen, strict=True)
        return {name: value for name, value in named if value is not None}


_PLAIN = _Grid()


def tune(
    checkpoint: str | Path,
    data: str | Path,
    *,
    objects: bool = False,
    folder: Mapping[str, Any] | None = None,
    reporter: Reporter = silent,
    **how: Any,
) -> dict[str, Any]:
    """Find the best settings on the validation split and write them into a copy of the checkpoint.

    The copy of NAME.safetensors is NAME-tuned.safetensors next to it; an earlier one is replaced.

    Args:
        checkpoint: A `best.safetensors`; it is only read.
        data: The folder that it was trained on, or one with a split "val" of its own.
        objects: Whether to choose by the mean of Dice and F1 of objects instead of Dice; always
            done for instance masks.
        folder: Fields of `FolderConfig`: where images and masks are.
        reporter: Receives the progress, and notes on how the folder was read.
        how: `device`, `precision` and `network`, as in `Predictor.load`.

    Returns:
        {"checkpoint": the path of the copy; "part": the split; "pictures": its number of images;
        "before", "after": the settings; "dice": {"before", "after"}; "tried": [{"setting", "value",
        "dice"}]}, Dice being the mean over foreground classes and images. If objects count, also
        "f1": {"before", "after"}, and "f1" in each of "tried": F1 of objects at IoU 0.5, the same
        mean.

    Raises:
        FileNotFoundError: No such checkpoint or folder.
        ValueError: There is no validation split, the copy cannot be written, or a file of its name
            is not a tuned checkpoint.
    """
    path = find_checkpoint(checkpoint)
    if path.suffix.lower() in SUFFIXES:
        raise Error(f"{path}: an exported file. Tune its checkpoint, and export that again.")
    tuned = path.with_name(f"{path.stem}-tuned{path.suffix}")
    found, card = load_checkpoint(path, parts_of(how.get("network"), "--network"))
    require_writable(path.parent)
    require_own(tuned, r"\"tuned\": {")  # in the metadata, which is JSON in JSON
    dataset, _ = open_dataset(card, path, Path(data), _SPLIT, folder, reporter)
    objects = objects or isinstance(dataset.coding, Instances)
    search = _Search(path, dataset, objects, reporter, **how)
    before = search.baseline(card)
    plain = dataclasses.replace(card, tta="none", scales=(1.0,), min_object=0, fill_holes=0)
    chosen, best = search.choose(plain)
    if best.mean() <= before.mean():
        chosen, best = card, before
    outcome = {
        "part": _SPLIT,
        "pictures": len(dataset),
        "before": _written(card),
        "after": _written(chosen),
    }
    for name, first, last in zip(_SCORES, before.tolist(), best.tolist(), strict=False):
        outcome[name] = {"before": first, "after": last}
    scores = {**card.scores, "tuned": outcome}
    save_checkpoint(tuned, found, dataclasses.replace(chosen, scores=scores))
    return {"checkpoint": str(tuned), **outcome, "tried": search.tried}


class _Search:
    """Tries settings and keeps the scores of each in `tried`.

    Scores are [1]: Dice; or [2] if objects count: Dice and F1 of objects. The settings with the
    best mean are chosen.
    """

    def __init__(
        self,
        path: Path,
        dataset: SegmentationDataset,
        objects: bool,
        reporter: Reporter,
        **how: Any,
    ) -> None:
        self._path, self._dataset, self._reporter, self._how = path, dataset, reporter, how
        self._objects, self._classes = objects, dataset.coding.num_classes
        self.tried: list[dict[str, Any]] = []

    def baseline(self, card: Card) -> Floats:
        """Score the settings of the checkpoint."""
        scores = self._try(card, "baseline")[0][:, 0, 0, 0]
        self._keep("baseline", None, scores)
        return scores

    def choose(self, plain: Card) -> tuple[Card, Floats]:
        """Choose the settings, given a card without any cleaning; and their scores."""
        return self.jointly(plain) if self._objects else self.min_object(*self.tta(plain))

    def tta(self, plain: Card) -> tuple[Card, Floats]:
        """Choose the test-time augmentation and, with two classes, the threshold; and its Dice."""
        best, chosen = np.array([-1.0]), plain
        for trial in _with_tta(plain):
            tried, histograms = self._try(trial, _named(trial))
            scores, value = tried[:, 0, 0, 0], _named(trial)
            if self._classes == 2:
                curve = threshold_curve(histograms)
                number = int(np.argmax(curve["per_image_dice"]))
                trial = dataclasses.replace(trial, threshold=curve["thresholds"][number])
                scores = np.array([curve["per_image_dice"][number]])
                value = f"{value}, threshold {trial.threshold:g}"
            self._keep("tta", value, scores)
            if scores.mean() > best.mean() + GAIN:
                best, chosen = scores, trial
        return chosen, best

    def min_object(self, chosen: Card, best: Floats) -> tuple[Card, Floats]:
        """Choose the minimum object size, if one beats keeping all objects; and its Dice."""
        tried = self._try(chosen, "small objects", _Grid(min_object=LEAST_OBJECTS))[0][:, 0, 0]
        plain = chosen
        for least, scores in zip(LEAST_OBJECTS, tried.T, strict=True):
            self._keep("min_object", least, scores)
            if scores.mean() > best.mean() + GAIN:
                best, chosen = scores, dataclasses.replace(plain, min_object=least)
        return chosen, best

    def jointly(self, plain: Card) -> tuple[Card, Floats]:
        """Choose all settings at once, since the best threshold depends on what is cleaned away."""
        thresholds = THRESHOLDS if self._classes == 2 else (None,)
        grid = _Grid(thresholds, MOST_HOLES, LEAST_COUNTED)
        best, chosen = -1.0, plain
        trials = _with_tta(plain)
        for trial in [*trials, dataclasses.replace(trials[-1], scales=_SCALES)]:
            tried = self._try(trial, _named(trial), grid)[0]
            means = tried.mean(axis=0)
            worth = means - GAIN * np.arange(len(MOST_HOLES))[:, None]
            row, holes, size = map(int, np.unravel_index(worth.argmax(), worth.shape))
            settings = grid.at((row, holes, size))
            named = (f"{name.replace('_', ' ')} {value:g}" for name, value in settings.items())
            self._keep("tta", ", ".join([_named(trial), *named]), tried[:, row, holes, size])
            if worth.max() > best + GAIN:
                best, chosen = worth.max(), dataclasses.replace(trial, **settings)
                place, scores = (row, holes, size), tried
        row, holes, size = place
        for number, most in enumerate(MOST_HOLES):
            self._keep("fill_holes", most, scores[:, row, number, size])
        for number, least in enumerate(LEAST_COUNTED):
            self._keep("min_object", least, scores[:, row, holes, number])
        return chosen, scores[:, row, holes, size]

    def _try(self, card: Card, stage: str, grid: _Grid = _PLAIN) -> tuple[Floats, Counts]:
        """Scores of the settings of a grid, and histograms of probabilities [n, 2, `BINS`]."""
        self._reporter.stage(stage, len(self._dataset))
        overrides = {name: getattr(card, name) for name in _SETTINGS[self._classes > 2 :]}
        predictor = Predictor.load(self._path, **self._how, **overrides)
        scores, histograms = [], []
        images = predict_images(predictor, self._dataset, grid.threshold != (None,))
        for pair, predicted in zip(self._dataset.pairs, images, strict=True):
            truth = predicted.truth
            objects = label_truth(pair, self._dataset, truth) if self._objects else None
            scores.append(_score_grid(predicted, objects, grid, self._classes))
            histograms.append(predicted.histogram)
            self._reporter.advance(len(scores))
        return np.nan_to_num(nan_mean(np.stack(scores), axis=0)), np.stack(histograms)

    def _keep(self, setting: str, value: Any, scores: Floats) -> None:
        named = dict(zip(_SCORES, scores.tolist(), strict=False))
        self.tried.append({"setting": setting, "value": value, **named})


def _with_tta(plain: Card) -> list[Card]:
    """The card with each test-time augmentation to try."""
    augment = plain.training.get("settings", {}).get("augment", "")
    return [dataclasses.replace(plain, tta=tta) for tta in _TTA.get(augment, ("none",))]


def _named(card: Card) -> str:
    """The test-time augmentation and scales of a card, for the table."""
    scales = _written(card)["scales"]
    return card.tta if scales == "1" else f"{card.tta} at scales {scales}"


def _written(card: Card) -> dict[str, Any]:
    """The settings that are tuned, as flags take them."""
    scales = " ".join(f"{scale:g}" for scale in card.scales)
    return {name: getattr(card, name) for name in _SETTINGS} | {"scales": scales}


def _score_grid(
    predicted: PredictedImage, objects: list[Labels] | None, grid: _Grid, classes: int
) -> Floats:
    """Score an image with each of the settings of a grid, in the order of `Predictor.clean`."""
    result = np.empty((1 if objects is None else 2, *grid.shape))
    for row, threshold in enumerate(grid.threshold):
        whole = last = _choose_classes(predicted, threshold)
        for holes, most in enumerate(grid.fill_holes):
            filled = fill_holes(whole, most) if most else whole
            if holes and np.array_equal(filled, last):
                result[:, row, holes] = result[:, row, holes - 1]
            elif classes == 2 and objects is not None:
                sizes = grid.min_object
                result[:, row, holes] = score_sizes(predicted.truth, filled, objects[0], sizes)
            else:
                # from the whole mask each: with several classes, removing step by step differs
                for size, least in enumerate(grid.min_object):
                    mask = remove_small(filled, least) if least > 1 else filled
                    result[:, row, holes, size] = _score(predicted.truth, mask, objects, classes)
            last = filled
    return result


def _choose_classes(predicted: PredictedImage, threshold: float | None) -> NDArray[np.uint8]:
    if threshold is None:
        return predicted.prediction
    assert predicted.probabilities is not None  # requested by `_try`
    mask: NDArray[np.uint8] = (predicted.probabilities[1] >= threshold).astype(np.uint8)
    mask[predicted.prediction == IGNORED] = IGNORED
    return mask


def _score(
    truth: NDArray[np.uint8], mask: NDArray[np.uint8], objects: list[Labels] | None, classes: int
) -> list[float]:
    """Means over the foreground classes of an image: Dice, and F1 of objects if they are given."""
    scores = [float(nan_mean(dice(confusion_matrix(truth, mask, classes))[1:]))]
    if objects is not None:
        valid = truth < classes
        found = (label_objects((mask == number) & valid) for number in range(1, classes))
        counts = [match_objects(*each) for each in zip(objects, found, strict=True)]
        scores.append(float(nan_mean(np.array([each.f1 for each in counts]))))
    return scores


def score_sizes(
    truth: NDArray[np.uint8], mask: NDArray[np.uint8], objects: Labels, sizes: Sequence[int]
) -> Floats:
    """Score a mask of two classes without its objects below each of several sizes.

    Each object is matched once, which is many times as fast as removing and matching for each size.

    Args:
        truth: Class ids [H, W], 255 where ignored.
        mask: Predicted class ids [H, W].
        objects: The true objects [H, W], 0 for none, as by `label_truth`.
        sizes: M minimum object sizes [pixels].

    Returns:
        [2, M]: Dice of class 1 and F1 of objects, nan where there is nothing to score.
    """
    true, found = truth == 1, mask == 1
    labels = label_objects(found & (truth < 2))  # ignored pixels may split an object into several,
    whole = label_objects(found)  # which are removed as one, by the area of all its pixels
    areas = np.zeros(int(labels.max()) + 1, np.int64)
    areas[labels[labels > 0]] = np.bincount(whole.ravel())[whole[labels > 0]]
    kept = areas >= np.maximum(sizes, 1)[:, None]  # [M, labels]; 0 is background, of no area
    pixels = kept @ np.bincount(labels.ravel())
    hits = kept @ np.bincount(labels[true], minlength=len(areas))
    _, number, overlap = overlap_objects(objects, labels)
    matched = kept[:, number[overlap > OVERLAPS[0]]].sum(axis=1)
    either, both = true.sum() + pixels, len(np.unique(objects[objects > 0])) + kept.sum(axis=1)
    return np.stack([ratio(2 * hits, either, either), ratio(2 * matched, both, both)])
