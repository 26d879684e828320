"""Pictures and masks that are not a file of their own: how a path names them.

A path may end in an item of a file: `stack.tif[3]` (a page, from 0), `annotations.json[17]` (an
image of a COCO file), `masks.csv[cat 40x30 rows]` (an image of a list of run-length codes, its
height, width and order). And it may name one file for each class: `masks/{road,car}/7.png`.
Such paths are written into lists of pairs and named in messages like any other. What tells
files apart, and the folder where things are remembered about them, are named here too.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

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


def stamp_files(paths: Sequence[Path]) -> list[list[Any]]:
    """List what tells files from others, and from what they were or will be.

    Args:
        paths: Any paths.

    Returns:
        Of each, for the files that it is read from: where they lie (links followed), size
        [bytes] and time of the last change [ns]; before them the path's own name, where it
        names an item or a file for each class.

    Raises:
        FileNotFoundError: One of the files is missing.
    """
    known: dict[Path, tuple[str, int, int]] = {}  # one file may hold the masks of all pictures

    def stamp(file: Path) -> tuple[str, int, int]:
        if file not in known:
            status = file.stat()
            known[file] = os.path.realpath(file), status.st_size, status.st_mtime_ns
        return known[file]

    stamps: list[list[Any]] = []
    for path in paths:
        files = files_of(path)
        named = [] if files == [path] else [str(path.absolute())]
        stamps.append([*named, *(part for file in files for part in stamp(file))])
    return stamps


def cache_folder() -> Path:
    """Say where things are remembered.

    Returns:
        What PLAINUNET_CACHE names, or `plainunet` in the user's cache folder.
    """
    user = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("PLAINUNET_CACHE") or Path(user) / "plainunet")
