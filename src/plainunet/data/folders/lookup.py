"""What lists and commands call pictures -> the pictures.

In: a folder, and names from a list: paths from here or from there, names, ids without a suffix;
or files and folders as a command names them. Out: the files. Limitations: a name that fits
several files finds none.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from unicodedata import normalize

from plainunet.data.folders.layouts import IMAGE_FOLDERS, walk
from plainunet.data.images import IMAGE_SUFFIXES
from plainunet.data.places import files_of

_MASKS = ("masks", "mask")


class Pictures:
    """The pictures below a folder.

    Masks that lie in masks/ beside images/ are none of them.

    Attributes:
        folder: The folder.
        paths: Its pictures, folder by folder, each folder's sorted by name.
    """

    def __init__(self, folder: Path) -> None:
        """List the pictures.

        Args:
            folder: The folder, searched all the way down.

        Raises:
            ValueError: A link leads back, or a folder is named like a picture.
        """
        self.folder = folder
        self.paths = list(_pictures(folder))
        start = 0 if folder == Path() else len(folder.as_posix().rstrip("/")) + 1
        self._tables: list[dict[str, Path | None]] = [{}, {}, {}, {}]
        for path in self.paths:
            below = normalize("NFC", path.as_posix()[start:])
            for table, key in zip(self._tables, _keys(below), strict=True):
                # what two share finds neither
                table[key] = None if key in table else path

    def find(self, name: str, *bases: Path) -> Path | None:
        """Find a picture by its path, else by its name, else by its stem.

        Args:
            name: What a list calls it.
            bases: Folders from which the list's paths may start, besides `folder` itself.

        Returns:
            The picture, or None where none fits, or several do.
        """
        listed = normalize("NFC", name.replace("\\", "/"))
        keys = _keys(listed.removeprefix("./"))
        path = self._tables[0].get(keys[0])
        for base in bases if path is None else ():
            # "images/a.jpg" from above images/, "../images/a.jpg" from beside it
            below = os.path.relpath(base / listed, self.folder).replace(os.sep, "/")
            path = path or self._tables[0].get(normalize("NFC", below))
        for table, key in zip(self._tables[1:], keys[1:], strict=True):
            path = path or table.get(key)
        return path


def has_pictures(folder: Path) -> bool:
    """Tell whether there are pictures below a folder.

    Args:
        folder: The folder.

    Returns:
        Whether there is one, all the way down.

    Raises:
        ValueError: A link leads back, or a folder is named like a picture.
    """
    return next(_pictures(folder), None) is not None


def find_images(inputs: Sequence[Path]) -> list[Path]:
    """List the pictures that files and folders name.

    Args:
        inputs: Files, taken as they are, and folders, searched all the way down.

    Returns:
        The pictures, each once, in the order of `inputs`; of each folder sorted by path.

    Raises:
        FileNotFoundError: One of them does not exist.
        ValueError: A folder holds no pictures.
    """
    found: dict[Path, None] = {}
    for path in inputs:
        if path.is_dir():
            below = sorted(walk(path))
            if not below:
                raise ValueError(
                    f"{path} holds no pictures: no file below it ends in one of "
                    f"{' '.join(sorted(IMAGE_SUFFIXES))}."
                )
            found |= dict.fromkeys(below)
        elif files_of(path)[0].exists():
            found[path] = None
        else:
            raise FileNotFoundError(f"{path} does not exist. Check the path.")
    return list(found)


def _pictures(folder: Path) -> Iterator[Path]:
    # masks/ holds what the list says once more, often one file for each object
    before, is_mask = "", False
    for path in walk(folder):
        above = os.path.dirname(path)  # noqa: PTH120 (ten times as fast)
        if above != before:
            before, parent = above, path.parent
            is_mask = parent.name.lower() in _MASKS and any(
                each.name.lower() in IMAGE_FOLDERS for each in parent.parent.iterdir()
            )
        if not is_mask:
            yield path


def _keys(path: str) -> tuple[str, str, str, str]:
    stem, dot, suffix = path.rpartition(".")
    stem = stem if f"{dot}{suffix}".lower() in IMAGE_SUFFIXES else path
    return path, stem, path.rpartition("/")[2], stem.rpartition("/")[2]
