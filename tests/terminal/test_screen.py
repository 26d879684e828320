"""Progress: plain lines without a terminal, live bars on one."""

import re
from contextlib import nullcontext
from io import StringIO
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from plainunet.reporter import StepDone
from plainunet.terminal import screen as screens
from plainunet.terminal.screen import Screen

HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
MIB, GIB = 2**20, 2**30
Event = tuple[Any, ...]
"""A method of `Reporter` and its arguments."""


def send(screen: Screen, event: Event) -> None:
    name, *arguments = event
    getattr(screen, name)(*arguments)


def step(number: int, steps: int, epoch_steps: int, **other: Any) -> Event:
    """A step of a run; all steps have the same work."""
    values: dict[str, Any] = {
        **{"loss": 0.9, "images_per_second": 10.0, "learning_rate": 2e-3, "memory": 300 * MIB},
        **{"epoch": number // epoch_steps, "step": number, "steps": steps},
        **{"epoch_step": number % epoch_steps + 1, "epoch_steps": epoch_steps},
        "share": (number + 1) / steps,
    }
    return "step", StepDone(**{**values, **other})


def epoch(number: int, dice: float | None, best: float | None = None, **other: Any) -> Event:
    row = {
        **{"epoch": number, "size": (48, 64), "loss": 0.12345, "learning_rate": 1.5e-3},
        **{"images_per_second": 31.25, "seconds": 7.0, **other},
        "validation": {"per_image": {"dice": {"mean_foreground": dice}}},
    }
    return "epoch", row, best


RUN: list[Event] = [
    ("stage", "checking files", 2),
    ("advance", 1),
    ("advance", 2),
    ("note", "8 pairs, named [bold]a[/bold] and [/b]"),
    step(0, 4, 2),
    step(1, 4, 2, loss=0.8),
    ("stage", "validating", 2),
    ("advance", 2),
    epoch(1, 0.5, 0.625),
    step(2, 4, 2, loss=0.7),
    step(3, 4, 2, loss=0.6, images_per_second=12.0, gpu_memory=3 * GIB // 2),
    epoch(2, None),
]


class Clock:
    now = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that only the test moves, and plain lines for every step."""
    clock = Clock()
    monkeypatch.setattr(screens.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(screens, "_PLAIN_PERIOD", -1.0)
    return clock


def shown(
    events: list[Event], terminal: bool, error: BaseException | None = None, width: int = 100
) -> str:
    file = StringIO()
    console = Console(
        file=file, force_terminal=terminal, color_system=None, width=width, highlight=False
    )
    with pytest.raises(type(error)) if error else nullcontext(), Screen(console) as screen:
        for event in events:
            send(screen, event)
        if error:
            raise error
    return file.getvalue()


def test_plain_lines_without_a_terminal(clock: Clock, monkeypatch: Any) -> None:
    monkeypatch.setattr(screens, "_PLAIN_PERIOD", 30.0)
    note, *epochs = shown(RUN, terminal=False, width=20).splitlines()
    assert note == "8 pairs, named [bold]a[/bold] and [/b]"  # not wrapped
    assert epochs == [
        "epoch   1  48x64  loss 0.1235  val Dice 0.5000  learning rate 1.5e-03  31.2 images/s  7 s"
        "  memory 300 MiB  left 0:00:00",
        "epoch   2  48x64  loss 0.1235  learning rate 1.5e-03  31.2 images/s  7 s"
        "  memory 300 MiB  GPU 1.5 GiB  left 0:00:00",
    ]


def test_plain_lines_within_a_long_epoch(clock: Clock) -> None:
    lines = shown(RUN, terminal=False).splitlines()
    steps = [line for line in lines if "step" in line]
    assert steps == [
        "epoch 1/2  step 1/2  25%  loss 0.9000  learning rate 2.0e-03  10.0 images/s"
        "  memory 300 MiB",
        "epoch 1/2  step 2/2  50%  loss 0.8000  learning rate 2.0e-03  10.0 images/s"
        "  memory 300 MiB  left 0:00:00",
        "epoch 2/2  step 1/2  75%  loss 0.7000  val Dice 0.5000  learning rate 2.0e-03"
        "  10.0 images/s  memory 300 MiB  left 0:00:00",
        "epoch 2/2  step 2/2  100%  loss 0.6000  val Dice 0.5000  learning rate 2.0e-03"
        "  12.0 images/s  memory 300 MiB  GPU 1.5 GiB  left 0:00:00",
    ]


def lines_at(clock: Clock, events: list[tuple[float, Event]]) -> list[str]:
    """Plain lines of events at these times."""
    file = StringIO()
    with Screen(Console(file=file, width=200)) as screen:
        for clock.now, event in events:
            send(screen, event)
    return file.getvalue().splitlines()


def test_plain_lines_every_half_minute(clock: Clock, monkeypatch: Any) -> None:
    monkeypatch.setattr(screens, "_PLAIN_PERIOD", 30.0)
    lines = lines_at(clock, [(1007.0 + 7 * n, step(n, 1000, 100)) for n in range(100)])
    # seconds 35, 70, ...
    assert [int(line.split()[3].split("/")[0]) for line in lines] == list(range(5, 101, 5))
    clock.now = 1000.0
    stage = [(1000.0 + 12 * n, ("advance", n)) for n in range(1, 10)]
    lines = lines_at(clock, [(1000.0, ("stage", "reading", 9)), *stage])
    assert lines == ["reading 3/9", "reading 6/9", "reading 9/9"]


def left(clock: Clock, events: list[tuple[float, Event]]) -> list[str]:
    """The time left, at the end of each line."""
    return [re.sub(r".*left |.*MiB", "", line) for line in lines_at(clock, events)]


def test_time_left_by_the_work_done(clock: Clock) -> None:
    # in 10 s a tenth of the work, after 40 s more another tenth
    shares = {1000.0: 0.2, 1010.0: 0.3, 1050.0: 0.4}
    steps = [(now, step(n, 9, 9, share=share)) for n, (now, share) in enumerate(shares.items())]
    events = [*steps, (1060.0, epoch(1, 0.5))]
    assert left(clock, events) == ["", "0:01:10", "0:02:30", "0:03:00"]


def test_time_left_of_a_budget(clock: Clock) -> None:
    events: list[tuple[float, Event]] = [
        (1000.0, step(0, 9, 9, share=0.5, end=8000.0)),
        (1030.0, step(1, 70, 9, share=0.51, end=8000.0)),
        (1060.0, epoch(1, 0.5)),
        (8003.0, step(2, 70, 9, share=1.0, end=8000.0)),
    ]
    assert left(clock, events) == ["1:56:40", "1:56:10", "1:55:40", "0:00:00"]
    line = shown([events[0][1]], terminal=False)
    assert line.startswith("epoch 1  step 1/9  50%  ")  # the number of epochs is unknown


def test_skipped_steps_of_an_epoch() -> None:
    none, some = shown(
        [epoch(1, 0.5, loss=None, skipped=3), epoch(2, 0.5, skipped=1)], terminal=False
    ).splitlines()
    assert "loss" not in none
    assert none.endswith("skipped steps: 3")
    assert "loss 0.1235" in some
    assert some.endswith("skipped steps: 1")


def test_plain_lines_on_a_dumb_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    text = shown(RUN, terminal=True)
    assert "\x1b" not in text
    assert len(text.splitlines()) == 3


def screen_after(text: str) -> list[str]:
    """The final lines on a terminal, after cursor movements and erasures."""
    lines, at = [""], 0
    for part in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", text):
        if part == "\n":
            at += 1
            if at == len(lines):
                lines.append("")
        elif part.startswith("\x1b["):
            number = int(re.sub(r"\D", "", part) or 1)
            if part.endswith("A"):
                at = max(0, at - number)
            elif part.endswith("K"):
                lines[at] = ""
        elif part != "\r":
            lines[at] += part
    return [line.rstrip() for line in lines]


@pytest.mark.parametrize("error", [None, ValueError("no"), KeyboardInterrupt()])
@pytest.mark.parametrize("events", [RUN, RUN[:2], RUN[:5], RUN[:7]], ids=len)
def test_nothing_is_left_half_drawn(events: list[Event], error: BaseException | None) -> None:
    text = shown(events, terminal=True, error=error)
    assert text.count(SHOW_CURSOR) == text.count(HIDE_CURSOR) == 1
    assert text.index(HIDE_CURSOR) < text.index(SHOW_CURSOR)
    *lines, last = screen_after(text)
    assert last == ""  # further output starts on a new line
    stages = [line for line in lines if line.startswith(("checking", "validating"))]
    assert stages == []
    assert sum(line.startswith("training") for line in lines) == (len(events) > 4)
    # printed lines remain, without markup
    assert ("8 pairs, named [bold]a[/bold] and [/b]" in lines) == (len(events) > 3)
    printed = "epoch   1  48x64  loss 0.1235  val Dice 0.5000  31.2 images/s  7 s"
    assert any(line.startswith(printed) for line in lines) == (len(events) > 8)


BAR = "[━╸╺ ]+"
TIMES = r"\d+:\d\d:\d\d  left (-:--:--|\d+:\d\d:\d\d)"
LATER: list[Event] = [
    *RUN[:-1],
    epoch(2, 0.9, 0.95),
    step(4, 12, 2, learning_rate=3e-5, memory=5 * GIB // 4, gpu_memory=3 * GIB),
]


def frames(events: list[Event], width: int) -> list[list[str]]:
    """The screen after each event, without the empty line of the cursor."""
    file = StringIO()
    console = Console(file=file, force_terminal=True, color_system=None, width=width)
    found = []
    with Screen(console) as screen:
        for event in events:
            send(screen, event)
            console.print(end="")  # redraws the live lines
            found.append([line for line in screen_after(file.getvalue()) if line])
    return found


@pytest.mark.parametrize("width", [80, 120])
def test_live_lines_of_a_training(width: int) -> None:
    *_, current, run, quality, resources = frames(LATER, width)[-1]
    assert re.fullmatch(rf"epoch 3/6 +{BAR} 1/2 +{TIMES}", current)
    assert re.fullmatch(rf"training +{BAR} 41% +{TIMES}", run)
    assert current.index("1/2") == run.index("41%")
    assert quality == "loss 0.9000   val Dice 0.9000   best 0.9500   learning rate 3.0e-05"
    assert resources == "10.0 images/s   memory 1.2 GiB   GPU 3.0 GiB"


def test_validation_replaces_the_bar_of_the_epoch() -> None:
    drawn = frames(LATER, 80)
    assert [line[:22].strip() for line in drawn[3][1:]] == ["checking files"]
    training = [
        [line for line in frame if not line.startswith(("8 pairs", "epoch  "))]
        for frame in drawn[4:]
    ]
    names = [frame[0][:22].strip() for frame in training]
    assert names == [*["epoch 1/2"] * 2, *["validating"] * 3, *["epoch 2/2"] * 3, "epoch 3/6"]
    # the number of lines never changes
    assert {len(frame) for frame in training} == {4}
    assert "best 0.6250" in training[4][2]
    assert "best" not in training[3][2]


def test_names_of_stages_are_no_markup() -> None:
    names = ["runs/[a]/best", "[/y]/best"]
    drawn = frames([("stage", name, 3) for name in names], 80)
    assert [frame[-1][:22].strip() for frame in drawn] == names


@pytest.mark.parametrize("width", [30, 60, 80, 120])
def test_nothing_is_wider_than_the_terminal(width: int) -> None:
    large = {"images_per_second": 12345.6, "memory": 1234 * GIB, "gpu_memory": 640 * GIB}
    events: list[Event] = [
        ("stage", "evaluating (native size)", 12345),
        ("advance", 12344),
        step(3_999_999, 9_999_000, 9_999, loss=1234.5678, end=1e6, **large),
        epoch(1000, 0.9999, 0.9999, size=(1024, 1024), seconds=123456.0),
        step(4_000_000, 9_999_000, 9_999, loss=1234.5678, **large),
    ]
    for line in shown(events, terminal=True, width=width).splitlines():
        assert cell_len(re.sub(r"\x1b\[[?\d;]*[A-Za-z]|\r", "", line)) <= width
    stage, _, training, *_, last = frames(events, width)
    assert (len(stage), len(training)) == (1, 4)
    if width >= 80:
        assert len(last) == 5
        assert last[0].startswith("epoch 1000  1024x1024  loss 0.1235  val Dice 0.9999")
        assert all("…" not in line for line in [*stage, *training, *last])
