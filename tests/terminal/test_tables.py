"""What a person sees of results."""

import re
from pathlib import Path

import pytest

from plainunet.doctor.diagnose import check
from plainunet.network.summary import StageSummary
from plainunet.terminal.tables import show_diagnosis, show_model

STAGES = [
    StageSummary("inlet", (64, 1600, 2400), 38_848, 148_193_280_000, 3_978_291_200, (5, 5)),
    StageSummary("up 10", (512, 20, 30), 9_177_600, 4_561_305_600, 7_376_896, (188, 204)),
    StageSummary("head", (2, 1600, 2400), 130, 999_700, 0, None),
]


@pytest.mark.parametrize("columns", ["60", "100"])
def test_a_network_is_shown_whole(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    down = StageSummary("down 1", (128, 800, 1200), 0, 0, 0, (14, 14))
    show_model([STAGES[0], down, *STAGES[1:]], (3, 1600, 2400), ["ground", "[b]leaf"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "classes: ground, [b]leaf"
    assert lines[1].split("  ")[0] == "picture 3 x 1600 x 2400"
    assert re.fullmatch(r"64 x 1600 x 2400 -+> 512 x 20 x 30", lines[2])
    rows = [" ".join(line.split()) for line in lines]
    assert "inlet 64 x 1600 x 2400 38,848 148 G 3,794.0 MiB 5" in rows
    assert "up 10 512 x 20 x 30 9,177,600 4.56 G 7.0 MiB 188-204" in rows
    assert "head 2 x 1600 x 2400 130 1000 k 0.0 MiB whole" in rows
    assert "total 9,216,578 153 G 3,801.0 MiB" in rows
    assert "A forward pass takes 306 GFLOP a picture" in " ".join(rows)


def test_of_many_findings_five_are_shown(
    small_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(7):
        (small_data / "images" / f"{number}.png").write_bytes(b"")
    show_diagnosis(check(small_data), "plainunet train")
    text = capsys.readouterr().out
    assert "error: empty-file (7)" in text
    assert text.count("is empty (0 bytes)") == 5
    assert "and 2 more" in text
    # the same cure is said once
    assert text.count("--write") == 1


def test_a_sound_folder_is_shown_with_the_command_that_trains(
    small_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show_diagnosis(check(small_data), "plainunet train [it]")
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[-1] == "plainunet train [it]"
    assert any(re.fullmatch(r"foreground \d+\.\d% 8", line) for line in lines)
    assert any("keep a mean Dice of" in line and "1.0000 at 512" in line for line in lines)
