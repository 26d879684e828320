"""What the values or colours in the masks of a data set mean: from all masks to a coding."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plainunet.config import DataConfig
from plainunet.dataset.coding import (
    Coding,
    Colors,
    Instances,
    MaskCounts,
    Threshold,
    Values,
    count_all_colors,
    count_masks,
    list_values,
)
from plainunet.dataset.pairs import Pair
from plainunet.dataset.split import SPLIT_FILE, write_split
from plainunet.files import require_writable
from plainunet.formats.colors import IGNORED, ColorCensus, colored_mask, find_meaning, pack
from plainunet.formats.masks import THRESHOLD, stored_names
from plainunet.formats.problems import DataError
from plainunet.formats.sources import Source, path_of
from plainunet.reporter import Reporter, silent
from plainunet.settings import DATASET_FILE, write_dataset

_MOST_IDS = 64
_MANY_IN_ONE_FILE = 8
_NEAR_END = 32


def find_coding(
    masks: Sequence[Source],
    known: DataConfig | None = None,
    reporter: Reporter = silent,
    counts: Sequence[MaskCounts] | None = None,
) -> tuple[Coding, NDArray[np.int64]]:
    """Look at every mask of a data set, and find out what their values or colours mean.

    Masks are read by their colours if these are given, or if the channels of any of them
    differ; else by their values, palette pictures by their indices.

    `counts` is what each mask holds, where that is counted already. Returns the coding, and the
    pixels of each class, [K] int64.
    """
    known = known or DataConfig()
    names = common_names(masks)  # what is wrong with them is told before any mask is read
    if counts is None:
        counts = [] if known.colors else list(_without_faults(masks))
    if known.colors and (known.values or known.encoding):
        raise ValueError(
            "Masks are read by --colors or by --values and --encoding. Leave out one of the two."
        )
    if names and known.ignore is None:
        known = known.model_copy(update={"ignore": IGNORED})  # what is in no class's file
    colored = next((each.path for each in counts if each.is_colored), None)
    if colored and (known.values or known.encoding):
        raise colored_mask(colored)
    if known.colors or colored:
        return _find_color_coding(masks, known, reporter)
    known = known.model_copy(update={"classes": known.classes or names})
    coding, pixels = _find_value_coding(counts, known, reporter)
    return replace(coding, names=names), pixels


def _without_faults(masks: Sequence[Source]) -> Iterator[MaskCounts]:
    for each in count_masks(masks):
        if isinstance(each, DataError):
            raise each
        yield each


def common_names(paths: Sequence[Source]) -> tuple[str, ...]:
    """Name the classes as the masks' own files do, the background first; refuse different ones."""
    found: dict[tuple[str, ...], Source] = {}
    for path in paths:
        found.setdefault(stored_names(path), path)
    if len(found) > 1:
        (some, first), (other, second) = list(found.items())[:2]
        raise ValueError(
            f"{first} has the classes {', '.join(some) or 'that its values say'}, {second} "
            f"{', '.join(other) or 'those that its values say'}. Name the same in all, in the same "
            "order."
        )
    return next(iter(found), ())


def _find_value_coding(
    counts: Sequence[MaskCounts], known: DataConfig, reporter: Reporter
) -> tuple[Values | Threshold | Instances, NDArray[np.int64]]:
    census = Census()
    for each in counts:
        census.add(each.path, np.bincount(each.values, each.pixels).astype(np.int64), each.is_deep)
    coding = coding_of_values(census, known, reporter)
    lossy = [path for path in census.paths if path_of(path).suffix.lower() in (".jpg", ".jpeg")]
    is_ids = isinstance(coding, Values) and coding.num_classes > 2
    if lossy and is_ids and not (known.values or known.encoding):
        raise DataError(
            f"{lossy[0]} is a JPEG, which changes values, and the masks hold "
            f"{list_values(coding.values)}. Save the class ids as PNG; or, if these are right, "
            "say --encoding ids.",
            "lossy-mask",
            lossy,
        )
    return coding, coding.count(np.arange(65536), census.pixels)


