"""The layout keeps its limits: who may import whom, how large things grow, who may print.

These read the source as text (by `ast`), so a broken module is seen as well.
"""

import ast
from pathlib import Path

import pytest

import plainunet

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "src" / "plainunet"

# the order in which data flows; packages on one line do not know each other
ORDER = (
    {"errors"},
    {"files", "palette", "reporter", "system", "text"},
    {"parts"},
    {"config", "page", "demo"},
    {"settings"},
    {"formats", "network"},
    {"dataset"},
    {"doctor", "prediction"},
    {"evaluation"},
    {"training"},
    {"deployment"},
    {"terminal"},
    {"cli"},
)
RANK = {package: rank for rank, packages in enumerate(ORDER) for package in packages}
MAY_PRINT = ("__main__.py", "cli.py", "terminal/")
DRAWERS = {"utils", "util", "common", "helpers", "helper", "base", "misc"}
MOST_LINES = 800
MOST_LINES_OF_A_FUNCTION = 60
MOST_LONG_FUNCTIONS = 12
MOST_LINES_OF_A_VERB = 70
MOST_PARAMETERS = 7
MOST_SHARE = 0.22
"""Of all lines, in one package."""
# networks, and the commands, whose parameters are flags
MANY_PARAMETERS = {"cli.py", "network/unet.py", "network/blocks.py"}

SOURCES = sorted(PACKAGE.rglob("*.py"))
NAMES = [path.relative_to(PACKAGE).as_posix() for path in SOURCES]
# the front door: it names the public parts for type checkers, and loads none of them
MODULES = [name for name in NAMES if name != "__init__.py"]
TREES = {name: ast.parse((PACKAGE / name).read_text(encoding="utf-8")) for name in NAMES}


def package_of(name: str) -> str:
    return name.split("/")[0].removesuffix(".py")


def functions(tree: ast.Module) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def lines_of(node: ast.FunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def imported_modules(tree: ast.Module, name: str) -> list[tuple[int, str]]:
    """Every import of the file `name`, wherever it stands, as (line, dotted name).

    `import plainunet` counts as an import of each name that is then taken from it.
    """
    package = ["plainunet", *name.split("/")[:-1]]
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name != "plainunet"]
            found += [(node.lineno, module) for module in names]
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "plainunet":
            found.append((node.lineno, f"plainunet.{node.attr}"))
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*start, *([node.module] if node.module else [])])
            # `from plainunet import dataset` imports a package, so the name belongs to the path
            found += [(node.lineno, f"{origin}.{alias.name}") for alias in node.names]
    return found


def wrong_imports(tree: ast.Module, name: str) -> list[str]:
    own = package_of(name)
    wrong = []
    for line, module in imported_modules(tree, name):
        parts = module.split(".")
        if parts[0] != "plainunet" or parts[1:] == ["__version__"]:
            continue
        package = parts[1] if len(parts) > 1 else ""
        where = f"{name}:{line} imports {module}"
        if own == "__main__":
            if package not in ("cli", "config", "errors", "reporter", "system"):
                wrong.append(f"{where}: only cli and what stands before the packages")
        elif package not in RANK:
            wrong.append(f"{where}: name the package that it lives in")
        elif package != own and RANK[package] >= RANK[own]:
            wrong.append(f"{where}: {package} does not come before {own}")
    return wrong


@pytest.mark.parametrize("name", MODULES)
def test_imports_only_from_packages_before(name: str) -> None:
    assert wrong_imports(TREES[name], name) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("formats/images.py", "from plainunet.network.unet import UNet"),
        ("network/unet.py", "import plainunet.dataset.samples"),
        ("network/unet.py", "def f():\n    from ..dataset import samples"),
        ("prediction/predictor.py", "from .. import training"),
        ("files.py", "from plainunet.settings import load_config"),
        ("dataset/samples.py", "from plainunet import UNet"),
        ("dataset/samples.py", "import plainunet\nplainunet.UNet()"),
        ("evaluation/evaluate.py", "from plainunet.cli import main"),
        ("training/train.py", "from plainunet.terminal.screen import Screen"),
        ("__main__.py", "from plainunet.training.train import train"),
    ],
)
def test_a_wrong_import_is_seen(name: str, source: str) -> None:
    assert len(wrong_imports(ast.parse(source), name)) == 1


def test_right_imports_are_left_alone() -> None:
    source = (
        "import torch\nfrom plainunet import __version__, dataset\nfrom plainunet.files import x\n"
        "from .trainer import y\nfrom ..network.unet import UNet\n"
        "import plainunet\nversion = plainunet.__version__"
    )
    assert wrong_imports(ast.parse(source), "training/train.py") == []


