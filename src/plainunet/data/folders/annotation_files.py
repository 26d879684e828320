"""A data folder -> the annotation files in it.

In: a folder. Out: its COCO files (JSON) and CSV lists of run-length codes, and which pictures
they speak of. What is left aside is said, with the reason.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from plainunet.data.encodings import coco, rle
from plainunet.data.folders.layouts import find_part
from plainunet.data.folders.partners import first_five


def name_file(folder: Path, masks: str) -> Path:
    """Find an annotation file that is named.

    Args:
        folder: The data set.
        masks: Its path, from there or from here.

    Returns:
        The file.

    Raises:
        FileNotFoundError: There is no such file.
    """
    path = folder / masks
    path = path if path.exists() else Path(masks)
    if not path.is_file():
        raise FileNotFoundError(
            f"--masks {masks}: there is no such file, in {folder} or here. Check its name."
        )
    return path


def find_files(folder: Path, note: Callable[[str], None]) -> Iterator[Path]:
    """Look for annotation files in a data set, its `annotations/` and its parts.

    Args:
        folder: The data set.
        note: Called with a sentence on files that are left aside, and why.

    Yields:
        The files.
    """
    below = sorted(each for each in folder.iterdir() if each.is_dir())
    places = [each for each in below if each.name.lower() == "annotations" or find_part(each.name)]
    for place in (folder, *places):
        with os.scandir(place) as entries:
            names = sorted(
                each.name
                for each in entries
                if each.name.lower().endswith((".json", ".csv")) and not each.name.startswith(".")
            )
        taken = [file for file in (place / name for name in names) if _is_annotations(file)]
        # COCO's own folder holds captions and key points of the same pictures as well
        instances = [file for file in taken if file.name.startswith("instances_")]
        # Kaggle's example of what to hand in
        chosen = [file for file in instances or taken if "submission" not in file.stem.lower()]
        aside = [file for file in taken if file not in chosen]
        if aside:
            note(
                f"Left aside beside {chosen[0] if chosen else folder}: {first_five(aside)}. "
                f"--masks {aside[0].relative_to(folder).as_posix()} takes the masks from there."
            )
        if not chosen:
            for name in names[:3]:
                note(f"No masks are taken from {place / name}: {_why_not(place / name)}")
        yield from chosen


def _why_not(file: Path) -> str:
    """Say why a file holds no masks."""
    try:
        listed_names(file)
    except ValueError as error:
        return str(error)
    return "it looks like another kind of list."


def _is_annotations(file: Path) -> bool:
    if not file.is_file():
        return False
    return rle.is_rle(file) if file.suffix.lower() == ".csv" else coco.is_coco(file)


def listed_names(file: Path) -> dict[str, str]:
    """List the pictures that an annotation file speaks of.

    Args:
        file: A COCO file, or a CSV list of run-length codes.

    Returns:
        By each picture's name the name of its item, "" where it is not known yet.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is neither, or damaged.
    """
    if file.suffix.lower() == ".csv":
        return dict.fromkeys(rle.listed_names(file), "")
    return coco.listed_names(file)
