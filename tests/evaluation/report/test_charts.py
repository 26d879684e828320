import re
from xml.etree import ElementTree

import pytest

from plainunet.evaluation.report.axes import LEFT, RIGHT, TOP, WIDTH, Axis
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

MIDDLE = (LEFT + WIDTH - RIGHT) / 2
UNIT = Axis("Dice", 0, 1)


def circles(svg: str) -> list[tuple[float, float, float, str]]:
    """Middle, radius and title of each dot."""
    found = []
    for circle in ElementTree.fromstring(f"<div>{svg}</div>").iter("circle"):
        x, y, r = (float(circle.attrib[key]) for key in ("cx", "cy", "r"))
        found.append((x, y, r, circle.findtext("title") or ""))
    return found


def test_points_of_a_line_lie_where_they_should() -> None:
    svg = line_chart("Dice", "epoch", UNIT, [1, 2, 3], [Line("Dice", [0.0, 0.5, 1.0])])
    (first, middle, last) = circles(svg)
    assert middle[0] == MIDDLE
    assert middle[1] == pytest.approx((first[1] + last[1]) / 2, abs=0.1)
    assert (first[0], last[0]) == (LEFT, WIDTH - RIGHT)
    assert last[1] == TOP
    assert middle[3] == "epoch 2: Dice 0.5"
    assert "keys" not in svg, "a single line needs no key"


def test_a_line_goes_on_over_gaps() -> None:
    svg = line_chart("Dice", "epoch", UNIT, [1, 2, 3], [Line("Dice", [0.0, None, 1.0])])
    assert len(circles(svg)) == 2
    assert re.search(r'class="line l0" d="M[\d. ]+L[\d. ]+"', svg)
    assert "nan" not in svg
    assert "None" not in svg


def test_lines_differ_in_more_than_colour() -> None:
    lines = [Line("a", [0.1, 0.2]), Line("b", [0.3, 0.4]), Line("c", [None, None])]
    svg = line_chart("Dice", "threshold", UNIT, [0.1, 0.9], lines, chosen=0.5)
    assert f'class="chosen" d="M{MIDDLE:.1f} ' in svg
    assert "chosen: 0.5" in svg
    assert svg.count('class="key"') == 3
    drawn = svg.split("</ul>")[1]
    assert 'class="line l1"' in drawn
    assert 'class="line l2"' not in drawn
    assert "circle" in drawn
    assert re.search(r"h7v7h-7z", drawn)


def test_one_epoch_and_very_many() -> None:
    assert len(circles(line_chart("Dice", "epoch", UNIT, [1], [Line("Dice", [0.5])]))) == 1
    places = list(range(1000))
    svg = line_chart("Dice", "epoch", UNIT, places, [Line("Dice", [0.5] * 1000)])
    assert 50 <= len(circles(svg)) <= 60


def test_a_strip_has_a_dot_for_each_picture() -> None:
    dots = [Dot("half.png", 0.5), Dot("none.png", 0.0), Dot("all.png", 1.0)]
    found = circles(strip_plot("Dice", [("car", dots)]))
    assert found[0][0] == MIDDLE
    assert (found[1][0], found[2][0]) == (LEFT, WIDTH - RIGHT)
    assert found[0][3] == "half.png: 0.5000"


def test_equal_scores_pile_up_within_their_row() -> None:
    rows = [(name, [Dot(f"{k}.png", 0.9) for k in range(50)]) for name in ("leaf", "stone")]
    found = circles(strip_plot("Dice", rows))
    heights = [y for _, y, _, _ in found]
    assert len(set(heights[:50])) == 50
    assert max(heights[:50]) < min(heights[50:])


def test_a_class_that_no_picture_has() -> None:
    svg = strip_plot("Dice", [("car", []), ("dog", [Dot("a", 0.5)])])
    assert "no object" in svg
    assert len(circles(svg)) == 1


def test_crowds_become_larger_dots() -> None:
    dots = [Dot(f"{k}.png", 1 - (k % 100) / 1e4, 0.9) for k in range(1000)]
    found = circles(strip_plot("Dice", [("car", dots)], most=500))
    assert len(found) < 200
    assert min(radius for _, _, radius, _ in found) > 2.5
    assert found[0][3].startswith("0.png: 1.0000 and ")
    near = [Dot(f"{k}.png", 1000 + k, 0.9 + k / 1e6) for k in range(1000)]
    assert len(circles(scatter("Dice", "area", UNIT, near, most=500))) < 60
    assert len(circles(scatter("Dice", "area", UNIT, near))) == 1000


def test_a_scatter_has_powers_of_ten_across() -> None:
    dots = [Dot("a.png", 10, 0.0), Dot("b.png", 100, 0.5), Dot("c.png", 1000, 1.0)]
    found = circles(scatter("Dice", "area", UNIT, dots))
    assert [x for x, _, _, _ in found] == [LEFT, MIDDLE, WIDTH - RIGHT]
    assert found[1][1] == pytest.approx((found[0][1] + found[2][1]) / 2, abs=0.1)
    assert found[2][3] == "c.png: 1,000 pixels, Dice 1.0000"
    assert circles(scatter("Dice", "area", UNIT, [])) == []


def test_calibration_lies_on_the_dashed_line_where_it_is_right() -> None:
    svg = calibration("right", [None, 0.5, 1.0], [None, 0.5, 0.8], [0, 900, 100])
    ends = re.search(r'class="ideal" d="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)"', svg)
    assert ends is not None
    left, bottom, right, top = map(float, ends.groups())
    half, sure = circles(svg)
    assert half[:2] == pytest.approx(((left + right) / 2, (bottom + top) / 2), abs=0.1)
    assert sure[0] == right
    assert sure[1] > top, "it is too sure"
    assert half[2] > sure[2], "more pixels, larger dot"
    assert half[3] == "probability 0.5000, right 0.5000: 900 pixels"
    assert circles(calibration("right", [None] * 10, [None] * 10, [0] * 10)) == []


def test_levels_with_their_intervals() -> None:
    svg = level_chart("Dice", "Dice", [Level("model", 0.5, [0.25, 0.75]), Level("ceiling", 1.0)])
    assert circles(svg)[0][0] == MIDDLE
    assert "model: 0.5000 (0.2500 to 0.7500)" in svg
    assert svg.count("whisker") == 1
    assert f"H{(MIDDLE + WIDTH - RIGHT) / 2:.1f}" in svg


def test_names_are_escaped() -> None:
    name = "<img src=x onerror=alert(1)>"
    dots = [Dot(name, 0.5, 0.5)]
    line = [Line(name, [0.5]), Line(name, [0.5])]
    for svg in (
        strip_plot(name, [(name, dots)]),
        scatter(name, name, UNIT, dots),
        line_chart(name, name, UNIT, [1], line),
        level_chart(name, name, [Level(name, 0.5)]),
        calibration(name, [0.5], [0.5], [1]),
    ):
        assert "<img" not in svg
        assert "&lt;img" in svg
