"""TIFF files of several slices -> one pair for each slice.

In: pairs of files. Out: pairs in which a stack of pictures and its stack of masks are replaced
by their slices, `stack.tif[3]` with `labels.tif[3]`. Only the first bytes of TIFF files are
read, and no other files.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from os import cpu_count
from pathlib import Path

from plainunet.data.codecs.encoded import decoding, open_encoded
from plainunet.data.codecs.slices import find_slices
from plainunet.data.pairing import Pair
from plainunet.data.places import class_files, find_place, name_place
from plainunet.data.problems import DataError, OnProblem, as_problem

_BLOCKS = 10
_AT_ONCE = 256  # files for a thread, as a task takes longer to hand over than a file
_Count = int | ValueError | FileNotFoundError


def open_stacks(
    pairs: Sequence[Pair],
    on_note: Callable[[str], None] | None = None,
    on_problem: OnProblem | None = None,
) -> list[Pair]:
    """Replace each pair of stacks by pairs of slices.

    The slices of a stack look alike, so they stay in its group. A stack that is all there is to
    train on is cut into up to ten blocks of consecutive slices, each a group.

    Args:
        pairs: The pairs. Those that name slices already, and other files than TIFF, stay as
            they are, and so do files that cannot be read, which is for `check_pairs` to tell.
        on_note: Called with a sentence where a single stack is cut into blocks.
        on_problem: Told of each stack without a fitting partner, which is left out then.

    Returns:
        The pairs in their order, slices in the order of the stack.

    Raises:
        FileNotFoundError: A stack's partner is missing, and there is nobody to be told.
        ValueError: A stack's partner is no stack, cannot be read, or has another number of
            slices, and there is nobody to be told.
    """
    paths = [path for pair in pairs for path in (pair.image, pair.mask) if _may_be_stack(path)]
    if not paths:
        return list(pairs)
    parts = [paths[start : start + _AT_ONCE] for start in range(0, len(paths), _AT_ONCE)]
    with ThreadPoolExecutor(min(8, cpu_count() or 1)) as pool:
        found = [count for counts in pool.map(_count_all, parts) for count in counts]
    counts = dict(zip(paths, found, strict=True))
    opened: list[Pair] = []
    alone = _stack_alone(pairs, counts)
    for pair in pairs:
        try:
            count = _common_count(pair, counts)
        except (ValueError, FileNotFoundError) as error:
            if on_problem is None:
                raise
            on_problem(as_problem(error, pair.image, pair.mask))
            continue
        if count < 2:
            opened.append(pair)
            continue
        groups = _blocks(pair.group, count) if pair is alone else [pair.group] * count
        opened += [
            replace(
                pair,
                image=name_place(pair.image, str(index)),
                mask=name_place(pair.mask, str(index)),
                group=group,
            )
            for index, group in enumerate(groups)
        ]
        if pair is alone and on_note is not None:
            on_note(
                f"{pair.image} is the only stack; its {count} slices are divided in "
                f"{len(set(groups))} blocks of consecutive ones. Slices on both sides of a border "
                "between training and validation still look alike, so that scores will be "
                "somewhat better than on another stack."
            )
    return opened


def open_slices(pictures: Sequence[Path]) -> list[Path]:
    """Replace each stack by its slices.

    Args:
        pictures: Pictures. Those that name slices already, other files than TIFF, and files that
            cannot be read stay as they are.

    Returns:
        The pictures in their order, slices as `stack.tif[3]`.
    """
    opened: list[Path] = []
    for path in pictures:
        count = _count_slices(path) if _may_be_stack(path) else 1
        if isinstance(count, int) and count > 1:
            opened += [name_place(path, str(number)) for number in range(count)]
        else:
            opened.append(path)
    return opened


def _may_be_stack(path: Path) -> bool:
    return path.suffix.lower() in (".tif", ".tiff")


def _count_all(paths: list[Path]) -> list[_Count]:
    return [_count_slices(path) for path in paths]


def _count_slices(path: Path) -> _Count:
    if class_files(path) and not path.exists():
        return 1
    try:
        with open_encoded(path) as (kind, file), decoding(path):
            return find_slices(file, path).count if kind == "tiff" else 1
    except (ValueError, FileNotFoundError) as error:
        return error


def _common_count(pair: Pair, counts: dict[Path, _Count]) -> int:
    images, masks = counts.get(pair.image, 1), counts.get(pair.mask, 1)
    for own, other in ((images, masks), (masks, images)):
        # of two files that are no stacks, `check_pairs` tells what is wrong
        if isinstance(own, Exception) and isinstance(other, int) and other > 1:
            raise own
    if isinstance(images, Exception) or isinstance(masks, Exception):
        return 1
    if images == masks:
        return images
    if images > 1 and masks > 1:
        raise DataError(
            f"{pair.image} has {images} slices, its masks {pair.mask} have {masks}. "
            "Save both with one page for each slice, in the same order.",
            "several-frames",
        )
    stack, single, count = (
        (pair.image, pair.mask, images) if images > 1 else (pair.mask, pair.image, masks)
    )
    what = "a slice" if find_place(single) else "a single picture"
    raise DataError(
        f"{stack} is a stack of {count} slices, its partner {single} is {what}. Save the "
        f"partner as a TIFF stack of {count} slices, or name one slice: '{stack}[0]'.",
        "several-frames",
    )


def _stack_alone(pairs: Sequence[Pair], counts: dict[Path, _Count]) -> Pair | None:
    """The pair of stacks that training and validation must share, if there is but one."""
    learnt = [pair for pair in pairs if pair.part != "test"]
    if len(learnt) != 1 or learnt[0].part == "val":
        return None
    count = counts.get(learnt[0].image)
    return learnt[0] if isinstance(count, int) and count > 1 else None


def _blocks(group: str, count: int) -> list[str]:
    blocks = min(_BLOCKS, count)
    borders = [count * block // blocks for block in range(blocks + 1)]
    return [
        f"{group} {start}-{end - 1}" if end - start > 1 else f"{group} {start}"
        for start, end in pairwise(borders)
        for _ in range(start, end)
    ]
