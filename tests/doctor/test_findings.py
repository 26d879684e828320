"""Codes, and fixes: each shell line is run by a real shell on a real file."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plainunet.doctor.findings import (
    CODES,
    Findings,
    Fix,
    exchange_files,
    exchange_values,
    move_files,
    replace_values,
    resize_files,
    turn_files,
)
from plainunet.formats.encoded import turn_upright
from plainunet.formats.masks import read_mask
from plainunet.formats.problems import DataError

MASK = np.random.default_rng(0).integers(0, 3, (20, 30)).astype(np.uint8)


def test_fixes() -> None:
    findings = Findings("check my-data")
    findings.add("cut-off", "a is cut off", [Path("a")])
    findings.add("shifted", "b is shifted", [Path("b")])
    findings.add("duplicate", "c is a copy", [Path("c")])
    findings.add("stray-value", "d has 7", [Path("d")], flags={"ignore": 7})
    findings.add("no-mask", "e has no mask", [Path("e")], fix="mv f g")
    findings.add("duplicate-across-groups", "h is a copy", [Path("h")], flags={})
    assert [each.fix for each in findings.found] == [
        Fix("check my-data --write", writes_list=True),
        Fix("check my-data --write --leave-out shifted", writes_list=True, leave_out="shifted"),
        None,
        Fix("check my-data --ignore 7 --write"),
        Fix("mv f g"),
        Fix("check my-data --write", writes_list=True),
    ]
    assert findings.faulty == {Path("a"), Path("d"), Path("e")}
    in_order = [each.code for each in findings.in_order()]
    assert in_order == [
        *("no-mask", "cut-off", "stray-value", "shifted", "duplicate-across-groups", "duplicate")
    ]


def test_problems_become_findings() -> None:
    findings = Findings("check")
    findings.problem(DataError("a is empty", "empty-file", [Path("a")]))
    findings.problem(DataError("b is odd", "no such code", [Path("b")]))
    findings.problem(DataError("c has 7", "stray-value", [Path("c")], flags={"ignore": 7}))
    assert [(each.code, each.severity, each.fix and each.fix.line) for each in findings.found] == [
        ("empty-file", "error", "check --write"),
        ("unclear", "error", "check --write"),
        ("stray-value", "error", "check --ignore 7 --write"),
    ]


def test_every_code_that_is_raised_is_known(checkout: Path) -> None:
    """A code is an argument of a DataError after its message."""
    raised = set()
    for path in (checkout / "src").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for call in re.finditer(r"DataError\((?:[^()]|\([^()]*\))*\)", text):
            raised |= set(re.findall(r'^\s*"([a-z0-9-]+)",?$', call[0], flags=re.MULTILINE))
            raised |= set(re.findall(r', "([a-z0-9-]+)"', call[0]))
    assert len(raised) > 20
    assert raised - set(CODES) == set()


def test_every_code_is_documented(checkout: Path) -> None:
    page = (checkout / "docs" / "check.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z0-9-]+)` \| (\w+) \|", page, flags=re.MULTILINE))
    assert rows == {code: each.severity for code, each in CODES.items()}


def moved(dx: int, dy: int) -> np.ndarray:
    """The mask moved to the right and down, 0 coming in."""
    around = np.pad(MASK, 5)
    return around[5 - dy : 25 - dy, 5 - dx : 35 - dx]


def test_lines_change_masks(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("it's a mask.png", "mask.gif", "mask.tif", "mask.bmp")]
    image = Image.fromarray(MASK)
    image.putpalette([0, 0, 0, 200, 0, 0, 0, 0, 200])
    lines = [
        (replace_values({2: 1, 1: 0}, paths), np.choose(MASK, [0, 0, 1])),
        (exchange_values(0, 2, paths), np.choose(MASK, [2, 1, 0])),
        (
            " && ".join(resize_files(60, 40, path) for path in paths),
            MASK.repeat(2, axis=0).repeat(2, axis=1),
        ),
        *((move_files(*by, paths), moved(*by)) for by in ((3, 0), (0, -4), (-2, 5))),
        *((turn_files(turn, paths), turn_upright(MASK, turn)) for turn in range(2, 9)),
    ]
    for line, wanted in lines:
        for path in paths:
            image.save(path)
        subprocess.run(["bash", "-c", line], check=True, capture_output=True)
        for path in paths:
            np.testing.assert_array_equal(read_mask(path), wanted, err_msg=line)


@pytest.mark.parametrize("high", [1, 255])
def test_exchange_of_one_bit_and_of_black_and_white(tmp_path: Path, high: int) -> None:
    path = tmp_path / "mask.png"
    Image.fromarray(MASK > 0 if high == 1 else (MASK > 0) * np.uint8(255)).save(path)
    line = exchange_values(0, high, [path])
    subprocess.run(["bash", "-c", line], check=True, capture_output=True)
    assert (read_mask(path) == (MASK == 0) * high).all()


def test_several_files_at_once(tmp_path: Path) -> None:
    one, other = tmp_path / "a b.png", tmp_path / "c.png"
    Image.fromarray(MASK).save(one)
    Image.fromarray(MASK[::-1].copy()).save(other)
    for line in (exchange_files(one, other), replace_values({1: 2}, [one, other])):
        subprocess.run(["bash", "-c", line], check=True, capture_output=True)
    wanted = np.choose(MASK, [0, 2, 2])
    assert (read_mask(one) == wanted[::-1]).all()
    assert (read_mask(other) == wanted).all()
    assert len(list(tmp_path.iterdir())) == 2
