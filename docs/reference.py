"""Write the generated pages of docs/reference/: `python docs/reference.py`.

In: the command line, the models of config.py, the docstrings of `plainunet.__all__` and the
findings of `check`. Out: reference/cli/VERB.md, reference/configuration.md, reference/python.md and
reference/finding-codes.md next to this file. They are the same on every machine.
"""

import argparse
import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import plainunet
from plainunet import config
from plainunet.__main__ import _ALIASES
from plainunet.cli import app
from plainunet.doctor.findings import CODES

PACKAGE = Path(plainunet.__file__).parent
NOTE = "<!-- made by docs/reference.py: edit the source, then run it again -->\n\n"
SYMBOLS = {"Ge": "≥", "Gt": ">", "Le": "≤", "Lt": "<"}
Named = ast.FunctionDef | ast.ClassDef | ast.Module
LEFT_OUT = {"all": "yes", "first": "all but one", "train": "of the train split"}
NAMED = ("AugmentName", "Device", "LossName", "TTAName", "Precision", "TrackerName", "Output")
MODELS = {
    "DataConfig": "`dataset.toml` and the flags of `train` and `check`",
    "NetworkConfig": "the network: flags of `train` and `model`",
    "TrainConfig": "training: flags of `train`, `--config` files",
    "Growth": "a stage of `growth`, in a file: `growth = [{until = 0.4, scale = 0.5}]`",
    "CardOptions": "flags of `predict`",
    "PredictOptions": "flags of `predict`",
    "BulkOptions": "flags of `predict` for many images",
    "EvaluateOptions": "flags of `evaluate`",
    "ExportOptions": "flags of `export`",
    "ServeOptions": "flags of `serve`",
}


def flatten(text: str) -> str:
    """Bring text into one line that Markdown shows as it is, also in a table; code stays code."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    parts[::2] = [re.sub(r"([*_<\[])", r"\\\1", part) for part in parts[::2]]
    return "".join(parts).replace("|", "\\|")


def table(*rows: tuple[str, ...]) -> str:
    """Lay out rows as a Markdown table; the first row is the header."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, f"|{'---|' * len(rows[0])}")
    return "\n".join(lines) + "\n"


def show_default(value: Any) -> str:
    """Show a default value as a user types it; nothing where there is none."""
    if value is False or not isinstance(value, int | float | str | Path) or value == "":
        return ""
    return f"`{value}`"


def describe_verb(verb: str) -> str:
    """Write the page of a verb of the command line, from what `--help` shows."""
    command = app[verb]
    summary, _, rest = inspect.cleandoc(command.help).partition("\n\n")
    rest = re.split(r"^(?:Parameters\n-+|Args:)$", rest, maxsplit=1, flags=re.MULTILINE)[0].strip()
    rows: dict[bool, list[tuple[str, ...]]] = {True: [], False: []}
    for each in command.assemble_argument_collection(parse_docstring=True):
        if each.names == ("*",) or not each.parse:
            continue
        choices = ", ".join(f"`{choice}`" for choice in each.get_choices() or ())
        name = each.names[0]
        others = _ALIASES.get(name.removeprefix("--"), "").split()
        also = " Also " + ", ".join(f"`--{other}`" for other in others) + "." if others else ""
        meaning = (
            flatten(each.parameter.help or "") + (f" One of {choices}." if choices else "") + also
        )
        positional = not name.startswith("--")
        default = "required" if each.required else show_default(each.field_info.default)
        rows[positional].append((f"`{name}`", default, meaning))
    usage = " ".join([row[0].strip("`") for row in rows[True]] + ["[FLAGS]"] * bool(rows[False]))
    page = f"# plainunet {verb}\n\n{NOTE}```text\nplainunet {verb} {usage}\n```\n\n"
    page += flatten(summary) + "\n\n" + (rest and f"{flatten(rest)}\n\n")
    for header, kind in (("argument", True), ("flag", False)):
        if rows[kind]:
            page += table((header, "default", "meaning"), *rows[kind]) + "\n"
    return page.rstrip() + "\n"


