"""Settings of prediction that suit a model best, found on its validation part.

In: a checkpoint, and the folder that it was trained on. Out: the threshold, the test-time
augmentation and the least size of objects that score best there, written into the checkpoint's
description. No other part of the data is looked at, so that a test part stays one.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plainunet.dataset.coding import Coding
from plainunet.dataset.pairs import Pair
from plainunet.evaluation.evaluate import open_folder
from plainunet.evaluation.measure import judged
from plainunet.evaluation.metrics import Counts, confusion_matrix, dice, mean_known, threshold_curve
from plainunet.network.checkpoint import Card, load_checkpoint, save_checkpoint
from plainunet.prediction.objects import remove_small
from plainunet.prediction.predictor import Predictor

LEAST_OBJECTS = (0, 10, 30, 100, 300, 1000, 3000, 10_000)
"""Sizes of objects that are tried [pixels]."""
GAIN = 0.0005
"""Dice that test-time augmentation must bring, since it takes a multiple of the time."""
_TTA = {"flip": ("none", "mirror"), "light": ("none", "mirror"), "strong": ("none", "turns")}
"""What is tried goes by how pictures were varied in training."""
_PART = "val"


def tune(
    checkpoint: str | Path,
    data: str | Path,
    *,
    folder: Mapping[str, Any] | None = None,
    device: str = "auto",
    precision: str = "auto",
    on_progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    on_note: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Find the settings on the validation part, and write them into the checkpoint.

    Args:
        checkpoint: A `best.safetensors`; it is written anew.
        data: The folder that it was trained on, or one with a part "val" of its own.
        folder: Where pictures and masks are, as of `FolderConfig`.
        device: "auto", "cpu", "cuda" or "mps".
        precision: "auto", "fp32" or "bf16".
        on_progress: Told what is tried, and how many of how many pictures are done.
        on_note: Told what was left aside in the folder.

    Returns:
        {"part", "pictures", "before", "after": the settings; "dice": {"before", "after"}; "tried":
        [{"setting", "value", "dice"}]}, Dice being the mean over classes and pictures.

    Raises:
        FileNotFoundError: No such checkpoint or folder.
        PermissionError: The checkpoint may not be written.
        ValueError: There is no validation part, or the folder cannot be understood.
    """
    path = Path(checkpoint)
    network, card = load_checkpoint(path)
    if not path.stat().st_mode & 0o222:
        raise PermissionError(
            f"{path}: may not be written, and --tune writes what it finds into the checkpoint. "
            "Make it writable (chmod u+w), or tune a copy in a copy of its run folder."
        )
    dataset, _ = open_folder(card, path, Path(data), _PART, folder, on_note)
    pairs, coding = dataset.pairs, dataset.coding
    tried: list[dict[str, Any]] = []

    def look(changed: Card) -> Predictor:
        instead = {name: getattr(changed, name) for name in ("tta", "min_object", "fill_holes")}
        if network.num_classes == 2:
            instead["threshold"] = changed.threshold
        return Predictor.load(path, device=device, precision=precision, **instead)

    def note(setting: str, value: Any, score: float) -> None:
        tried.append({"setting": setting, "value": value, "dice": score})

    plain = dataclasses.replace(card, tta="none", min_object=0, fill_holes=0)
    before = _mean_dice(_count(look(card), pairs, coding, "as it was", on_progress)[0])
    note("as it was", None, before)
    best, chosen = -1.0, plain
    for tta in _TTA.get(card.training.get("settings", {}).get("augment", ""), ("none",)):
        trial = dataclasses.replace(plain, tta=tta)
        counts, given = _count(look(trial), pairs, coding, f"tta {tta}", on_progress)
        score = _mean_dice(counts)
        if network.num_classes == 2:
            curve = threshold_curve(given)
            number = int(np.argmax(curve["per_image_dice"]))
            trial = dataclasses.replace(trial, threshold=curve["thresholds"][number])
            score = curve["per_image_dice"][number]
        value = f"{tta}, threshold {trial.threshold:g}" if network.num_classes == 2 else tta
        note("tta", value, score)
        if score > best + (GAIN if tta != "none" else 0):
            best, chosen = score, trial
    for least, score in _try_sizes(look(chosen), pairs, coding, on_progress):
        note("min_object", least, score)
        if score > best:
            best, chosen = score, dataclasses.replace(chosen, min_object=least)
    if best <= before:  # nothing is better than what is there
        best, chosen = before, card
    names = ("threshold", "tta", "min_object", "fill_holes")
    said = {
        "part": _PART,
        "pictures": len(pairs),
        "before": {name: getattr(card, name) for name in names},
        "after": {name: getattr(chosen, name) for name in names},
        "dice": {"before": before, "after": best},
    }
    save_checkpoint(
        path, network, dataclasses.replace(chosen, scores={**card.scores, "tuned": said})
    )
    return {**said, "tried": tried}


def _count(
    predictor: Predictor,
    pairs: Sequence[Pair],
    coding: Coding,
    what: str,
    on_progress: Callable[[str, int, int], None],
) -> tuple[Counts, Counts]:
    """Of each picture the pixels [n, K, K], and how often each probability was given."""
    counts, given = [], []
    for seen in judged(predictor, pairs, coding):
        counts.append(confusion_matrix(seen.truth, seen.prediction, coding.num_classes))
        given.append(seen.probabilities)
        on_progress(what, len(counts), len(pairs))
    return np.stack(counts), np.stack(given)


def _try_sizes(
    predictor: Predictor,
    pairs: Sequence[Pair],
    coding: Coding,
    on_progress: Callable[[str, int, int], None],
) -> list[tuple[int, float]]:
    """Score masks without their small objects, for each of `LEAST_OBJECTS`."""
    counts = []
    for number, seen in enumerate(judged(predictor, pairs, coding)):
        mask, each = seen.prediction, []
        for least in LEAST_OBJECTS:  # what is too small for one is too small for the next
            mask = remove_small(mask, least) if least > 1 else mask
            each.append(confusion_matrix(seen.truth, mask, coding.num_classes))
        counts.append(each)
        on_progress("small objects", number + 1, len(pairs))
    by_size = np.moveaxis(np.array(counts), 1, 0)
    return [(n, _mean_dice(each)) for n, each in zip(LEAST_OBJECTS, by_size, strict=True)]


def _mean_dice(counts: Counts) -> float:
    """Mean over the foreground classes of a picture, then over pictures."""
    return float(np.nan_to_num(mean_known(mean_known(dice(counts)[:, 1:], axis=1))))
