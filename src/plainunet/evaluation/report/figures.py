"""Which parts of a result become which charts, and what is said below them.

In: parts of a result. Out: HTML figures; "" where there is nothing to draw.
"""

from collections.abc import Sequence
from typing import Any

from plainunet.evaluation.report.axes import Axis, axis_for, score_axis
from plainunet.evaluation.report.charts import (
    Dot,
    Level,
    Line,
    calibration,
    level_chart,
    line_chart,
    scatter,
    strip_plot,
)
from plainunet.evaluation.report.words import cut, dig, number, numbers, score, several, text

_MOST_DOTS = 5000


def training_figures(curves: Sequence[dict[str, Any]] | None) -> str:
    """Draw loss, Dice and learning rate over the epochs.

    Args:
        curves: The result's part of that name.

    Returns:
        Figures.
    """
    rows = [row for row in curves or () if number(row.get("epoch")) is not None]
    places = [float(row["epoch"]) for row in rows]
    figures = []
    for key, label in (
        ("loss", "training loss"),
        ("per_image_dice", "Dice per image, while training"),
        ("learning_rate", "learning rate"),
    ):
        values = numbers(row.get(key) for row in rows)
        known = [value for value in values if value is not None]
        if not known:
            continue
        axis = score_axis("Dice", known) if key == "per_image_dice" else axis_for(label, known)
        if key != "per_image_dice":
            axis = Axis(label, min(0.0, axis.low), axis.high)
        chart = line_chart(f"{label} by epoch", "epoch", axis, places, [Line(label, values)])
        figures.append(_figure(chart, f"{label.capitalize()}; at the end {known[-1]:.4g}."))
    return _grid(figures)


