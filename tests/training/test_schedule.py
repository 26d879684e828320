"""Learning rate and progress, by steps and by a time budget with a fake clock."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plainunet.config import TrainConfig
from plainunet.training.schedule import WARM_UP, ClockSchedule, StepSchedule, learning_rate_at

GROWTH = ({"until": 0.4, "scale": 0.5},)
CONFIG = TrainConfig(size=(64, 96), growth=GROWTH, epochs=10, learning_rate=0.01)


def test_schedule_by_steps() -> None:
    by_steps = StepSchedule(CONFIG, per_epoch=7)
    assert [by_steps.size(epoch) for epoch in (0, 3, 4, 9)] == [(32, 48)] * 2 + [(64, 96)] * 2
    assert by_steps.steps(3) == 70
    assert by_steps.rate(12) == learning_rate_at(12, 70, 0.01, "one-cycle")
    assert [by_steps.is_over(epoch) for epoch in (0, 9, 10)] == [False, False, True]
    assert by_steps.validates(0, 1e9)
    assert not by_steps.ends_epoch(0)


def test_learning_rate_and_estimated_steps_over_time(
    clock: SimpleNamespace,
) -> None:
    by_clock = ClockSchedule(CONFIG, end=200.0)
    assert by_clock.steps(0) == 1
    clock.now = 110.0  # a tenth
    assert by_clock.steps(20) == 200
    rates = []
    for clock.now in (101.0, 110.0, 150.0, 190.0, 199.9):
        rates.append(by_clock.rate(0))
    assert rates[1] == max(rates) == pytest.approx(0.01, rel=1e-3)
    assert rates[1] > rates[2] > rates[3] > rates[4]
    assert rates[4] < 1e-6
    assert rates[0] == pytest.approx(0.001, rel=0.02)


def test_a_slow_machine_makes_fewer_steps_and_ends_in_time(clock: SimpleNamespace) -> None:
    ends = {}
    for seconds in (0.5, 3.0):
        clock.now = 100.0
        by_clock, steps, epoch = ClockSchedule(CONFIG, end=200.0), 0, 0
        sizes = []
        while not by_clock.is_over(epoch):
            sizes.append(by_clock.size(epoch))
            while True:
                by_clock.rate(steps)
                steps += 1
                clock.now += seconds
                if by_clock.ends_epoch(epoch):
                    break
            epoch += 1
        assert sizes == [(32, 48), (64, 96)]
        assert abs(clock.now - 200) <= max(seconds / 2, 0.5) + 1e-6  # half a step, or 0.5 %
        assert clock.now in (200.0, 199.0)
        assert by_clock.steps(steps) == steps + 1
        ends[seconds] = steps
    assert ends == {0.5: 200, 3.0: 33}


def test_validation_takes_a_small_fraction_of_the_time(clock: SimpleNamespace) -> None:
    by_clock = ClockSchedule(CONFIG, end=1100.0)
    seconds = 0.0
    for clock.now in range(110, 1100, 10):
        if by_clock.validates(0, 4.0):
            seconds += 4.0
    assert 0.05 * 1000 < seconds <= 0.08 * 1000
    clock.now = 1100.0
    assert not by_clock.validates(0, 0.0)  # the last epoch is evaluated natively


@pytest.mark.parametrize(("seconds", "is_validated"), [(18.0, True), (22.0, False)])
def test_the_last_epoch_is_validated_if_that_is_quick(
    clock: SimpleNamespace, seconds: float, is_validated: bool
) -> None:
    by_clock = ClockSchedule(CONFIG, end=1100.0)
    clock.now = 800.0
    assert by_clock.size(5) == CONFIG.window
    assert by_clock.validates(5, seconds)
    clock.now = 1100.0 - seconds - 1
    by_clock.size(6)
    clock.now += 2
    assert by_clock.ends_epoch(6) == is_validated  # its time is set aside
    assert by_clock.validates(6, seconds) == is_validated


@pytest.mark.parametrize(("seconds", "early"), [(79.0, True), (81.0, False)])
def test_the_first_validation_is_early_unless_it_is_long(
    clock: SimpleNamespace, seconds: float, early: bool
) -> None:
    by_clock = ClockSchedule(CONFIG, end=1100.0)
    clock.now = 110.0
    assert by_clock.validates(0, seconds) == early


def test_progress_by_steps_counts_pixels() -> None:
    by_steps = StepSchedule(CONFIG, per_epoch=7)
    # four epochs of a quarter of the pixels, and six of all
    assert by_steps.done(6) == pytest.approx(0.25 / 7)
    assert by_steps.done(27) == pytest.approx(1 / 7)
    assert by_steps.done(28 + 20) == pytest.approx(4 / 7)
    assert by_steps.done(69) == 1
    done = [by_steps.done(step) for step in range(70)]
    assert done == sorted(done)


def test_progress_by_the_clock_is_time(clock: SimpleNamespace) -> None:
    by_clock = ClockSchedule(CONFIG, end=200.0)
    clock.now = 130.0
    assert by_clock.done(3) == by_clock.done(300) == pytest.approx(0.3)
    clock.now = 230.0
    assert by_clock.done(301) == 1
    clock.now = 100.0
    resumed = ClockSchedule(CONFIG, end=160.0, spent=40.0)
    assert resumed.share == pytest.approx(0.4)
    clock.now = 130.0
    assert resumed.share == pytest.approx(0.7)


def test_a_run_has_a_first_step_even_after_its_end(clock: SimpleNamespace) -> None:
    by_clock = ClockSchedule(CONFIG, end=90.0)
    clock.now = 101.0
    assert not by_clock.is_over(0)
    assert by_clock.size(0) == (64, 96)
    assert 0 <= by_clock.rate(0) < 1e-5
    assert by_clock.ends_epoch(0)
    assert by_clock.is_over(1)


@given(
    steps=st.integers(1, 2000),
    highest=st.floats(1e-5, 1),
    name=st.sampled_from(["one-cycle", "cosine", "poly", "constant"]),
    warm_up=st.sampled_from([None, 0.0, 0.3]),
)
def test_rates_rise_and_fall_once_and_stay_in_bounds(
    steps: int, highest: float, name: str, warm_up: float | None
) -> None:
    rates = [learning_rate_at(step, steps, highest, name, warm_up) for step in range(steps)]
    assert all(0 < rate <= highest * (1 + 1e-12) for rate in rates)
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


@pytest.mark.parametrize("name", ["one-cycle", "cosine", "poly", "constant"])
@pytest.mark.parametrize("warm_up", [None, 0.0, 0.3])
def test_rates_are_highest_after_the_warm_up_and_end_near_zero(
    name: str, warm_up: float | None
) -> None:
    rates = [learning_rate_at(step, 1000, 0.5, name, warm_up) for step in range(1000)]
    share = warm_up if warm_up is not None else WARM_UP * (name == "one-cycle")
    assert rates.index(max(rates)) == pytest.approx(1000 * share, abs=1)
    assert max(rates) == pytest.approx(0.5, rel=1e-2)
    assert (rates[-1] < 0.002) == (name != "constant")
    assert (rates[0] < 0.01) == (share > 0)


def test_rates_by_hand() -> None:
    assert {learning_rate_at(step, 7, 0.3, "constant") for step in range(7)} == {0.3}
    rates = [learning_rate_at(step, 1000, 0.5, "one-cycle") for step in range(1000)]
    assert rates[549] == pytest.approx(0.25, rel=0.01)  # half way down the cosine
    assert rates[-1] < 1e-5
    assert learning_rate_at(9, 10, 0.5, "one-cycle") < 0.05 * 0.5
    assert learning_rate_at(0, 9, 1.0, "poly") == pytest.approx(0.9**0.9)
    assert learning_rate_at(8, 9, 1.0, "poly") == pytest.approx(0.1**0.9)
    with pytest.raises(ValueError, match="'linear'"):
        learning_rate_at(0, 9, 1.0, "linear")
