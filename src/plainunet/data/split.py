"""Pairs -> training, validation and test parts, groups kept whole.

In: pairs, with or without a part. Out: pairs with one, and `split.csv`, with which anyone can
repeat the split.
"""

import csv
import hashlib
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from plainunet.data.pairing import Pair
from plainunet.files import write_whole

_COLUMNS = ["image", "mask", "group", "part"]
_PARTS = ("train", "val", "test")

_logger = logging.getLogger(__name__)


def split_pairs(pairs: Sequence[Pair], fraction: float = 0.2, seed: int = 0) -> list[Pair]:
    """Give every pair a part.

    Parts that are given are kept; where there is training but no validation, some groups of
    the training part become validation. Groups are taken in an order drawn from their names
    and the seed, so the order of `pairs` does not matter, and more data reshuffles nothing.

    Args:
        pairs: The pairs.
        fraction: Share of the pictures that becomes validation, 0 < fraction < 1; groups
            being whole, it is met as nearly as the drawn order allows.
        seed: Of the draw.

    Returns:
        The pairs in the same order, each with a part.

    Raises:
        ValueError: `fraction` is out of range, there are no pairs or no training part, some pairs
            have a part and some not, or there are fewer than two groups to share out.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"The validation fraction is {fraction}; it must be between 0 and 1.")
    if not pairs:
        raise ValueError("There are no pairs to split. Give at least two.")
    given = {pair.part for pair in pairs}
    if None in given and len(given) > 1:
        example = next(pair.image for pair in pairs if pair.part is None)
        raise ValueError(f"{example} has no part, while other pictures have one. Give it one.")
    if None not in given and "train" not in given:
        raise ValueError("No picture is in the training part. Move some into train/.")
    if "val" in given:
        _mention_shared_groups(pairs)
        return list(pairs)
    sizes: dict[str, int] = defaultdict(int)
    for pair in pairs:
        if pair.part != "test":
            sizes[pair.group] += 1
    taken = _draw_groups(sizes, fraction, seed)
    whole = [
        pair
        if pair.part == "test"
        else replace(pair, part="val" if pair.group in taken else "train")
        for pair in pairs
    ]
    _mention_shared_groups(whole)
    return whole


def _draw_groups(sizes: dict[str, int], fraction: float, seed: int) -> set[str]:
    if len(sizes) < 2:
        raise ValueError(
            f"All pictures belong to one group ({next(iter(sizes), 'none')!r}), and a group is "
            "never divided between training and validation. Group them by another pattern: "
            "'.+' makes each picture a group of its own."
        )
    order = sorted(
        sizes, key=lambda group: hashlib.sha256(f"{seed}:{group}".encode(errors="replace")).digest()
    )
    wanted = fraction * sum(sizes.values())
    taken: set[str] = set()
    count = 0
    for group in order:
        nearer = abs(count + sizes[group] - wanted) < abs(count - wanted)
        if nearer and len(taken) < len(sizes) - 1:
            taken.add(group)
            count += sizes[group]
    return taken or {min(order, key=sizes.__getitem__)}


def _mention_shared_groups(pairs: Sequence[Pair]) -> None:
    parts = defaultdict(set)
    for pair in pairs:
        parts[pair.group].add(pair.part)
    shared = sorted(group for group, where in parts.items() if len(where) > 1)
    if shared:
        _logger.warning(
            "%d groups are in more than one of the given parts (%s): scores will look better "
            "than they are",
            len(shared),
            ", ".join(shared[:5]),
        )


def write_split(path: Path, pairs: Sequence[Pair], root: Path) -> None:
    """Write a split as CSV: image, mask, group, part.

    Args:
        path: The file.
        pairs: The pairs, each with a part.
        root: The data set's folder; files below it are named from there, others in full.

    Raises:
        ValueError: A pair has no part.
    """
    with (
        write_whole(path) as whole,
        whole.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(
            file, lineterminator="\r\n"
        )  # with "\n", a "\r" in a name would not be quoted
        writer.writerow(_COLUMNS)
        for pair in pairs:
            if pair.part is None:
                raise ValueError(f"{pair.image} has no part. Split the pairs before writing them.")
            writer.writerow(
                [name_below(pair.image, root), name_below(pair.mask, root), pair.group, pair.part]
            )


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
