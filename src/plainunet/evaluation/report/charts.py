"""Charts as inline SVG.

In: numbers and names. Out: SVG elements as text, whose dots say what they are when the pointer
rests on them. Lines differ in colour, dashes and marks.
"""

import math
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from plainunet.evaluation.report.axes import (
    BOTTOM,
    HEIGHT,
    LEFT,
    TOP,
    WIDTH,
    Axis,
    across,
    axis_for,
    draw_across,
    draw_upward,
    drawing,
    score_axis,
    upward,
)
from plainunet.evaluation.report.words import bounds, count, cut, score, text

_ROW = 58  # height of a row in a strip plot
_SPREAD = 30  # of which its dots take so much
_STEPS = 160  # columns in which the dots of a strip pile up
_CELLS = 48  # columns and rows in which a crowded scatter is drawn
_MOST_MARKS = 60  # on a line


class Line(NamedTuple):
    """A line of a chart."""

    label: str
    values: Sequence[float | None]
    """One for each place along the horizontal axis; None where there is none."""


class Dot(NamedTuple):
    """A picture in a chart."""

    name: str
    x: float
    y: float = 0.0


class Level(NamedTuple):
    """A score among others."""

    label: str
    value: float
    interval: Sequence[float | None] | None = None


def line_chart(
    name: str,
    x_label: str,
    y_axis: Axis,
    places: Sequence[float],
    lines: Sequence[Line],
    chosen: float | None = None,
) -> str:
    """Draw lines over a common horizontal axis.

    Args:
        name: What it shows.
        x_label: What the places are.
        y_axis: The vertical axis.
        places: Rising.
        lines: One to three, each with as many values as there are places.
        chosen: A place that is marked.

    Returns:
        An SVG element.
    """
    x_axis = axis_for(x_label, places)
    if places and places[0] < places[-1]:
        x_axis = Axis(x_label, places[0], places[-1])
    parts = [draw_across(x_axis), draw_upward(y_axis)]
    if chosen is not None and x_axis.low <= chosen <= x_axis.high:
        x = across(x_axis, chosen)
        side = "end" if x > WIDTH / 2 else "start"
        parts.append(f'<path class="chosen" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        parts.append(
            f'<text x="{x + (-6 if side == "end" else 6):.1f}" y="{HEIGHT - BOTTOM - 8}" '
            f'text-anchor="{side}">chosen: {chosen:g}</text>'
        )
    for kind, line in enumerate(lines):
        known = [
            (across(x_axis, place), upward(y_axis, value), place, value)
            for place, value in zip(places, line.values, strict=True)
            if value is not None
        ]
        if known:
            path = "L".join(f"{x:.1f} {y:.1f}" for x, y, _, _ in known)
            parts.append(f'<path class="line l{kind}" d="M{path}"/>')
        every = math.ceil(len(known) / _MOST_MARKS) or 1
        for x, y, place, value in known[::every]:
            title = f"{x_label} {place:g}: {line.label} {value:.4g}"
            parts.append(_mark(kind, x, y, title))
    return _legend(lines) + drawing(name, "".join(parts))


def strip_plot(name: str, rows: Sequence[tuple[str, Sequence[Dot]]], most: int = 6000) -> str:
    """Draw the scores of pictures as dots, a row for each class.

    Args:
        name: What it shows.
        rows: A class's name, and its pictures with their scores as x, in [0, 1].
        most: Dots in all from which on those that lie side by side become one, which is larger.

    Returns:
        An SVG element.
    """
    height = TOP + _ROW * len(rows) + BOTTOM
    axis = score_axis("Dice", [dot.x for _, dots in rows for dot in dots])
    crowded = sum(len(dots) for _, dots in rows) > most
    parts = [draw_across(axis, height)]
    for row, (label, dots) in enumerate(rows):
        top = TOP + _ROW * row
        parts.append(f'<path class="grid" d="M0 {top}H{WIDTH}"/>')
        parts.append(f'<text x="4" y="{top + 16}" class="label">{text(cut(label, 60))}</text>')
        middle = top + 24 + _SPREAD / 2
        if not dots:
            parts.append(f'<text x="{LEFT}" y="{middle + 4}">no object</text>')
            continue
        parts.append(_strip(dots, axis, middle, crowded))
        x = across(axis, median(dot.x for dot in dots))
        title = f"{label}: median {score(median(dot.x for dot in dots))}"
        parts.append(
            f'<path class="median" d="M{x:.1f} {middle - 16:g}V{middle + 16:g}">'
            f"<title>{text(title)}</title></path>"
        )
    return drawing(name, "".join(parts), height)


def scatter(name: str, x_label: str, y_axis: Axis, dots: Sequence[Dot], most: int = 6000) -> str:
    """Draw the scores of pictures over a size, on a scale of powers of ten.

    Args:
        name: What it shows.
        x_label: What the size is.
        y_axis: The vertical axis.
        dots: The pictures; x above 0, y in [0, 1].
        most: Dots from which on those that lie side by side become one, which is larger.

    Returns:
        An SVG element.
    """
    x_axis = axis_for(x_label, [dot.x for dot in dots], log=True)
    cells: dict[tuple[int, int], list[Dot]] = {}
    for index, dot in enumerate(dots):
        cell = round(x_axis.share(dot.x) * _CELLS), round(y_axis.share(dot.y) * _CELLS)
        cells.setdefault(cell if len(dots) > most else (index, -1), []).append(dot)
    parts = [draw_across(x_axis), draw_upward(y_axis)]
    for same in cells.values():
        x, y = across(x_axis, same[0].x), upward(y_axis, same[0].y)
        title = f"{same[0].name}: {count(same[0].x)} pixels, Dice {score(same[0].y)}"
        parts.append(_dot(x, y, title, len(same)))
    return drawing(name, "".join(parts))


