"""Pictures and masks that are not a file of their own: how a path names them.

A path may end in an item of a file: `stack.tif[3]` (a page, from 0), `annotations.json[17]` (an
image of a COCO file), `masks.csv[cat 40x30 rows]` (an image of a list of run-length codes, its
height, width and order). And it may name one file for each class: `masks/{road,car}/7.png`.
Such paths are written into lists of pairs and named in messages like any other.
"""

import re
from pathlib import Path
from typing import NamedTuple

_ITEM = re.compile(r"(.+?\.(?:tiff?|json|csv))\[(.*)\]", re.IGNORECASE | re.DOTALL)
_CLASSES = re.compile(r"\{([^{}]*,[^{}]*)\}")


class Place(NamedTuple):
    """An item of a file.

    Attributes:
        file: The file.
        item: What stands in brackets.
    """

    file: Path
    item: str


def find_place(path: Path) -> Place | None:
    """Take a path apart that names an item of a file.

    Args:
        path: Any path.

    Returns:
        The file and the item, or None where the path names a file.
    """
    text = str(path)
    match = _ITEM.fullmatch(text) if text[-1:] == "]" else None
    return Place(Path(match[1]), match[2]) if match else None


def name_place(file: Path, item: str) -> Path:
    """Name an item of a file.

    Args:
        file: The file.
        item: The item.

    Returns:
        The path that `find_place` takes apart.
    """
    return Path(f"{file}[{item}]")


def class_files(path: Path) -> dict[str, Path]:
    """List the files that a path with a file for each class names.

    Args:
        path: Any path.

    Returns:
        Each class's file by its name, whether it exists or not; empty where the path has no
        braces with a comma between them.
    """
    text = str(path)
    match = _CLASSES.search(text) if "{" in text else None
    if not match:
        return {}
    # the same list may stand twice: masks/{road,car}/7_{road,car}.png
    return {name: Path(text.replace(match[0], name)) for name in match[1].split(",")}


def files_of(path: Path) -> list[Path]:
    """List the files that a picture or a mask is read from.

    Args:
        path: Any path.

    Returns:
        The file itself, the one that holds the item, or those of the classes that exist.
    """
    place = find_place(path)
    if place is not None:
        return [place.file]
    return [file for file in class_files(path).values() if file.exists()] or [path]


def stem_of(path: Path) -> str:
    """Name what is made from a picture.

    Args:
        path: Its path.

    Returns:
        Its file's name without the suffix; of an item, with "_" and the item behind.
    """
    place = find_place(path)
    return path.stem if place is None else f"{place.file.stem}_{place.item}"
