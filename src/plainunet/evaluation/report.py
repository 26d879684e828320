"""The report of an evaluation: one HTML file that works offline.

`charts` draws the charts, templates/report.html is the layout. The resolution ceiling is measured
here; all other numbers come from `measure`.
"""

import json
import math
import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from plainunet.dataset.dataset import SegmentationDataset
from plainunet.dataset.resize import fit_size, kept_at, reduce_size, resize
from plainunet.errors import Error
from plainunet.evaluation.charts import (
    Dot,
    Level,
    Line,
    calibration_chart,
    level_chart,
    line_chart,
    scatter_chart,
    score_limits,
    strip_chart,
)
from plainunet.evaluation.measure import PredictedImage
from plainunet.evaluation.metrics import logged_metrics, metric_labels
from plainunet.evaluation.scores import FEW
from plainunet.network.card import Card, versions
from plainunet.network.own import OwnNetwork
from plainunet.page import data_url, render, save_page
from plainunet.prediction.drawing import Colors, reduced_rgb
from plainunet.prediction.predictor import Predictor
from plainunet.text import NOTHING, interval, number, plural, score

WORST, MEDIAN = 12, 6
"""Maximum numbers of images shown: the worst ones, and those around the median."""
CEILING = 16
"""Maximum number of masks used to measure the resolution ceiling."""
_METRICS_FILE = "metrics.jsonl"
_SIDE = 1600  # longer side of a shown image, at most [pixels]
_SIDES = (1000, 800, 640, 512, 400, 320, 256, 192, 128, 96, 64)  # longer side of a panel [pixels]
_MOST = 4_900_000  # bytes of the page; images are downscaled to stay below
_MOST_OF_IMAGES = 3_200_000
_MOST_DOTS = 5000
_WRONG = (255, 40, 40)
_VOID = 128
_SPLITS = {
    "val": "validation split",
    "test": "test split",
    "train": "training split",
    "all": "all images",
    "out-of-fold": "out-of-fold predictions",
}


class About(NamedTuple):
    """What was evaluated."""

    checkpoint: str
    """The checkpoint file."""
    data: str
    """The data folder."""
    command: str
    """The command line that reproduces the report."""


class Shown(NamedTuple):
    """An image that the report shows."""

    number: int
    """Index among the images of the result."""
    image: NDArray[np.uint8]
    """[H, W, 3] uint8, RGB."""
    truth: NDArray[np.uint8]
    """[H, W] uint8, class ids; 255 is ignored."""
    prediction: NDArray[np.uint8]
    """[H, W] uint8, class ids."""
    why: str
    """"worst" or "median"."""


class Figure(NamedTuple):
    """A chart with its caption."""

    chart: str
    caption: str


def choose_shown(result: dict[str, Any]) -> dict[int, str]:
    """Choose the images that a report shows, in display order.

    Returns {index in the result: "worst" or "median"}: the lowest Dice first, then the images
    around the median.
    """
    means = [each["dice"]["mean_foreground"] for each in result["images"]]
    order = sorted(
        (number for number, mean in enumerate(means) if mean is not None),
        key=lambda number: means[number],
    )
    middle = max(0, len(order) // 2 - MEDIAN // 2)
    chosen = dict.fromkeys(order[:WORST], "worst")
    for index in order[middle : middle + MEDIAN]:
        chosen.setdefault(index, "median")
    return chosen


def show(index: int, why: str, seen: PredictedImage) -> Shown:
    """Keep an image and its masks for a report, downscaled to at most `_SIDE` pixels."""
    height, width = seen.truth.shape
    size = fit_size((height, width), (_SIDE, _SIDE))
    image = resize(reduced_rgb(seen.image, max(size)), size)
    if size == (height, width):
        return Shown(index, image, seen.truth, seen.prediction, why)
    truth, prediction = (
        np.asarray(cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST), np.uint8)
        for mask in (seen.truth, seen.prediction)
    )
    return Shown(index, image, truth, prediction, why)


def write_report(
    path: Path,
    result: dict[str, Any],
    shown: Iterable[Shown],
    predictor: Predictor,
    dataset: SegmentationDataset,
    about: About,
) -> None:
    """Write the report of an evaluation; `result` is that of `score_images`, with "split"."""
    checkpoint = Path(about.checkpoint)
    run = checkpoint if checkpoint.is_dir() else checkpoint.parent
    whole = {
        **result,
        "model": _describe(predictor, about),
        "data": about.data,
        "command": about.command,
        "ceiling": measure_ceiling(predictor.card, dataset),
        "curves": _read_curves(run / _METRICS_FILE),
    }
    save_page(path, render_report(whole, list(shown)))