def _find_color_coding(
    masks: Sequence[Source], known: DataConfig, reporter: Reporter
) -> tuple[Colors, NDArray[np.int64]]:
    census = ColorCensus()
    for path, (found, counts) in zip(masks, count_all_colors(masks), strict=True):
        census.add(path, found, counts)
    meaning = find_meaning(census, known.legend, len(known.classes) or None, known.ignore)
    for note in meaning.notes:
        reporter.note(note)
    return Colors(meaning.colors, known.ignore, meaning.names), meaning.pixels


@dataclass
class Census:
    """How often each value occurs in a set of masks; arrays are [65536] int64."""

    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(65536, np.int64))
    files: NDArray[np.int64] = field(default_factory=lambda: np.zeros(65536, np.int64))
    """Masks in which the value occurs."""
    first: NDArray[np.int64] = field(default_factory=lambda: np.zeros(65536, np.int64))
    """The first such mask, as an index into `paths`."""
    paths: list[Source] = field(default_factory=list)
    distinct: list[int] = field(default_factory=list)
    """Of each 16-bit mask, how many values it has."""
    with_both: int = 0
    """Masks that have pixels of value 1 and of value 255."""
    up_to_one: int = 0
    """Masks in which 1 is the largest value."""

    def add(self, path: Source, counts: NDArray[np.int64], is_deep: bool) -> None:
        """Count one more mask: `counts` [n <= 65536] int64 are its pixels of value 0..n-1."""
        values = np.flatnonzero(counts)
        self.first[values] = np.where(self.files[values] == 0, len(self.paths), self.first[values])
        self.files[values] += 1
        self.pixels[values] += counts[values]
        self.paths.append(path)
        if is_deep:
            self.distinct.append(len(values))
        self.with_both += bool(counts.size > 255 and counts[1] and counts[255])
        self.up_to_one += bool(values.size and values[-1] == 1)

    def place(self, value: int) -> str:
        """Say how many pixels have a value, in which mask first, and in how many more."""
        more = int(self.files[value]) - 1
        others = f" and {more} more mask{'s' * (more > 1)}" if more else ""
        return f"{self.pixels[value]} pixels in {self.paths[self.first[value]]}{others}"


def coding_of_values(
    census: Census, known: DataConfig, reporter: Reporter = silent
) -> Values | Threshold | Instances:
    """Find out what the values of a set of masks mean.

    Two values, whichever, are two classes, the smaller one first. Values 0..K-1 are class
    ids; 255 beside them is ignored. Black and white with many values between, nearly all of
    the pixels within 32 of either, are smoothed or JPEG-damaged: values from 128 on are class
    1. Many values in 16 bits, or more than 64 of them, are numbered objects: everything above 0
    is class 1. A ValueError says which value fits with no reading of the others.
    """
    num_classes, ignore, encoding = len(known.classes) or None, known.ignore, known.encoding
    if num_classes is not None and not 2 <= num_classes <= 255:
        raise ValueError(f"num_classes is {num_classes}; it must be from 2 to 255.")
    present = [int(value) for value in np.flatnonzero(census.pixels) if value != ignore]
    if known.values:
        return _given_values(census, present, known)
    if len(present) < 2:
        only = f"only the value {present[0]}" if present else f"only the ignored value {ignore}"
        raise DataError(
            f"All {len(census.paths)} masks hold {only}, so there is nothing to learn. Check that "
            f"{census.paths[0]} and the others are the right files."
            if census.paths
            else "There are no masks.",
            "one-class",
        )
    if encoding in ("instances", "threshold") and num_classes not in (None, 2):
        raise ValueError(
            f"--encoding {encoding} tells a foreground from a background, but {num_classes} "
            "classes are named. Name two, the background's first (--classes)."
        )
    if encoding == "instances":
        return Instances(ignore)
    if encoding == "threshold" or (encoding is None and _is_smoothed(census, present, num_classes)):
        return _threshold(census, present, ignore, reporter)
    if len(present) == 2 and num_classes in (None, 2):
        return Values((present[0], present[1]), ignore)
    if encoding is None and num_classes in (None, 2) and _are_objects(census, present, ignore):
        return Instances(ignore)
    return _class_ids(census, present, num_classes, ignore, reporter)


