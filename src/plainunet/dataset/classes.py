"""What the values or colours in the masks of a data set mean: from all masks to a coding."""

import shutil
from collections import Counter
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
    palettes_differ,
)
from plainunet.dataset.pairs import Pair
from plainunet.dataset.regions import are_edges, main_values, number_objects
from plainunet.dataset.split import SPLIT_FILE, write_split
from plainunet.files import require_writable
from plainunet.formats.colors import (
    IGNORED,
    ColorCensus,
    colored_mask,
    find_meaning,
    pack,
)
from plainunet.formats.legends import Legend, find_legend, is_background
from plainunet.formats.masks import THRESHOLD, VOID, stored_names
from plainunet.formats.problems import DataError
from plainunet.formats.sources import Source, path_of
from plainunet.palette import voc_color
from plainunet.reporter import Reporter, silent
from plainunet.settings import DATASET_FILE, write_dataset

_MOST_IDS = 64
_MANY_IN_ONE_FILE = 8
_NEAR_END = 32
_FEW_MASKS = 0.05
_RARE = 1e-3
NEARLY_ALL = 0.8
"""More of the pixels and borders than that has hardly any class but the background."""


def find_coding(
    masks: Sequence[Source],
    known: DataConfig | None = None,
    reporter: Reporter = silent,
    counts: Sequence[MaskCounts] | None = None,
) -> tuple[Coding, NDArray[np.int64]]:
    """Look at every mask of a data set, and find out what their values or colours mean.

    Masks are read by their colours if these are given, or if the channels of any of them
    differ; else by their values, palette images by their indices.

    `counts` is what each mask holds, where that is counted already. Returns the coding, and the
    pixels of each class, [K] int64.
    """
    known = known or DataConfig()
    names = common_names(masks)  # what is wrong with them is told before any mask is read
    if counts is None:
        counts = list(_without_faults(masks))
    if known.colors and (known.values or known.encoding):
        raise ValueError(
            "Masks are read by --colors or by --values and --encoding. Leave out one of the two."
        )
    if names and known.ignore is None:
        known = known.model_copy(update={"ignore": IGNORED})  # what is in no class's file
    _require_opaque(counts)
    colored = next((each.path for each in counts if each.is_colored), None)
    if colored and (known.values or known.encoding):
        raise colored_mask(colored)
    if not (known.colors or colored or known.values or known.encoding) and palettes_differ(counts):
        reporter.note(
            "note: an index stands for different colours in the palettes of different masks, so "
            "the colours are the classes (if the indices are: --encoding ids)"
        )
        return _find_color_coding(masks, known, reporter)
    if known.colors or colored:
        return _find_color_coding(masks, known, reporter)
    _note_marks(counts, reporter)
    if known.ignore is None and any(each.has_void for each in counts):
        known = known.model_copy(update={"ignore": VOID})
        reporter.note(
            f"note: -1, or what the masks' files name as nodata, marks pixels of no class; it is "
            f"read as {VOID}"
        )
    if not (names or known.classes or known.values or known.encoding):
        known = with_legend(counts, known, reporter)
        names = known.classes
        if known.colors:
            return _find_color_coding(masks, known, reporter)
    known = known.model_copy(update={"classes": known.classes or names})
    known = _ignore_nodata(counts, known, reporter)
    coding, pixels = _find_value_coding(counts, known, reporter)
    return replace(coding, names=names), pixels


def _require_opaque(counts: Sequence[MaskCounts]) -> None:
    """Refuse masks in which how opaque a pixel is tells classes apart, which colours do not."""
    hiding = [each.path for each in counts if each.hides]
    if hiding:
        raise DataError(
            f"{len(hiding)} of {len(counts)} masks have pixels of one colour that differ in how "
            "opaque they are, so that their colours alone do not say which class they belong to: "
            f"{hiding[0]}. Lay the masks on a colour that no class has.",
            "transparent",
            hiding,
        )


def _note_marks(counts: Sequence[MaskCounts], reporter: Reporter) -> None:
    inverted = [each.path for each in counts if each.is_inverted]
    if inverted:
        reporter.note(
            f"note: {len(inverted)} TIFF masks say that 0 is white, as ImageJ's inverting lookup "
            "table does; labels are read as the numbers that are stored, and 1-bit masks as they "
            f"look (white is 1). For example {inverted[0]}"
        )


