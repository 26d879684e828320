import pytest

from plainunet.evaluation.report.axes import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    across,
    axis_for,
    draw_across,
    draw_upward,
    drawing,
    round_step,
    score_axis,
    tick_text,
    upward,
)


def test_a_half_lies_in_the_middle() -> None:
    axis = Axis("Dice", 0, 1)
    assert across(axis, 0.5) == (LEFT + WIDTH - RIGHT) / 2
    assert upward(axis, 0.5) == (TOP + HEIGHT - BOTTOM) / 2
    assert (across(axis, 0), across(axis, 1)) == (LEFT, WIDTH - RIGHT)
    assert (upward(axis, 0), upward(axis, 1)) == (HEIGHT - BOTTOM, TOP)
    assert upward(axis, 1, 100) == TOP


def test_powers_of_ten_are_evenly_apart() -> None:
    axis = axis_for("pixels", [150, 70_000], log=True)
    assert axis[1:] == (100, 100_000, True)
    assert [axis.share(10.0**power) for power in (2, 3, 4, 5)] == pytest.approx(
        [0, 1 / 3, 2 / 3, 1]
    )
    assert axis.ticks() == [100, 1000, 10_000, 100_000]
    assert [tick_text(tick, axis) for tick in axis.ticks()] == ["100", "1k", "10k", "100k"]
    assert len(axis_for("pixels", [1, 1e12], log=True).ticks()) <= 7
    assert axis_for("pixels", [100], log=True)[1:3] == (100, 1000)


def test_axes_hold_their_values_with_round_ends() -> None:
    axis = axis_for("loss", [0.13, 1.87])
    assert axis[1:3] == pytest.approx((0, 2))
    assert axis.ticks() == pytest.approx([0, 0.5, 1, 1.5, 2])
    assert axis_for("loss", [])[1:3] == (0, 1)
    level = axis_for("rate", [0.02, 0.02])
    assert level.low < 0.02 < level.high
    assert axis_for("zero", [0.0]).share(0.0) == pytest.approx(0.5)


@pytest.mark.parametrize("span", [1e-6, 0.013, 0.5, 1, 3, 7, 999, 1e9])
def test_steps_are_few_and_round(span: float) -> None:
    step = round_step(span)
    assert 3 - 1e-6 <= span / step <= 6 + 1e-6
    assert f"{step:.1e}"[:3] in {"1.0", "2.0", "2.5", "5.0"}


@pytest.mark.parametrize(
    ("lowest", "begin"), [(0.3, 0), (0.5, 0.5), (0.85, 0.8), (0.96, 0.95), (0.991, 0.99), (1, 0.99)]
)
def test_scores_begin_where_they_begin(lowest: float, begin: float) -> None:
    assert score_axis("Dice", [1.0, lowest])[1:3] == (begin, 1)


def test_without_scores_the_whole_axis() -> None:
    assert score_axis("Dice", [])[1:3] == (0, 1)


def test_ticks_are_told_apart() -> None:
    axis = axis_for("learning rate", [0.0, 1e-4])
    assert len({tick_text(tick, axis) for tick in axis.ticks()}) == len(axis.ticks())
    near = score_axis("Dice", [0.992])
    assert [tick_text(tick, near) for tick in near.ticks()][:2] == ["0.99", "0.9925"]


def test_labels_are_escaped() -> None:
    axis = Axis("<b>", 0, 1)
    for drawn in (draw_across(axis), draw_upward(axis), drawing("<b>", "")):
        assert "<b>" not in drawn
        assert "&lt;b&gt;" in drawn
