import re
from typing import NamedTuple
from xml.etree import ElementTree

import matplotlib as mpl
import pytest

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

UNIT = (0.0, 1.0)
AXES = ("epoch", "Dice")
HOSTILE = "<img src=x onerror=alert(1)> $\\frac{1}{0}$ \udcff\x00\n 画像"


class Mark(NamedTuple):
    x: float
    y: float
    radius: float
    title: str


def marks(svg: str) -> list[Mark]:
    """The markers with a title."""
    root = ElementTree.fromstring(svg)
    shapes = {path.get("id"): path.get("d", "") for path in root.iter("path")}
    found = []
    for use in root.iter("use"):
        if (title := use.findtext("title")) is not None:
            numbers = re.findall(r"-?[\d.]+", shapes[use.attrib["href"][1:]])
            radius = max(abs(float(number)) for number in numbers)
            found.append(Mark(float(use.attrib["x"]), float(use.attrib["y"]), radius, title))
    return found


def each_chart(name: str = "name") -> dict[str, str]:
    dots, line = [Dot(name, 0.5, 0.5), Dot(name, 0.7, 0.7)], Line(name, [0.5, 0.6])
    return {
        "line": line_chart(name, (name, name), [0.1, 0.9], [line, line, line], UNIT, 0.5),
        "strip": strip_chart(name, [(name, dots), (name, [])]),
        "scatter": scatter_chart(name, name, dots),
        "calibration": calibration_chart(name, [0.5], [0.5], [1]),
        "level": level_chart(name, [Level(name, 0.5, [0.4, 0.6])]),
    }


def test_charts_obey_the_page_and_its_policy() -> None:
    for svg in each_chart().values():
        root = ElementTree.fromstring(svg)
        assert {root.get("role"), root.get("aria-label")} == {"img", "name"}
        assert root.find(".//text") is not None, "text stays text"
        ids = [element.get("id") for element in root.iter() if element.get("id")]
        assert len(ids) == len(set(ids))
        used = set(re.findall(r"#(\w+)", svg))
        assert used <= set(ids)
        for element in root.iter():
            assert "style" not in element.attrib, "forbidden by the policy"
            for key in ("fill", "stroke"):
                assert re.fullmatch(r"none|var\(--\w+\)|", element.get(key, "")), element.attrib


def test_charts_are_reproducible() -> None:
    before = each_chart()
    with mpl.rc_context({"axes.facecolor": "red", "font.size": 40, "axes.spines.top": True}):
        assert each_chart() == before
        assert mpl.rcParams["font.size"] == 40, "the user's settings stay"


def test_names_are_escaped() -> None:
    for svg in each_chart(HOSTILE).values():
        assert ElementTree.fromstring(svg).find(".//img") is None
        assert "&lt;img" in svg
    labels = " ".join(ElementTree.fromstring(each_chart("$a$ 画像")["strip"]).itertext())
    assert "$a$ 画像" in labels


def test_positions_of_the_points_of_a_line() -> None:
    svg = line_chart("a", AXES, [1, 2, 4], [Line("Dice", [0.0, 0.5, 1.0])], UNIT)
    first, middle, last = marks(svg)
    assert middle.y == pytest.approx((first.y + last.y) / 2, abs=0.02)
    assert middle.x == pytest.approx(first.x + (last.x - first.x) / 3, abs=0.02)
    assert last.y < first.y
    assert middle.title == "epoch 2: Dice 0.5"


def test_gaps_one_point_and_many_points() -> None:
    gap = line_chart("a", AXES, [1, 2, 3], [Line("Dice", [0.0, None, 1.0])])
    assert [mark.title[:7] for mark in marks(gap)] == ["epoch 1", "epoch 3"]
    (line,) = ElementTree.fromstring(gap).findall(".//g[@class='dots']/path")
    assert re.fullmatch(r"\s*M [\d.]+ [\d.]+\s+L [\d.]+ [\d.]+\s*", line.attrib["d"]), (
        "it spans the gap"
    )
    assert len(marks(line_chart("a", AXES, [1], [Line("Dice", [0.5])]))) == 1
    assert marks(line_chart("a", AXES, [], [Line("Dice", [])])) == []
    places = list(range(1000))
    many = marks(line_chart("a", AXES, places, [Line("Dice", [0.5] * 1000)]))
    assert 50 <= len(many) <= 60
    assert many[-1].title.startswith("epoch 986")


def test_several_lines_have_a_legend_and_the_chosen_position_a_label() -> None:
    lines = [Line("first", [0.1, 0.2]), Line("second", [0.3, 0.4])]
    svg = line_chart("a", ("threshold", "Dice"), [0.1, 0.9], lines, UNIT, chosen=0.5)
    texts = set(ElementTree.fromstring(svg).itertext())
    assert {"first", "second", "chosen: 0.5"} <= texts
    assert svg.count("stroke-dasharray") >= 1, "lines differ in more than colour"
    assert {round(mark.radius, 2) for mark in marks(svg)} == {3}
    single = line_chart("a", AXES, [1, 2], lines[:1], UNIT, chosen=9)
    assert "first" not in set(ElementTree.fromstring(single).itertext())
    assert "chosen" not in single