def render_report(result: dict[str, Any], shown: Sequence[Shown]) -> str:
    """Render the report as HTML, below 5 MB unless there are tens of thousands of images.

    Sections without data in the result are omitted.

    Raises:
        ValueError: An image and its masks differ in size.
    """
    model = result["model"]
    names = [str(each["name"]) for each in model["classes"]]
    level = f"{100 * (number(_dig(result, 'intervals', 'level')) or 0.95):g}%"
    content: dict[str, Any] = {
        "title": result.get("title") or f"{model['checkpoint']} on {result['data']}",
        "result": result,
        "model": model,
        "level": level,
        "cards": [*_cards(result, level), *result.get("cards", ())],
        "about": _about(result),
        "figures": _figures(result, names),
        "metrics": metric_labels(result["pooled"]),
        "rows": _image_rows(result, names, {each.number for each in shown}),
        "how": _how(model),
    }
    # images get the bytes that the rest leaves
    rest = len(render("report.html", **content).encode(errors="backslashreplace"))
    most = min(_MOST_OF_IMAGES, _MOST - rest) // max(1, len(shown))
    colors = [tuple(each["color"]) for each in model["classes"]]
    images = []
    for each in shown:
        row = result["images"][each.number]
        panels, size = fit_panels(each, colors, most)
        dice = number(_dig(row, "dice", "mean_foreground"))
        image = {"id": _anchor(each.number), "name": str(row["image"]), "dice": dice}
        images.append({**image, "why": each.why, "panels": panels, "size": size})
    return render("report.html", **content, images=images)


def _describe(predictor: Predictor, about: About) -> dict[str, Any]:
    card = predictor.card
    return {
        "checkpoint": about.checkpoint,
        "network": _describe_network(predictor),
        "input_size": _describe_scale(card),
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
        f"{str(predictor.precision).removeprefix('torch.')}, "
        f"{plural(torch.get_num_threads(), 'thread')}",
    }


def _describe_network(predictor: Predictor) -> str:
    made = predictor.architecture
    text = (
        f"U-Net, {made['base_channels']} base channels, depth {made['depth']}, "
        f"normalisation {made['normalisation']}"
    )
    if predictor.is_exported:
        return f"{text}, exported"
    network = predictor.network
    text = network.name if isinstance(network, OwnNetwork) else text
    return f"{text}, {sum(each.numel() for each in network.parameters()):,} parameters"


def _describe_scale(card: Card) -> str:
    if card.size:
        return f"{card.size[0]} x {card.size[1]} pixels (larger images are downscaled)"
    if card.factor == 1:
        return "native resolution"
    return f"{card.factor:.0%} of the native resolution"