def strip_figure(images: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """Draw each picture's Dice, a row for each class.

    Args:
        images: The result's images.
        names: The foreground classes.

    Returns:
        A figure.
    """
    rows: list[tuple[str, list[Dot]]] = []
    for name in names:
        dice = numbers(dig(image, "dice", "per_class", name) for image in images)
        dots = [
            Dot(str(image["image"]), value)
            for image, value in zip(images, dice, strict=True)
            if value is not None
        ]
        rows.append((name, dots))
    chart = strip_plot("Dice of each picture, by class", rows, _MOST_DOTS)
    said = "Each dot is a picture; the upright line is the median."
    if sum(len(dots) for _, dots in rows) > _MOST_DOTS:
        said += " Pictures that lie side by side share a dot, which is larger."
    return _figure(chart, said, wide=True)


def size_figures(images: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """Draw Dice against the area of a class, a chart for each class.

    Args:
        images: The result's images.
        names: The foreground classes.

    Returns:
        Figures.
    """
    drawn: dict[str, list[Dot]] = {}
    for name in names:
        dots = []
        for image in images:
            area, dice = number(dig(image, "areas", name)), dig(image, "dice", "per_class", name)
            value = number(dice)
            if area is not None and area > 0 and value is not None:
                dots.append(Dot(str(image["image"]), area, value))
        if dots:
            drawn[name] = dots
    each = _MOST_DOTS // max(1, len(drawn))
    axis = score_axis("Dice", [dot.y for dots in drawn.values() for dot in dots])
    return _grid(
        [
            _figure(
                scatter(
                    f"Dice of {name} against its area",
                    f"area of {cut(name, 30)} [pixels]",
                    axis,
                    dots,
                    each,
                ),
                f"{name}: {several(len(dots), 'picture')} that have it.",
            )
            for name, dots in drawn.items()
        ]
    )


def threshold_figure(curve: dict[str, Any] | None) -> str:
    """Draw Dice over the threshold.

    Args:
        curve: The result's `threshold_curve`.

    Returns:
        A figure.
    """
    if not curve or not curve.get("thresholds"):
        return ""
    places = [float(place) for place in curve["thresholds"]]
    lines = [
        Line("per image", numbers(curve["per_image_dice"])),
        Line("pooled", numbers(curve["pooled_dice"])),
    ]
    known = [value for line in lines for value in line.values if value is not None]
    chosen = number(curve.get("chosen"))
    chart = line_chart(
        "Dice by threshold", "threshold", score_axis("Dice", known), places, lines, chosen
    )
    said = "A pixel is foreground where its probability is above the threshold."
    if chosen is not None:
        said += f" Masks were made at {chosen:g}."
    return _grid([_figure(chart, said)])


def together_figures(objects: dict[str, Any] | None) -> str:
    """Draw how well touching objects are told apart, over the threshold.

    Args:
        objects: The result's part of that name.

    Returns:
        Figures.
    """
    figures = []
    for name, found in (dig(objects, "per_class") or {}).items():
        curve = found.get("together")
        if not curve or not curve.get("thresholds"):
            continue
        lines = [
            Line("Rand", numbers(curve["rand"])),
            Line("information", numbers(curve["information"])),
        ]
        known = [value for line in lines for value in line.values if value is not None]
        places = [float(place) for place in curve["thresholds"]]
        title = f"Objects of {name} told apart, by threshold"
        axis = score_axis("score", known)
        chosen = number(curve.get("chosen"))
        chart = line_chart(title, "threshold", axis, places, lines, chosen)
        best = [
            f"{line.label} {score(value)} at {place:g}"
            for line in lines
            for value, place in [max(_with_places(line.values, places), default=(None, 0.0))]
        ]
        said = f"{name}: how well its objects are told apart; at best {' and '.join(best)}."
        figures.append(_figure(chart, said))
    return _grid(figures)


def _with_places(
    values: Sequence[float | None], places: Sequence[float]
) -> list[tuple[float, float]]:
    """The values that are known, each with its place."""
    return [(v, place) for v, place in zip(values, places, strict=True) if v is not None]


def calibration_figure(found: dict[str, Any] | None) -> str:
    """Draw how often the model is right against how sure it is.

    Args:
        found: The result's `calibration`.

    Returns:
        A figure.
    """
    if not found:
        return ""
    pixels = [int(amount or 0) for amount in found["pixels"]]
    chart = calibration(
        "Share of right pixels by probability",
        numbers(found["confidence"]),
        numbers(found["accuracy"]),
        pixels,
    )
    return _grid(
        [
            _figure(
                chart,
                f"Calibration error {score(found.get('error'))}: how far, on average over the "
                "pixels, the share of right pixels is from the probability. On the dashed line it "
                "is not; below it the model is too sure. Larger dots stand for more pixels.",
            )
        ]
    )


def ceiling_figure(result: dict[str, Any]) -> str:
    """Draw the score beside what masks keep at the size that the network sees.

    Args:
        result: The result.

    Returns:
        A figure.
    """
    most, size = number(dig(result, "ceiling", "dice")), dig(result, "ceiling", "size")
    if most is None:
        return ""
    keys = "per_image", "dice", "mean_foreground"
    reached = number(dig(result, *keys))
    levels = [Level("true masks, reduced and brought back", most)]
    if reached is not None:
        within = numbers(dig(result, "intervals", *keys))
        known = within if len(within) == 2 and None not in within else None
        levels.insert(0, Level("this model, per image", reached, known))
    at = f" to {size[0]} x {size[1]} pixels" if size else ""
    said = (
        f"True masks that are reduced{at} and brought back keep a Dice of {score(most)}: a network "
        "that sees pictures at this size can score no higher."
    )
    if reached is not None and most > reached:
        said += f" The model is {most - reached:.4f} below."
    return _grid([_figure(level_chart("Score and ceiling", "Dice", levels), said)])


def _figure(chart: str, said: str, wide: bool = False) -> str:
    kind = ' class="wide"' if wide else ""
    return f"<figure{kind}>{chart}<figcaption>{text(said)}</figcaption></figure>"


def _grid(figures: Sequence[str]) -> str:
    return f'<div class="charts">{"".join(figures)}</div>' if figures else ""
