"""Charts as inline SVG, drawn by matplotlib.

Colours are variables of the page's style sheet, so charts follow its light and dark mode; text
stays text. Each dot has a title, which browsers show on hover.
"""

import functools
import io
import math
import warnings
from collections.abc import Callable, Hashable, Iterable, Sequence
from statistics import median
from typing import Any, NamedTuple, ParamSpec, TypeVar
from xml.etree import ElementTree

from plainunet.text import count, interval, score

_WIDTH, _HEIGHT = 460, 280  # of a chart [points]
_ROW = 58  # height of a row [points]
_MIDDLE = 0.65  # centre of a row's dots, below its label
_SPREAD = 30  # height of the dots of a row [points]
_COLUMNS = 160  # in which dots are stacked
_CELLS = 48  # columns and rows of a crowded scatter chart
_STEPS = (1, 2, 2.5, 5, 10)  # between ticks
_MOST_MARKS = 60  # on a line
# placeholders for the variables of style.css
_COLORS = {
    f"#00000{place}": name
    for place, name in enumerate(("text", "soft", "line", "one", "two", "three"), 1)
}
_TEXT, _SOFT, _GRID, _ONE, _TWO, _THREE = _COLORS
_LOOKS = ((_ONE, "-", "o"), (_TWO, (0, (4, 2)), "s"), (_THREE, (0, (1, 1.5)), "^"))
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names may have dollar signs
    "axes.grid": True,
    "axes.axisbelow": True,
    "figure.frameon": False,
    "axes.facecolor": "none",
    "legend.frameon": False,
    "font.size": 13,
    "axes.labelsize": 13,
    "legend.fontsize": 13,
    "text.color": _TEXT,
    "axes.labelcolor": _TEXT,
    "axes.edgecolor": _GRID,
    "grid.color": _GRID,
    "xtick.labelcolor": _SOFT,
    "ytick.labelcolor": _SOFT,
    **{f"axes.spines.{side}": False for side in ("left", "right", "top", "bottom")},
    **{f"{axis}.{side}": False for axis, side in (("xtick", "bottom"), ("ytick", "left"))},
}
P = ParamSpec("P")
T = TypeVar("T")


class Line(NamedTuple):
    """A line of a chart."""

    label: str
    values: Sequence[float | None]
    """One for each position along the x axis; None for a gap."""


class Dot(NamedTuple):
    """An image in a chart."""

    name: str
    x: float
    y: float = 0.0


class Level(NamedTuple):
    """A score with its confidence interval."""

    label: str
    value: float
    bounds: Sequence[float | None] | None = None


def _styled(draw: Callable[P, str]) -> Callable[P, str]:
    """Draw with matplotlib's default style and `_STYLE`, whatever the user has set."""

    @functools.wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> str:
        # imported here: it takes a second, and only reports need it
        from matplotlib import style

        with style.context(["default", _STYLE]), warnings.catch_warnings():
            # the browser has glyphs that matplotlib's font lacks
            warnings.filterwarnings("ignore", "Glyph")
            return draw(*args, **kwargs)

    return styled


