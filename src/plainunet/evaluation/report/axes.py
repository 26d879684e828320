"""Where values lie in a chart, and what stands around them.

In: axes and what is drawn between them. Out: SVG as text. Colours come from the page's style, by
class, so that they follow its light or dark ground.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

from plainunet.evaluation.report.words import text

WIDTH = 460
"""Of every chart, in its own units: about pixels on a small screen."""
HEIGHT = 280
LEFT, RIGHT, TOP, BOTTOM = 72, 18, 14, 46
"""What lies between the edges of a chart and its plot."""


class Axis(NamedTuple):
    """A scale from one value to another."""

    label: str
    low: float
    high: float
    log: bool = False
    """Whether steps are powers of ten; both ends are above 0 then."""

    def share(self, value: float) -> float:
        """How far along the axis a value lies.

        Args:
            value: The value.

        Returns:
            0 at the low end, 1 at the high end.
        """
        low, high, here = (
            math.log10(end) if self.log else end for end in (self.low, self.high, value)
        )
        return (here - low) / (high - low)

    def ticks(self) -> list[float]:
        """Round values along the axis.

        Returns:
            Two to seven, rising.
        """
        if self.log:
            powers = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            every = max(1, math.ceil((powers[1] - powers[0]) / 5))
            return [10.0**power for power in range(powers[0], powers[1] + 1, every)]
        step = round_step(self.high - self.low)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [step * number for number in range(first, last + 1)]


def round_step(span: float) -> float:
    """Choose a round step, of which three to six make a span.

    Args:
        span: Length, above 0.

    Returns:
        1, 2, 2.5 or 5 times a power of ten.
    """
    power = 10.0 ** math.floor(math.log10(span / 3))
    return max(step * power for step in (1, 2, 2.5, 5) if span / (step * power) >= 3 - 1e-9)


def axis_for(label: str, values: Iterable[float], log: bool = False) -> Axis:
    """Make an axis that holds values, with round ends.

    Args:
        label: What it measures.
        values: The values; above 0 if `log`.
        log: Whether steps are powers of ten.

    Returns:
        The axis, 0 to 1 where there are no values.
    """
    known = list(values)
    if not known:
        return Axis(label, 1.0, 10.0, True) if log else Axis(label, 0.0, 1.0)
    low, high = min(known), max(known)
    if log:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        return Axis(label, 10.0**first, 10.0 ** max(last, first + 1), True)
    if high - low < 1e-9 * max(1.0, abs(high)):
        around = abs(high) / 10 or 1.0
        low, high = low - around, high + around
    step = round_step(high - low)
    return Axis(label, step * math.floor(low / step), step * math.ceil(high / step))


def score_axis(label: str, values: Iterable[float]) -> Axis:
    """Make an axis for scores that ends at 1 and begins where they begin.

    Args:
        label: What it measures.
        values: Scores in [0, 1].

    Returns:
        The axis: from 0, 0.5, 0.8, 0.9, 0.95, 0.98 or 0.99 to 1.
    """
    lowest = min(values, default=0.0)
    begin = max(begin for begin in (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99) if begin <= lowest)
    return Axis(label, begin, 1.0)


def across(axis: Axis, value: float) -> float:
    """Place a value from left to right.

    Args:
        axis: The horizontal axis.
        value: The value.

    Returns:
        In the chart's units.
    """
    return LEFT + axis.share(value) * (WIDTH - LEFT - RIGHT)


def upward(axis: Axis, value: float, height: float = HEIGHT) -> float:
    """Place a value from bottom to top.

    Args:
        axis: The vertical axis.
        value: The value.
        height: Of the chart.

    Returns:
        In the chart's units, counted downward from its upper edge.
    """
    return height - BOTTOM - axis.share(value) * (height - BOTTOM - TOP)


def tick_text(value: float, axis: Axis) -> str:
    """Write a tick with as many digits as tell it from its neighbours.

    Args:
        value: The tick.
        axis: Its axis.

    Returns:
        As in "0.95", "20", "1e-05", "10k" or "1M".
    """
    if axis.log or (value and not 1e-3 <= abs(value) < 1e5):
        if 1 <= value < 1000:
            return f"{value:g}"
        for unit, sign in ((1e3, "k"), (1e6, "M")):
            if unit <= value < 1000 * unit:
                return f"{value / unit:g}{sign}"
        return f"{value:.0e}" if axis.log else f"{value:.3g}"
    return f"{value:.6g}"


def draw_across(axis: Axis, height: float = HEIGHT) -> str:
    """Draw a horizontal axis with its lines and label.

    Args:
        axis: The axis.
        height: Of the chart.

    Returns:
        SVG.
    """
    bottom = height - BOTTOM
    parts = []
    for tick in axis.ticks():
        x = f"{across(axis, tick):.1f}"
        parts.append(f'<path class="grid" d="M{x} {TOP}V{bottom}"/>')
        said = tick_text(tick, axis)
        parts.append(f'<text x="{x}" y="{bottom + 16}" text-anchor="middle">{said}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text x="{middle:.1f}" y="{height - 8}" text-anchor="middle" class="label">'
        f"{text(axis.label)}</text>"
    )
    return "".join(parts)


def draw_upward(axis: Axis, height: float = HEIGHT) -> str:
    """Draw a vertical axis with its lines and label.

    Args:
        axis: The axis.
        height: Of the chart.

    Returns:
        SVG.
    """
    parts = []
    for tick in axis.ticks():
        y = upward(axis, tick, height)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        said = tick_text(tick, axis)
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{said}</text>')
    middle = (TOP + height - BOTTOM) / 2
    parts.append(
        f'<text transform="translate(13 {middle:.1f}) rotate(-90)" text-anchor="middle" '
        f'class="label">{text(axis.label)}</text>'
    )
    return "".join(parts)


def drawing(name: str, content: str, height: float = HEIGHT) -> str:
    """Put a chart together.

    Args:
        name: What it shows, for those who do not see it.
        content: SVG.
        height: Of the chart.

    Returns:
        An SVG element.
    """
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height:g}" role="img" '
        f'aria-label="{text(name)}">{content}</svg>'
    )
