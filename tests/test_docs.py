"""What the documentation says is so: the map, the links, the commands, the recipes."""

import ast
import re
import runpy
import shlex
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
PACKAGE = CHECKOUT / "src" / "plainunet"
README = CHECKOUT / "README.md"
CONTRIBUTING = CHECKOUT / "CONTRIBUTING.md"
PAGES = sorted(
    [
        README,
        CHECKOUT / "CHANGELOG.md",
        CHECKOUT / "CONTRIBUTING.md",
        *(CHECKOUT / "docs").rglob("*.md"),
    ]
)
PAGE_IDS = [page.relative_to(CHECKOUT).as_posix() for page in PAGES]
CONFIGS = sorted((CHECKOUT / "configs").glob("*.toml"))

BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
SHELL = {"sh", "bash", "console", "shell"}
# a backslash at the end joins a line with the next
CONTINUED = re.compile(r"\\\n[#\s]*")


def blocks(page: Path) -> list[tuple[str, str]]:
    """The fenced blocks of a page, as (language, text)."""
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def test_the_map_names_every_package() -> None:
    maps = [text for _, text in blocks(CONTRIBUTING) if "src/plainunet/" in text]
    mapped = set(re.findall(r"^  (\w+)/ ", maps[0], flags=re.MULTILINE))
    on_disk = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert mapped == on_disk
    files = set(re.findall(r"\b(\w+\.py)\b", maps[0]))
    assert files <= {path.name for path in PACKAGE.glob("*.py")}


def test_ten_files_are_to_be_read_first() -> None:
    text = CONTRIBUTING.read_text(encoding="utf-8")
    assert len(re.findall(r"^\d+\. \[`.+\.py`\]", text, flags=re.MULTILINE)) == 10


def anchors(page: Path) -> set[str]:
    """The names by which a page's headings can be linked to."""
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ +(.+?) *$", text, flags=re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings]
    return set(plain)


@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_links_resolve(page: Path) -> None:
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    targets = re.findall(r"\[[^\]]*\]\(([^)\s]+)[^)]*\)", text)
    targets += re.findall(r"""(?:src|href)=["']([^"']+)["']""", text)
    for target in targets:
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        goal = page.parent / path if path else page
        assert goal.exists(), f"{target} leads nowhere"
        if "docs" in page.parts and path:
            assert "docs" in goal.resolve().parts, f"{target} leaves the built site"
        if anchor and goal.suffix == ".md":
            assert anchor in anchors(goal), f"{target} names no heading"


def commands(text: str) -> list[list[str]]:
    """The `plainunet ...` command lines in a shell block or a comment, as words."""
    found = []
    for line in CONTINUED.sub(" ", text).splitlines():
        stripped = line.lstrip("#$ ")
        if re.match(r"(\.venv/bin/)?plainunet ", stripped):
            words = shlex.split(stripped, comments=True)
            for stop in ("|", ">", "&&", "2>"):
                if stop in words:
                    words = words[: words.index(stop)]
            found.append(words[1:])
    return found


WRITTEN = [
    (page.relative_to(CHECKOUT).as_posix(), words)
    for page in PAGES
    for language, text in blocks(page)
    if language in SHELL
    for words in commands(text)
] + [
    (path.relative_to(CHECKOUT).as_posix(), words)
    for path in CONFIGS
    for words in commands(path.read_text(encoding="utf-8"))
]


def test_commands_are_found() -> None:
    text = "$ plainunet train DATA \\\n    --out RUN  # why\n\n# plainunet predict X > y\nplainunet"
    assert commands(text) == [["train", "DATA", "--out", "RUN"], ["predict", "X"]]
    assert {words[0] for name, words in WRITTEN if name == "README.md"} >= {
        *("demo", "evaluate", "predict", "train"),
    }
    assert PYTHON
    assert CONFIGS


@pytest.mark.parametrize(
    "words", [words for _, words in WRITTEN], ids=[f"{n}: {' '.join(w)}" for n, w in WRITTEN]
)
def test_commands_parse(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from plainunet.cli import app

    monkeypatch.chdir(CHECKOUT)  # the recipes are named from there
    function, _, unused = app.parse_args(words, exit_on_error=False, print_error=False)
    assert callable(function)
    assert not unused, f"not understood: {unused}"


PYTHON = [
    (page.relative_to(CHECKOUT).as_posix(), text)
    for page in PAGES
    for language, text in blocks(page)
    if language == "python"
]


@pytest.mark.parametrize("text", [text for _, text in PYTHON], ids=[name for name, _ in PYTHON])
def test_python_is_valid_and_its_imports_exist(text: str) -> None:
    tree = ast.parse(text)
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    for node in imports:
        exec(ast.unparse(node), {})


def test_the_figures_of_the_network_are_up_to_date(tmp_path: Path) -> None:
    runpy.run_path(str(CHECKOUT / "docs" / "unet_figure.py"))["main"](tmp_path)
    for name in ("unet.svg", "unet-paper.svg"):
        committed = (CHECKOUT / "docs" / name).read_bytes()
        assert (tmp_path / name).read_bytes() == committed, "run docs/unet_figure.py"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_recipe_loads_and_says_how_it_was_run(path: Path) -> None:
    from plainunet.settings import load_config

    load_config(path)
    text = path.read_text(encoding="utf-8")
    header = re.match(r"(?:#.*\n)*", text)[0]  # type: ignore[index]
    own = [words for words in commands(header) if f"configs/{path.name}" in words]
    assert own, f"the header of {path.name} has the command that runs it"
    for word in ("Hardware", "Time", "Score"):
        assert re.search(rf"\b{word}\b", header, flags=re.IGNORECASE), f"no {word} in the header"


def test_every_page_is_in_the_contents() -> None:
    contents = (CHECKOUT / "zensical.toml").read_text(encoding="utf-8")
    for page in (CHECKOUT / "docs").rglob("*.md"):
        name = page.relative_to(CHECKOUT / "docs").as_posix()
        assert f'"{name}"' in contents, f"docs/{name} is not in zensical.toml"
