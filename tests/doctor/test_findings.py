import re
from pathlib import Path

from plainunet.doctor.findings import CODES, Findings
from plainunet.formats.problems import DataError

PACKAGE = Path(__file__).parents[3] / "src" / "plainunet" / "data"


def test_cures() -> None:
    findings = Findings("plainunet check my-data")
    findings.add("cut-off", "a is cut off", [Path("a")])
    findings.add("shifted", "b is shifted", [Path("b")])
    findings.add("duplicate", "c is a copy", [Path("c")])
    findings.add("stray-value", "d has 7", [Path("d")], "--ignore 7")
    findings.add("no-mask", "e has no mask", [Path("e")], "mv f g")
    assert [each.cure for each in findings.found] == [
        "plainunet check my-data --write",
        "plainunet check my-data --write --leave-out shifted",
        "",
        "plainunet check my-data --ignore 7 --write",
        "mv f g",
    ]
    assert findings.faulty == {Path("a"), Path("d"), Path("e")}


def test_problems_become_findings() -> None:
    findings = Findings("check")
    findings.add_problem(DataError("a is empty", "empty-file", [Path("a")]))
    findings.add_problem(DataError("b is odd", "no such code", [Path("b")]))
    assert [(each.code, each.severity) for each in findings.found] == [
        ("empty-file", "error"),
        ("unclear", "error"),
    ]


def test_every_code_that_is_raised_is_known() -> None:
    """A code is the last argument but files and cure of a DataError."""
    raised = set()
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for call in re.finditer(r"DataError\((?:[^()]|\([^()]*\))*\)", text):
            raised |= set(re.findall(r'^\s*"([a-z0-9-]+)",?$', call[0], flags=re.MULTILINE))
            raised |= set(re.findall(r', "([a-z0-9-]+)"', call[0]))
    assert len(raised) > 20
    assert raised - set(CODES) == set()


def test_every_code_is_documented() -> None:
    page = (PACKAGE.parents[2] / "docs" / "check.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z0-9-]+)` \| (\w+) \|", page, flags=re.MULTILINE))
    assert rows == {code: each.severity for code, each in CODES.items()}
