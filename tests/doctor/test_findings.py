"""Codes, and the commands that fix findings."""

import re
from pathlib import Path

from plainunet.doctor.findings import CODES, Findings, Fix
from plainunet.formats.problems import Change, DataError


def test_fixes(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    rename = Change("rename", (tmp_path / "f",), (tmp_path / "g",))
    findings = Findings(Path("my data"), {"values": (0, 1), "seed": 3})
    findings.add("cut-off", "a is cut off", [Path("a")])
    findings.add("shifted", "b is shifted", [Path("b")])
    findings.add("duplicate", "c is a copy", [Path("c")])
    findings.add("stray-value", "d has 7", [Path("d")], flags={"ignore": 7})
    findings.add("stray-value", "d has 7", [Path("d")], flags={"values": (0, 7), "seed": 3})
    findings.add("no-mask", "e has no mask", [Path("e")], fix=rename)
    findings.add("no-image", "f has no image", [Path("f")], fix=rename)
    findings.add("duplicate-across-groups", "h is a copy", [Path("h")], flags={})
    findings.add("swapped", "all are", [Path("i")], fix=None)
    # what would overwrite a file is no fix
    onto = Change("rename", (tmp_path / "f",), (tmp_path,))
    findings.add("no-mask", "j has no mask", [Path("j")], fix=onto)
    write = 'plainunet check "my data" --values 0 1 --seed 3 --write'
    of_both = Fix('plainunet fix "my data" no-mask --values 0 1 --seed 3', rename)
    assert [each.fix for each in findings.found] == [
        Fix(write, writes_list=True),
        Fix(f"{write} --leave-out shifted", writes_list=True, leave_out="shifted"),
        None,
        Fix('plainunet check "my data" --values 0 1 --seed 3 --ignore 7 --write'),
        Fix('plainunet check "my data" --values 0 7 --seed 3 --write'),
        *(of_both, of_both),
        Fix(write, writes_list=True),
        None,
        Fix(write, writes_list=True),
    ]
    assert findings.last_fix == f"{write} --leave-out shifted"
    assert findings.faulty == {*map(Path, "adefj")}
    in_order = [each.code for each in findings.in_order()]
    assert in_order == [
        *("no-mask", "no-mask", "no-image", "cut-off", "stray-value", "stray-value", "shifted"),
        *("swapped", "duplicate-across-groups", "duplicate"),
    ]


def test_problems_become_findings() -> None:
    findings = Findings(Path("x"))
    findings.problem(DataError("a is empty", "empty-file", [Path("a")]))
    findings.problem(DataError("b is odd", "no such code", [Path("b")]))
    findings.problem(DataError("c has 7", "stray-value", [Path("c")], flags={"ignore": 7}))
    assert [(each.code, each.severity, each.fix and each.fix.line) for each in findings.found] == [
        ("empty-file", "error", "plainunet check x --write"),
        ("unclear", "error", "plainunet check x --write"),
        ("stray-value", "error", "plainunet check x --ignore 7 --write"),
    ]


def test_every_code_that_is_raised_is_known(checkout: Path) -> None:
    """A code is an argument of a DataError after its message."""
    raised = set()
    for path in (checkout / "src").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for call in re.finditer(r"DataError\((?:[^()]|\([^()]*\))*\)", text):
            raised |= set(re.findall(r'^\s*"([a-z0-9-]+)",?$', call[0], flags=re.MULTILINE))
            raised |= set(re.findall(r', "([a-z0-9-]+)"(?!:)', call[0]))
    assert len(raised) > 20
    assert raised - set(CODES) == set()


def test_every_code_is_documented(checkout: Path) -> None:
    page = (checkout / "docs" / "check.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z0-9-]+)` \| (\w+) \|", page, flags=re.MULTILINE))
    assert rows == {code: each.severity for code, each in CODES.items()}
