"""The public API: names are sorted, complete and documented."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import plainunet

CHECKOUT = Path(__file__).parents[1]
PARTS = [name for name in plainunet.__all__ if name != "__version__"]


def test_names_are_sorted_few_and_once() -> None:
    assert plainunet.__all__ == sorted(set(plainunet.__all__))
    assert len(PARTS) <= 25


def test_names_are_complete() -> None:
    """Type checkers, lazy loading and `__all__` have the same names."""
    tree = ast.parse(Path(plainunet.__file__).read_text(encoding="utf-8"))
    typed = {
        (alias.name, node.module)
        for branch in tree.body
        if isinstance(branch, ast.If)
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == set(plainunet._MODULES.items())
    assert sorted(plainunet._MODULES) == sorted(PARTS)
    assert set(plainunet.__all__) <= set(dir(plainunet))


@pytest.mark.parametrize("name", PARTS)
def test_every_name_is_documented(name: str) -> None:
    documentation = getattr(plainunet, name).__doc__ or ""
    # the examples are run with docs/reference/python.md, which repeats them
    assert re.search(r"Example:.*```python.* plainunet import", documentation, re.DOTALL), name
    pages = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").rglob("*.md"))]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    assert re.search(rf"`{name}\b", text), f"{name} is in neither README.md nor docs/"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'segment'"):
        _ = plainunet.segment  # type: ignore[attr-defined]


def test_verbs_are_functions_whatever_was_imported_before() -> None:
    """A submodule of the same name would replace the function once it is imported."""
    package = Path(plainunet.__file__).parent
    assert not {path.stem for path in package.iterdir()} & set(PARTS)
    assert plainunet.train.__module__ == "plainunet.training.train"
    assert plainunet.evaluate.__module__ == "plainunet.evaluation.evaluate"


@pytest.mark.slow
def test_importing_modules_makes_no_network_requests() -> None:
    code = (
        "import os, sys; os.environ.pop('NO_ALBUMENTATIONS_UPDATE', None)\n"
        "requests = []\n"
        "network = ('socket.connect', 'socket.getaddrinfo', 'urllib.Request')\n"
        "sys.addaudithook(lambda event, _: requests.append(event) if event in network else None)\n"
        "import importlib, pkgutil, plainunet\n"
        # the page needs Gradio, and has a test of its own
        "names = [each.name for each in pkgutil.walk_packages(plainunet.__path__, 'plainunet.')]\n"
        "for name in names:\n"
        "    name.endswith(('__main__', 'deployment.page')) or importlib.import_module(name)\n"
        "print(requests)\n"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


def test_main_has_a_version() -> None:
    words = [sys.executable, "-W", "error", "-m", "plainunet", "--version"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == (plainunet.__version__, "")
