"""The documentation is true: the map, the links, the code, the recipes, the generated pages."""

import importlib
import json
import re
import runpy
import shlex
import shutil
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from .folders import draw_rectangles, save

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

BLOCK = re.compile(
    r"(?:^<!-- not-run: ([^\n]*) -->\n)?^```(\w*)(?: title=\"([\w.-]+)\")?[^\n]*\n(.*?)^```",
    flags=re.MULTILINE | re.DOTALL,
)
CODE = {"sh", "python", "toml", "json"}
# a backslash at the end joins a line with the next
CONTINUED = re.compile(r"\\\n[#\s]*")
MADE = re.compile(
    r"[Mm]ade by `(?:python ((?:docs|benchmarks)/\w+\.py)|plainunet \w+)"
    r"|held-out image of `plainunet"
)


class Block(NamedTuple):
    """A fenced block of a page, why it is not run, if it is not, and the file that it is."""

    page: str
    reason: str
    language: str
    file: str
    text: str


def blocks(page: Path) -> list[Block]:
    name = page.relative_to(CHECKOUT).as_posix()
    return [Block(name, *found) for found in BLOCK.findall(page.read_text(encoding="utf-8"))]


BLOCKS = [block for page in PAGES for block in blocks(page)]
RUN = [block for block in BLOCKS if block.language in CODE and not block.reason]


def test_the_map_names_every_package() -> None:
    maps = [block.text for block in blocks(CONTRIBUTING) if "src/plainunet/" in block.text]
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
    (block.page, words)
    for block in BLOCKS
    if block.language == "sh"
    for words in commands(block.text)
] + [
    (path.relative_to(CHECKOUT).as_posix(), words)
    for path in CONFIGS
    for words in commands(path.read_text(encoding="utf-8"))
]


def test_commands_are_found() -> None:
    text = "$ plainunet train DATA \\\n    --out RUN  # why\n\n# plainunet predict X > y\nplainunet"
    assert commands(text) == [["train", "DATA", "--out", "RUN"], ["predict", "X"]]
    assert {words[0] for name, words in WRITTEN if name == "README.md"} >= {
        *("evaluate", "predict", "train"),
    }
    assert CONFIGS
    assert {block.language for block in RUN} == CODE
    assert [block for block in BLOCKS if block.language in {"bash", "console", "shell"}] == []