def test_a_strip_has_a_dot_for_each_image_and_a_median() -> None:
    dots = [Dot("half.png", 0.5), Dot("none.png", 0.0), Dot("all.png", 1.0)]
    half, none, all_of_it, center = marks(strip_chart("a", [("car", dots)]))
    assert half.x == pytest.approx((none.x + all_of_it.x) / 2, abs=0.02)
    assert half.title == "half.png: 0.5000"
    assert center.title == "car: median 0.5000"
    assert center.x == half.x
    empty = strip_chart("a", [("car", []), ("dog", dots)])
    assert "no object" in empty
    assert len(marks(empty)) == 4


def test_equal_scores_are_stacked_within_their_row() -> None:
    rows = [(name, [Dot(f"{k}.png", 0.9) for k in range(50)]) for name in ("leaf", "stone")]
    found = [mark for mark in marks(strip_chart("a", rows)) if "png" in mark.title]
    heights = [mark.y for mark in found]
    assert len(set(heights[:50])) == 50
    assert max(heights[:50]) < min(heights[50:])


def test_crowded_dots_are_merged() -> None:
    dots = [Dot(f"{k}.png", 1 - (k % 100) / 1e4, 0.9) for k in range(1000)]
    found = marks(strip_chart("a", [("car", dots)], most=500))
    assert len(found) < 200
    assert min(mark.radius for mark in found) > 2.5
    assert re.fullmatch(r"0\.png: 1\.0000 \D+ \d+ \D+", found[0].title)
    near = [Dot(f"{k}.png", 1000 + k, 0.9 + k / 1e6) for k in range(1000)]
    assert len(marks(scatter_chart("a", "area", near, most=500))) < 60
    assert len(marks(scatter_chart("a", "area", near))) == 1000


def test_a_scatter_chart_is_logarithmic() -> None:
    dots = [Dot("a.png", 10, 0.0), Dot("b.png", 100, 0.5), Dot("c.png", 100_000, 1.0)]
    svg = scatter_chart("a", "area", dots)
    first, middle, last = marks(svg)
    assert middle.x == pytest.approx(first.x + (last.x - first.x) / 4, abs=0.02)
    assert middle.y == pytest.approx((first.y + last.y) / 2, abs=0.02)
    assert last.title == "c.png: 100,000 pixels, Dice 1.0000"
    assert {"10", "1k", "100k"} <= set(ElementTree.fromstring(svg).itertext())
    assert marks(scatter_chart("a", "area", [])) == []


def test_a_reliability_diagram() -> None:
    svg = calibration_chart("a", [None, 0.5, 1.0], [None, 0.5, 0.8], [0, 900, 100])
    half, confident = marks(svg)
    (ideal,) = ElementTree.fromstring(svg).findall(".//path[@stroke='var(--soft)']")
    left, bottom, right, top = map(float, re.findall(r"[\d.]+", ideal.attrib["d"]))
    assert half[:2] == pytest.approx(((left + right) / 2, (bottom + top) / 2), abs=0.1)
    assert confident.x == pytest.approx(right, abs=0.1)
    assert confident.y > top, "overconfident"
    assert half.radius > confident.radius, "more pixels, larger dot"
    assert half.title == "confidence 0.5000, accuracy 0.5000: 900 pixels"
    assert marks(calibration_chart("a", [None] * 10, [None] * 10, [0] * 10)) == []


def test_levels_have_their_intervals() -> None:
    levels = [Level("model", 0.5, [0.25, 0.75]), Level("ceiling", 1.0, [None, None])]
    svg = level_chart("a", levels)
    model, ceiling = marks(svg)
    texts = set(ElementTree.fromstring(svg).itertext())
    assert {"model: 0.5000 (0.2500\u20130.7500)", "ceiling: 1.0000"} <= texts
    ends = [float(x) for x in re.findall(r'<use [^>]*?x="([\d.]+)"[^>]*/>', svg)]
    half = (ceiling.x - model.x) / 2
    for end in (model.x - half, model.x + half):
        assert any(x == pytest.approx(end, abs=0.1) for x in ends), "end of a whisker"


@pytest.mark.parametrize(
    ("lowest", "begin"), [(0.3, 0), (0.5, 0.5), (0.85, 0.8), (0.96, 0.95), (0.991, 0.99), (1, 0.99)]
)
def test_score_axes_start_just_below_the_scores(lowest: float, begin: float) -> None:
    assert score_limits([1.0, lowest]) == (begin, 1)
    assert score_limits([]) == (0, 1)
