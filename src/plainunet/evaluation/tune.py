"""Tune prediction on the validation split: threshold, test-time augmentation, minimum object size.

The best settings go into a copy of the checkpoint. No other split is read, so the test split stays
unseen.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from plainunet.config import TTAName
from plainunet.dataset.dataset import SegmentationDataset
from plainunet.errors import Error
from plainunet.evaluation.evaluate import open_dataset
from plainunet.evaluation.measure import predict_images
from plainunet.evaluation.metrics import Counts, confusion_matrix, dice, nan_mean, threshold_curve
from plainunet.files import require_own, require_writable
from plainunet.network.card import Card, find_checkpoint
from plainunet.network.checkpoint import load_checkpoint, save_checkpoint
from plainunet.parts import parts_of
from plainunet.prediction.exported import SUFFIXES
from plainunet.prediction.objects import remove_small
from plainunet.prediction.predictor import Predictor
from plainunet.reporter import Reporter, silent

LEAST_OBJECTS = (0, 10, 30, 100, 300, 1000, 3000, 10_000)
"""Minimum object sizes to try [pixels]."""
GAIN = 0.0005
"""Minimum gain in Dice for test-time augmentation, since it multiplies the inference time."""
_TTA: dict[str, tuple[TTAName, ...]] = {
    "flip": ("none", "mirror"),
    "light": ("none", "mirror"),
    "strong": ("none", "turns"),
}
"""Test-time augmentation to try, by the augmentation in training."""
_SPLIT = "val"
_SETTINGS = ("threshold", "tta", "min_object", "fill_holes")


def tune(
    checkpoint: str | Path,
    data: str | Path,
    *,
    folder: Mapping[str, Any] | None = None,
    device: str = "auto",
    precision: str = "auto",
    network: Any = None,
    reporter: Reporter = silent,
) -> dict[str, Any]:
    """Find the best settings on the validation split and write them into a copy of the checkpoint.

    The copy of NAME.safetensors is NAME-tuned.safetensors next to it; an earlier one is replaced.

    Args:
        checkpoint: A `best.safetensors`; it is only read.
        data: The folder that it was trained on, or one with a split "val" of its own.
        folder: Fields of `FolderConfig`: where images and masks are.
        device: "auto", "cpu", "cuda" or "mps".
        precision: "auto", "fp32" or "bf16".
        network: The factory of your own network, as in `Predictor.load`.
        reporter: Receives the progress, and notes on how the folder was read.

    Returns:
        {"checkpoint": the path of the copy; "part": the split; "pictures": its number of images;
        "before", "after": the settings; "dice": {"before", "after"}; "tried": [{"setting", "value",
        "dice"}]}, Dice being the mean over foreground classes and images.

    Raises:
        FileNotFoundError: No such checkpoint or folder.
        ValueError: There is no validation split, the copy cannot be written, or a file of its name
            is not a tuned checkpoint.
    """
    path = find_checkpoint(checkpoint)
    if path.suffix.lower() in SUFFIXES:
        raise Error(f"{path}: an exported file. Tune its checkpoint, and export that again.")
    tuned = path.with_name(f"{path.stem}-tuned{path.suffix}")
    found, card = load_checkpoint(path, parts_of(network, "--network"))
    require_writable(path.parent)
    require_own(tuned, r"\"tuned\": {")  # in the metadata, which is JSON in JSON
    dataset, _ = open_dataset(card, path, Path(data), _SPLIT, folder, reporter)
    search = _Search(path, dataset, reporter, device=device, precision=precision, network=network)
    before = search.baseline(card)
    plain = dataclasses.replace(card, tta="none", min_object=0, fill_holes=0)
    chosen, best = search.min_object(*search.tta(plain))
    if best <= before:
        chosen, best = card, before
    outcome = {
        "part": _SPLIT,
        "pictures": len(dataset),
        "before": {name: getattr(card, name) for name in _SETTINGS},
        "after": {name: getattr(chosen, name) for name in _SETTINGS},
        "dice": {"before": before, "after": best},
    }
    scores = {**card.scores, "tuned": outcome}
    save_checkpoint(tuned, found, dataclasses.replace(chosen, scores=scores))
    return {"checkpoint": str(tuned), **outcome, "tried": search.tried}


class _Search:
    """Tries settings one by one and keeps the score of each in `tried`."""

    def __init__(
        self,
        path: Path,
        dataset: SegmentationDataset,
        reporter: Reporter,
        **how: Any,
    ) -> None:
        self._path, self._dataset, self._reporter, self._how = path, dataset, reporter, how
        self._classes = dataset.coding.num_classes
        self.tried: list[dict[str, Any]] = []

    def baseline(self, card: Card) -> float:
        """Score the settings of the checkpoint."""
        score = _mean_dice(self._count(card, "baseline")[0])
        self._keep("baseline", None, score)
        return score

    def tta(self, plain: Card) -> tuple[Card, float]:
        """Choose the test-time augmentation and, with two classes, the threshold; and its score."""
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
        """Choose the minimum object size, if one beats keeping all objects; and its score."""
        self._reporter.stage("small objects", len(self._dataset))
        counts = []
        for predicted in predict_images(self._predictor(chosen), self._dataset):
            mask, each = predicted.prediction, []
            for least in LEAST_OBJECTS:  # in rising order, so each starts from the last mask
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
        overrides = {name: getattr(card, name) for name in settings}
        return Predictor.load(self._path, **self._how, **overrides)

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