def measure_ceiling(card: Card, dataset: SegmentationDataset) -> dict[str, Any] | None:
    """Measure the resolution ceiling: the Dice of ground truth masks resized to the input size.

    The masks of some images are downscaled to the network's input size and back. Returns {"size":
    that of the last one, "dice": mean over classes and images}; None if no mask has a foreground.
    """
    kept, size = [], (0, 0)
    coding = dataset.coding
    for pair in dataset.pairs[:: -(-len(dataset) // CEILING)]:
        truth = coding.read(pair.mask)
        own = truth.shape[0], truth.shape[1]
        size = fit_size(own, card.size) if card.size else reduce_size(own, card.factor)
        kept.append(kept_at(truth, coding.num_classes, size))
    known = [each for each in kept if each is not None]
    return {"size": list(size), "dice": float(np.mean(known))} if known else None


def _read_curves(file: Path) -> list[dict[str, Any]] | None:
    """Read the epochs of the run, if the checkpoint is in its run folder."""
    try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return None
    for row in rows:
        if validated := row.get("validation"):
            row["per_image_dice"] = validated["per_image"]["dice"]["mean_foreground"]
    return rows


# text and tables


def _cards(result: dict[str, Any], level: str) -> list[dict[str, str]]:
    """The headline numbers."""
    groups = _groups(result)
    cards = []
    for part, label in (("per_image", "per image"), ("pooled", "pooled")):
        bounds = interval(_dig(result, "intervals", part, "dice", "mean_foreground"))
        note = f"{level} CI {bounds}" if bounds else "no confidence interval"
        if not bounds and groups == 1:
            note += ": all images are in one group"
        elif bounds and groups < FEW:
            note += f", too narrow: only {plural(groups, 'group')}"
        dice = number(_dig(result, part, "dice", "mean_foreground"))
        value = "no foreground" if dice is None else score(dice)
        cards.append({"label": f"Mean foreground Dice ({label})", "value": value, "note": note})
    ceiling = number(_dig(result, "ceiling", "dice"))
    if ceiling is not None:
        note = "upper bound on Dice at the network's input size"
        cards.append({"label": "Resolution ceiling", "value": score(ceiling), "note": note})
    return cards


def _about(result: dict[str, Any]) -> dict[str, Any]:
    model, images = result["model"], plural(len(result["images"]), "image")
    split = _SPLITS.get(result["split"], result["split"])
    facts = {
        "model": model["checkpoint"],
        "network": model.get("network"),
        "input size": model.get("input_size"),
        "data": result["data"],
        "evaluated on": f"{split}: {images} in {plural(_groups(result), 'group')}",
        "classes": ", ".join(str(each["name"]) for each in model["classes"]),
    }
    return {name: value for name, value in facts.items() if value}


def _groups(result: dict[str, Any]) -> int:
    groups = len({image.get("group") for image in result["images"]})
    return _dig(result, "intervals", "groups") or groups


def _how(model: dict[str, Any]) -> dict[str, Any]:
    labels = {
        "threshold": "threshold",
        "tta": "test-time augmentation",
        "scales": "test-time scales",
        "min_object": "minimum object size [pixels]",
        "fill_holes": "largest hole filled [pixels]",
        "machine": "machine",
    }
    return {label: model[key] for key, label in labels.items() if model.get(key) is not None}


def _image_rows(result: dict[str, Any], names: Sequence[str], shown: set[int]) -> dict[str, Any]:
    """Lay out the table of all images as JSON for the page's script."""
    foreground = names[1:]
    columns = [("image", "text"), ("group", "text"), ("height x width", "size")]
    scores: list[tuple[str, str, tuple[str, ...]]] = [
        (label, "score", (name, "mean_foreground"))
        for name, label in metric_labels(result["pooled"]).items()
        if name in logged_metrics(result["pooled"])
    ]
    scores.append(("accuracy", "score", ("accuracy",)))
    if len(foreground) > 1:
        scores += [(f"Dice {name}", "score", ("dice", "per_class", name)) for name in foreground]
    images = result["images"]
    if any(image.get("boundary") for image in images) and len(foreground) <= 3:
        scores += [(f"HD95 {name}", "pixels", ("boundary", name, "hd95")) for name in foreground]
    columns += [(label, kind) for label, kind, _ in scores]
    rows = []
    for image in images:
        values = [number(_dig(image, *path)) for _, _, path in scores]
        rounded = [None if value is None else round(value, 4) for value in values]
        size = [int(side) for side in image.get("size") or ()] or None
        rows.append([str(image["image"]), str(image.get("group") or NOTHING), size, *rounded])
    return {
        "columns": [{"name": name, "kind": kind} for name, kind in columns],
        "rows": rows,
        "anchors": [_anchor(row) if row in shown else None for row in range(len(images))],
    }


def _anchor(index: int) -> str:
    """The HTML id of a shown image."""
    return f"picture-{index}"


def _dig(found: Any, *keys: str) -> Any:
    """Look up nested keys; None if one is missing."""
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found


# charts


def _figures(result: dict[str, Any], names: Sequence[str]) -> dict[str, list[Figure]]:
    """Draw all charts, by section; an empty list if there is nothing to draw."""
    foreground = names[1:]
    return {
        "training": _training_figures(
            result.get("curves") or (), number(_dig(result, "per_image", "dice", "mean_foreground"))
        ),
        "strip": [_strip_figure(result["images"], foreground)],
        "threshold": _threshold_figures(result.get("threshold_curve") or {}),
        "calibration": _calibration_figures(result.get("calibration") or {}),
        "area": _area_figures(result["images"], foreground),
        "ceiling": _ceiling_figures(result),
        "objects": _object_figures(_dig(result, "objects", "per_class") or {}),
    }


def _numbers(values: Iterable[Any] | None) -> list[float | None]:
    return [number(value) for value in values or ()]


def _known(lines: Iterable[Line]) -> list[float]:
    return [value for line in lines for value in line.values if value is not None]


def _training_figures(curves: Sequence[dict[str, Any]], final: float | None) -> list[Figure]:
    """Draw loss, Dice and learning rate; `final` is the Dice of the evaluated weights."""
    rows = [row for row in curves if number(row.get("epoch")) is not None]
    places = [float(row["epoch"]) for row in rows]
    figures = []
    for key, label in (
        ("loss", "training loss"),
        ("per_image_dice", "validation Dice"),
        ("learning_rate", "learning rate"),
    ):
        line = Line(label, _numbers(row.get(key) for row in rows))
        if not (known := _known([line])):
            continue
        caption = f"{label.capitalize()}; last value {known[-1]:.4g}."
        limits: tuple[float | None, float | None] = (0 if min(known) >= 0 else None, None)
        lines = [line]
        if key == "per_image_dice":
            caption = f"Validation Dice (at training resolution); last value {known[-1]:.4g}."
            if final is not None:
                caption += f" The evaluated weights, at native resolution: {final:.4g}."
                lines.append(Line("evaluated", [*[None] * (len(places) - 1), final]))
            limits = score_limits(_known(lines))
        chart = line_chart(f"{label} by epoch", ("epoch", label), places, lines, limits)
        figures.append(Figure(chart, caption))
    return figures


def _strip_figure(images: Sequence[dict[str, Any]], names: Sequence[str]) -> Figure:
    rows: list[tuple[str, list[Dot]]] = []
    for name in names:
        dice = _numbers(_dig(image, "dice", "per_class", name) for image in images)
        scored = zip(images, dice, strict=True)
        rows.append((name, [Dot(str(row["image"]), x) for row, x in scored if x is not None]))
    caption = "Each dot is an image; the vertical line is the median."
    if sum(len(dots) for _, dots in rows) > _MOST_DOTS:
        caption += " Overlapping images share a larger dot."
    return Figure(strip_chart("Dice of each image, by class", rows, _MOST_DOTS), caption)


def _area_figures(images: Sequence[dict[str, Any]], names: Sequence[str]) -> list[Figure]:
    drawn: dict[str, list[Dot]] = {}
    for name in names:
        for image in images:
            area = number(_dig(image, "areas", name))
            dice = number(_dig(image, "dice", "per_class", name))
            if area and dice is not None:
                drawn.setdefault(name, []).append(Dot(str(image["image"]), area, dice))
    low = score_limits(dot.y for dots in drawn.values() for dot in dots)[0]
    figures = []
    for name, dots in drawn.items():
        label = f"area of {name if len(name) <= 30 else name[:29] + '…'} [pixels]"
        most = _MOST_DOTS // len(drawn)
        chart = scatter_chart(f"Dice of {name} by its area", label, dots, low, most)
        caption = f"Each dot is an image with {name} ({plural(len(dots), 'image')})."
        figures.append(Figure(chart, caption))
    return figures


def _threshold_figures(curve: dict[str, Any]) -> list[Figure]:
    if not curve.get("thresholds"):
        return []
    lines = [
        Line("per image", _numbers(curve["per_image_dice"])),
        Line("pooled", _numbers(curve["pooled_dice"])),
    ]
    chosen = number(curve.get("chosen"))
    places = [float(place) for place in curve["thresholds"]]
    labels, limits = ("threshold", "Dice"), score_limits(_known(lines))
    chart = line_chart("Dice by threshold", labels, places, lines, limits, chosen)
    caption = "A pixel is foreground where its probability is above the threshold."
    if chosen is not None:
        caption += f" Threshold used: {chosen:g}."
    return [Figure(chart, caption)]


def _object_figures(per_class: dict[str, Any]) -> list[Figure]:
    """Separation of touching objects, by threshold."""
    figures = []
    for name, found in per_class.items():
        curve = found.get("together") or {}
        if not curve.get("thresholds"):
            continue
        lines = [
            Line("Rand", _numbers(curve["rand"])),
            Line("information", _numbers(curve["information"])),
        ]
        places = [float(place) for place in curve["thresholds"]]
        title = f"Separation of objects of {name} by threshold"
        limits, chosen = score_limits(_known(lines)), number(curve.get("chosen"))
        chart = line_chart(title, ("threshold", "score"), places, lines, limits, chosen)
        best = []
        for line in lines:
            pairs = zip(line.values, places, strict=True)
            value, place = max(((v, p) for v, p in pairs if v is not None), default=(None, 0.0))
            best.append(f"{line.label} {score(value)} at {place:g}")
        caption = f"{name}: foreground-restricted Rand and information F-scores; best: "
        figures.append(Figure(chart, f"{caption}{', '.join(best)}."))
    return figures


def _calibration_figures(found: dict[str, Any]) -> list[Figure]:
    if not found:
        return []
    chart = calibration_chart(
        "Reliability diagram: accuracy by confidence",
        _numbers(found["confidence"]),
        _numbers(found["accuracy"]),
        [int(amount or 0) for amount in found["pixels"]],
    )
    caption = (
        f"Reliability diagram. Expected calibration error (ECE) {score(found.get('error'))}: the "
        "mean gap between confidence and accuracy over all pixels. The dashed line is perfect "
        "calibration; below it the model is overconfident. Larger dots: more pixels."
    )
    return [Figure(chart, caption)]


def _ceiling_figures(result: dict[str, Any]) -> list[Figure]:
    ceiling, size = number(_dig(result, "ceiling", "dice")), _dig(result, "ceiling", "size")
    if ceiling is None:
        return []
    keys = "per_image", "dice", "mean_foreground"
    reached = number(_dig(result, *keys))
    levels = [Level("resolution ceiling", ceiling)]
    if reached is not None:
        bounds = _numbers(_dig(result, "intervals", *keys))
        levels.insert(0, Level("this model, per image", reached, bounds))
    to = f" to {size[0]} x {size[1]} pixels" if size else ""
    caption = (
        f"The resolution ceiling is the upper bound on Dice at this input size: ground truth masks "
        f"downscaled{to} and back score {score(ceiling)}."
    )
    if reached is not None and ceiling > reached:
        caption += f" The model is {ceiling - reached:.4f} below."
    return [Figure(level_chart("Dice of the model, and the resolution ceiling", levels), caption)]


# panels


def draw_panels(shown: Shown, colors: Colors, side: int) -> dict[str, NDArray[np.uint8]]:
    """Draw the image, ground truth, prediction and errors (red), [h, w, 3] uint8 each."""
    sizes = {part.shape[:2] for part in (shown.image, shown.truth, shown.prediction)}
    if len(sizes) > 1:
        raise Error(
            f"Image {shown.number} and its masks have different sizes: {sorted(sizes)}. Masks must "
            "be as large as their image."
        )
    height, width = shown.truth.shape
    size = fit_size((height, width), (side, side))
    image = resize(shown.image, size)
    table = np.full((256, 3), _VOID, np.uint8)
    table[: len(colors)] = colors
    valid = shown.truth < len(colors)
    wrong = _fraction(valid & (shown.truth != shown.prediction), size)
    void = _fraction(~valid, size)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None] / 3.0
    errors = grey * (1 - wrong - void) + np.array(_WRONG) * wrong + _VOID * void
    truth, prediction = (resize(table[ids], size) for ids in (shown.truth, shown.prediction))
    return {
        "image": image,
        "ground truth": truth,
        "prediction": prediction,
        "errors": errors.round().clip(0, 255).astype(np.uint8),
    }


def fit_panels(shown: Shown, colors: Colors, most: int) -> tuple[dict[str, str], tuple[int, int]]:
    """Encode the panels of an image in at most `most` bytes, or at the smallest size.

    Returns {panel name: data URL}, and the height and width of the panels [pixels].
    """
    side = _SIDES[0]
    while True:
        panels = draw_panels(shown, colors, side)
        urls = {
            name: data_url(panel, "png" if name in ("ground truth", "prediction") else "jpeg")
            for name, panel in panels.items()
        }
        size = panels["image"].shape[0], panels["image"].shape[1]
        weight = sum(map(len, urls.values()))
        if weight <= most or side == _SIDES[-1]:
            return urls, size
        # bytes grow roughly with the area
        wanted = max(size) * math.sqrt(max(0, most) / weight)
        smaller = [each for each in _SIDES if each < side]
        side = next((each for each in smaller if each <= wanted), smaller[-1])


def _fraction(inside: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[Any]:
    """The fraction of each downscaled pixel that lies inside, [h, w, 1] float32."""
    return resize(inside[..., None].astype(np.float32), size)