def _ignore_nodata(
    counts: Sequence[MaskCounts], known: DataConfig, reporter: Reporter
) -> DataConfig:
    """Ignore the value that the masks' files name as nodata, unless it is a class."""
    for value in sorted({each.nodata for each in counts if each.nodata is not None}):
        if known.ignore is not None or value in known.values:
            continue
        if _is_class(value, counts, known):
            reporter.note(
                f"note: {value} is nodata by the masks' own tag, and a class beside the other "
                f"values (if these pixels do not exist: --ignore {value})"
            )
        else:
            known = known.model_copy(update={"ignore": value})
            reporter.note(
                f"note: {value} is nodata by the masks' own tag, and is ignored (if it is a "
                "class, say which values are: --values)"
            )
    return known


def _is_class(value: int, counts: Sequence[MaskCounts], known: DataConfig) -> bool:
    """Tell whether a value that files name as nodata has to be a class all the same.

    So it is where `known` counts it among the classes, where another file holds it without such a
    tag, or where less than two classes would be left. Programs often write the background as 0 and
    name 0 as nodata: 0 is a class where most masks hold it, and no value has more pixels.
    """
    if known.values:
        return False
    pixels: Counter[int] = Counter()
    for each in counts:
        pixels.update(dict(zip(each.values.tolist(), each.pixels.tolist(), strict=True)))
    holders = [each for each in counts if value in each.values]
    others = {*pixels} - ({0, IGNORED} if value == 0 else {value})
    if len(others) < 2 or any(each.nodata != value for each in holders):
        return True
    if known.encoding in ("instances", "threshold"):
        return value == 0 or (value == IGNORED and known.encoding == "threshold")
    if known.classes:
        return value < len(known.classes) and max(others) < len(known.classes)
    return value == 0 and 2 * len(holders) > len(counts) and pixels[0] == max(pixels.values())


def with_legend(
    counts: Sequence[MaskCounts], known: DataConfig, reporter: Reporter = silent
) -> DataConfig:
    """Take names and values from the legend beside the masks, if there is one that fits them."""
    others: list[Legend] = []

    def fits(legend: Legend) -> bool:
        is_fitting = _values_of(legend, counts, known) is not None
        others.extend([] if is_fitting else [legend])
        return is_fitting

    try:
        legend = find_legend([each.path for each in counts], fits) if counts else None
    except DataError as error:
        if error.code == "legends-differ":
            raise
        reporter.note(f"note: {error} It is not used.")
        return known
    if legend:
        said = _values_of(legend, counts, known) or known
        reporter.note(f"note: classes from {legend.path}: {', '.join(said.classes)}")
        return said
    for other in others[:1]:
        reporter.note(
            f"note: {other.path} names {len(other.names)} classes ({', '.join(other.names[:6])}), "
            "and does not fit the values of the masks; it is not used. Name the classes with "
            "--classes and, if needed, --values or --colors"
        )
    return known


def _values_of(
    legend: Legend, counts: Sequence[MaskCounts], known: DataConfig
) -> DataConfig | None:
    """What a legend says of masks of values, or None where it does not fit them."""
    present = {int(value) for each in counts for value in each.values} - {known.ignore}
    legend = legend.without(known.ignore)
    names, stored = legend.names, legend.stored
    if legend.colors and counts and all(each.palette for each in counts):
        colors = tuple(map(pack, legend.colors))
        shown = {
            (value, color)
            for each in counts
            for value, color in zip(each.values.tolist(), each.palette, strict=True)
            if value != IGNORED or color in colors
        }
        if all(color in colors for _, color in shown):
            if any(colors.index(color) != value for value, color in shown):
                written = tuple(f"{color:06x}" for color in colors)
                return known.model_copy(update={"classes": names, "colors": written})
            stored = tuple(range(len(names)))
    nodata = {IGNORED, legend.ignore, *(each.nodata for each in counts)}
    void = nodata & present - {*stored} if known.ignore is None else set()
    ids = present - void
    if legend.by_place and not is_background(names[0]) and {0, len(names)} <= ids:
        names, stored = ("background", *names), (*stored, len(names))  # the list leaves out 0
    if {0, 255} == {*stored} and ids > {*stored}:  # smoothed
        return known.model_copy(update={"classes": names}) if stored == (0, 255) else None
    has_ground = is_background(names[0])
    if (
        not ids <= {*stored}
        or len(void) > 1
        or (legend.by_place and not has_ground and len(ids) != len(stored))
    ):
        return None
    ignore = next(iter(void), known.ignore)
    return known.model_copy(update={"classes": names, "values": stored, "ignore": ignore})


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
    known = _by_convention(counts, known, reporter)
    if not known.encoding and not known.values and (meant := _look(counts, known, reporter)):
        known = known.model_copy(update={"encoding": meant})
    census = take_census(counts)
    coding = coding_of_values(census, known, reporter)
    if isinstance(coding, Values) and not (known.values or known.encoding or known.classes):
        coding = _background_first(coding, counts, census, reporter)
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


