"""From an evaluation to the page that a person opens.

In: the result of an evaluation, the model, and the pictures. Out: a report; what it needs beside
the numbers is found here: which pictures to show, what the model is, what its size allows.
"""

import json
import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

from plainunet.dataset.coding import Coding
from plainunet.dataset.pairs import Pair
from plainunet.dataset.resize import fit_size, kept_at, reduce_size, resize
from plainunet.evaluation.measure import PredictedImage
from plainunet.evaluation.report.page import write_report
from plainunet.evaluation.report.panels import Shown
from plainunet.network.checkpoint import Card, versions
from plainunet.network.unet import UNet
from plainunet.prediction.predictor import Predictor

WORST, MEDIAN = 12, 6
"""At most so many pictures are shown, from both places in the order of scores."""
CEILING = 16
"""At most so many masks are reduced and brought back to find the ceiling."""
_METRICS_FILE = "metrics.jsonl"
_SIDE = 1600  # pixels of a shown picture's longer side, at most


class About(NamedTuple):
    """What was judged, in words."""

    checkpoint: str
    """The model's file."""
    data: str
    """The data folder."""
    command: str
    """The command line that repeats it."""


def choose_shown(result: dict[str, Any]) -> dict[int, str]:
    """Choose the pictures that a report shows.

    Args:
        result: As by `score_images`.

    Returns:
        Numbers among the result's images: the worst, from the worst on, and those around the
        median; for each "worst" or "median".
    """
    means = [each["dice"]["mean_foreground"] for each in result["images"]]
    order = sorted(
        (number for number, mean in enumerate(means) if mean is not None),
        key=lambda number: means[number],
    )
    middle = max(0, len(order) // 2 - MEDIAN // 2)
    chosen = dict.fromkeys(order[:WORST], "worst")
    for number in order[middle : middle + MEDIAN]:
        chosen.setdefault(number, "median")
    return chosen


def show(index: int, why: str, seen: PredictedImage) -> Shown:
    """Keep of a picture what a report shows of it.

    Args:
        index: Its number among the result's images.
        why: As by `choose_shown`.
        seen: The picture.

    Returns:
        The picture with its masks, reduced where it is large.
    """
    height, width = seen.truth.shape
    size = fit_size((height, width), (_SIDE, _SIDE))
    if size == (height, width):
        return Shown(index, seen.image, seen.truth, seen.prediction, why)
    truth, prediction = (
        np.asarray(cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST), np.uint8)
        for mask in (seen.truth, seen.prediction)
    )
    image = seen.image if seen.image.dtype == np.uint8 else seen.image.astype(np.float32)
    return Shown(index, resize(image, size), truth, prediction, why)


def present(
    path: Path,
    result: dict[str, Any],
    shown: Iterable[Shown],
    predictor: Predictor,
    pairs: Sequence[Pair],
    coding: Coding,
    about: About,
) -> None:
    """Write the report of an evaluation.

    Args:
        path: The HTML file; it appears whole or not at all.
        result: As by `score_images`, with "split".
        shown: The pictures that it shows.
        predictor: The model.
        pairs: The pictures that were judged.
        coding: How mask values become class ids.
        about: What was judged.
    """
    run = Path(about.checkpoint).parent
    write_report(
        path,
        {
            **result,
            "model": _describe(predictor, about),
            "data": about.data,
            "command": about.command,
            "ceiling": measure_ceiling(predictor.card, pairs, coding),
            "curves": _read_curves(run / _METRICS_FILE),
        },
        list(shown),
    )


def _describe(predictor: Predictor, about: About) -> dict[str, Any]:
    card, network = predictor.card, predictor.network
    return {
        "checkpoint": about.checkpoint,
        "network": _describe_network(network),
        "sees": _describe_scale(card),
        "classes": [
            {"name": name, "color": list(color)}
            for name, color in zip(card.class_names, card.colors, strict=True)
        ],
        "threshold": card.threshold if len(card.class_names) == 2 else None,
        "tta": card.tta,
        "scales": list(card.scales),
        "min_object": card.min_object,
        "fill_holes": card.fill_holes,
        "versions": versions(),
        "settings": card.training.get("settings", {}),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {predictor.device}, "
        f"{str(predictor.precision).removeprefix('torch.')}, {torch.get_num_threads()} threads",
    }


def _describe_network(network: UNet) -> str:
    count = sum(weights.numel() for weights in network.parameters())
    base = network.architecture["base_channels"]
    kind = network.architecture["normalisation"]
    return (
        f"U-Net, {base} base channels, depth {network.depth}, normalisation {kind}, {count:,} "
        "parameters"
    )


def _describe_scale(card: Card) -> str:
    if card.size:
        return f"pictures reduced to fit in {card.size[0]} x {card.size[1]} pixels"
    if card.factor == 1:
        return "pictures at their own size"
    return f"pictures reduced to {card.factor:.0%} of their sides"


def measure_ceiling(card: Card, pairs: Sequence[Pair], coding: Coding) -> dict[str, Any] | None:
    """Measure what true masks keep at the size at which the network sees them.

    Args:
        card: The model's description.
        pairs: The pictures; some of them are taken.
        coding: How mask values become class ids.

    Returns:
        {"size": of the last one, "dice": mean over classes and pictures}; None where no mask
        shows a class.
    """
    kept, size = [], (0, 0)
    for pair in pairs[:: -(-len(pairs) // CEILING)]:
        truth = coding.read(pair.mask)
        own = truth.shape[0], truth.shape[1]
        size = fit_size(own, card.size) if card.size else reduce_size(own, card.factor)
        kept.append(kept_at(truth, coding.num_classes, size))
    known = [each for each in kept if each is not None]
    return {"size": list(size), "dice": float(np.mean(known))} if known else None


def _read_curves(file: Path) -> list[dict[str, Any]] | None:
    """The epochs of the run, if the model lies in its run folder."""
    try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return None
    for row in rows:
        if judged := row.get("validation"):
            row["per_image_dice"] = judged["per_image"]["dice"]["mean_foreground"]
    return rows