def test_no_two_files_import_each_other() -> None:
    modules = {name.removesuffix(".py").replace("/", "."): name for name in MODULES}
    imports = {
        module: {
            f"{node.module}".removeprefix("plainunet.")
            for node in TREES[name].body
            if isinstance(node, ast.ImportFrom)
        }
        & set(modules)
        for module, name in modules.items()
    }
    left = dict(imports)
    while free := [module for module, needs in left.items() if not needs & set(left)]:
        for module in free:
            del left[module]
    assert left == {}, "these wait for each other"


def test_every_file_stands_in_a_known_package() -> None:
    unknown = [name for name in NAMES if package_of(name) not in {*RANK, "__init__", "__main__"}]
    assert unknown == [], "a new package needs its place in the order"
    assert all(name.count("/") <= 1 for name in NAMES), "packages have no sub-packages"


def test_every_package_says_what_it_is_for_and_loads_nothing() -> None:
    packages = sorted({Path(name).parent.as_posix() for name in NAMES} - {"."})
    assert packages
    for package in packages:
        tree = TREES[f"{package}/__init__.py"]
        assert ast.get_docstring(tree), f"{package}/__init__.py has no docstring"
        assert len(tree.body) == 1, f"{package}/__init__.py holds its docstring and nothing else"


@pytest.mark.parametrize("name", [name for name in MODULES if not name.startswith(MAY_PRINT)])
def test_nothing_else_prints(name: str) -> None:
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Name):
            assert node.id != "print", f"{name}:{node.lineno} prints"
        if isinstance(node, ast.Attribute) and node.attr in {"stdout", "stderr"}:
            assert ast.unparse(node.value) != "sys", f"{name}:{node.lineno} writes to the terminal"
    for line, module in imported_modules(TREES[name], name):
        assert module.split(".")[0] != "rich", f"{name}:{line} imports rich, which prints"


# what validators of pydantic raise becomes a ValidationError
@pytest.mark.parametrize("name", [name for name in NAMES if name != "config.py"])
def test_deliberate_errors_are_of_this_package(name: str) -> None:
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            assert ast.unparse(node.exc.func) != "ValueError", f"{name}:{node.lineno}: raise Error"


# the list of commands grows with them; each of them is short
@pytest.mark.parametrize("name", [name for name in NAMES if name != "cli.py"])
def test_a_file_is_one_concept(name: str) -> None:
    lines = len((PACKAGE / name).read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES, f"{name} has {lines} lines: it is more than one concept"


def test_functions_are_short() -> None:
    found = [
        f"{name}:{node.lineno} {node.name} has {lines_of(node)} lines"
        for name in MODULES
        if name != "cli.py"
        for node in functions(TREES[name])
        if lines_of(node) > MOST_LINES_OF_A_FUNCTION
    ]
    assert len(found) <= MOST_LONG_FUNCTIONS, "\n".join(found)


def test_verbs_are_short() -> None:
    verbs = [node for node in TREES["cli.py"].body if isinstance(node, ast.FunctionDef)]
    assert len(verbs) > 5
    for verb in verbs:
        assert lines_of(verb) <= MOST_LINES_OF_A_VERB, f"{verb.name} has {lines_of(verb)} lines"


@pytest.mark.parametrize("name", [name for name in MODULES if name not in MANY_PARAMETERS])
def test_what_travels_together_is_one_object(name: str) -> None:
    for node in functions(TREES[name]):
        taken = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        count = sum(each.arg not in ("self", "cls") for each in taken)
        if node.name not in plainunet.__all__:
            assert count <= MOST_PARAMETERS, f"{name}:{node.lineno} {node.name} takes {count}"


def test_no_package_holds_everything() -> None:
    lines: dict[str, int] = {}
    for name in NAMES:
        text = (PACKAGE / name).read_text(encoding="utf-8")
        lines[package_of(name)] = lines.get(package_of(name), 0) + text.count("\n")
    largest = max(lines, key=lambda package: lines[package])
    assert lines[largest] <= MOST_SHARE * sum(lines.values()), f"{largest}/ is too large a part"


def test_no_drawer_for_everything() -> None:
    found = [
        path.relative_to(TESTS.parent).as_posix()
        for folder in (PACKAGE, TESTS)
        for path in folder.rglob("*")
        if path.stem.removeprefix("test_").strip("_") in DRAWERS and "__pycache__" not in path.parts
    ]
    assert found == [], "name a file for what it does"