def calibration(
    name: str,
    confidence: Sequence[float | None],
    accuracy: Sequence[float | None],
    pixels: Sequence[int],
) -> str:
    """Draw how often a network is right against how sure it is.

    Args:
        name: What it shows.
        confidence: Mean probability of the chosen class in each bin, in [0, 1].
        accuracy: Share of right pixels in each bin, in [0, 1].
        pixels: Pixels in each bin; the area of a dot grows with them.

    Returns:
        An SVG element.
    """
    x_axis, y_axis = Axis("probability of the chosen class", 0, 1), Axis("share right", 0, 1)
    ends = [f"{across(x_axis, at):.1f} {upward(y_axis, at):.1f}" for at in (0, 1)]
    parts = [draw_across(x_axis), draw_upward(y_axis)]
    parts.append(f'<path class="ideal" d="M{ends[0]}L{ends[1]}"/>')
    total = max(1, sum(pixels))
    known = [
        (x, y, amount)
        for x, y, amount in zip(confidence, accuracy, pixels, strict=True)
        if x is not None and y is not None
    ]
    path = "L".join(f"{across(x_axis, x):.1f} {upward(y_axis, y):.1f}" for x, y, _ in known)
    parts.append(f'<path class="line l0" d="M{path}"/>' if known else "")
    for x, y, amount in known:
        title = f"probability {score(x)}, right {score(y)}: {count(amount)} pixels"
        radius = 3 + 6 * math.sqrt(amount / total)
        parts.append(
            f'<circle class="dot" cx="{across(x_axis, x):.1f}" cy="{upward(y_axis, y):.1f}" '
            f'r="{radius:.1f}"><title>{text(title)}</title></circle>'
        )
    return drawing(name, "".join(parts))


def level_chart(name: str, label: str, levels: Sequence[Level]) -> str:
    """Draw a few scores on one scale, each with its interval.

    Args:
        name: What it shows.
        label: What the scores are.
        levels: The scores, in [0, 1].

    Returns:
        An SVG element.
    """
    height = TOP + _ROW * len(levels) + BOTTOM
    ends = [end for level in levels for end in level.interval or () if end is not None]
    axis = score_axis(label, [*ends, *(level.value for level in levels)])
    parts = [draw_across(axis, height)]
    for row, level in enumerate(levels):
        top = TOP + _ROW * row
        said = f"{level.label}: {score(level.value)}"
        within = bounds(level.interval)
        parts.append(
            f'<text x="4" y="{top + 16}" class="label">{text(said)}'
            f"{f' ({within})' if within else ''}</text>"
        )
        middle = top + 38
        if within and level.interval:
            low, high = (across(axis, end or 0.0) for end in level.interval)
            parts.append(
                f'<path class="whisker" d="M{low:.1f} {middle - 6}V{middle + 6}M{low:.1f} {middle}'
                f'H{high:.1f}M{high:.1f} {middle - 6}V{middle + 6}"/>'
            )
        parts.append(_mark(row, across(axis, level.value), middle, said, 6))
    return drawing(name, "".join(parts), height)


def _strip(dots: Sequence[Dot], axis: Axis, middle: float, crowded: bool) -> str:
    """Pile dots up to both sides of a row's middle."""
    piles: dict[int, list[Dot]] = {}
    for dot in dots:
        piles.setdefault(round(axis.share(dot.x) * _STEPS), []).append(dot)
    parts = []
    for pile in piles.values():
        if crowded:
            title = f"{pile[0].name}: {score(pile[0].x)}"
            parts.append(_dot(across(axis, pile[0].x), middle, title, len(pile)))
            continue
        apart = min(4.0, _SPREAD / len(pile))
        for place, dot in enumerate(pile):
            y = middle + apart * ((place + 1) // 2) * (-1) ** place
            parts.append(_dot(across(axis, dot.x), y, f"{dot.name}: {score(dot.x)}"))
    return "".join(parts)


def _dot(x: float, y: float, title: str, amount: int = 1) -> str:
    """Draw a picture, or several that lie side by side."""
    more = f" and {amount - 1:,} more beside it" if amount > 1 else ""
    radius = 2.5 + min(4.0, math.log2(amount) / 2)
    return (
        f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.3g}">'
        f"<title>{text(cut(title, 160))}{more}</title></circle>"
    )


def _mark(kind: int, x: float, y: float, title: str, size: float = 3.5) -> str:
    """Draw a disc, a square or a triangle."""
    said = f"<title>{text(title)}</title>" if title else ""
    if kind == 0:
        shape = f'circle cx="{x:.1f}" cy="{y:.1f}" r="{size:g}"'
        return f'<{shape} class="mark l0">{said}</circle>'
    if kind == 1:
        path = f"M{x - size:.1f} {y - size:.1f}h{2 * size:g}v{2 * size:g}h{-2 * size:g}z"
    else:
        path = f"M{x:.1f} {y - size:.1f}l{size:g} {2 * size:g}h{-2 * size:g}z"
    return f'<path d="{path}" class="mark l{kind}">{said}</path>'


def _legend(lines: Sequence[Line]) -> str:
    """Name lines, where there are several."""
    if len(lines) < 2:
        return ""
    keys = "".join(
        f'<li><svg class="key" viewBox="0 0 36 12" aria-hidden="true"><path class="line l{kind}" '
        f'd="M2 6H34"/>{_mark(kind, 18, 6, "")}</svg> {text(line.label)}</li>'
        for kind, line in enumerate(lines)
    )
    return f'<ul class="keys">{keys}</ul>'