def _background_first(
    coding: Values, counts: Sequence[MaskCounts], census: "Census", reporter: Reporter
) -> Values:
    """Put the value of most pixels first where it is black by all palettes; or ask.

    Of ids from 0 on, the user is asked where another has nearly all pixels; of two values from 0
    on, `check` warns. Ids from 1 on have no background, as in maps, where 0 is nodata.
    """
    ground, values = census.ground(coding.ignore), coding.values
    if ground in (None, values[0]):
        return coding
    palettes = [dict(zip(each.values.tolist(), each.palette, strict=False)) for each in counts]
    if all(palettes) and not any(each.get(ground, 0) for each in palettes):
        reporter.note(
            f"note: {ground} is black by the masks' palettes, and has most of the pixels and "
            "borders: it is class 0, the others follow (another order: --values)"
        )
        return replace(coding, values=(ground, *(each for each in values if each != ground)))
    is_sure = ground == census.ground(coding.ignore, NEARLY_ALL)
    if (values[0] > 0) if len(values) == 2 else (values[0] == 0 and is_sure):
        raise _which_background(census, ground, values, coding.ignore)
    return coding


def _which_background(
    census: "Census", ground: int, values: Sequence[int], ignore: int | None
) -> DataError:
    """Make the error for a value that has nearly all pixels, and is not that of class 0."""
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
    return DataError(
        f"{census.pixels[ground] / census.pixels.sum():.1%} of the mask pixels, and most along the "
        f"borders, are of value {ground}, as only a background is; the masks hold "
        f"{list_values(values)}{f' and {ground}' if ground not in values else ''}. Which is it?",
        "which-background",
        choices=choices,
    )


def _by_convention(
    counts: Sequence[MaskCounts], known: DataConfig, reporter: Reporter
) -> DataConfig:
    """Add what the masks of well-known tools hold: numbered objects, or ids with gaps."""
    if known.encoding or known.values or known.classes or known.ignore is not None:
        return known
    names = [path_of(each.path).stem for each in counts]
    if all(name.endswith("_cp_masks") for name in names):
        reporter.note("note: these are masks of cellpose's, whose values number objects")
        return known.model_copy(update={"encoding": "instances"})
    files = Counter(value for each in counts for value in each.values.tolist())
    present = sorted(files)
    ids = tuple(value for value in present if value != IGNORED)
    is_voc = all(each.palette == tuple(map(voc_color, each.values.tolist())) for each in counts)
    is_cityscapes = all(name.endswith(("_labelIds", "_labelTrainIds")) for name in names)
    has_slips = any(files[value] == 1 < len(counts) for value in ids)
    if not (is_voc or is_cityscapes) or has_slips or not 2 <= len(ids) <= ids[-1]:
        return known
    whose = "PASCAL VOC's palette" if is_voc else "Cityscapes"
    reporter.note(
        f"note: the class ids {list_values(ids)} of {whose} become the classes 0 to {len(ids) - 1}"
        + (f", {IGNORED} is ignored" if IGNORED in present else "")
        + " (if other ids are missing by chance: --classes)"
    )
    return known.model_copy(
        update={"values": ids, "ignore": IGNORED if IGNORED in present else None}
    )


def _look(counts: Sequence[MaskCounts], known: DataConfig, reporter: Reporter) -> str | None:
    """Look at the masks themselves, where their values may number objects, or smooth edges."""
    present = {int(value) for each in counts for value in each.values} - {known.ignore}
    if len(present) < 3 or len(known.classes) not in (0, 2):
        return None
    if len(present) > 3 and are_edges(counts):
        return "threshold"
    plain = main_values(counts) if len(present) > _MANY_IN_ONE_FILE else []
    if 2 < len(plain) <= len(present) // 2 and are_edges(counts, plain):
        raise DataError(
            f"The masks hold {len(present)} values: {list_values(plain)}, and others along their "
            "edges, which smoothing made, so that they look like the classes between. Export the "
            "masks again without anti-aliasing.",
            "lossy-mask",
        )
    deep = [len(each.values) for each in counts if each.is_deep]
    if 2 * len(deep) > len(counts) and np.median(deep) > _MANY_IN_ONE_FILE:
        return None  # objects anyway
    objects = number_objects(counts, known.ignore)
    if objects == "maybe":
        raise DataError(
            f"The masks hold the values {list_values(sorted(present))}; in each mask, each value "
            "is one region, and how many there are differs. If they number objects, say "
            "--encoding instances: all above 0 is class 1. If they are class ids, say --encoding "
            "ids.",
            "ids-or-objects",
            flags={"encoding": "instances"},
        )
    if objects == "yes":
        reporter.note(
            "note: each value of the masks is one region, and how many there are differs from mask "
            "to mask: they number objects, and all above 0 is class 1 (if they are class ids: "
            "--encoding ids)"
        )
    return "instances" if objects == "yes" else None


