"""Text uses the field's standard terms: documentation, help, strings, comments, settings."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
DOCS = sorted((CHECKOUT / "docs").rglob("*.md"))
PAGES = [*CHECKOUT.glob("*.md"), *DOCS]
# the help of each verb is docs/reference/cli (tests/test_docs.py keeps them equal)
SOURCES = sorted(
    path for name in ("src", "benchmarks", "docs") for path in (CHECKOUT / name).rglob("*.py")
)
# their comments, settings and commands
SETTINGS = [
    *(CHECKOUT / name for name in ("Makefile", "constraints.txt", "CITATION.cff")),
    *sorted([*CHECKOUT.glob("*.toml"), *(CHECKOUT / "configs").glob("*.toml")]),
]

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
    r"data sets?": "dataset",
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
    """The string literals of a module that read like text or like a flag, and its comments."""
    found = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    texts = [text for text in found if isinstance(text, str) and (" " in text or text[:2] == "--")]
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = [token.string for token in tokens if token.type == tokenize.COMMENT]
    return [prose(text) for text in [*texts, *comments]]


def wrong_words(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    texts = strings(text) if path.suffix == ".py" else [prose(text)]
    return sorted({found.lower() for each in texts for found in WRONG.findall(each)})


@pytest.mark.parametrize(
    "path", [*PAGES, *SOURCES, *SETTINGS], ids=lambda path: path.relative_to(CHECKOUT).as_posix()
)
def test_words_off_the_glossary_do_not_come_back(path: Path) -> None:
    assert wrong_words(path) == []


def test_wrong_words_are_seen_in_prose_alone() -> None:
    found = WRONG.findall("The pictures are judged; `--judged` mends.")
    assert found == ["pictures", "judged", "judged", "mends"]
    assert WRONG.findall(prose("Pictured: road scenes. `--judged` ![](picture.png)")) == []
    assert strings('x = f"a picture of {x}" + "key"') == ["a picture of "]
    assert strings('add("--pictures")  # judged') == ["--pictures", "# judged"]


@pytest.mark.parametrize("term", TERMS)
def test_the_search_finds_each_standard_term(term: str) -> None:
    found = [path for path in DOCS if term.lower() in path.read_text(encoding="utf-8").lower()]
    assert found, f"no page has {term!r}"