def _are_objects(census: Census, present: list[int], ignore: int | None) -> bool:
    """Whether values number objects; refuse as many in 8 bits."""
    # one deep mask among many others is a slip
    mostly_deep = 2 * len(census.distinct) > len(census.paths)
    many = mostly_deep and np.median(census.distinct) > _MANY_IN_ONE_FILE
    ids = present[:-1] if ignore is None and present[-1] == 255 else present
    if present[0] != 0 or not (many or len(ids) > _MOST_IDS):
        return False
    if not census.distinct:
        raise DataError(
            f"The masks hold {len(present)} values in 8 bits, for example "
            f"{census.place(ids[1])} of value {ids[1]}: too many for classes. If they are "
            f"smoothed or were saved as JPEG, say --encoding threshold: {THRESHOLD} and more "
            "is class 1; if they number objects, --encoding instances: all above 0 is class 1.",
            "many-values",
        )
    return True


def _class_ids(
    census: Census,
    present: list[int],
    num_classes: int | None,
    ignore: int | None,
    reporter: Reporter,
) -> Values:
    has_void = ignore is None and present[-1] == 255
    ids = present[:-1] if has_void else present
    # ids may begin at 1 where 0 is what is ignored
    start = 1 if ignore == 0 else 0
    wanted = range(start, start + num_classes if num_classes else ids[-1] + 1)
    fits = set(ids) <= set(wanted) if num_classes else ids == list(wanted)
    if not fits or not 2 <= len(ids) <= 255:
        raise _misfit(census, present, start, num_classes)
    if has_void and len(wanted) == 2:
        _require_clear_255(census)
    if census.distinct and num_classes is None and len(wanted) > 2:
        reporter.note(
            f"note: the 16-bit masks hold {list_values(wanted)}, which are read as class ids; if "
            "they number objects, say --encoding instances"
        )
    return Values(tuple(wanted), 255 if has_void else ignore)


def _given_values(census: Census, present: list[int], known: DataConfig) -> Values:
    values, num_classes = known.values, len(known.classes)
    if len(set(values)) < len(values) or not 2 <= len(values) <= 255:
        raise ValueError(
            f"The values {list_values(values)}: 2 to 255 classes need one each, all different."
        )
    if num_classes not in (0, len(values)):
        raise ValueError(
            f"{num_classes} classes are named, but {len(values)} values are given for them "
            f"({list_values(values)}). Give one for each class, in the order of the names."
        )
    strays = set(present) - set(values)
    if strays:
        stray = max(strays, key=lambda value: census.pixels[value])
        raise DataError(
            f"The masks hold the values {list_values(present)}, and {stray} is no class's (they "
            f"are {list_values(values)}): {census.place(stray)}. Give it a class (train --values); "
            f"or, if it marks pixels that belong to no class, say so (train --ignore {stray}).",
            "stray-value",
            [census.paths[census.first[stray]]],
            flags={"ignore": stray},
        )
    return Values(values, known.ignore)


def _is_smoothed(census: Census, values: Sequence[int], num_classes: int | None) -> bool:
    """Whether these are black and white, blurred along the outlines."""
    between = census.pixels[1 + _NEAR_END : 255 - _NEAR_END].sum()
    ends = census.pixels[: 1 + _NEAR_END].sum() + census.pixels[255 - _NEAR_END : 256].sum()
    return bool(
        num_classes in (None, 2)
        and len(values) > _MANY_IN_ONE_FILE
        # one mask saved as JPEG, among others of class ids 0 and 1
        and not census.up_to_one
        and (values[0], values[-1]) == (0, 255)
        # class ids with 255 beside them begin with a row of small numbers, and end there
        and values[-2] > _MOST_IDS
        and ends > 0.9 * census.pixels.sum()
        and census.pixels[255] > between
        and census.pixels[0] > between
    )


