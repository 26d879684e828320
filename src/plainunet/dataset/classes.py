"""Find out from all masks of a dataset which value or colour is which class: the coding."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plainunet.config import DataConfig
from plainunet.dataset.census import (
    Census,
    MaskCounts,
    are_edges,
    are_in_pieces,
    count_all_colors,
    count_masks,
    main_values,
    note_inverted,
    number_objects,
    palettes_differ,
    require_opaque,
    take_census,
    values_of,
)
from plainunet.dataset.coding import (
    Coding,
    Colors,
    Instances,
    Threshold,
    Values,
    as_objects,
    list_values,
)
from plainunet.dataset.questions import (
    MOST_IDS,
    ids_or_objects,
    many_values,
    misfit,
    require_clear_255,
    require_no_class_numbers,
    unexpected,
    which_background,
)
from plainunet.dataset.split import SPLIT_FILE
from plainunet.errors import Error
from plainunet.formats.colors import (
    IGNORED,
    ColorCensus,
    colored_mask,
    find_meaning,
    pack,
)
from plainunet.formats.legends import (
    Legend,
    find_legend,
    is_background,
    leave_out_void,
    notes_of_unread,
    without_commas,
)
from plainunet.formats.masks import VOID, stored_names
from plainunet.formats.problems import DataError
from plainunet.formats.sources import Source, path_of
from plainunet.palette import voc_color
from plainunet.reporter import Reporter, silent

_MANY_IN_ONE_FILE = 8
_NEAR_END = 32
NEARLY_ALL = 0.8
"""Above this fraction of pixels and borders, a class is most likely the background."""


def find_coding(
    masks: Sequence[Source],
    known: DataConfig | None = None,
    reporter: Reporter = silent,
    counts: Sequence[MaskCounts] | None = None,
) -> tuple[Coding, NDArray[np.int64]]:
    """Read every mask of a dataset, and find out what their values or colours mean.

    Masks are read by colour if colours are given or the channels of any mask differ; else by
    value, palette images by index.

    `counts` holds the contents of each mask if already counted. Returns the coding, and the
    pixels of each class, [K] int64.
    """
    known = known or DataConfig()
    names = common_names(masks)  # raises before any mask is read
    if counts is None:
        counts = list(_without_faults(masks))
    if known.colors and (known.values or known.encoding):
        raise Error(
            "Masks are read by --colors or by --values and --encoding. Leave out one of the two."
        )
    if names and known.ignore is None:
        known = known.model_copy(update={"ignore": IGNORED})  # pixels in no class's file
    require_opaque(counts)
    counts = as_objects(counts, known)
    colored = next((each.path for each in counts if each.is_colored), None)
    if colored and (known.values or known.encoding):
        raise colored_mask(colored)
    by_color = bool(known.colors or colored)
    if not (by_color or known.values or known.encoding) and palettes_differ(counts):
        by_color = True
        reporter.note(
            "note: the masks' palettes map one index to different colours, so masks are read by "
            "colour (to read the indices: --encoding ids)"
        )
    if by_color:
        return _find_color_coding(masks, known, reporter)
    note_inverted(counts, reporter)
    has_void = known.ignore is None and any(each.has_void for each in counts)
    if has_void and VOID not in known.values:
        known = known.model_copy(update={"ignore": VOID})
    if not (names or known.classes or known.values or known.encoding):
        known = with_legend(counts, known, reporter)
        names = known.classes
        if known.colors:
            return _find_color_coding(masks, known, reporter)
    known = known.model_copy(update={"classes": known.classes or names})
    if has_void:
        known = _place_void(counts, known, reporter)
    known = _ignore_nodata(counts, known, reporter)
    coding, pixels = _find_value_coding(counts, known, reporter)
    return replace(coding, names=names), pixels


def _place_void(counts: Sequence[MaskCounts], known: DataConfig, reporter: Reporter) -> DataConfig:
    """Ignore pixels without a value, or make them the background if the other values are 1, 2, ...

    QGIS writes polygons so. If most pixels have no value, the number of class names decides
    whether these are background or unlabelled; without names, the user is asked.
    """
    ids = tuple(sorted(values_of(counts) - {VOID}))
    is_open = not (known.values or known.encoding or known.colors)
    if is_open and ids == (*range(1, len(ids) + 1),):
        if len(known.classes) == len(ids) + 1 or len(ids) == 1:
            reporter.note("note: pixels without a value (-1, NaN or nodata) are the background")
            return known.model_copy(update={"values": (VOID, *ids), "ignore": None})
        if not known.classes and (census := take_census(counts)).ground() == VOID:
            raise which_background(census, VOID, ids, VOID)
        if len(known.classes) in (0, len(ids)):
            known = known.model_copy(update={"values": ids})
    if VOID not in known.values:
        reporter.note(
            f"note: -1 or the masks' nodata value marks pixels of no class; it is read as {VOID}"
        )
    return known


def _ignore_nodata(
    counts: Sequence[MaskCounts], known: DataConfig, reporter: Reporter
) -> DataConfig:
    """Ignore the masks' nodata value, unless it is a class."""
    for value in sorted({each.nodata for each in counts if each.nodata is not None}):
        if known.ignore is not None or value in known.values:
            continue
        if _is_class(value, counts, known):
            reporter.note(
                f"note: {value} is the masks' nodata value, but is read as a class (to ignore "
                f"these pixels: --ignore {value})"
            )
        else:
            ids = sorted(values_of(counts) - {value})
            is_open = not (known.values or known.encoding or known.classes) and 0 not in ids
            if is_open and (census := take_census(counts)).ground() == value:
                raise which_background(census, value, ids, value)
            known = known.model_copy(update={"ignore": value})
            reporter.note(
                f"note: {value} is the masks' nodata value and is ignored (if it is a class, list "
                "all class values: --values)"
            )
    return known


