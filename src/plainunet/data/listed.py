"""What `--pairs` says -> pictures and masks.

In: two patterns ('images/*.jpg:masks/*_m.png'), or a CSV list with the columns image and mask,
and perhaps group and part. Out: every picture with its mask. Nothing is guessed and nothing
is skipped: a wrong line is named by its number.
"""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

from plainunet.data.layouts import PARTS, walk
from plainunet.data.names import match_names

_NEEDED = ("image", "mask")
_COLUMNS = (*_NEEDED, "group", "part")


class Listed(NamedTuple):
    """A picture and its mask, as listed.

    Attributes:
        image: The picture's file.
        mask: The mask's file.
        group: Its group; its own name where none is given.
        part: "train", "val" or "test", or None where none is given.
    """

    image: Path
    mask: Path
    group: str
    part: str | None


def read_listed(folder: Path, pairs: str) -> list[Listed]:
    """Find the pictures and masks that `--pairs` speaks of.

    Args:
        folder: The data set.
        pairs: Two patterns below it, or the path of a list, which may start from `folder`.

    Returns:
        The pictures with their masks.

    Raises:
        FileNotFoundError: There is no such list.
        ValueError: A pattern is none, matches nothing, or leaves a file without partner; or
            the list has a wrong line.
    """
    if "*" in pairs:
        return _by_patterns(folder, pairs)
    path = Path(pairs)
    path = path if path.exists() else folder / pairs
    if not path.is_file():
        raise FileNotFoundError(
            f"--pairs {pairs}: there is no such list, here or in {folder}. Give the path of a CSV "
            "file with the columns image,mask, or two patterns: 'images/*.jpg:masks/*_m.png'."
        )
    return _by_list(folder, path)


def _by_patterns(folder: Path, pairs: str) -> list[Listed]:
    patterns = pairs.split(":")
    if len(patterns) != 2 or any(pattern.count("*") != 1 for pattern in patterns):
        raise ValueError(
            f"--pairs '{pairs}' is not two patterns with one * each. Give them like this: "
            "'images/*.jpg:masks/*_m.png'; what the * stands for joins a picture with its mask."
        )
    if patterns[0] == patterns[1]:
        raise ValueError(f"--pairs '{pairs}': both patterns are the same. Give the masks' own.")
    images, masks = (_matches(folder, pattern) for pattern in patterns)
    # 'a_mask.png' matches '*.png' too, but is meant by '*_mask.png'
    images_first = len(patterns[0]) > len(patterns[1])
    first, second = (images, masks) if images_first else (masks, images)
    for path in first.keys() & second.keys():
        del second[path]
    for pattern, found in zip(patterns, (images, masks), strict=True):
        if not found:
            raise ValueError(
                f"--pairs: no picture file below {folder} matches '{pattern}'. The pattern starts "
                "from there, and its * stands for a part of one name."
            )
    image_files, mask_files = _once(images), _once(masks)
    joined = match_names(image_files, mask_files, as_they_are=True)
    return [
        Listed(image_files[key], mask_files[mask], key[1], None) for key, mask in joined.items()
    ]


def _matches(folder: Path, pattern: str) -> dict[Path, str]:
    before, after = normalize("NFC", pattern.removeprefix("./")).split("*")
    # a.JPG is meant as well
    regex = re.compile(f"{re.escape(before)}([^/]+){re.escape(after)}", re.IGNORECASE)
    start = len(folder.as_posix().rstrip("/")) + 1 if folder != Path() else 0
    base = folder / pattern.partition("*")[0].rpartition("/")[0]
    found = {}
    for path in walk(base if base.is_dir() else folder):
        match = regex.fullmatch(normalize("NFC", path.as_posix()[start:]))
        if match:
            found[path] = match[1]
    return found


def _once(found: dict[Path, str]) -> dict[tuple[str, str], Path]:
    files: dict[tuple[str, str], Path] = {}
    for path, star in found.items():
        if ("", star) in files:
            raise ValueError(
                f"--pairs: {files['', star]} and {path} both match with '{star}' for the *. "
                "Keep one of them, or give a list."
            )
        files["", star] = path
    return files


def _by_list(folder: Path, path: Path) -> list[Listed]:
    rows = _rows(path)
    line, header = next(rows, (1, []))
    columns = [name.strip().lower() for name in header]
    if any(columns.count(name) != 1 for name in _NEEDED) or set(columns) - set(_COLUMNS):
        raise ValueError(
            f"{path}, line {line}: the header is '{','.join(header)}'. It must name the columns "
            "image,mask and may name group,part, with commas between."
        )
    problems: list[str] = []
    listed: list[Listed] = []
    seen: dict[Path, int] = {}
    for line, row in rows:
        if len(row) != len(columns):
            problems.append(f"line {line} has {len(row)} fields, the header {len(columns)}")
            continue
        cells = dict(zip(columns, row, strict=True))
        said = cells.get("part", "").strip()
        part = PARTS.get(said.lower())
        if said and part is None:
            problems.append(f"line {line}: the part '{said}' is none of train, val and test")
        files = []
        for column in _NEEDED:
            file = _existing(cells[column], path.parent, folder)
            if file is None:
                problems.append(f"line {line}: the {column} '{cells[column]}' does not exist")
            elif file in seen:
                problems.append(f"line {line}: {file} stands in line {seen[file]} already")
            else:
                seen[file] = line
                files.append(file)
        if len(files) == 2:
            name = normalize("NFC", Path(cells["image"]).with_suffix("").as_posix())
            listed.append(Listed(files[0], files[1], cells.get("group", "") or name, part))
    if {each.part is None for each in listed} == {True, False}:
        line = next(seen[each.image] for each in listed if each.part is None)
        problems.append(f"line {line} has no part, while other lines have one")
    if problems:
        more = f"\n  and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(
            f"{path} has {len(problems)} wrong line{'s' * (len(problems) > 1)}:\n  "
            + "\n  ".join(problems[:5])
            + f"{more}\nMend them; files are named from the list's folder or from {folder}."
        )
    return listed


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    data = path.read_bytes()
    try:
        # Excel puts a mark before the first letter
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {line}: this is not UTF-8. Save the list as 'CSV UTF-8'."
        ) from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {reader.line_num}: this is not CSV ({error}). Mend the line."
        ) from None


def _existing(name: str, *folders: Path) -> Path | None:
    return next((each / name for each in folders if name and (each / name).is_file()), None)
