"""Events are plain values that cannot change; the rate forgets what is long ago."""

import dataclasses

import pytest
from plainunet.training.events import Advance, EpochDone, Event, Note, Rate, Stage, StepDone

from plainunet.training import events

EVENTS: list[Event] = [
    Stage("reading", 3),
    Advance(1),
    Note("text"),
    StepDone(0, 1, 2, 0.5, 10.0, 1e-3, 1, 1, 1.0),
    EpochDone({"epoch": 1}),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_events_are_values(event: Event) -> None:
    assert event == dataclasses.replace(event)
    name = dataclasses.fields(event)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(event, name, None)


class Clock:
    now = 100.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(events.time, "perf_counter", lambda: clock.now)
    return clock


def test_the_rate_is_images_over_time(clock: Clock) -> None:
    rate = Rate()
    clock.now += 0.5
    assert rate.add(3) == pytest.approx(6)
    clock.now += 1.5
    assert rate.add(5) == pytest.approx(4)


def test_the_rate_forgets(clock: Clock) -> None:
    rate = Rate()
    clock.now += 20
    assert rate.add(1) == pytest.approx(0.05)
    for _ in range(25):
        clock.now += 0.5
        said = rate.add(1)
    assert said == pytest.approx(2)  # the slow start is more than twenty calls ago