def _is_class(value: int, counts: Sequence[MaskCounts], known: DataConfig) -> bool:
    """Whether a nodata value is a class all the same.

    It is if `known` lists it as a class, if another file holds it without a nodata tag, or if
    fewer than two classes would be left. Programs often write 0 as background and nodata: 0 is a
    class if most masks hold it and no value has more pixels.
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
    """Take names and values from the legend next to the masks, if one matches them."""
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
        found = _values_of(legend, counts, known) or known
        found, note = _without_void(legend, counts, found)
        reporter.note(f"note: classes from {legend.path}: {', '.join(found.classes)}")
        if note:
            reporter.note(note)
        return found
    for other in others[:1]:
        _require_other_number(other, counts, known)
        reporter.note(
            f"note: {other.path} names {len(other.names)} classes ({', '.join(other.names[:6])}), "
            "but does not match the values of the masks; it is not used. Name the classes with "
            "--classes and, if needed, --values or --colors"
        )
    for note in notes_of_unread([each.path for each in counts]) if counts and not others else ():
        reporter.note(note)
    return known


def _without_void(
    legend: Legend, counts: Sequence[MaskCounts], known: DataConfig
) -> tuple[DataConfig, str]:
    """Ignore the class named void of the settings of a legend, with a note or ""."""
    by_color = bool(known.colors)
    if not (by_color or known.values):
        return known, ""
    pixels = Counter[int]()
    for each in counts:
        stored = each.palette if by_color else each.values.tolist()
        for value, number in zip(stored, each.pixels.tolist(), strict=True):
            pixels[value] += number
    legend = Legend(legend.path, known.classes, known.legend, known.values)
    stored = [*map(pack, legend.colors)] if by_color else legend.values
    left, ignore, note = leave_out_void(legend, [pixels[each] for each in stored], known.ignore)
    key = {"colors": tuple(f"{pack(color):06x}" for color in left.colors)} if by_color else {}
    settings = {"classes": left.names, "values": left.values, "ignore": ignore, **key}
    return known.model_copy(update=settings), note


def _require_other_number(legend: Legend, counts: Sequence[MaskCounts], known: DataConfig) -> None:
    """Ask if a list has as many names as the masks have values, such as 0, 85, 170, 255."""
    values = sorted(values_of(counts) - {known.ignore})
    is_numbered = {*values} - {IGNORED} <= {*legend.values}
    if legend.by_place and not is_numbered and len(values) == len(legend.names) > 2:
        raise DataError(
            f"{legend.path} lists {len(values)} classes and the masks hold as many values: "
            f"{list_values(values)}. If they are in this order, give each name its value.",
            "stray-value",
            flags={"values": tuple(values), "classes": legend.names},
        )


def _values_of(
    legend: Legend, counts: Sequence[MaskCounts], known: DataConfig
) -> DataConfig | None:
    """The settings of a legend for masks of values; None if it does not match them.

    Of ids and greys, the masks hold the ids, unless other values occur and the greys match.
    """
    present = values_of(counts) - {known.ignore}
    if legend.values and legend.greys and not present <= {*legend.values}:
        by_grey = _values_of(legend._replace(values=()), counts, known)
        if by_grey:
            return by_grey
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
    nodata = {IGNORED, *(each.nodata for each in counts)}
    void = nodata & present - {*stored} if known.ignore is None else set()
    ids = present - void
    from_1 = tuple(value + legend.by_place for value in stored)
    # a list may be one of all values; with numbers from 1 on, it is not
    needed = {0, len(names)} if legend.by_place else {0}
    omits_0 = {*from_1} == {*range(1, len(names) + 1)} and needed <= ids
    if omits_0 and not is_background(names[0]):
        names, stored = ("background", *names), (0, *from_1)
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
    """Return the class names in the masks' files, background first; they may not differ."""
    found: dict[tuple[str, ...], Source] = {}
    for path in paths:
        found.setdefault(stored_names(path), path)
    if len(found) > 1:
        (some, first), (other, second) = list(found.items())[:2]
        raise Error(
            f"{first} has the classes {', '.join(some) or '(unnamed)'}, {second} has "
            f"{', '.join(other) or '(unnamed)'}. Use the same names in all, in the same order."
        )
    return without_commas(next(iter(found), ()))


