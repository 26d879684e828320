"""A split as `split.csv`, with which anyone can repeat it.

In: pairs, each with its part. Out: a file, and the same pairs from it. Files below the data
folder are named from there, so that it may be moved.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

from plainunet.data.pairing import Pair
from plainunet.files import write_whole

SPLIT_FILE = "split.csv"
"""Name of such a file, in a run folder or a data folder."""
_COLUMNS = ["image", "mask", "group", "part"]
_PARTS = ("train", "val", "test")


def write_split(path: Path, pairs: Sequence[Pair], root: Path) -> None:
    """Write a split as CSV: image, mask, group, part; without the part where none has one.

    Args:
        path: The file.
        pairs: The pairs, each with a part or none.
        root: The data set's folder; files below it are named from there, others in full.

    Raises:
        ValueError: A pair has no part, while others have one.
    """
    with (
        write_whole(path) as whole,
        whole.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(
            file, lineterminator="\r\n"
        )  # with "\n", a "\r" in a name would not be quoted
        parted = any(pair.part for pair in pairs)
        writer.writerow(_COLUMNS if parted else _COLUMNS[:-1])
        for pair in pairs:
            if parted and pair.part is None:
                raise ValueError(f"{pair.image} has no part. Split the pairs before writing them.")
            row = [name_below(pair.image, root), name_below(pair.mask, root), pair.group]
            writer.writerow([*row, pair.part] if parted else row)


def read_split(path: Path, root: Path) -> list[Pair]:
    """Read a split that `write_split` wrote.

    Args:
        path: The file.
        root: The data set's folder.

    Returns:
        The pairs, in the file's order. Whether the pictures exist is not looked at.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not such a CSV; the message says the line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist. Check the path of the split.")
    pairs = []
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        rows = csv.reader(file)
        header = next(rows, [])
        if header != _COLUMNS:
            raise ValueError(
                f"{path} begins with the columns {', '.join(header) or '(none)'}; expected are "
                f"{', '.join(_COLUMNS)}."
            )
        for row in rows:
            if len(row) != 4 or row[3] not in _PARTS:
                raise ValueError(
                    f"{path}, line {rows.line_num}: expected are image, mask, group and one of "
                    f"{', '.join(_PARTS)}; found is {', '.join(row) or 'an empty line'}."
                )
            pairs.append(Pair(root / row[0], root / row[1], row[2], row[3]))
    if not pairs:
        raise ValueError(f"{path} lists no pairs. Write the split again.")
    return pairs


def name_below(path: Path, root: Path) -> str:
    """Name a file so that its data folder may be moved.

    Args:
        path: The file.
        root: The data folder.

    Returns:
        Its path below the folder; where it lies elsewhere, its absolute path.
    """
    if path.is_relative_to(root):
        return path.relative_to(root).as_posix()
    return path.absolute().as_posix()