def _find_color_coding(
    masks: Sequence[Source], known: DataConfig, reporter: Reporter
) -> tuple[Colors, NDArray[np.int64]]:
    census = ColorCensus()
    for path, counted in zip(masks, count_all_colors(masks), strict=True):
        census.add(path, *counted)
    meaning = find_meaning(census, known.legend, len(known.classes) or None, known.ignore)
    for note in meaning.notes:
        reporter.note(note)
    return Colors(meaning.colors, known.ignore, meaning.names or known.classes), meaning.pixels


@dataclass
class Census:
    """How often each value occurs in a set of masks; arrays are [65536] int64."""

    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(65536, np.int64))
    files: NDArray[np.int64] = field(default_factory=lambda: np.zeros(65536, np.int64))
    """Masks in which the value occurs."""
    first: NDArray[np.int64] = field(default_factory=lambda: np.zeros(65536, np.int64))
    """The first such mask, as an index into `paths`."""
    edge: NDArray[np.int64] = field(default_factory=lambda: np.zeros(65536, np.int64))
    """The pixels along the borders of the masks."""
    paths: list[Source] = field(default_factory=list)
    distinct: list[int] = field(default_factory=list)
    """Of each 16-bit mask, how many values it has."""
    with_both: int = 0
    """Masks that have pixels of value 1 and of value 255."""
    up_to_one: int = 0
    """Masks in which 1 is the largest value."""

    def add(
        self,
        path: Source,
        counts: NDArray[np.int64],
        is_deep: bool,
        edge: NDArray[np.int64] | None = None,
    ) -> None:
        """Count one more mask: `counts` [n <= 65536] int64 are its pixels of value 0..n-1.

        `edge` [n] are those along its borders; left out, the pixels stand for them.
        """
        values = np.flatnonzero(counts)
        self.edge[: len(counts)] += counts if edge is None else edge
        self.first[values] = np.where(self.files[values] == 0, len(self.paths), self.first[values])
        self.files[values] += 1
        self.pixels[values] += counts[values]
        self.paths.append(path)
        if is_deep:
            self.distinct.append(len(values))
        self.with_both += bool(counts.size > 255 and counts[1] and counts[255])
        self.up_to_one += bool(values.size and values[-1] == 1)

    def ground(self, ignore: int | None = None, least: float = 0.5) -> int | None:
        """The value that has more than this share of the pixels and of the borders; or None."""
        pixels, edge = self.pixels.copy(), self.edge.copy()
        if ignore is not None:
            pixels[ignore] = edge[ignore] = 0
        top = int(pixels.argmax())
        is_ground = pixels[top] > least * pixels.sum() and edge[top] > least * edge.sum()
        return top if is_ground else None

    def is_slip(self, value: int) -> bool:
        """Tell whether so few masks or pixels have a value that it may well be a mistake."""
        few = self.files[value] <= max(1, _FEW_MASKS * len(self.paths))
        rare = self.pixels[value] < _RARE * self.pixels.sum()
        half = 2 * self.files[value] > len(self.paths) > 1
        return bool((few or rare) and not half)

    def place(self, value: int) -> str:
        """Say how many pixels have a value, in which mask first, and in how many more."""
        more = int(self.files[value]) - 1
        others = f" and {more} more mask{'s' * (more > 1)}" if more else ""
        return f"{self.pixels[value]} pixels in {self.paths[self.first[value]]}{others}"


