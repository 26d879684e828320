"""Events are plain values that cannot change; the rate forgets what is long ago."""

import dataclasses
import time

import pytest

from plainunet.training.events import Advance, EpochDone, Event, Note, Rate, Stage, StepDone

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


def test_the_rate_is_images_over_time() -> None:
    begin = time.perf_counter()
    rate = Rate()
    time.sleep(0.05)
    rate.add(3)
    time.sleep(0.05)
    before = time.perf_counter() - begin
    said = rate.add(5)
    after = time.perf_counter() - begin
    assert 8 / after * 0.99 <= said <= 8 / before * 1.01


def test_the_rate_forgets() -> None:
    rate = Rate()
    time.sleep(0.2)
    slow = rate.add(1)
    assert slow <= 5
    said = [rate.add(1) for _ in range(25)]
    assert said[-1] > 10 * slow  # the slow start is more than twenty calls ago