def find_fields(node: ast.ClassDef) -> Iterator[tuple[ast.AnnAssign, str]]:
    """The fields of a class, each with the docstring under it."""
    for field, below in zip(node.body, node.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
            yield field, str(ast.literal_eval(below.value))


def show_type(annotation: str) -> str:
    """Write the type of a setting for people: choices one by one, tuples as lists."""
    text, own = annotation.removesuffix(" | None"), ""
    if text.endswith(" | str") and text != "str":
        text, own = text.removesuffix(" | str"), ", or your own"
    for name in (
        "AugmentName",
        "Device",
        "LossName",
        "TTAName",
        "Precision",
        "TrackerName",
        "Output",
        "ExportTarget",
    ):
        text = re.sub(rf"\b{name}\b", str(list(get_args(getattr(config, name)))), text)
    if found := re.fullmatch(r"(tuple\[)?(?:Literal)?(\[[^\]]*\])(?:, \.\.\.\])?", text):
        choices = ", ".join(f"`{choice}`" for choice in ast.literal_eval(found[2]))
        return f"any of {choices}" if found[1] else choices + own
    text = re.sub(r"Annotated\[(\w+), .*?\)\]", r"\1", text)
    text = re.sub(r"tuple\[(\w+), \.\.\.\]", r"list of \1", text)
    return re.sub(r"tuple\[int, int\]", "two int", text)


def describe_settings() -> str:
    """Write the page of all settings, from the pydantic models and the docstrings of fields."""
    tree = ast.parse((PACKAGE / "config.py").read_text(encoding="utf-8"))
    nodes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    page = f"# Configuration\n\n{NOTE}All settings. In a TOML file and in Python they have these "
    page += "names; as flags, `_` becomes `-`: `base_channels` is `--base-channels`. A flag wins "
    page += "over a file. An unknown name is an error that proposes the nearest known one.\n"
    for model, use in MODELS.items():
        bases = ["FolderConfig"] if model == "DataConfig" else []
        rows = []
        for node in [nodes[name] for name in [*bases, model]]:
            for field, text in find_fields(node):
                name = ast.unparse(field.target)
                info = getattr(config, node.name).model_fields[name]
                limits = [
                    f"{SYMBOLS[type(each).__name__]} {getattr(each, type(each).__name__.lower())}"
                    for each in info.metadata
                    if type(each).__name__ in SYMBOLS
                ]
                kind = show_type(ast.unparse(field.annotation))
                default = "required" if info.is_required() else show_default(info.default)
                rows.append((f"`{name}`", kind, default, ", ".join(limits), flatten(text)))
        about = (ast.get_docstring(nodes[model]) or "").partition("\n\nExample:")[0]
        page += f"\n## {model}\n\n{flatten(about)} For {use}.\n\n"
        page += table(("setting", "type", "default", "range", "meaning"), *rows)
    return page


def as_markdown(docstring: str | None) -> str:
    """Turn a Google docstring into Markdown: sections become lists."""
    lines: list[str] = []
    in_code = False
    for line in inspect.cleandoc(docstring or "").splitlines():
        is_fence = line.strip().startswith("```")
        in_code ^= is_fence
        if in_code or is_fence:
            lines.append(line.removeprefix("    "))
        elif match := re.fullmatch(r"(Args|Returns|Raises|Attributes|Yields|Shape|Example):", line):
            lines += [f"**{match[1]}**", ""]
        elif match := re.fullmatch(r"    (\*{0,2}\w+): (.*)", line):
            lines.append(f"- `{match[1]}`: {match[2]}")
        else:
            lines.append(line.removeprefix("    ").replace("        ", "  "))
    return "\n".join(lines).strip() + "\n"


def find_names() -> Iterator[tuple[str, str, Named]]:
    """The public names, each with its module and its source."""
    for name, module in plainunet._MODULES.items():
        path = PACKAGE.parent.joinpath(*module.split("."))
        is_module = path.is_dir()
        path = path / f"{name}.py" if is_module else path.with_suffix(".py")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        named = [each for each in tree.body if getattr(each, "name", "") == name]
        yield name, module, tree if is_module else named[0]


def summarise(node: Named) -> str:
    """The first line of a docstring."""
    return flatten((ast.get_docstring(node) or "").partition("\n")[0])


def describe_python() -> str:
    """Write the page of the public names, from the source: signatures and docstrings."""
    page = f"# Python API\n\n{NOTE}Everything here is imported from `plainunet` itself. Letters in "
    page += "shapes: N images, C channels, K classes (background included), H height, W width. "
    page += "Files and folders are `str` or `Path`, and a run folder stands for its checkpoint. "
    page += "A wrong argument is an [`Error`](#error), a `ValueError` that names it.\n"
    kinds = [ast.FunctionDef, ast.ClassDef, ast.Module]
    found = sorted(find_names(), key=lambda each: kinds.index(type(each[2])))
    rows = [(f"[`{name}`](#{name.lower()})", summarise(node)) for name, _, node in found]
    page += "\n" + table(("name", "meaning"), *rows)
    for name, module, node in found:
        page += f"\n## `{name}`\n\n"
        if isinstance(node, ast.Module):
            page += as_markdown(ast.get_docstring(node))
            for each in find_public(node):
                page += f"\n### `{name}.{each.name}`\n\n{describe(each, f'{name}.{each.name}')}"
        elif module == "plainunet.config":
            page += as_markdown(ast.get_docstring(node))
            page += "\nIts fields are listed under [configuration](configuration.md#trainconfig).\n"
        else:
            page += describe(node, name)
    return page


def find_public(module: ast.Module) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    """The functions and classes in a module's `__all__`, in the order of the source."""
    listed: list[str] = []
    for node in module.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            listed = ast.literal_eval(node.value)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in listed:
            yield node


def describe(node: ast.FunctionDef | ast.ClassDef, name: str) -> str:
    """Describe a function, or a class with its fields and methods."""
    if isinstance(node, ast.FunctionDef):
        return f"{signature(node, name)}{as_markdown(ast.get_docstring(node))}"
    text = as_markdown(ast.get_docstring(node))
    if fields := [(ast.unparse(each.target), below) for each, below in find_fields(node)]:
        rows = [(f"`{field}`", flatten(below)) for field, below in fields]
        text += "\n" + table(("field", "meaning"), *rows)
    for method in node.body:
        if not isinstance(method, ast.FunctionDef):
            continue
        is_called = method.name in ("__init__", "__call__")
        if method.name.startswith("_") and not is_called:
            continue
        if "overload" in map(ast.unparse, method.decorator_list):
            continue
        shown = name if is_called else f"{name}.{method.name}"
        text += f"\n### `{shown}{'()' if is_called else ''}`\n\n{signature(method, shown)}"
        text += as_markdown(ast.get_docstring(method))
    return text


def signature(node: ast.FunctionDef, name: str = "") -> str:
    """Write the signature of a function, one parameter a line."""
    marks = [ast.unparse(each) for each in node.decorator_list]
    arguments = node.args
    taken = [*arguments.posonlyargs, *arguments.args]
    if taken and taken[0].arg in ("self", "cls"):
        (arguments.posonlyargs or arguments.args).pop(0)
    if "property" in marks:
        return f"```text\n{name}: {ast.unparse(node.returns) if node.returns else ''}\n```\n\n"
    inside = ast.unparse(arguments)
    split = ",\n    ".join(re.split(r", (?=\*{0,2}\w*(?:: |=|,|$))", inside))
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    whole = f"{name or node.name}({inside}){returns}"
    if len(whole) > 88:
        whole = f"{name or node.name}(\n    {split},\n){returns}"
    return f"```text\n{whole}\n```\n\n"


def describe_findings() -> str:
    """Write the page of the findings of `check`."""
    rows = [
        (f"`{code}`", each.severity, flatten(each.meaning), LEFT_OUT[each.leaves_out])
        for code, each in CODES.items()
    ]
    page = f"# Finding codes\n\n{NOTE}What [`plainunet check`](../check.md) reports. Errors stop "
    page += "training, warnings do not, notes need no action. The last column says which of the "
    page += "pairs `--write --leave-out CODE` leaves out.\n\n"
    return page + table(("code", "severity", "meaning", "left out"), *rows)


def main(folder: Path) -> None:
    """Write all pages below a folder."""
    verbs = [name for name in app.resolved_commands() if not name.startswith("-")]
    pages = {f"cli/{verb}.md": describe_verb(verb) for verb in sorted(verbs)}
    pages |= {"configuration.md": describe_settings(), "python.md": describe_python()}
    pages |= {"finding-codes.md": describe_findings()}
    for name, text in pages.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main(Path(__file__).with_name("reference"))
