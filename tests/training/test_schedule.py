"""How far a run has come, by steps and by a clock that the test moves."""

import pytest

from plainunet.config import TrainConfig
from plainunet.training import schedule
from plainunet.training.optim import learning_rate_at
from plainunet.training.schedule import ClockSchedule, StepSchedule

GROWTH = ({"until": 0.4, "scale": 0.5},)
CONFIG = TrainConfig(size=(64, 96), growth=GROWTH, epochs=10, learning_rate=0.01)


class Clock:
    now = 100.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(schedule.time, "monotonic", lambda: clock.now)
    return clock


def test_by_steps() -> None:
    by_steps = StepSchedule(CONFIG, per_epoch=7)
    assert [by_steps.size(epoch) for epoch in (0, 3, 4, 9)] == [(32, 48)] * 2 + [(64, 96)] * 2
    assert by_steps.steps(3) == 70
    assert by_steps.rate(12) == learning_rate_at(12, 70, 0.01, "one-cycle")
    assert [by_steps.is_over(epoch) for epoch in (0, 9, 10)] == [False, False, True]
    assert by_steps.judges(0, 1e9)
    assert not by_steps.cuts(0)


def test_the_rate_comes_down_as_the_clock_runs(clock: Clock) -> None:
    by_clock = ClockSchedule(CONFIG, end=200.0)
    rates = []
    for clock.now in (101.0, 110.0, 150.0, 190.0, 199.9):
        rates.append(by_clock.rate(0))
    assert rates[1] == max(rates) == pytest.approx(0.01, rel=1e-3)
    assert rates[1] > rates[2] > rates[3] > rates[4]
    assert rates[4] < 1e-6
    assert rates[0] == pytest.approx(0.001, rel=0.02)


def test_a_slow_machine_takes_fewer_steps_and_ends_in_time(clock: Clock) -> None:
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
                if by_clock.cuts(epoch):
                    break
            epoch += 1
        assert sizes == [(32, 48), (64, 96)]
        assert abs(clock.now - 200) <= max(seconds / 2, 0.5) + 1e-6  # half a step, or 0.5 %
        assert clock.now in (200.0, 199.0)
        assert by_clock.steps(steps) == steps + 1
        ends[seconds] = steps
    assert ends == {0.5: 200, 3.0: 33}


def test_steps_are_foreseen(clock: Clock) -> None:
    by_clock = ClockSchedule(CONFIG, end=200.0)
    assert by_clock.steps(0) == 1
    clock.now = 110.0  # a tenth
    assert by_clock.steps(20) == 200


def test_judging_takes_a_small_part_of_the_time(clock: Clock) -> None:
    by_clock = ClockSchedule(CONFIG, end=1100.0)
    judged = 0.0
    for clock.now in range(110, 1100, 10):
        if by_clock.judges(0, 4.0):
            judged += 4.0
    assert 0.05 * 1000 < judged <= 0.08 * 1000
    clock.now = 1100.0
    assert not by_clock.judges(0, 0.0)  # the end is judged natively


def test_a_run_that_goes_on_has_what_is_left(clock: Clock) -> None:
    by_clock = ClockSchedule(CONFIG, end=160.0, spent=40.0)
    assert by_clock.share == pytest.approx(0.4)
    clock.now = 130.0
    assert by_clock.share == pytest.approx(0.7)


def test_what_is_done_is_counted_in_pixels() -> None:
    by_steps = StepSchedule(CONFIG, per_epoch=7)
    # four epochs of a quarter of the pixels, and six of all
    assert by_steps.done(6) == pytest.approx(0.25 / 7)
    assert by_steps.done(27) == pytest.approx(1 / 7)
    assert by_steps.done(28 + 20) == pytest.approx(4 / 7)
    assert by_steps.done(69) == 1
    done = [by_steps.done(step) for step in range(70)]
    assert done == sorted(done)


def test_by_the_clock_what_is_done_is_time(clock: Clock) -> None:
    by_clock = ClockSchedule(CONFIG, end=200.0)
    clock.now = 130.0
    assert by_clock.done(3) == by_clock.done(300) == pytest.approx(0.3)
    clock.now = 230.0
    assert by_clock.done(301) == 1


def test_a_run_has_a_first_step_even_if_its_time_is_over(clock: Clock) -> None:
    by_clock = ClockSchedule(CONFIG, end=90.0)
    clock.now = 101.0
    assert not by_clock.is_over(0)
    assert by_clock.size(0) == (64, 96)
    assert 0 <= by_clock.rate(0) < 1e-5
    assert by_clock.cuts(0)
    assert by_clock.is_over(1)
