"""The house keeps its order: who may import whom, what is tested where, who may print.

These read the source as text (by `ast`), so a broken module is judged as well.
"""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "src" / "plainunet"

# the order in which data flows; rooms on one line do not know each other
ORDER = (
    {"files", "memory"},
    {"data_config"},
    {"config", "palette"},
    {"settings"},
    {"data", "network"},
    {"prediction"},
    {"evaluation"},
    {"training"},
    {"deployment"},
    {"cli"},
)
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}
MAY_PRINT = {
    "__main__.py",
    "cli.py",
    "training/progress.py",
    "training/score_tables.py",
    "training/tables.py",
}
DRAWERS = {"utils", "util", "common", "helpers", "helper", "base", "misc"}
MOST_LINES = 300
# a list of verbs, which grows with them; each is short
MOST_LINES_OF = {"cli.py": 600}
MOST_LINES_OF_A_VERB = 70

SOURCES = sorted(PACKAGE.rglob("*.py"))
NAMES = [path.relative_to(PACKAGE).as_posix() for path in SOURCES]
# the front door: it names the public parts for type checkers, and loads none of them
MODULES = [name for name in NAMES if name != "__init__.py"]


def room_of(name: str) -> str:
    return name.split("/")[0].removesuffix(".py")


def imported_modules(tree: ast.Module, name: str) -> list[tuple[int, str]]:
    """Every import of the file `name`, wherever it stands, as (line, dotted name).

    `import plainunet` counts as an import of each name that is then taken from it.
    """
    package = ["plainunet", *name.split("/")[:-1]]
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            # a bare `import plainunet` is judged by what is taken from it, below
            names = [alias.name for alias in node.names if alias.name != "plainunet"]
            found += [(node.lineno, module) for module in names]
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "plainunet":
            found.append((node.lineno, f"plainunet.{node.attr}"))
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*start, *([node.module] if node.module else [])])
            # `from plainunet import data` imports a room, so the name belongs to the path
            found += [(node.lineno, f"{origin}.{alias.name}") for alias in node.names]
    return found


def wrong_imports(source: str, name: str) -> list[str]:
    own = room_of(name)
    wrong = []
    for line, module in imported_modules(ast.parse(source), name):
        parts = module.split(".")
        if parts[0] != "plainunet" or parts[1:] == ["__version__"]:
            continue
        room = parts[1] if len(parts) > 1 else ""
        where = f"{name}:{line} imports {module}"
        if own == "__main__":
            if room not in ("cli", "memory", "settings"):
                wrong.append(f"{where}: only cli and what stands before the rooms are opened here")
        elif room not in RANK:
            wrong.append(f"{where}: name the room that it lives in")
        elif room != own and RANK[room] >= RANK[own]:
            wrong.append(f"{where}: {room} does not come before {own}")
    return wrong


@pytest.mark.parametrize("name", MODULES)
def test_imports_only_from_rooms_before(name: str) -> None:
    assert wrong_imports((PACKAGE / name).read_text(encoding="utf-8"), name) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("data/images.py", "from plainunet.network.unet import UNet"),
        ("network/unet.py", "import plainunet.formats.images"),
        ("network/unet.py", "def f():\n    from ..data import images"),
        ("prediction/predictor.py", "from .. import training"),
        ("files.py", "from plainunet.settings import load_config"),
        ("data/images.py", "from plainunet import UNet"),
        ("data/images.py", "import plainunet\nplainunet.UNet()"),
        ("evaluation/evaluate.py", "from plainunet.cli import main"),
        ("__main__.py", "from plainunet.training.train import train"),
    ],
)
def test_a_wrong_import_is_seen(name: str, source: str) -> None:
    assert len(wrong_imports(source, name)) == 1


def test_right_imports_are_left_alone() -> None:
    source = (
        "import torch\nfrom plainunet import __version__, data\nfrom plainunet.files import x\n"
        "from .loop import y\nfrom ..network.unet import UNet\n"
        "import plainunet\nversion = plainunet.__version__"
    )
    assert wrong_imports(source, "training/run.py") == []


def test_every_file_stands_in_a_known_room() -> None:
    unknown = [name for name in NAMES if room_of(name) not in {*RANK, "__init__", "__main__"}]
    assert unknown == [], "a new room needs its place in the order"
    assert all(name.count("/") <= 2 for name in NAMES), "a room may have closets, a closet none"


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__.py")])
def test_every_file_has_its_test(name: str) -> None:
    folder, _, file = name.rpartition("/")
    mirror = TESTS / folder / f"test_{file}"
    assert mirror.is_file(), f"{name} has no {mirror.relative_to(TESTS.parent)}"


def test_every_room_says_what_it_is_for_and_loads_nothing() -> None:
    rooms = sorted({Path(name).parent.as_posix() for name in NAMES} - {"."})
    assert rooms, "the package has rooms"
    for room in rooms:
        tree = ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8"))
        text = ast.get_docstring(tree) or ""
        assert "In:" in text, f"{room}/__init__.py says what comes in"
        assert "Out:" in text, f"{room}/__init__.py says what goes out"
        assert len(tree.body) == 1, f"{room}/__init__.py holds its docstring and nothing else"


@pytest.mark.parametrize("name", [name for name in MODULES if name not in MAY_PRINT])
def test_nothing_else_prints(name: str) -> None:
    tree = ast.parse((PACKAGE / name).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            assert node.id != "print", f"{name}:{node.lineno} prints"
        if isinstance(node, ast.Attribute) and node.attr in {"stdout", "stderr"}:
            assert ast.unparse(node.value) != "sys", f"{name}:{node.lineno} writes to the terminal"
    for line, module in imported_modules(tree, name):
        assert module.split(".")[0] != "rich", f"{name}:{line} imports rich, which prints"


@pytest.mark.parametrize("name", NAMES)
def test_no_file_grows_beyond_reading(name: str) -> None:
    lines = len((PACKAGE / name).read_text(encoding="utf-8").splitlines())
    most = MOST_LINES_OF.get(name, MOST_LINES)
    assert lines <= most, f"{name} has {lines} lines; split it by what its parts do"


def test_verbs_are_short() -> None:
    tree = ast.parse((PACKAGE / "cli.py").read_text(encoding="utf-8"))
    verbs = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert len(verbs) > 5
    for verb in verbs:
        lines = verb.end_lineno - verb.lineno + 1  # type: ignore[operator]
        assert lines <= MOST_LINES_OF_A_VERB, f"{verb.name} has {lines} lines"


def test_no_drawer_for_everything() -> None:
    found = [
        path.relative_to(TESTS.parent).as_posix()
        for folder in (PACKAGE, TESTS)
        for path in folder.rglob("*")
        if path.stem.removeprefix("test_").strip("_") in DRAWERS and "__pycache__" not in path.parts
    ]
    assert found == [], "name a file for what it does"
