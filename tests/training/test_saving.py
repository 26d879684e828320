"""When it is time to save, by a clock that the test moves."""

import time
from itertools import pairwise

import pytest

from plainunet.training.state import LOST, Saver


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def saver(clock: Clock, takes: float) -> tuple[Saver, list[float]]:
    saved: list[float] = []

    def save() -> None:
        clock.now += takes
        saved.append(clock.now)

    return Saver(save), saved


@pytest.mark.parametrize("step", [0.1, 7.0, 20.0])
@pytest.mark.parametrize("takes", [0.01, 4.0])
def test_less_than_a_minute_is_ever_lost(clock: Clock, step: float, takes: float) -> None:
    save, saved = saver(clock, takes)
    while clock.now < 1000:
        clock.now += step
        if save.is_due(step):
            save()
    gaps = [later - earlier for earlier, later in pairwise(saved)]
    assert len(gaps) >= 10
    assert max(gaps) <= LOST + takes
    assert LOST < 60
    # but not more often than that: the next one would have come too late
    assert min(gaps) >= LOST - step - 0.01


def test_steps_longer_than_that_are_saved_one_by_one(clock: Clock) -> None:
    save, saved = saver(clock, 1.0)
    clock.now += 70
    assert save.is_due(70)
    save()
    assert save.is_due(70)
    assert len(saved) == 2


def test_ends_of_epochs_save_where_it_takes_a_twentieth(clock: Clock) -> None:
    save, _ = saver(clock, 2.0)
    clock.now += 39
    assert not save.is_cheap()
    clock.now += 1.5
    assert save.is_cheap()
    assert not save.is_due(1.0)
