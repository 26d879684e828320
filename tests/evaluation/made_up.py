"""Synthetic results of an evaluation, and images for them."""

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np

from plainunet.evaluation.metrics import PROTOCOL
from plainunet.evaluation.report import Shown
from plainunet.palette import default_colors

HOSTILE = "<img src=x onerror=alert(1)>.png"
ENDING = "</script><script>alert(2)</script>\"'&$title"


def each_score(names: Sequence[str], make: Callable[[], Any]) -> dict[str, Any]:
    """A dictionary laid out like scores, with a new value in each place."""
    scores: dict[str, Any] = {"accuracy": make()}
    for metric in ("dice", "iou", "precision", "recall"):
        scores[metric] = {
            "mean_foreground": make(),
            "mean_with_background": make(),
            "per_class": {name: make() for name in names},
        }
    return scores


def make_result(
    images: int = 40, names: Sequence[str] = ("background", "car"), seed: int = 0
) -> dict[str, Any]:
    """A complete result with random scores."""
    random = np.random.default_rng(seed)

    def high() -> float:
        return 1 - min(0.9, float(random.gamma(2, 0.03)))

    def interval() -> list[float]:
        return sorted([high(), high()])

    foreground = names[1:]
    rows = []
    for number in range(images):
        row = {"image": f"cars/{number:04d}_of_one.jpg", "group": f"car {number // 5}"}
        row |= {"size": [1280, 1918], **each_score(names, high)}
        row["areas"] = {name: int(10 ** random.uniform(2, 6)) for name in names}
        row["boundary"] = {name: {"hd95": float(random.gamma(2, 3))} for name in foreground}
        rows.append(row)
    confusion = random.integers(0, 30_000, (len(names), len(names)))
    np.fill_diagonal(confusion, random.integers(2_000_000, 30_000_000, len(names)))
    metrics = ("hd95", "distance", "surface_dice", "boundary_iou")
    thresholds = [number / 20 for number in range(1, 20)]
    curve = [0.95 - (place - 0.45) ** 2 / 4 for place in thresholds]
    settings = {"size": [240, 360], "lr": 0.0025, "config": None, "flip": True, "classes": None}
    return {
        "split": "val",
        "protocol": PROTOCOL,
        "model": {
            "checkpoint": "runs/first/best.safetensors",
            "network": "U-Net, 16 base channels, depth 4, 1,942,594 parameters",
            "input_size": "240 x 360 pixels",
            "classes": [
                {"name": name, "color": list(color)}
                for name, color in zip(names, default_colors(len(names)), strict=True)
            ],
            "threshold": 0.5,
            "tta": "none",
            "scales": [1.0],
            "min_object": 0,
            "fill_holes": 0,
            "versions": {"plainunet": "0.1", "torch": "2.6", "python": "3.11"},
            "settings": settings,
            "machine": "2 cores",
        },
        "data": "data/cars",
        "command": "plainunet evaluate runs/first/best.safetensors data/cars",
        "pooled": each_score(names, high),
        "per_image": each_score(names, high),
        "absent": {name: {"left_out": 2, "scored_zero": 1} for name in names},
        "intervals": {
            "groups": -(-images // 5),
            "level": 0.95,
            "pooled": each_score(names, interval),
            "per_image": each_score(names, interval),
        },
        "boundary": {
            "tolerance": 2.0,
            "per_class": {name: dict.fromkeys(metrics, 0.75) for name in foreground},
            "intervals": {name: {key: [0.5, 1.0] for key in metrics} for name in foreground},
        },
        "objects": {
            "per_class": {
                name: {
                    "true": 1234,
                    "predicted": 1200,
                    "f1": {"pooled": 0.9, "per_image": 0.85},
                    "average_precision": {"pooled": 0.8, "per_image": None},
                    "together": {
                        "thresholds": thresholds,
                        "rand": curve,
                        "information": [value - 0.1 for value in curve],
                        "chosen": 0.5,
                    },
                }
                for name in foreground
            }
        },
        "confusion": confusion.tolist(),
        "threshold_curve": {
            "thresholds": thresholds,
            "pooled_dice": curve,
            "per_image_dice": [value - 0.01 for value in curve],
            "chosen": 0.5,
        },
        "calibration": {
            "confidence": [None] * 5 + [0.55, 0.65, 0.75, 0.85, 0.98],
            "accuracy": [None] * 5 + [0.5, 0.6, 0.74, 0.87, 0.99],
            "pixels": [0] * 5 + [100_000, 120_000, 200_000, 400_000, 30_000_000],
            "error": 0.0123,
        },
        "ceiling": {"size": [240, 360], "dice": 0.9965},
        "images": rows,
        "curves": [
            {
                "epoch": epoch,
                "loss": 2 / epoch,
                "learning_rate": 0.0025 * (1 - epoch / 25),
                "per_image_dice": None if epoch % 2 else 0.95 - 1 / (epoch + 2),
                "seconds": 10.0,
            }
            for epoch in range(1, 25)
        ],
    }


def make_shown(
    index: int, why: str = "worst", height: int = 128, width: int = 192, classes: int = 2
) -> Shown:
    """An image with texture at every scale, and two masks that differ along boundaries."""
    random = np.random.default_rng(index)
    image = np.zeros((height, width, 3), np.float32)
    for step in (2, 8, 32, 128):
        coarse = random.normal(0, step**0.5, (height // step + 2, width // step + 2, 3))
        image += cv2.resize(coarse.astype(np.float32), (width, height))
    image = 128 + 60 * image / image.std()
    masks = []
    for shift in (0, max(2, height // 40)):
        mask = np.zeros((height, width), np.uint8)
        for number in range(1, classes):
            at = (shift + width * number // classes, height // 2)
            cv2.ellipse(mask, at, (width // (2 * classes), height // 3), 20, 0, 360, number, -1)
        masks.append(mask)
    masks[0][: height // 16] = 255
    return Shown(index, image.clip(0, 255).astype(np.uint8), *masks, why)


def make_hostile() -> dict[str, Any]:
    """A result in which every text is an injection: one for image names, one for the rest."""
    result = make_result(4, ("background", ENDING))
    for image in result["images"]:
        image["image"] = image["group"] = HOSTILE
    result |= dict.fromkeys(("protocol", "command", "data", "split"), ENDING)
    result["model"] |= dict.fromkeys(("checkpoint", "network", "input_size", "tta"), ENDING)
    for key in ("settings", "versions"):
        result["model"][key] = {ENDING: HOSTILE}
    return result


def make_eighteen(**how: Any) -> list[Shown]:
    """As many images as a page shows, each made by `make_shown`."""
    drawn = make_shown(0, **how)
    worst = [drawn._replace(number=number) for number in range(12)]
    return [*worst, *(drawn._replace(number=number, why="median") for number in range(17, 23))]