def _find_value_coding(
    counts: Sequence[MaskCounts], known: DataConfig, reporter: Reporter
) -> tuple[Values | Threshold | Instances, NDArray[np.int64]]:
    known = _by_convention(counts, known, reporter)
    if not known.encoding and not known.values:
        require_no_class_numbers(counts, known.ignore)
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
            f"{list_values(coding.values)}. Save the class ids as PNG; if these values are right, "
            "use --encoding ids.",
            "lossy-mask",
            lossy,
        )
    return coding, coding.count(np.arange(65536), census.pixels)


def _background_first(
    coding: Values, counts: Sequence[MaskCounts], census: Census, reporter: Reporter
) -> Values:
    """Put the commonest value first if it is black in all palettes; ask if in doubt.

    For ids from 0 on, the user is asked if another value has nearly all pixels; for two values
    from 0 on, `check` warns. Ids from 1 on have no background, as in maps, where 0 is nodata.
    """
    ground, values = census.ground(coding.ignore), coding.values
    if ground in (None, values[0]):
        return coding
    palettes = [dict(zip(each.values.tolist(), each.palette, strict=False)) for each in counts]
    if all(palettes) and not any(each.get(ground, 0) for each in palettes):
        reporter.note(
            f"note: {ground} is black in the masks' palettes and has most pixels and borders: it "
            "becomes class 0 (for another order: --values)"
        )
        return replace(coding, values=(ground, *(each for each in values if each != ground)))
    is_sure = ground == census.ground(coding.ignore, NEARLY_ALL)
    if (values[0] > 0) if len(values) == 2 else (values[0] == 0 and is_sure):
        raise which_background(census, ground, values, coding.ignore)
    return coding


def _by_convention(
    counts: Sequence[MaskCounts], known: DataConfig, reporter: Reporter
) -> DataConfig:
    """Apply the conventions of well-known tools: numbered objects, or ids with gaps."""
    if known.encoding or known.values or known.classes or known.ignore is not None:
        return known
    names = [path_of(each.path).stem for each in counts]
    if all(name.endswith("_cp_masks") or name.startswith("man_seg") for name in names):
        reporter.note(f"note: the values of {names[0]} and the others number objects")
        return known.model_copy(update={"encoding": "instances"})
    files = Counter(value for each in counts for value in each.values.tolist())
    present = sorted(files)
    ids = tuple(value for value in present if value != IGNORED)
    is_voc = all(each.palette == tuple(map(voc_color, each.values.tolist())) for each in counts)
    is_cityscapes = all(name.endswith(("_labelIds", "_labelTrainIds")) for name in names)
    # a class that is rare is none: 33 is Cityscapes' last class, 20 VOC's
    most = 33 if is_cityscapes else 20
    has_slips = any(value > most and files[value] == 1 < len(counts) for value in ids)
    if not (is_voc or is_cityscapes) or has_slips or not 2 <= len(ids) <= ids[-1]:
        return known
    whose = "PASCAL VOC's palette" if is_voc else "Cityscapes"
    reporter.note(
        f"note: the class ids {list_values(ids)} of {whose} become the classes 0 to {len(ids) - 1}"
        + (f", {IGNORED} is ignored" if IGNORED in present else "")
        + " (if other classes exist: --classes)"
    )
    return known.model_copy(
        update={"values": ids, "ignore": IGNORED if IGNORED in present else None}
    )


