"""What a command names -> the pictures and videos to predict.

In: files, folders, patterns, lists of paths, or "-" for a list on standard input. Out: pictures,
the slices of a TIFF stack each for itself, and videos.
"""

import glob
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from plainunet.data.folders.lookup import find_images
from plainunet.data.folders.stacks import open_slices
from plainunet.data.places import files_of

VIDEO_SUFFIXES = (".mp4", ".m4v", ".avi", ".mov", ".mkv", ".webm")


class Inputs(NamedTuple):
    """What there is to predict."""

    pictures: list[Path]
    """Picture files, and slices as `stack.tif[3]`."""
    videos: list[Path]
    """Video files."""


def find_inputs(names: Sequence[Path], out: Path | None = None) -> Inputs:
    """List the pictures and videos that are named.

    Args:
        names: Files; folders, searched all the way down for pictures; patterns, as in
            `scans/*.png` or `scans/**/*.tif`; text files (.txt) with a path on each line; "-"
            for such lines on standard input. Paths count from the working directory.
        out: Where masks will go: what lies there is not found below a folder or by a pattern.

    Returns:
        Each once, however it is named, in the order of the names; of a folder or pattern sorted
        by path.

    Raises:
        FileNotFoundError: One of them does not exist.
        ValueError: A folder, a pattern or a list names no picture, or a list is no text.
    """
    paths = [path for name in names for path in _expand(name, out)]
    videos = [path for path in paths if path.suffix.lower() in VIDEO_SUFFIXES]
    for video in videos:
        if not video.is_file():
            raise FileNotFoundError(f"{video} does not exist. Check the path.")
    pictures = find_images([path for path in paths if path not in videos])
    return Inputs(open_slices(_each_once(pictures)), _each_once(videos))


def _each_once(paths: Sequence[Path]) -> list[Path]:
    known: dict[str, Path] = {}
    for path in paths:
        known.setdefault(os.path.normpath(path.absolute()), path)
    return list(known.values())


def _expand(name: Path, out: Path | None) -> list[Path]:
    if str(name) == "-":
        return _listed(sys.stdin.buffer.read(), "standard input")
    if name.suffix.lower() == ".txt" and name.is_file():
        return _listed(name.read_bytes(), str(name))
    if glob.has_magic(str(name)) and not files_of(name)[0].exists():
        found = sorted(glob.glob(str(name), recursive=True))  # noqa: PTH207 (any path, absolute too)
        if not found:
            raise FileNotFoundError(f"{name}: no file fits this pattern.")
        return _outside([Path(path) for path in found], out)
    if name.is_dir() and out and _is_below(out, name):
        return _outside(find_images([name]), out)
    return [name]


def _is_below(path: Path, folder: Path) -> bool:
    return folder.resolve() in path.resolve().parents


def _outside(paths: list[Path], out: Path | None) -> list[Path]:
    return [path for path in paths if out is None or not _is_below(path, out)]


def _listed(content: bytes, source: str) -> list[Path]:
    """The paths on the lines of a list."""
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{source}: not a list of paths (it is no text in UTF-8).") from error
    paths = [Path(line.strip()) for line in lines if line.strip()]
    if not paths:
        raise ValueError(f"{source}: names no picture. Write a path on each line.")
    return paths