def take_census(counts: Sequence[MaskCounts]) -> Census:
    """Count what masks hold together."""
    census = Census()
    for each in counts:
        pixels = np.bincount(each.values, each.pixels).astype(np.int64)
        edge = np.bincount(each.values, each.edge).astype(np.int64)
        census.add(each.path, pixels, each.is_deep, edge)
    return census


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
    *ids, last = present
    is_asked = num_classes is None and encoding is None and ignore is None
    is_clear = len(ids) > 2 or census.with_both
    if is_asked and is_clear and census.ground() == last == IGNORED and ids == [*range(len(ids))]:
        raise _which_background(census, IGNORED, ids, IGNORED)
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
        known_as = f"{stray} is no class's (they are {list_values(values)})"
        raise _stray(census, present, known_as, stray, None if num_classes else (*values, stray))
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
    top = 255 if values[-1] < 256 else 65535
    middle = (top + 1) // 2
    if not values[0] < middle <= values[-1]:
        raise ValueError(
            f"--encoding threshold takes values from 0 to {top} on both sides of {middle}; the "
            f"masks hold {list_values(values)}. Say which value is which class: --values."
        )
    ends = census.pixels[[value for value in (0, top) if value != ignore]].sum()
    moved = 1 - ends / census.pixels[values].sum()
    example = next((value for value in values if value > 0), top)
    reporter.note(
        f"note: {moved:.2%} of the mask pixels lie between 0 and {top}, from smoothing or JPEG "
        f"compression; below {middle} they are taken for class 0, else for class 1. For "
        f"example value {example}: {census.place(example)}"
    )
    return Threshold(ignore, (0, top))


def _require_clear_255(census: Census) -> None:
    if 2 * census.with_both > max(census.files[[1, 255]]) and census.pixels[255] > census.pixels[1]:
        raise DataError(
            "The masks hold 0, 1 and 255, most of them all three, and 255 has more pixels than 1 "
            "has. Which is it?",
            "ambiguous-255",
            choices={
                "255 marks pixels of no class": {"values": (0, 1), "ignore": 255},
                "255 is a class": {"values": (0, 1, 255)},
            },
        )
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
    said = f"Value {stray} does not fit beside {list_values(expected)}{more}"
    classes = _by_background(census, values)
    if num_classes not in (None, len(values)):
        return _stray(census, values, said, stray, None)
    slips = [value for value in strays if census.is_slip(value)]
    if slips:
        same = sum(census.first[strays] == census.first[slips[0]]) == 1
        return _stray(census, values, said, slips[0], None, is_alone=same)
    ids = [value for value in classes if value != IGNORED]
    if classes[0] == IGNORED and len(ids) > 1 and max(ids) <= _MOST_IDS:
        return _which_background(census, IGNORED, ids, IGNORED)
    if len(ids) > 2 and max(ids) <= _MOST_IDS:
        return _stray(census, values, said, stray, tuple(ids), ignore=IGNORED in values)
    return _stray(census, values, said, stray, classes)


def _by_background(census: Census, values: Sequence[int]) -> tuple[int, ...]:
    """Put first what is likely the background: of most pixels and borders; 0; of most pixels."""
    most = 0 if 0 in values else max(values, key=lambda value: int(census.pixels[value]))
    ground = most if (top := census.ground()) is None or top not in values else top
    return ground, *(value for value in values if value != ground)


def _stray(
    census: Census,
    present: Sequence[int],
    said: str,
    stray: int,
    classes: tuple[int, ...] | None,
    is_alone: bool = True,
    ignore: bool = False,
) -> DataError:
    """Make the error for a value that is no class's: a slip, or a class that is not known yet.

    `classes` are the values with which it would be one; `is_alone` says whether its first mask
    has no other such value, `ignore` whether 255 stands beside ids and is likely to be ignored.
    """
    where = f"The masks hold the values {list_values(present)}. {said}: {census.place(stray)}."
    if census.is_slip(stray):
        return DataError(
            f"{where} Correct it there; or, if it marks pixels that belong to no class, say so "
            f"(train --ignore {stray}); or, if the values are class ids of which some never occur, "
            "name every class (train --classes); or say which value is which (train --values).",
            "stray-value",
            [census.paths[census.first[stray]]],
            flags={"ignore": stray} if is_alone else None,
        )
    if {0, 255} <= {*present} and max(present) == 255:
        where += " If the masks are smoothed black and white, say --encoding threshold."
    if classes is None:
        return DataError(
            f"{where} It is in {census.files[stray]} of {len(census.paths)} masks, so it is "
            "hardly a slip. Say which values are classes, the background's first (--values), and "
            "name as many (--classes).",
            "stray-value",
        )
    return DataError(
        f"{where} It is in {census.files[stray]} of {len(census.paths)} masks, so it is hardly a "
        "slip. If each value is a class, give them with the background's first: --values "
        f"{' '.join(map(str, classes))}{f' --ignore {IGNORED}' * ignore}. If one marks pixels of "
        "no class, leave it out there and give it with --ignore. If the values are class ids of "
        "which some never occur, name every class (--classes).",
        "stray-value",
        flags={"values": classes, **({"ignore": IGNORED} if ignore else {})},
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