@pytest.mark.parametrize(
    "words", [words for _, words in WRITTEN], ids=[f"{n}: {' '.join(w)}" for n, w in WRITTEN]
)
def test_commands_parse(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from plainunet.__main__ import _with_own_names
    from plainunet.cli import app

    monkeypatch.chdir(CHECKOUT)  # the recipes are named from there
    own = _with_own_names(words)
    function, _, unused = app.parse_args(own, exit_on_error=False, print_error=False)
    assert callable(function)
    assert not unused, f"unknown: {unused}"


def test_blocks_that_do_not_run_have_a_reason_and_others_can() -> None:
    for block in BLOCKS:
        if block.language in CODE and block.reason:
            assert len(block.reason.split()) >= 2, block
    for block in RUN:
        if block.language == "sh":
            lines = CONTINUED.sub(" ", block.text).splitlines()
            assert len(commands(block.text)) == len([line for line in lines if line.strip()]), block


FAST = ("--epochs", "1", "--batch-size", "4", "--workers", "0")
SMALL_NETWORK = ("--base-channels", "4", "--depth", "2")


def run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a command as it is written, a training for one epoch of a small network."""
    from plainunet.__main__ import _run

    if words[0] in ("train", "crossval") and "--resume" not in words:
        given = list(words)
        for flag in ("--epochs", "--budget", "--base-channels", "--batch-size"):
            while flag in given:
                del given[given.index(flag) : given.index(flag) + 2]
        words = [*given, *FAST, *(() if "--pretrained" in given else SMALL_NETWORK)]
        if "--seeds" not in words:  # which extend a cross-validation
            shutil.rmtree(words[words.index("--out") + 1], ignore_errors=True)
    monkeypatch.setattr("sys.argv", ["plainunet", *words])
    return _run()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders that the pages name: my-data, new-images, and runs on my-data."""
    folder = tmp_path_factory.mktemp("docs")
    drawn = draw_rectangles(folder / "drawn", 10, (96, 128))
    for number, name in enumerate([*"abcdefgh", "i_1", "i_2"]):
        for kind, suffix in (("images", ".jpg"), ("masks", ".png")):
            with Image.open(drawn / kind / f"{number}.png") as image:
                save(folder / "my-data" / kind / f"{name}{suffix}", np.array(image))
    shutil.copytree(folder / "my-data", folder / "other-data")
    for images in ("new-images", "scans"):
        shutil.copytree(folder / "my-data" / "images", folder / images)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run(["train", "my-data", "--out", "runs/first"], patch) == 0
        shutil.copytree("runs/first", "runs/second")
    return folder


REFERENCE, SLOW = "docs/reference/python.md", re.compile(r"\b(export|cross_validate)\(")
"""Examples that take seconds; the guides have others like them."""
PYTHON = [
    pytest.param(block, id=block.page, marks=[pytest.mark.slow] * bool(SLOW.search(block.text)))
    if block.page == REFERENCE
    else pytest.param(block, id=block.page)
    for block in RUN
    if block.language == "python"
]


@contextmanager
def own_files(page: str) -> Iterator[None]:
    """Write the files that a page shows into the current folder, whose modules can be imported."""
    files = {block.file: block.text for block in BLOCKS if block.page == page and block.file}
    for name, text in files.items():
        Path(name).write_text(text, encoding="utf-8")
    path = list(sys.path)
    sys.path.insert(0, str(Path.cwd()))
    importlib.invalidate_caches()
    yield
    sys.path[:] = path
    for name in files:
        sys.modules.pop(Path(name).stem, None)


@pytest.mark.parametrize("block", PYTHON)
def test_python_runs(block: Block, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    with own_files(block.page):
        exec(compile(block.text, block.page, "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("block", RUN, ids=lambda block: f"{block.page}: {block.language}")
def test_settings_and_json_are_valid(block: Block) -> None:
    from plainunet.config import DataConfig

    if block.language == "toml":
        DataConfig.model_validate(tomllib.loads(block.text))
    if block.language == "json":
        json.loads(block.text)


SHELL = sorted({block.page for block in RUN if block.language == "sh"})


@pytest.mark.slow
@pytest.mark.parametrize("page", SHELL)
def test_shell_runs(
    page: str, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(workspace, tmp_path / "workspace")
    monkeypatch.chdir(tmp_path / "workspace")
    shown = [block.text for block in RUN if block.page == page and block.language == "sh"]
    with own_files(page):
        for words in [words for text in shown for words in commands(text)]:
            # of `check`, 1 stands for warnings
            assert run(words, monkeypatch) <= (words[0] == "check"), words


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", sorted((CHECKOUT / "docs").rglob("*.ipynb")), ids=str)
def test_notebook_runs(path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook: Any = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "clear the outputs"
    NotebookClient(notebook, timeout=280).execute()


def test_generated_pages_are_up_to_date(tmp_path: Path) -> None:
    runpy.run_path(str(CHECKOUT / "docs" / "reference.py"))["main"](tmp_path)
    for made in tmp_path.rglob("*.md"):
        committed = CHECKOUT / "docs" / "reference" / made.relative_to(tmp_path)
        assert committed.read_text("utf-8") == made.read_text("utf-8"), "run docs/reference.py"


def test_figures_name_the_command_that_makes_them() -> None:
    for page in (CHECKOUT / "docs").rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        # the landing page repeats figures of the guides as links
        for figure in re.finditer(r"^!\[[^\]]*\]\([^)]*\)$", text, flags=re.MULTILINE):
            made = MADE.search(text, figure.end(), figure.end() + 400)
            assert made, f"{page.name}: {figure[0]}"
            assert not made[1] or (CHECKOUT / made[1]).exists()


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
    assert own, f"the header of {path.name} lacks the command that runs it"
    for word in ("Hardware", "Time", "Score"):
        assert re.search(rf"\b{word}\b", header, flags=re.IGNORECASE), f"no {word} in the header"


def test_every_page_is_in_the_contents() -> None:
    contents = (CHECKOUT / "zensical.toml").read_text(encoding="utf-8")
    for page in (CHECKOUT / "docs").rglob("*.md"):
        name = page.relative_to(CHECKOUT / "docs").as_posix()
        assert f'"{name}"' in contents, f"docs/{name} is not in zensical.toml"