def _look(counts: Sequence[MaskCounts], known: DataConfig, reporter: Reporter) -> str | None:
    """Find numbered objects or smoothed edges in the pixels of the masks."""
    present = values_of(counts) - {known.ignore}
    if len(present) < 3 or len(known.classes) not in (0, 2):
        return None
    if len(present) > 3 and are_edges(counts):
        return "threshold"
    plain = main_values(counts) if len(present) > _MANY_IN_ONE_FILE else []
    if 2 < len(plain) <= len(present) // 2 and are_edges(counts, plain):
        if all(min(value, 255 - value) <= _NEAR_END for value in plain):
            return "threshold"  # white that was blurred, as 254, is white
        raise DataError(
            f"The masks hold {len(present)} values: {list_values(plain)}, and others along the "
            "edges from smoothing, which look like the classes in between. Export the masks again "
            "without anti-aliasing.",
            "lossy-mask",
        )
    ids = sorted(present)
    # beside few numbers, 255 is none; of fewer than three it says that they are classes
    has_void = known.ignore is None and len(ids) > 4 and ids[-1] == IGNORED and ids[-2] <= MOST_IDS
    void = IGNORED if has_void else known.ignore
    deep = [len(each.values) for each in counts if each.is_deep]
    if 2 * len(deep) > len(counts) and np.median(deep) > _MANY_IN_ONE_FILE:
        if 0 in present and are_in_pieces(counts, void):
            raise ids_or_objects(ids, "Most of them are several regions in one mask", has_void)
        return None  # objects anyway
    objects = number_objects(counts, void)
    if objects == "maybe" or (objects == "yes" and has_void):
        raise ids_or_objects(ids, "Nearly each is one region in its mask", has_void)
    if objects == "yes":
        reporter.note(
            "note: each value is one region in its mask, and their number differs from mask to "
            "mask: they number objects, and all above 0 is class 1 (if they are class ids: "
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
    return Colors(meaning.colors, meaning.ignore, meaning.names or known.classes), meaning.pixels


def coding_of_values(
    census: Census, known: DataConfig, reporter: Reporter = silent
) -> Values | Threshold | Instances:
    """Find out what the values of a set of masks mean.

    Any two values are two classes, the smaller one first. Values 0..K-1 are class ids; an
    additional 255 is ignored. Black and white with many values in between, nearly all pixels
    within 32 of either, are smoothed or JPEG-compressed: values from 128 on are class 1. Many
    values in 16 bits, or more than 64 values, number objects: all above 0 is class 1. A
    ValueError names a value that does not match the others.
    """
    num_classes, ignore, encoding = len(known.classes) or None, known.ignore, known.encoding
    if num_classes is not None and not 2 <= num_classes <= 255:
        raise Error(f"num_classes is {num_classes}; it must be from 2 to 255.")
    present = [int(value) for value in np.flatnonzero(census.pixels) if value != ignore]
    if known.values:
        return _given_values(census, present, known)
    if len(present) < 2:
        only = f"only the value {present[0]}" if present else f"only the ignored value {ignore}"
        raise DataError(
            f"All {len(census.paths)} masks hold {only}, so there is nothing to segment. Check "
            f"that {census.paths[0]} and the others are the right files."
            if census.paths
            else "There are no masks.",
            "one-class",
        )
    if encoding in ("instances", "threshold") and num_classes not in (None, 2):
        raise Error(
            f"--encoding {encoding} has a foreground and a background, but {num_classes} classes "
            "are named. Name two, background first (--classes)."
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
        raise which_background(census, IGNORED, ids, IGNORED)
    return _class_ids(census, present, num_classes, ignore, reporter)


def _are_objects(census: Census, present: list[int], ignore: int | None) -> bool:
    """Whether values number objects; refuse as many in 8 bits."""
    # one deep mask among many others is a slip
    mostly_deep = 2 * len(census.distinct) > len(census.paths)
    many = mostly_deep and np.median(census.distinct) > _MANY_IN_ONE_FILE
    ids = present[:-1] if ignore is None and present[-1] == 255 else present
    if present[0] != 0 or not (many or len(ids) > MOST_IDS):
        return False
    if not census.distinct:
        raise DataError(
            f"The masks hold {len(present)} values, for example {census.place(ids[1])} of value "
            f"{ids[1]}: hardly as many classes. Choose one, or name all classes (--classes).",
            "many-values",
            choices=many_values(present, is_run=ids == [*range(len(ids))]),
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
    # ids may begin at 1 if 0 is ignored
    start = 1 if ignore == 0 else 0
    wanted = range(start, start + num_classes if num_classes else ids[-1] + 1)
    fits = set(ids) <= set(wanted) if num_classes else ids == list(wanted)
    if not fits or not 2 <= len(ids) <= 255:
        raise misfit(census, present, start, num_classes)
    if has_void and len(wanted) == 2:
        require_clear_255(census)
    if census.distinct and num_classes is None and len(wanted) > 2:
        reporter.note(
            f"note: the 16-bit masks hold {list_values(wanted)}, which are read as class ids (if "
            "they number objects: --encoding instances)"
        )
    return Values(tuple(wanted), 255 if has_void else ignore)


def _given_values(census: Census, present: list[int], known: DataConfig) -> Values:
    values, num_classes = known.values, len(known.classes)
    if len(set(values)) < len(values) or not 2 <= len(values) <= 255:
        raise Error(
            f"--values {list_values(values)}: give 2 to 255 different values, one per class."
        )
    if num_classes not in (0, len(values)):
        raise Error(
            f"{num_classes} classes are named, but {len(values)} values are given "
            f"({list_values(values)}). Give one per class, in the order of the names."
        )
    others = set(present) - set(values)
    if others:
        other = max(others, key=lambda value: census.pixels[value])
        reason = f"Value {other} is not one of {list_values(values)}"
        raise unexpected(census, present, reason, other, None if num_classes else (*values, other))
    return Values(values, known.ignore)


def _is_smoothed(census: Census, values: Sequence[int], num_classes: int | None) -> bool:
    """Whether these are black and white, blurred along the boundaries."""
    between = census.pixels[1 + _NEAR_END : 255 - _NEAR_END].sum()
    ends = census.pixels[: 1 + _NEAR_END].sum() + census.pixels[255 - _NEAR_END : 256].sum()
    return bool(
        num_classes in (None, 2)
        and len(values) > _MANY_IN_ONE_FILE
        # a JPEG among masks of class ids 0 and 1
        and not census.up_to_one
        and (values[0], values[-1]) == (0, 255)
        # class ids with 255 are small numbers otherwise
        and values[-2] > MOST_IDS
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
        raise Error(
            f"--encoding threshold needs values from 0 to {top} on both sides of {middle}; the "
            f"masks hold {list_values(values)}. Give the value of each class: --values."
        )
    ends = census.pixels[[value for value in (0, top) if value != ignore]].sum()
    moved = 1 - ends / census.pixels[values].sum()
    example = next((value for value in values if value > 0), top)
    reporter.note(
        f"note: {moved:.2%} of the mask pixels are between 0 and {top}, from smoothing or JPEG "
        f"compression; below {middle} they are class 0, else class 1. For example value "
        f"{example}: {census.place(example)}"
    )
    return Threshold(ignore, (0, top))


def describe(coding: Coding, classes: tuple[str, ...]) -> DataConfig:
    """Return the settings of a dataset.toml next to a `split.csv` for these masks and classes."""
    if isinstance(coding, Colors):
        keys: dict[str, Any] = {"colors": tuple(f"{pack(color):06x}" for color in coding.colors)}
    elif isinstance(coding, Values):
        keys = {"values": coding.values}
    else:
        keys = {"encoding": coding.kind}
    return DataConfig(pairs=SPLIT_FILE, classes=classes, ignore=coding.ignore, **keys)
