"""Tune prediction on the validation part: threshold, test-time augmentation, least object size.

The settings that score best are written into the checkpoint. No other part of the data is read,
so that a test part stays one.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from plainunet.config import TTAName
from plainunet.dataset.dataset import SegmentationDataset
from plainunet.evaluation.evaluate import open_dataset
from plainunet.evaluation.measure import predict_images
from plainunet.evaluation.metrics import Counts, confusion_matrix, dice, nan_mean, threshold_curve
from plainunet.network.checkpoint import Card, load_checkpoint, save_checkpoint
from plainunet.prediction.objects import remove_small
from plainunet.prediction.predictor import Predictor
from plainunet.reporter import Reporter, silent

LEAST_OBJECTS = (0, 10, 30, 100, 300, 1000, 3000, 10_000)
"""Sizes of objects that are tried [pixels]."""
GAIN = 0.0005
"""Dice that test-time augmentation must bring, since it takes a multiple of the time."""
_TTA: dict[str, tuple[TTAName, ...]] = {
    "flip": ("none", "mirror"),
    "light": ("none", "mirror"),
    "strong": ("none", "turns"),
}
"""What is tried goes by the augmentation in training."""
_PART = "val"
_SETTINGS = ("threshold", "tta", "min_object", "fill_holes")


def tune(
    checkpoint: str | Path,
    data: str | Path,
    *,
    folder: Mapping[str, Any] | None = None,
    device: str = "auto",
    precision: str = "auto",
    reporter: Reporter = silent,
) -> dict[str, Any]:
    """Find the settings on the validation part, and write them into the checkpoint.

    Args:
        checkpoint: A `best.safetensors`; it is written anew.
        data: The folder that it was trained on, or one with a part "val" of its own.
        folder: Where images and masks are, as of `FolderConfig`.
        device: "auto", "cpu", "cuda" or "mps".
        precision: "auto", "fp32" or "bf16".
        reporter: Told the progress, and what was left aside in the folder.

    Returns:
        {"part", "pictures", "before", "after": the settings; "dice": {"before", "after"}; "tried":
        [{"setting", "value", "dice"}]}, Dice being the mean over classes and images.
    """
    path = Path(checkpoint)
    network, card = load_checkpoint(path)
    if not path.stat().st_mode & 0o222:
        raise PermissionError(
            f"{path}: may not be written, and --tune writes what it finds into the checkpoint. "
            "Make it writable (chmod u+w), or tune a copy in a copy of its run folder."
        )
    dataset, _ = open_dataset(card, path, Path(data), _PART, folder, reporter)
    search = _Search(path, dataset, device, precision, reporter)
    before = search.baseline(card)
    plain = dataclasses.replace(card, tta="none", min_object=0, fill_holes=0)
    chosen, best = search.min_object(*search.tta(plain))
    if best <= before:  # nothing is better than what is there
        chosen, best = card, before
    found = {
        "part": _PART,
        "pictures": len(dataset),
        "before": {name: getattr(card, name) for name in _SETTINGS},
        "after": {name: getattr(chosen, name) for name in _SETTINGS},
        "dice": {"before": before, "after": best},
    }
    scores = {**card.scores, "tuned": found}
    save_checkpoint(path, network, dataclasses.replace(chosen, scores=scores))
    return {**found, "tried": search.tried}


class _Search:
    """Tries settings one after the other; keeps the score of each in `tried`."""

    def __init__(
        self,
        path: Path,
        dataset: SegmentationDataset,
        device: str,
        precision: str,
        reporter: Reporter,
    ) -> None:
        self._path, self._dataset, self._reporter = path, dataset, reporter
        self._device, self._precision = device, precision
        self._classes = dataset.coding.num_classes
        self.tried: list[dict[str, Any]] = []

    def baseline(self, card: Card) -> float:
        """Score the settings that the checkpoint has."""
        score = _mean_dice(self._count(card, "as it was")[0])
        self._keep("as it was", None, score)
        return score

    def tta(self, plain: Card) -> tuple[Card, float]:
        """Find the test-time augmentation and, with two classes, the threshold; and the score."""
        best, chosen = -1.0, plain
        for tta in _TTA.get(plain.training.get("settings", {}).get("augment", ""), ("none",)):
            trial, value = dataclasses.replace(plain, tta=tta), str(tta)
            counts, histograms = self._count(trial, f"tta {tta}")
            score = _mean_dice(counts)
            if self._classes == 2:
                curve = threshold_curve(histograms)
                number = int(np.argmax(curve["per_image_dice"]))
                trial = dataclasses.replace(trial, threshold=curve["thresholds"][number])
                score = curve["per_image_dice"][number]
                value = f"{tta}, threshold {trial.threshold:g}"
            self._keep("tta", value, score)
            if score > best + (GAIN if tta != "none" else 0):
                best, chosen = score, trial
        return chosen, best

    def min_object(self, chosen: Card, best: float) -> tuple[Card, float]:
        """Find the least size of objects, if one is better than keeping all; and the score."""
        self._reporter.stage("small objects", len(self._dataset))
        counts = []
        for predicted in predict_images(self._predictor(chosen), self._dataset):
            mask, each = predicted.prediction, []
            for least in LEAST_OBJECTS:  # what is too small for one is too small for the next
                mask = remove_small(mask, least) if least > 1 else mask
                each.append(confusion_matrix(predicted.truth, mask, self._classes))
            counts.append(each)
            self._reporter.advance(len(counts))
        plain = chosen
        for least, each in zip(LEAST_OBJECTS, np.moveaxis(np.array(counts), 1, 0), strict=True):
            score = _mean_dice(each)
            self._keep("min_object", least, score)
            if score > best:
                best, chosen = score, dataclasses.replace(plain, min_object=least)
        return chosen, best

    def _predictor(self, card: Card) -> Predictor:
        settings = _SETTINGS if self._classes == 2 else _SETTINGS[1:]
        instead = {name: getattr(card, name) for name in settings}
        return Predictor.load(self._path, device=self._device, precision=self._precision, **instead)

    def _count(self, card: Card, stage: str) -> tuple[Counts, Counts]:
        """Confusion matrices [n, K, K] and histograms of probabilities [n, 2, `BINS`]."""
        self._reporter.stage(stage, len(self._dataset))
        counts, histograms = [], []
        for predicted in predict_images(self._predictor(card), self._dataset):
            counts.append(confusion_matrix(predicted.truth, predicted.prediction, self._classes))
            histograms.append(predicted.histogram)
            self._reporter.advance(len(counts))
        return np.stack(counts), np.stack(histograms)

    def _keep(self, setting: str, value: Any, score: float) -> None:
        self.tried.append({"setting": setting, "value": value, "dice": score})


def _mean_dice(counts: Counts) -> float:
    """Mean over the foreground classes of an image, then over images."""
    return float(np.nan_to_num(nan_mean(nan_mean(dice(counts)[:, 1:], axis=1))))
