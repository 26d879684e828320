"""The questions and errors about what mask values mean."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plainunet.dataset.census import Census, MaskCounts, values_of
from plainunet.dataset.coding import list_values
from plainunet.formats.colors import IGNORED
from plainunet.formats.masks import THRESHOLD, VOID
from plainunet.formats.problems import Change, DataError

MOST_IDS = 64
"""Class ids are usually smaller than this."""
_CLASS_STEP, _MOTS_VOID = 1000, 10000


def which_background(
    census: Census, ground: int, values: Sequence[int], ignore: int | None
) -> DataError:
    """The error for a value that has nearly all pixels and is not class 0."""
    others = tuple(value for value in values if value != ground)
    void = {} if ignore in (None, ground) else {"ignore": ignore}
    choices: dict[str, dict[str, Any]] = {}
    if tuple(values[:2]) == (0, ground) and len(values) > 3 and not void:  # as in LoveDA
        void_first = {"values": tuple(values[1:]), "ignore": 0}
        choices[f"0 marks pixels of no class, {ground} is the background"] = void_first
    choices[f"{ground} is the background"] = {"values": (ground, *others), **void}
    if ground in values:
        choices[f"{values[0]} is the background"] = {"values": tuple(values), **void}
    else:
        choices[f"{ground} marks pixels of no class"] = {"values": others, "ignore": ground}
    where = f", and most along the borders, have value {ground}, so it"
    if ground == VOID:
        where = f" have no value (-1, NaN or nodata, read as {VOID}), and none has value 0, so this"
    return DataError(
        f"{census.pixels[ground] / census.pixels.sum():.1%} of the mask pixels{where} may be the "
        f"background; the masks hold "
        f"{list_values(values)}{f' and {ground}' if ground not in values else ''}. Choose one.",
        "which-background",
        choices=choices,
    )


def ids_or_objects(present: list[int], why: str, has_void: bool) -> DataError:
    """The error for values that may be class ids or number objects; `has_void`: 255 is neither."""
    void = {"ignore": IGNORED} if has_void else {}
    ids = tuple(value for value in present if not (has_void and value == IGNORED))
    is_run = ids == (*range(len(ids)),)
    objects = f"They number objects: all above 0 is class 1{', 255 is no class' * has_void}"
    choices: dict[str, dict[str, Any]] = {objects: {"encoding": "instances", **void}}
    if len(ids) < IGNORED:
        are_ids = {"encoding": "ids"} if is_run else {"values": ids}
        choices["They are class ids"] = {**are_ids, **void}
    if ids[0] == 0 and ids[-1] == IGNORED:
        choices["They are class ids, and 255 marks pixels of no class"] = {
            "values": ids[:-1],
            "ignore": IGNORED,
        }
        choices["The masks are smoothed black and white"] = {"encoding": "threshold"}
    return DataError(
        f"The masks hold {len(present)} values: {list_values(present)}. {why}, so they may be "
        "class ids or number objects. Choose one.",
        "ids-or-objects",
        choices=choices,
    )


def require_no_class_numbers(counts: Sequence[MaskCounts], ignore: int | None) -> None:
    """Refuse values that join a class and the number of an object, such as 26003.

    All numbers are below 256 then, and so are values without one, and classes repeat.
    """
    present = sorted(values_of(counts) - {ignore})
    joined = [value for value in present if value >= _CLASS_STEP]
    small = {*present} - {*joined}
    void = _MOTS_VOID if _MOTS_VOID in joined and 10 not in small else None
    classes = {value // _CLASS_STEP for value in joined if value != void}
    numbers = {value % _CLASS_STEP for value in joined}
    if 2 * len(classes) > len(joined) or max(numbers | small, default=0) >= IGNORED:
        return
    ids = sorted(classes | small - {0})
    if not classes or len(ids) < 2:
        return
    named = f" and {IGNORED}, pixels of no class, for {void} (KITTI MOTS)" if void else ""
    pairs = [(value, IGNORED if value == void else value // _CLASS_STEP) for value in joined]
    files = [each.path for each in counts if {*each.values.tolist()} & {*joined}]
    flags = f"--encoding instances{f' --ignore {void}' if void else ''}"
    raise DataError(
        f"The masks hold {len(present)} values such as {joined[0]} and {joined[1]}, which look "
        "like class * 1000 + number of the object, as in Cityscapes and KITTI MOTS. plainunet fix "
        f"writes the class in place of each value, {list_values(ids)}"
        f"{named}.{f' If all above 0 is one class, use {flags} instead.' if 0 in small else ''}",
        "ids-or-objects",
        fix=Change("values", tuple(each for each in files if isinstance(each, Path)), (*pairs,))
        if all(isinstance(each, Path) for each in files)
        else "",
    )


def many_values(present: Sequence[int], is_run: bool) -> dict[str, dict[str, Any]]:
    """What many values in 8 bits may mean; `is_run`: no number up to the largest is missing."""
    choices: dict[str, dict[str, Any]] = {}
    if present[0] < THRESHOLD <= present[-1]:
        smoothed = (
            f"They are probabilities, smoothed or from JPEG: {THRESHOLD} and above is class 1"
        )
        choices[smoothed] = {"encoding": "threshold"}
    choices["They number objects: all above 0 is class 1"] = {"encoding": "instances"}
    return {**choices, "They are class ids": {"encoding": "ids"}} if is_run else choices


def require_clear_255(census: Census) -> None:
    """Ask what 255 is beside 0 and 1, unless it clearly marks pixels of no class."""
    if 2 * census.with_both > max(census.files[[1, 255]]) and census.pixels[255] > census.pixels[1]:
        raise DataError(
            "The masks hold 0, 1 and 255, most of them all three, and 255 has more pixels than 1. "
            "Choose one.",
            "ambiguous-255",
            choices={
                "255 marks pixels of no class": {"values": (0, 1), "ignore": 255},
                "255 is a class": {"values": (0, 1, 255)},
            },
        )
    if census.pixels[255] > census.pixels[1] or not census.with_both:
        raise DataError(
            "The masks hold 0, 1 and 255, and 255 may be the ignore index or the foreground of "
            f"some masks: 1 has {census.place(1)}, 255 has {census.place(255)}. To ignore 255, use "
            "train --ignore 255; if it is foreground, use the same foreground value in all masks.",
            "ambiguous-255",
        )


def misfit(census: Census, values: list[int], start: int, num_classes: int | None) -> ValueError:
    """The error for values that are not class ids from `start` on."""
    pixels = census.pixels
    run = [value for rank, value in enumerate(values) if value == start + rank]
    if num_classes is not None:
        expected = list(range(start, start + num_classes))
    elif 0 in values and 255 in values and 2 * pixels[255] > pixels[values[1:]].sum():
        expected = [0, 255]
    elif len(run) > 1:
        expected = run
    else:
        expected = sorted(sorted(values, key=lambda value: -pixels[value])[:2])
    others = sorted(set(values) - set(expected), key=lambda value: pixels[value])
    known = f"The masks hold the values {list_values(values)}"
    if not others:
        return DataError(f"{known}: {len(values)} classes, at most 255 are allowed.", "many-values")
    other = others[0]
    more = f" (and {len(others) - 1} more)" if len(others) > 1 else ""
    reason = f"Value {other}{more} does not match the classes {list_values(expected)}"
    classes = _by_background(census, values)
    if num_classes not in (None, len(values)):
        return unexpected(census, values, reason, other, None)
    slips = [value for value in others if census.is_slip(value)]
    if slips:
        same = sum(census.first[others] == census.first[slips[0]]) == 1
        return unexpected(census, values, reason, slips[0], None, is_alone=same)
    ids = [value for value in classes if value != IGNORED]
    if classes[0] == IGNORED and len(ids) > 1 and max(ids) <= MOST_IDS:
        return which_background(census, IGNORED, ids, IGNORED)
    if len(ids) > 2 and max(ids) <= MOST_IDS:
        return unexpected(census, values, reason, other, tuple(ids), ignore=IGNORED in values)
    are_even = np.ptp(np.diff(values)) <= 1  # greys such as 0, 85, 170, 255
    if len(ids) > 2 and {0, IGNORED} <= {*values} and not are_even:
        return DataError(
            f"{known}. {reason}. Value {IGNORED} may mark pixels of no class, be a class, or be "
            "the white of smoothed masks. Choose one.",
            "stray-value",
            choices={
                f"{IGNORED} marks pixels of no class": {"values": tuple(ids), "ignore": IGNORED},
                "Each value is a class": {"values": classes},
                **_as_objects(census, classes),
                "The masks are smoothed black and white": {"encoding": "threshold"},
            },
        )
    return unexpected(census, values, reason, other, classes)


def _by_background(census: Census, values: Sequence[int]) -> tuple[int, ...]:
    """Put the likely background first: of most pixels and borders; else 0; else of most pixels."""
    most = 0 if 0 in values else max(values, key=lambda value: int(census.pixels[value]))
    ground = most if (top := census.ground()) is None or top not in values else top
    return ground, *(value for value in values if value != ground)


def unexpected(
    census: Census,
    present: Sequence[int],
    reason: str,
    value: int,
    classes: tuple[int, ...] | None,
    is_alone: bool = True,
    ignore: bool = False,
) -> DataError:
    """The error for a value that is not a class: a mistake, or an unknown class.

    `classes` are the values with it as a class; `is_alone`: its first mask has no other such
    value; `ignore`: 255 occurs with ids and is likely the ignore index.
    """
    where = f"The masks hold the values {list_values(present)}. {reason}: {census.place(value)}."
    if census.is_slip(value):
        return DataError(
            f"{where} Correct it there; if it marks pixels of no class, use train --ignore "
            f"{value}; if the values are class ids and some never occur, name all classes (train "
            "--classes); or give the value of each class (train --values).",
            "stray-value",
            [census.paths[census.first[value]]],
            flags={"ignore": value} if is_alone else None,
        )
    is_smoothed = {0, 255} <= {*present} and max(present) == 255
    if classes is None:
        smoothed = " If the masks are smoothed black and white, use --encoding threshold."
        return DataError(
            f"{where}{smoothed * is_smoothed} It is in {census.files[value]} of "
            f"{len(census.paths)} masks, so it is hardly a mistake. Give the value of each class, "
            "background first (--values), and name them (--classes).",
            "stray-value",
        )
    where += f" It is in {census.files[value]} of {len(census.paths)} masks, so it is hardly a "
    all_of_them = {"values": classes, **({"ignore": IGNORED} if ignore else {})}
    choices = {"Each value is a class": all_of_them}
    if not ignore:
        choices |= _other_meanings(census, classes, is_smoothed)
    if len(choices) > 1:
        return DataError(
            f"{where}mistake. Choose one (the first value is the background); if the values are "
            "class ids and some never occur, name all classes (--classes).",
            "stray-value",
            choices=choices,
        )
    return DataError(
        f"{where}mistake. If each value is a class, use --values "
        f"{' '.join(map(str, classes))}{f' --ignore {IGNORED}' * ignore} (background first). If "
        "one marks pixels of no class, give it as --ignore instead. If the values are class ids "
        "and some never occur, name all classes (--classes).",
        "stray-value",
        flags=all_of_them,
    )


def _as_objects(census: Census, classes: Sequence[int]) -> dict[str, dict[str, Any]]:
    """That they mark objects, if no mask holds two of them."""
    meaning = "They mark objects: all above 0 is class 1"
    return {meaning: {"encoding": "instances"}} if 0 in classes and not census.crowded else {}


def _other_meanings(
    census: Census, classes: tuple[int, ...], is_smoothed: bool
) -> dict[str, dict[str, Any]]:
    """What values may mean that are no class each; `is_smoothed`: if black and white are."""
    void = {0, max(classes)} & {*classes} - {census.ground(), IGNORED} if len(classes) > 3 else {}
    if len(classes) == 3 and is_smoothed:  # black, grey and white
        void = {sorted(classes)[1]}
    choices: dict[str, dict[str, Any]] = {}
    for each in sorted(void):
        others = tuple(one for one in classes if one != each)
        choices[f"{each} marks pixels of no class"] = {"values": others, "ignore": each}
    choices |= _as_objects(census, classes)
    if is_smoothed and len(classes) > 4:
        choices["The masks are smoothed black and white"] = {"encoding": "threshold"}
    return choices