def _threshold(
    census: Census, values: Sequence[int], ignore: int | None, reporter: Reporter
) -> Threshold:
    if values[-1] > 255 or not values[0] < THRESHOLD <= values[-1]:
        raise ValueError(
            f"--encoding threshold takes values from 0 to 255 on both sides of {THRESHOLD}; the "
            f"masks hold {list_values(values)}. Say which value is which class: --values."
        )
    ends = census.pixels[[value for value in (0, 255) if value != ignore]].sum()
    moved = 1 - ends / census.pixels[values].sum()
    example = next((value for value in values if value > 0), 255)
    reporter.note(
        f"note: {moved:.2%} of the mask pixels lie between 0 and 255, from smoothing or JPEG "
        f"compression; below {THRESHOLD} they are taken for class 0, else for class 1. For "
        f"example value {example}: {census.place(example)}"
    )
    return Threshold(ignore)


def _require_clear_255(census: Census) -> None:
    if census.pixels[255] > census.pixels[1] or not census.with_both:
        raise DataError(
            "The masks hold 0, 1 and 255, and it is not clear whether 255 is to be ignored or is "
            f"the foreground of some of them: 1 has {census.place(1)}, 255 has "
            f"{census.place(255)}. If 255 is to be ignored, say so (train --ignore 255); if not, "
            "write the same value for the foreground in every mask.",
            "ambiguous-255",
        )


def _misfit(census: Census, values: list[int], start: int, num_classes: int | None) -> ValueError:
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
    strays = sorted(set(values) - set(expected), key=lambda value: pixels[value])
    known = f"The masks hold the values {list_values(values)}"
    if not strays:
        return DataError(
            f"{known}: {len(values)} classes, and at most 255 can be told apart.", "many-values"
        )
    stray = strays[0]
    more = f" ({len(strays) - 1} other values neither)" if len(strays) > 1 else ""
    return DataError(
        f"{known}. Value {stray} does not fit beside {list_values(expected)}{more}: "
        f"{census.place(stray)}. Mend it there; or, if it marks pixels that belong to no class, "
        f"say so (train --ignore {stray}); or, if the values are class ids of which some never "
        "occur, name every class (train --classes); or say which value is which (train --values).",
        "stray-value",
        [census.paths[census.first[stray]]],
        flags={"ignore": stray} if sum(census.first[strays] == census.first[stray]) == 1 else None,
    )


def describe(coding: Coding, classes: tuple[str, ...]) -> DataConfig:
    """Say what a dataset.toml beside a `split.csv` would say of the masks and their classes."""
    if isinstance(coding, Colors):
        said: dict[str, Any] = {"colors": tuple(f"{pack(color):06x}" for color in coding.colors)}
    elif isinstance(coding, Values):
        said = {"values": coding.values}
    else:
        said = {"encoding": coding.kind}
    return DataConfig(pairs=SPLIT_FILE, classes=classes, ignore=coding.ignore, **said)


def write_understood(folder: Path, pairs: Sequence[Pair], said: DataConfig) -> list[Path]:
    """Write a dataset.toml and its list into a data folder.

    Files of these names that are there already are kept, with .bak, .bak2, ... behind.
    Returns the files written.
    """
    require_writable(folder)
    files = [folder / SPLIT_FILE, folder / DATASET_FILE]
    for file in files:
        if file.exists():
            _keep(file)
    write_split(files[0], pairs, folder)
    write_dataset(files[1], said)
    return files


def _keep(file: Path) -> None:
    """Copy a file to the first name that is free, unless there is such a copy already."""
    for number in count(1):
        copy = file.with_name(f"{file.name}.bak{number if number > 1 else ''}")
        if not copy.exists():
            shutil.copy2(file, copy)
            return
        if copy.is_file() and copy.read_bytes() == file.read_bytes():
            return
