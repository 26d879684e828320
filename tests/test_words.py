"""Text uses the field's standard terms: README, documentation, help, strings of the source."""

import ast
import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
DOCS = sorted((CHECKOUT / "docs").rglob("*.md"))
PAGES = [*(CHECKOUT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")), *DOCS]
# the help of each verb is docs/reference/cli (tests/test_docs.py keeps them equal)
SOURCES = sorted((CHECKOUT / "src").rglob("*.py"))

INSTEAD = {
    r"pictures?": "image",
    r"judg(?:e[ds]?|ing|e?ments?)": "evaluate, validate",
    r"mend(?:s|ed|ing|able)?": "fix",
    r"cure[sd]?": "fix",
    r"so many(?:-th)?": "a number",
    r"(?:is|are|was|were|be|been) (?:said|told(?! apart))": "reported, logged",
    r"(?:same|only|other) road": "path",
    r"houses?|rooms|closets?": "project layout, package",
    r"working (?:size|pixels?)": "input size, input pixel",
    r"contracting path|expanding path": "encoder, decoder",
    r"multiply-adds?": "MACs",
    r"true masks?": "ground truth",
    r"running average": "EMA of the weights",
    r"by heart": "overfit",
    r"and their like|once and for all|what shall": "rewrite",
    r"do(?:es)? not count": "ignored",
    r"go(?:es)? on from|stop and go on|to the clock": "resume, with a time budget",
}
"""Words off the glossary, and the field's own."""
WRONG = re.compile(rf"\b(?:{'|'.join(INSTEAD)})\b", flags=re.IGNORECASE)
TERMS = [
    *("calibration", "class imbalance", "confidence interval", "confusion matrix"),
    *("cross-validation", "data leakage", "early stopping", "ensemble", "fine-tuning"),
    *("gradient accumulation", "gradient clipping", "ground truth", "ignore index", "inference"),
    *("mixed precision", "multi-GPU", "overfitting", "semantic segmentation", "skip connection"),
]


def prose(text: str) -> str:
    """A page without its code and the names of JSON keys, which stay."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`]*`|\]\([^)]*\)|<!--.*?-->|\"\w+\"", " ", text)


def strings(source: str) -> list[str]:
    """The string literals of a module that read like text."""
    found = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    return [prose(text) for text in found if isinstance(text, str) and " " in text]


def wrong_words(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    texts = [prose(text)] if path.suffix == ".md" else strings(text)
    return sorted({found.lower() for each in texts for found in WRONG.findall(each)})


@pytest.mark.parametrize(
    "path", [*PAGES, *SOURCES], ids=lambda path: path.relative_to(CHECKOUT).as_posix()
)
def test_words_off_the_glossary_do_not_come_back(path: Path) -> None:
    assert wrong_words(path) == []


def test_wrong_words_are_seen_in_prose_alone() -> None:
    found = WRONG.findall("The pictures are judged; `--judged` mends.")
    assert found == ["pictures", "judged", "judged", "mends"]
    assert WRONG.findall(prose("Pictured: road scenes. `--judged` ![](picture.png)")) == []
    assert strings('x = f"a picture of {x}" + "key"') == ["a picture of "]


@pytest.mark.parametrize("term", TERMS)
def test_the_search_finds_each_standard_term(term: str) -> None:
    found = [path for path in DOCS if term.lower() in path.read_text(encoding="utf-8").lower()]
    assert found, f"no page has {term!r}"
