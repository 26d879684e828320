"""A CSV list of run-length codes, as of Kaggle -> class ids.

In: lines with a picture's name and "start length start length ...", starts from 1, several
lines for a picture where it has several objects or classes; and how the pixels are counted:
row by row (Carvana) or column by column (most others), which the code itself does not say.
Out: class ids. Limitations: one class per pixel; starts are absolute, never relative to the end
of the run before.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plainunet.data.codecs.encoded import require_bearable
from plainunet.data.encodings.codes import Codes, Row, read_codes, shorten
from plainunet.data.encodings.codes import is_rle as is_rle
from plainunet.data.places import Place

ORDERS = ("rows", "columns")

_ITEM = re.compile(r"(.+) (\d{1,9})x(\d{1,9}) (rows|columns)", re.DOTALL)
_SAMPLE = 20
_CLEAR = 1.7
_FEW = 4


def listed_names(file: Path) -> list[str]:
    """List the pictures of a file.

    Args:
        file: The list of run-length codes.

    Returns:
        Each picture's name, once, in the file's order.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no such list, or has a wrong line.
    """
    return list(read_codes(file).rows)


def name_items(
    file: Path,
    sizes: Mapping[str, tuple[int, int]],
    order: str | None,
    on_note: Callable[[str], None] | None = None,
) -> dict[str, str]:
    """Name each picture's item, and find out how its pixels are counted.

    The codes do not say whether they count row by row or column by column. Of pictures that are
    not square, the right reading gives masks whose neighbouring lines are alike, and the wrong
    one tears them apart.

    Args:
        file: The list of run-length codes.
        sizes: Height and width of each picture [pixels], by its listed name.
        order: "rows" or "columns", or None where it is to be found.
        on_note: Called with a sentence on which order was found.

    Returns:
        Each item by the picture's listed name, as `read_ids` takes it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no such list, has a wrong line or not the picture, a code does not
            fit the picture's size, or the order cannot be told.
    """
    if order not in (*ORDERS, None):
        raise ValueError(f"The order of run-length codes is '{order}'. Say --rle rows or columns.")
    codes = read_codes(file)
    for name in sizes:
        if name not in codes.rows:
            raise ValueError(f"{file} lists no picture '{name}'. Add a line for it.")
    if order is None:
        order = _find_order(file, codes, sizes)
        if on_note is not None:
            on_note(
                f"The run-length codes in {file} count {order[:-1]} by {order[:-1]}, as the "
                "pictures' sizes show."
            )
    return {name: f"{name} {height}x{width} {order}" for name, (height, width) in sizes.items()}


def read_ids(place: Place, path: Path) -> NDArray[np.uint8]:
    """Read a picture's class ids.

    Args:
        place: The list and the item, "NAME HEIGHTxWIDTH rows" or "... columns".
        path: The path of the two, for messages.

    Returns:
        [H, W] uint8: 0 where there is no run, else the number of the class, from 1.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no such list, has a wrong line or not the picture, a code does not
            fit the picture's size, or two classes overlap.
    """
    codes, rows, (height, width), order = _find_item(place, path)
    numbers = {name: number for number, name in enumerate(codes.classes, 1)}
    ids = np.zeros(height * width, np.uint8)
    names = sorted(
        {row.class_name for row in rows if row.code}, key=lambda name: numbers.get(name, 1)
    )
    overlap = 0
    for name in names:
        own = [row for row in rows if row.class_name == name]
        covered = _cover(place.file, own, ids.size)
        overlap += int(np.count_nonzero(ids[covered])) if len(names) > 1 else 0
        ids[covered] = numbers.get(name, 1)
    if overlap:
        raise ValueError(
            f"{path}: {overlap} pixels ({overlap / np.count_nonzero(ids):.2%} of those labelled) "
            f"belong to two of the classes {', '.join(names)}; each pixel has one. Take the runs "
            f"of one of the classes out of {place.file} where they overlap."
        )
    return ids.reshape(height, width) if order == "rows" else ids.reshape(width, height).T.copy()


def item_size(place: Place, path: Path) -> tuple[int, int]:
    """Tell the size of a picture's mask, and see that its codes fit it.

    Args:
        place: The list and the item, as for `read_ids`.
        path: The path of the two, for messages.

    Returns:
        Height and width [pixels].

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: As for `read_ids`, but for classes that overlap.
    """
    _, rows, size, _ = _find_item(place, path)
    for row in rows:
        _runs(place.file, row, size[0] * size[1])
    return size


def class_names(file: Path) -> tuple[str, ...]:
    """List the classes that a file tells apart.

    Args:
        file: The list of run-length codes.

    Returns:
        "background" and the classes, sorted, numbers as numbers; empty where there is no
        column for the class.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no such list, or has a wrong line.
    """
    classes = read_codes(file).classes
    return ("background", *classes) if classes else ()


_Item = tuple[Codes, list[Row], tuple[int, int], str]


def _find_item(place: Place, path: Path) -> _Item:
    match = _ITEM.fullmatch(place.item)
    if match is None or not int(match[2]) * int(match[3]):
        raise ValueError(
            f"{path}: '{place.item}' does not name a mask in {place.file}. Name it by its "
            "picture's name, height, width and order: [cat.jpg 1280x1918 rows]."
        )
    codes = read_codes(place.file)
    # a path is written with "\" on Windows
    name = match[1] if match[1] in codes.rows else match[1].replace("\\", "/")
    if name not in codes.rows:
        raise ValueError(
            f"{path}: {place.file} lists no picture '{match[1]}'. Add a line for it, or name one "
            f"of its {len(codes.rows)}."
        )
    size = int(match[2]), int(match[3])
    require_bearable(size[0] * size[1], path)
    return codes, codes.rows[name], size, match[4]


def _runs(file: Path, row: Row, pixels: int) -> NDArray[np.int64]:
    where = f"{file}, line {row.line}"
    try:
        numbers = np.array(row.code.split(), np.int64)
    except (ValueError, OverflowError):
        numbers = np.empty(1, np.int64)
    if numbers.size % 2:
        raise ValueError(
            f"{where}: the code '{shorten(row.code)}' is not made of pairs of whole numbers. Write "
            "the start and the length of each run, with spaces between."
        )
    starts, lengths = numbers.reshape(-1, 2).T
    last = pixels - np.minimum(lengths, pixels) + 1
    wrong = np.flatnonzero((starts < 1) | (lengths < 1) | (lengths > pixels) | (starts > last))
    if wrong.size:
        start, length = int(starts[wrong[0]]), int(lengths[wrong[0]])
        raise ValueError(
            f"{where}: a run of {length} pixels from pixel {start} on does not lie within the "
            f"{pixels} pixels of the picture, counted from 1. Mend the line, or see that the "
            "picture has the size that it was labelled at."
        )
    back = np.flatnonzero(starts[1:] < starts[:-1])
    if back.size:
        first, then = starts[back[0] : back[0] + 2].tolist()
        raise ValueError(
            f"{where}: the run from pixel {then} on stands behind the one from {first} on, so the "
            "starts may be counted from the end of the run before. Write them counted from the "
            "picture's first pixel, in ascending order."
        )
    return np.stack([starts - 1, starts - 1 + lengths])


def _cover(file: Path, rows: list[Row], pixels: int) -> NDArray[np.bool_]:
    covered = np.zeros(pixels, np.bool_)
    for row in rows:
        starts, ends = _runs(file, row, pixels)
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            covered[start:end] = True
    return covered


def _find_order(file: Path, codes: Codes, sizes: Mapping[str, tuple[int, int]]) -> str:
    ask = "Say how they count: --rle rows (Carvana) or --rle columns (most other sets of Kaggle)."
    unequal = [
        name
        for name, (height, width) in sizes.items()
        if height != width and any(row.code for row in codes.rows[name])
    ]
    if not any(row.code for name in sizes for row in codes.rows[name]):
        raise ValueError(f"{file} has no code for any picture, so there is nothing to learn.")
    if not unequal:
        square = all(height == width for height, width in sizes.values())
        raise ValueError(
            f"The run-length codes in {file} may count row by row or column by column: "
            + (f"all {len(sizes)} pictures are square" if square else "only square ones have any")
            + f", so both would fit. {ask}"
        )
    sample = unequal[:: -(-len(unequal) // _SAMPLE)]
    torn, scaled = np.zeros(2), np.zeros(2)
    inside = banded = 0
    for name in sample:
        height, width = sizes[name]
        require_bearable(height * width, file)
        covered = _cover(file, codes.rows[name], height * width)
        for number, line in enumerate((width, height)):
            changes = np.count_nonzero(covered[line:] != covered[:-line])
            torn[number] += changes
            scaled[number] += changes / line
        edges = np.flatnonzero(np.diff(covered, prepend=False, append=False)).reshape(-1, 2)
        lengths = edges[:, 1] - edges[:, 0]
        inside += int(lengths.sum())
        banded += int(lengths[lengths > min(height, width)].sum())
    # a band over all of the picture changes once on each line, however it is read, and a short
    # line is no merit; elsewhere it is: of 40x80 pixels, every other column is like a line
    for right, wrong in ((0, 1), (1, 0)):
        clear = torn[wrong] > _CLEAR * (torn[right] + _FEW)
        if clear and (2 * banded <= inside or scaled[wrong] > _CLEAR * scaled[right]):
            return ORDERS[right]
    raise ValueError(
        f"The run-length codes in {file} may count row by row or column by column: too little is "
        f"labelled, or in shapes too small, in the {len(sample)} pictures looked at, to "
        f"tell which is right. {ask}"
    )
