"""What a person sees: plain lines without a terminal, a live screen on one."""

import contextlib
import re
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from plainunet.training.events import Advance, EpochDone, Event, Note, Stage, StepDone
from plainunet.training.progress import Screen

HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


def row(epoch: int, dice: float | None) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "size": (48, 64),
        "loss": 0.12345,
        "images_per_second": 31.25,
        "seconds": 7.0,
        "validation": {"per_image": {"dice": {"mean_foreground": dice}}},
    }


RUN: list[Event] = [
    Stage("checking files", 2),
    Advance(1),
    Advance(2),
    Note("8 pairs, named [bold]a[/bold] and [/b]"),
    StepDone(0, 0, 4, 0.9, 10.0),
    StepDone(0, 1, 4, 0.8, 10.0),
    Stage("validating", 2),
    Advance(2),
    EpochDone(row(1, 0.5)),
    StepDone(1, 2, 4, 0.7, 10.0),
    StepDone(1, 3, 4, 0.6, 12.0),
    EpochDone(row(2, None)),
]


def shown(events: list[Event], terminal: bool, error: BaseException | None = None) -> str:
    file = StringIO()
    console = Console(
        file=file, force_terminal=terminal, color_system=None, width=100, highlight=False
    )
    with contextlib.suppress(*([type(error)] if error else [])), Screen(console) as screen:
        for event in events:
            screen(event)
        if error:
            raise error
    return file.getvalue()


def test_without_a_terminal_there_are_plain_lines() -> None:
    note, *epochs = shown(RUN, terminal=False).splitlines()
    assert note == "8 pairs, named [bold]a[/bold] and [/b]"
    assert [re.sub(" +", " ", line.replace("val ", "")) for line in epochs] == [
        "epoch 1 48x64 loss 0.1235 Dice 0.5000 31.2 images/s 7 s",
        "epoch 2 48x64 loss 0.1235 31.2 images/s 7 s",
    ]


def test_without_a_terminal_a_long_epoch_still_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plainunet.training.progress._PLAIN_PERIOD", -1.0)
    lines = shown(RUN, terminal=False).splitlines()
    steps = [line for line in lines if line.startswith("step")]
    assert len(steps) == 4
    assert re.fullmatch(
        r"step 3/4  epoch 2  loss 0\.7000  (val )?Dice 0\.5000  10\.0 images/s  0\.0 min left",
        steps[2],
    )


def test_on_a_terminal_it_is_live() -> None:
    text = shown(RUN, terminal=True)
    assert HIDE_CURSOR in text
    for said in ("checking files", "training", "4/4", "epoch 2  loss 0.6000", "validating"):
        assert said in text
    # what has been said stays, literally
    assert "8 pairs, named [bold]a[/bold] and [/b]" in text
    assert re.search(r"epoch   1  48x64  loss 0\.1235  (val )?Dice 0\.5000", text)


def screen_after(text: str) -> list[str]:
    """What a terminal shows in the end: lines, after cursor movements and erasures."""
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
    assert last == ""  # what comes next begins on a line of its own
    stages = [line for line in lines if line.startswith(("checking", "validating"))]
    assert stages == []
    assert sum(line.startswith("training") for line in lines) == (len(events) > 4)


def test_an_error_goes_through() -> None:
    with pytest.raises(ValueError, match="mine"), Screen(Console(file=StringIO())):
        raise ValueError("mine")
