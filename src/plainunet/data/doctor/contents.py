"""What a folder's masks hold, and which of them do not go with the others.

In: counts of every mask. Out: the coding of those that make sense together, and findings on
the others. Masks at fault are set aside one by one, so that one slip does not hide the rest.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from plainunet.config import DataConfig
from plainunet.data.census import MaskCounts, count_all_colors
from plainunet.data.doctor import mend
from plainunet.data.doctor.findings import Findings
from plainunet.data.encodings.colors import IGNORED, match_colors
from plainunet.data.encodings.values import THRESHOLD
from plainunet.data.masks import MaskCoding, class_table
from plainunet.data.meaning import explain_masks
from plainunet.data.pairing import Pair
from plainunet.data.problems import DataError

_MOST_SET_ASIDE = 20
_FEW = 0.05


class Contents(NamedTuple):
    """What masks hold that make sense together.

    Attributes:
        coding: Which value or colour is which class.
        pixels: [n, K] int64, the pixels of each class in each mask.
        border: [n, K] int64, how many of them lie along the picture's border; zeros where the
            masks name classes by colour.
        masks: [n], the masks.
    """

    coding: MaskCoding
    pixels: NDArray[np.int64]
    border: NDArray[np.int64]
    masks: list[Path]


def understand_contents(
    counts: Sequence[MaskCounts],
    config: DataConfig,
    findings: Findings,
    on_note: Callable[[str], None],
) -> Contents | None:
    """Find out what masks mean, setting those aside that do not go with the others.

    Args:
        counts: What each mask holds.
        config: What is known of the masks.
        findings: Where to note those set aside.
        on_note: Told what was understood, and how.

    Returns:
        The contents, or None where the masks make no sense together.
    """
    known = config.mask_arguments()
    counts, total = _set_odd_kinds_aside(counts, bool(known["colors"]), findings), len(counts)
    for _ in range(_MOST_SET_ASIDE):
        notes: list[str] = []
        try:
            coding, _ = explain_masks(
                [each.path for each in counts], counts, **known, on_note=notes.append
            )
        except (ValueError, FileNotFoundError) as error:
            faulty = _at_fault(error, counts)
            problem = error if isinstance(error, DataError) else DataError(str(error))
            code, cure = problem.code, problem.cure
            if code == "ambiguous-255" and 0 < len(faulty) < len(counts):
                cure = _cure_255(faulty)
            findings.add(code, str(problem), faulty, cure, "error")
            counts = [each for each in counts if each.path not in set(faulty)]
            # more than half at fault: then it is not they that are odd
            if not faulty or 2 * len(counts) < total:
                return None
            continue
        for note in notes:
            on_note(note)
        _tell_smoothed(coding, counts, findings)
        return _count_classes(coding, counts)
    return None


def tell_contents(contents: Contents, pairs: Sequence[Pair], findings: Findings) -> None:
    """Tell of masks that are empty or ignored, and of classes that hardly occur.

    Args:
        contents: What the masks hold.
        pairs: The pairs of these masks, in their order.
        findings: Where to note it.
    """
    pixels, masks = contents.pixels, contents.masks
    total = pixels.sum(axis=1)
    for index in np.flatnonzero(total == 0):
        message = f"{masks[index]}: every pixel is ignored, so nothing can be learnt from it."
        findings.add("ignored-mask", message, [masks[index]])
    # where one foreground is meant, the class of most pixels may be any
    foreground = pixels[:, 1:].sum(axis=1)
    empty = np.flatnonzero((total > 0) & (foreground == 0))
    if len(empty):
        few = len(empty) <= max(1, _FEW * len(masks))
        more = "" if few else f" ({len(empty)} of {len(masks)} masks are, so it may be meant)"
        for index in empty:
            findings.add(
                "empty-mask",
                f"{masks[index]} has no foreground{more}.",
                [masks[index]],
                severity=None if few else "note",
            )
    _tell_rare(contents, findings)
    trained = np.array([pair.part in (None, "train") for pair in pairs])
    if trained.any() and not trained.all():
        seen = pixels[trained].sum(axis=0)
        for class_id in np.flatnonzero((seen == 0) & (pixels.sum(axis=0) > 0)):
            holders = [masks[k] for k in np.flatnonzero(pixels[:, class_id])]
            findings.add(
                "class-not-in-training",
                f"Class {class_id} occurs in {len(holders)} masks, and in none of the training "
                f"part: it cannot be learnt. For example: {holders[0]}.",
                holders,
            )


def _set_odd_kinds_aside(
    counts: Sequence[MaskCounts], legend_is_known: bool, findings: Findings
) -> list[MaskCounts]:
    """Set coloured masks among others aside, and JPEG among files that keep their values."""
    lossy = [each for each in counts if each.kind == "jpeg"]
    colored = [each for each in counts if each.is_colored]
    odd: set[Path] = set()
    if 2 * len(lossy) < len(counts):
        for each in lossy:
            odd.add(each.path)
            findings.add(
                "lossy-mask",
                f"{each.path} is a JPEG, which changes the values of a mask; the others are not. "
                "Draw it again, or take it from before it was saved so.",
                [each.path],
                severity="error",
            )
    if not legend_is_known and 2 * len(colored) < len(counts):
        for each in colored:
            if each.path not in odd:
                odd.add(each.path)
                message = (
                    f"{each.path} is coloured, while the others hold one value for each pixel. "
                    "Is it the right file? Save the class ids as a grey or palette PNG."
                )
                findings.add("colored-mask", message, [each.path])
    return [each for each in counts if each.path not in odd]


def _at_fault(error: Exception, counts: Sequence[MaskCounts]) -> list[Path]:
    """The masks to be set aside for an error."""
    code = getattr(error, "code", "")
    if code == "ambiguous-255":
        sides = [
            [each.path for each in counts if value in each.values.tolist()] for value in (255, 1)
        ]
        return min(sides, key=len)
    if code == "many-values":
        usual = float(np.median([len(each.values) for each in counts]))
        return [each.path for each in counts if len(each.values) > 2 * usual + 8]
    return list(getattr(error, "files", ()))


def _cure_255(masks: Sequence[Path]) -> str:
    return mend.replace_values({255: 1}, masks)


def _tell_smoothed(coding: MaskCoding, counts: Sequence[MaskCounts], findings: Findings) -> None:
    if coding.kind != "threshold":
        return
    for each in counts:
        between = (each.values > 0) & (each.values < 255)
        if between.any():
            share = each.pixels[between].sum() / each.pixels.sum()
            findings.add(
                "lossy-mask",
                f"{each.path}: {share:.2%} of the pixels lie between 0 and 255, from smoothing or "
                f"JPEG; from {THRESHOLD} on they are taken for class 1.",
                [each.path],
                "--encoding threshold",
            )


def _count_classes(coding: MaskCoding, counts: Sequence[MaskCounts]) -> Contents:
    masks = [each.path for each in counts]
    shape = len(counts), coding.num_classes
    pixels, border = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    if coding.kind == "colors":
        for row, (found, each_color) in enumerate(count_all_colors(masks)):
            classes = match_colors(found, coding.colors, coding.ignore)[0]
            np.add.at(pixels[row], classes[classes != IGNORED], each_color[classes != IGNORED])
    else:
        table = class_table(coding, 65536)
        for row, each in enumerate(counts):
            ids = table[each.values]
            known = ids != IGNORED
            np.add.at(pixels[row], ids[known], each.pixels[known])
            np.add.at(border[row], ids[known], each.border[known])
    return Contents(coding, pixels, border, masks)


def _tell_rare(contents: Contents, findings: Findings) -> None:
    """Tell of classes that only few masks show: values that were never meant look like that."""
    coding, masks = contents.coding, contents.masks
    shows = contents.pixels > 0
    few = max(1, 0.02 * len(masks))
    if len(masks) < 5 or coding.num_classes < 3:
        return
    for class_id in range(coding.num_classes):
        holders = [masks[row] for row in np.flatnonzero(shows[:, class_id])]
        if 0 < len(holders) <= few:
            count = int(contents.pixels[:, class_id].sum())
            cure = ""
            if coding.kind in ("ids", "values"):
                cure = f"--ignore {coding.values[class_id]}"
            findings.add(
                "rare-class",
                f"Class {class_id} is in {len(holders)} of {len(masks)} masks, {count} pixels: "
                f"{', '.join(map(str, holders[:3]))}. Is it a slip? If it is no class:",
                holders,
                cure,
            )


def census_of(counts: Sequence[MaskCounts]) -> list[dict[str, Any]]:
    """List the values of all masks.

    Args:
        counts: What each mask holds.

    Returns:
        For each value, ascending: `value`, `pixels`, and the number of `masks` that have it.
    """
    pixels, files = np.zeros(65536, np.int64), np.zeros(65536, np.int64)
    for each in counts:
        pixels[each.values] += each.pixels
        files[each.values] += 1
    return [
        {"value": int(value), "pixels": int(pixels[value]), "masks": int(files[value])}
        for value in np.flatnonzero(files)
    ]