@_styled
def line_chart(
    name: str,
    labels: tuple[str, str],
    places: Sequence[float],
    lines: Sequence[Line],
    limits: tuple[float | None, float | None] = (None, None),
    chosen: float | None = None,
) -> str:
    """Draw one to three lines over increasing x positions, and mark a chosen position.

    A limit that is None follows from the values.
    """
    from matplotlib.ticker import MaxNLocator

    chart = _Chart(name, *labels)
    for line, (color, dashes, marker) in zip(lines, _LOOKS, strict=False):
        known = [pair for pair in zip(places, line.values, strict=True) if pair[1] is not None]
        every = math.ceil(len(known) / _MOST_MARKS) or 1
        titles = [f"{labels[0]} {x:g}: {line.label} {y:.4g}" for x, y in known[::every]]
        look = {"linestyle": dashes, "linewidth": 2, "marker": marker, "markevery": every}
        chart.plot(known, titles, color, label=_printable(line.label, 40), **look)
    first, last = (places[0], places[-1]) if places else (0.0, 1.0)
    if first < last:
        chart.axes.set_xlim(first, last)
    chart.axes.set_ylim(*limits)
    whole = all(float(place).is_integer() for place in places)
    chart.axes.xaxis.set_major_locator(MaxNLocator(6, steps=_STEPS, integer=whole))
    if chosen is not None and first <= chosen <= last:
        chart.axes.axvline(chosen, color=_SOFT, linewidth=2)
        late = chosen > (first + last) / 2
        chart.axes.annotate(
            f"chosen: {chosen:g}",
            (chosen, 0),
            (-6 if late else 6, 8),
            ha="right" if late else "left",
            xycoords=chart.axes.get_xaxis_transform(),
            textcoords="offset points",
        )
    if len(lines) > 1:
        where: dict[str, Any] = {"bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
        chart.axes.legend(loc="lower left", ncols=len(lines), **where)
    return chart.svg()


@_styled
def strip_chart(name: str, rows: Sequence[tuple[str, Sequence[Dot]]], most: int = 6000) -> str:
    """Draw the Dice (x) of images as dots, one row per class.

    With more than `most` dots in total, neighbouring dots are merged into a larger one.
    """
    low = score_limits(dot.x for _, dots in rows for dot in dots)[0]
    crowded = sum(len(dots) for _, dots in rows) > most
    chart = _rows_chart(name, [label for label, _ in rows], low)
    for row, (label, dots) in enumerate(rows):
        middle = row + _MIDDLE
        if not dots:
            where = chart.axes.get_yaxis_transform()
            chart.axes.text(0.02, middle, "no object", color=_SOFT, va="center", transform=where)
            continue
        marks = []
        for pile in _group(dots, [round((dot.x - low) / (1 - low) * _COLUMNS) for dot in dots]):
            if crowded:
                title = f"{pile[0].name}: {score(pile[0].x)}"
                marks.append(_Mark(pile[0].x, middle, title, len(pile)))
                continue
            apart = min(4.0, _SPREAD / len(pile)) / _ROW
            for place, dot in enumerate(pile):
                y = middle + apart * ((place + 1) // 2) * (-1) ** place
                marks.append(_Mark(dot.x, y, f"{dot.name}: {score(dot.x)}"))
        chart.dots(marks)
        center = median(dot.x for dot in dots)
        look = {"marker": "|", "markersize": 32, "markeredgewidth": 2}
        chart.plot([(center, middle)], [f"{label}: median {score(center)}"], _TWO, **look)
    return chart.svg()


@_styled
def scatter_chart(
    name: str, x_label: str, dots: Sequence[Dot], low: float = 0.0, most: int = 6000
) -> str:
    """Draw the Dice (y) of images over area (x, log scale); `most` as in `strip_chart`."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    chart = _Chart(name, x_label, "Dice")
    powers = [math.log10(dot.x) for dot in dots] or [0.0]
    first = math.floor(min(powers))
    last = max(first + 1, math.ceil(max(powers)))
    chart.axes.set_xscale("log")
    chart.axes.set(xlim=(10.0**first, 10.0**last), ylim=(low, 1))
    chart.axes.xaxis.set_minor_locator(NullLocator())
    chart.axes.xaxis.set_major_formatter(FuncFormatter(_tick_text))
    cells: list[Any] = list(range(len(dots)))
    if len(dots) > most:
        cells = [
            (
                round((power - first) / (last - first) * _CELLS),
                round((dot.y - low) / (1 - low) * _CELLS),
            )
            for power, dot in zip(powers, dots, strict=True)
        ]
    marks = []
    for group in _group(dots, cells):
        title = f"{group[0].name}: {count(group[0].x)} pixels, Dice {score(group[0].y)}"
        marks.append(_Mark(group[0].x, group[0].y, title, len(group)))
    chart.dots(marks)
    return chart.svg()


@_styled
def calibration_chart(
    name: str,
    confidence: Sequence[float | None],
    accuracy: Sequence[float | None],
    pixels: Sequence[int],
) -> str:
    """Draw a reliability diagram from bins; the area of a dot grows with its pixel count."""
    chart = _Chart(name, "confidence (probability of the predicted class)", "accuracy")
    chart.axes.set(xlim=(0, 1), ylim=(0, 1))
    chart.axes.plot((0, 1), (0, 1), color=_SOFT, linestyle="--")
    known = [
        (x, y, amount)
        for x, y, amount in zip(confidence, accuracy, pixels, strict=True)
        if x is not None and y is not None
    ]
    chart.axes.plot([x for x, _, _ in known], [y for _, y, _ in known], color=_ONE, linewidth=2)
    for x, y, amount in known:
        title = f"confidence {score(x)}, accuracy {score(y)}: {count(amount)} pixels"
        size = 6 + 12 * math.sqrt(amount / max(1, sum(pixels)))
        chart.plot([(x, y)], [title], _ONE, marker="o", markersize=size, alpha=0.7)
    return chart.svg()


@_styled
def level_chart(name: str, levels: Sequence[Level]) -> str:
    """Draw Dice values on one scale, each with its confidence interval."""
    ends = [end for level in levels for end in level.bounds or () if end is not None]
    low = score_limits([*ends, *(level.value for level in levels)])[0]
    labels = []
    for level in levels:
        within = f" ({interval(level.bounds)})" if interval(level.bounds) else ""
        labels.append(f"{level.label}: {score(level.value)}{within}")
    chart = _rows_chart(name, labels, low)
    for row, (level, (color, _, marker)) in enumerate(zip(levels, _LOOKS, strict=False)):
        middle = row + _MIDDLE
        if interval(level.bounds):
            whisker: dict[str, Any] = {"color": _TEXT, "linewidth": 1.5, "marker": "|"}
            whisker |= {"markersize": 12, "markeredgewidth": 1.5}
            chart.axes.plot([end or 0.0 for end in level.bounds or ()], [middle] * 2, **whisker)
        look = {"marker": marker, "markersize": 11}
        chart.plot([(level.value, middle)], [labels[row]], color, **look)
    return chart.svg()


def score_limits(values: Iterable[float]) -> tuple[float, float]:
    """Choose the limits of a score axis: from just below the lowest score to 1."""
    lowest = min(values, default=0.0)
    return max(low for low in (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99) if low <= lowest), 1.0


class _Mark(NamedTuple):
    """A dot for one image or several merged ones."""

    x: float
    y: float
    title: str
    amount: int = 1


class _Chart:
    """A figure with one pair of axes, and the titles of its markers."""

    def __init__(self, name: str, x_label: str, y_label: str = "", height: float = _HEIGHT) -> None:
        """Lay out empty axes."""
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        self.name = _printable(name, 200)
        self.figure = Figure(figsize=(_WIDTH / 72, height / 72))
        self.axes = self.figure.subplots()
        # fixed margins, since measuring text takes as long as drawing it
        left, right, top, bottom = 72 if y_label else 12, 16, 26, 46
        self.figure.subplots_adjust(
            left / _WIDTH, bottom / height, 1 - right / _WIDTH, 1 - top / height
        )
        self.axes.set(xlabel=_printable(x_label, 60), ylabel=_printable(y_label, 40))
        for axis in (self.axes.xaxis, self.axes.yaxis):
            axis.set_major_locator(MaxNLocator(6, steps=_STEPS))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
        self._titles: dict[str, list[str]] = {}

    def plot(
        self, points: Sequence[tuple[Any, Any]], titles: list[str], color: str, **look: Any
    ) -> None:
        """Plot points, with a title for each marker."""
        name = f"marks-{len(self._titles)}"
        self._titles[name] = titles
        xs, ys = [x for x, _ in points], [y for _, y in points]
        look = {"linestyle": "none", "clip_on": False, "zorder": 3, **look}
        self.axes.plot(xs, ys, color=color, gid=name, **look)

    def dots(self, marks: Sequence[_Mark]) -> None:
        """Plot dots, larger ones for several images."""
        sizes = [round(5 + min(8.0, math.log2(mark.amount))) for mark in marks]
        for same, size in zip(_group(marks, sizes), dict.fromkeys(sizes), strict=True):
            titles = [
                mark.title + (f" and {mark.amount - 1:,} more nearby" if mark.amount > 1 else "")
                for mark in same
            ]
            look = {"marker": "o", "markersize": size, "markeredgewidth": 0, "alpha": 0.65}
            self.plot([(mark.x, mark.y) for mark in same], titles, _ONE, **look)

    def svg(self) -> str:
        """Convert to SVG for inlining: no style attributes, no unused ids."""
        import matplotlib as mpl

        # makes ids reproducible, and different between charts
        mpl.rcParams["svg.hashsalt"] = ascii(self.name)
        file = io.BytesIO()
        self.figure.savefig(file, format="svg", metadata={"Date": None})
        root = ElementTree.fromstring(file.getvalue())
        for parent in list(root.iter()):
            for child in [each for each in parent if each.tag.endswith(("}metadata", "}style"))]:
                parent.remove(child)
            group = parent.get("id", "")
            _simplify(parent)
            if group in self._titles:
                parent.set("class", "dots")
                marks = [each for each in parent.iter() if each.tag.endswith("use")]
                for mark, title in zip(marks, self._titles[group], strict=True):
                    ElementTree.SubElement(mark, "title").text = _printable(title, 200)
        box = root.attrib["viewBox"]
        root.attrib = {"class": "chart", "viewBox": box, "role": "img", "aria-label": self.name}
        return ElementTree.tostring(root, encoding="unicode")


_KEPT = (
    *("fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-opacity"),
    *("opacity", "text-anchor", "font-size"),
)


def _simplify(element: ElementTree.Element) -> None:
    """Turn an element's style into attributes, and drop namespaces and unused attributes.

    The page's content security policy forbids style attributes.
    """
    element.tag = element.tag.rpartition("}")[2]
    given = {key.rpartition("}")[2]: value for key, value in element.attrib.items()}
    style = dict(part.split(":", 1) for part in given.pop("style", "").split(";") if ":" in part)
    given |= {key.strip(): value.strip() for key, value in style.items() if key.strip() in _KEPT}
    if element.tag == "g":
        given.pop("id", None)
    for key in ("fill", "stroke"):
        if given.get(key) in _COLORS:
            given[key] = f"var(--{_COLORS[given[key]]})"
    if element.tag == "use":
        given |= {key: f"{float(given[key]):.2f}" for key in ("x", "y")}
    element.attrib = given


def _rows_chart(name: str, labels: Sequence[str], low: float) -> _Chart:
    """Lay out a chart of Dice with one row per label."""
    chart = _Chart(name, "Dice", height=_ROW * len(labels) + 72)
    chart.axes.set(xlim=(low, 1), ylim=(len(labels), 0), yticks=range(len(labels)))
    chart.axes.tick_params(axis="y", labelleft=False)
    for row, label in enumerate(labels):
        where = chart.axes.get_yaxis_transform()
        chart.axes.text(0, row + 0.2, _printable(label, 60), va="center", transform=where)
    return chart


def _group(items: Sequence[T], keys: Sequence[Hashable]) -> list[list[T]]:
    """Group items by key, in order of first appearance."""
    groups: dict[Hashable, list[T]] = {}
    for item, key in zip(items, keys, strict=True):
        groups.setdefault(key, []).append(item)
    return list(groups.values())


def _tick_text(value: float, _place: object) -> str:
    """Format a power of ten, as in "100", "10k" or "1M"."""
    for unit, sign in ((1e6, "M"), (1e3, "k")):
        if unit <= value < 1000 * unit:
            return f"{value / unit:g}{sign}"
    return f"{value:g}"


def _printable(text: str, most: int) -> str:
    """Cut text at its start, since names differ at their ends; escape unprintable characters."""
    cut = text if len(text) <= most else "\u2026" + text[1 - most :]
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in cut
    )
