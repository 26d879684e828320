"""Find the encoding of a folder's masks, and the masks that do not fit it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from plainunet.config import DataConfig
from plainunet.dataset.census import (
    Census,
    MaskCounts,
    count_all_colors,
    main_values,
    palettes_differ,
    take_census,
    values_of,
)
from plainunet.dataset.classes import NEARLY_ALL, find_coding
from plainunet.dataset.coding import Coding, Colors, Instances, Threshold, Values, as_objects
from plainunet.dataset.pairs import Pair
from plainunet.doctor.findings import Findings, change_of
from plainunet.formats.colors import IGNORED, NEAR, pack, unpack, write_color
from plainunet.formats.problems import Change, DataError
from plainunet.formats.sources import Source
from plainunet.reporter import Collected

_PHOTO = 0.5  # with a higher fraction of pixels between the class values, it is not a mask
_SMOOTHED = 0.1  # maximum such fraction in a smoothed mask
_GREYS = 32, 224
_MANY = 64
_STRAY = 1e-3  # published masks have single pixels of no class
_FEW_MASKS = 0.05
# of JPEG masks: closer grey levels, and colours, are artefacts of compression
_APART, _APART_IN_COLOR, _MOST_LEVELS = 24, 64, 10
_MOST_SET_ASIDE = 20
_FEW_EMPTY = 0.05
_FEW_RARE = 4  # classes in very few masks that are reported one by one


class Contents(NamedTuple):
    """The contents of masks with a consistent encoding."""

    coding: Coding
    """Maps values or colours to classes."""
    pixels: NDArray[np.int64]
    """[n, K], the number of pixels of each class in each mask."""
    masks: list[Source]
    """[n], the masks."""

    def only(self, masks: Sequence[Source]) -> "Contents":
        """The contents of some of the masks."""
        rows = {mask: row for row, mask in enumerate(self.masks)}
        return Contents(self.coding, self.pixels[[rows[mask] for mask in masks]], list(masks))


# the encoding, without outliers


def find_contents(
    counts: Sequence[MaskCounts], config: DataConfig, findings: Findings
) -> Contents | None:
    """Find the encoding of masks, reporting and excluding those that do not fit it.

    Returns None if the masks have no consistent encoding.
    """
    with suppress(DataError):  # which `find_coding` raises again
        counts = as_objects(counts, config)
    counts, total = _set_odd_kinds_aside(counts, config, findings), len(counts)
    for _ in range(_MOST_SET_ASIDE):
        collected = Collected()
        try:
            coding, _ = find_coding([each.path for each in counts], config, collected, counts)
        except (ValueError, FileNotFoundError) as error:
            lossy = [each.path for each in counts if each.kind == "jpeg"]
            if 2 * len(lossy) > len(counts):
                _add_all_lossy(lossy, counts, error, findings)
                return None
            problem = error if isinstance(error, DataError) else DataError(str(error))
            faulty = _find_faulty(problem, counts)
            _add_faulty(problem, faulty, counts, config.ignore, findings)
            counts = [each for each in counts if each.path not in set(faulty)]
            # if more than half are wrong, they are not the outliers
            if not faulty or 2 * len(counts) < total or problem.code == "transparent":
                return None
            continue
        for note in collected.notes:
            findings.note(note)
        _check_smoothed(coding, counts, config, findings)
        _check_background(coding, counts, config, findings)
        return _count_classes(coding, counts, findings)
    return None


def _set_odd_kinds_aside(
    counts: Sequence[MaskCounts], config: DataConfig, findings: Findings
) -> list[MaskCounts]:
    """Report and exclude coloured masks, photos, and JPEG files among lossless ones."""
    lossy = [each.path for each in counts if each.kind == "jpeg"]
    colored = [each.path for each in counts if each.is_colored]
    odd: dict[Source, tuple[str, str]] = {}  # the first reason found
    if 2 * len(lossy) < len(counts):
        for path in lossy:
            odd[path] = (
                "lossy-mask",
                f"{path} is a JPEG, which changes mask values; the others are lossless. Export it "
                "again as PNG.",
            )
    # if the grey masks hold a single value, they are coloured masks without foreground
    has_classes = len(values_of(counts)) > 1
    few = has_classes and 0 < 2 * len(colored) < len(counts)
    if few and not _are_read_by_color(counts, colored, config):
        for path in colored:
            message = (
                f"{path} is coloured; the others have one value per pixel, and other colours if "
                "they have a palette. Is it the right file? Save class ids as a grey PNG, or with "
                "the palette of the others."
            )
            odd.setdefault(path, ("colored-mask", message))
    for path in _find_photos(counts):
        message = f"{path} is a greyscale image; most masks are black and white. Is it an image?"
        odd.setdefault(path, ("not-a-mask", message))
    for path, (code, message) in odd.items():
        findings.add(code, message, [path], severity="error")
    return [each for each in counts if each.path not in odd]


def _are_read_by_color(
    counts: Sequence[MaskCounts], colored: Sequence[Source], config: DataConfig
) -> bool:
    """Whether masks are read by colour, of which a few, `colored`, have no palette.

    They are if these have no other colours than the palettes.
    """
    if config.colors or palettes_differ(counts):
        return True
    flat = [each for each in counts if not each.is_colored]
    if config.values or config.encoding or not all(each.palette for each in flat):
        return False
    shown = [color for each in flat for color in each.palette]
    return all(np.isin(colors, shown).all() for colors, _, _ in count_all_colors(colored))


def _find_photos(counts: Sequence[MaskCounts]) -> list[Source]:
    """Find greyscale images among masks that are mostly black and white."""
    shares = [_fraction_of_greys(each) for each in counts]
    both = list(zip(counts, shares, strict=True))
    plain = sum(255 in each.values and share < _SMOOTHED for each, share in both)
    if 2 * plain <= len(counts):
        return []
    return [each.path for each, share in both if share > _PHOTO and len(each.values) > _MANY]


def _fraction_of_greys(mask: MaskCounts) -> float:
    between = (mask.values >= _GREYS[0]) & (mask.values < _GREYS[1])
    return float(mask.pixels[between].sum() / max(mask.pixels.sum(), 1))


def _add_all_lossy(
    masks: Sequence[Source],
    counts: Sequence[MaskCounts],
    problem: ValueError | FileNotFoundError,
    findings: Findings,
) -> None:
    """Report a set of JPEG masks without a consistent encoding, and the levels that were meant."""
    flags: Mapping[str, Any] = {}
    if not any(each.is_colored for each in counts):
        levels = [level * 0x010101 for level in _find_levels(counts)]
        flags = {"colors": tuple(map(write_color, levels))} if levels else {}
        flags = {"encoding": "threshold"} if len(levels) == 2 else flags
    elif isinstance(problem, DataError) and "colors" in problem.flags:
        flags = {"colors": _without_artefacts(masks, problem.flags["colors"])}
    way = " Or map each pixel to the nearest of the levels that were probably meant:" * bool(flags)
    findings.add(
        "lossy-mask",
        f"{len(masks)} masks are JPEG files, such as {masks[0]}. JPEG changes mask values, so the "
        f"classes cannot be recognised. Export the masks again as PNG.{way}",
        masks,
        fix=None if not flags else "",
        flags=flags or None,
        severity="error",
    )


def _without_artefacts(masks: Sequence[Source], colors: Sequence[str]) -> tuple[str, ...]:
    """The colours of JPEG masks, of those close to each other the commonest."""
    pixels = Counter[int]()
    for found, amounts, _ in count_all_colors(masks):
        pixels.update(dict(zip(found.tolist(), amounts.tolist(), strict=True)))
    kept: list[str] = []
    for color in sorted(colors, key=lambda each: -pixels[int(each, 16)]):
        own = np.array(unpack(int(color, 16)))
        others = [np.array(unpack(int(other, 16))) for other in kept]
        if all(np.abs(own - other).max() > _APART_IN_COLOR for other in others):
            kept.append(color)
    return tuple(color for color in colors if color in kept)


def _find_levels(counts: Sequence[MaskCounts]) -> list[int]:
    """The grey levels of JPEG masks, each the commonest value of those near it."""
    pixels = Counter[int]()
    for each in counts:
        pixels.update(dict(zip(each.values.tolist(), each.pixels.tolist(), strict=True)))
    levels: list[int] = []
    for value in sorted(main_values(counts), key=lambda value: -pixels[value]):
        if all(abs(value - level) > _APART for level in levels):
            levels.append(value)
    return sorted(levels) if 2 <= len(levels) <= _MOST_LEVELS else []


def _find_faulty(problem: DataError, counts: Sequence[MaskCounts]) -> list[Source]:
    """The masks to exclude for an error."""
    if problem.choices and problem.code != "many-values":
        return []
    if problem.code == "ambiguous-255":
        sides = [
            [each.path for each in counts if value in each.values.tolist()] for value in (255, 1)
        ]
        return min(sides, key=len)
    if problem.code == "many-values":
        usual = float(np.median([len(each.values) for each in counts]))
        odd = {each.path for each in counts if len(each.values) > 2 * usual + 8}
        rest = values_of(each for each in counts if each.path not in odd)
        return [each.path for each in counts if each.path in odd and len(rest) <= _MANY]
    if problem.code == "stray-color" and problem.flags:
        colors = [int(color, 16) for color in problem.flags["colors"]]
        found = count_all_colors([each.path for each in counts])
        return [
            each.path
            for each, (stored, _, _) in zip(counts, found, strict=True)
            if not np.isin(stored, colors).all()
        ]
    if problem.code == "stray-value" and "ignore" in problem.flags:
        return [each.path for each in counts if problem.flags["ignore"] in each.values]
    return list(problem.files)


def _add_faulty(
    problem: DataError,
    faulty: Sequence[Source],
    counts: Sequence[MaskCounts],
    ignore: int | None,
    findings: Findings,
) -> None:
    if problem.code == "many-values" and faulty:
        usual = int(np.median([len(each.values) for each in counts]))
        for each in counts:
            if each.path in faulty:
                findings.add(
                    problem.code,
                    f"{each.path} has {len(each.values)} values, most masks {usual}. Is it "
                    "smoothed, or an image?",
                    [each.path],
                )
        return
    fix: Change | str | None = problem.fix
    flags = problem.flags
    others = (each.values for each in counts if each.path not in faulty)
    void = ignore
    if void is None and any(
        values[-1] == IGNORED and values[-2] > 0 for values in others if len(values) > 1
    ):
        void = IGNORED  # beside class ids, 255 is ignored without a flag
    if problem.code == "ambiguous-255" and 0 < len(faulty) < len(counts):
        held = values_of(each for each in counts if each.path in faulty)
        if not {1, 255} <= held:  # else 255 may be the ignore index in them
            fix = change_of("values", faulty, (255, 1) if 255 in held else (1, 255))
    elif problem.code == "stray-value" and "ignore" in flags and void is not None:
        # there is only one ignore index, so the unexpected value is replaced by it
        fix = change_of("values", faulty, (int(flags["ignore"]), void))
        flags = {}
    elif problem.code == "stray-value" and "ignore" in flags and any(m.has_void for m in counts):
        flags = {}  # -1 is the ignore index, which another would make a class
    elif problem.code == "transparent":
        masks = [each.path for each in counts]
        colors = np.unique(np.concatenate([found for found, _, _ in count_all_colors(masks)]))
        fix = change_of("flatten", masks, _unused_color(colors))
    elif not faulty and not fix and not flags:
        fix = None
    if problem.choices:
        fix = None
    message = str(problem) + findings.lines(problem.choices, write=True)
    findings.add(problem.code, message, faulty, fix=fix, flags=flags or None, severity="error")


def _unused_color(colors: NDArray[np.uint32]) -> int:
    """Choose a colour far from all of these."""
    corners = [0xFF00FF, 0x00FFFF, 0xFFFF00, 0x00FF00, 0xFFFFFF, 0x0000FF, 0xFF0000, 0x808080]
    channels = np.stack([colors >> 16, colors >> 8 & 255, colors & 255]).astype(int)

    def distance(color: int) -> int:
        return int(np.abs(channels - np.array(unpack(color))[:, None]).max(axis=0).min())

    return max(corners, key=distance)


def _check_smoothed(
    coding: Coding, counts: Sequence[MaskCounts], config: DataConfig, findings: Findings
) -> None:
    """Find masks with unexpected values or colours between those of the classes."""
    lossy = [each.path for each in counts if each.kind == "jpeg"]
    if isinstance(coding, Colors) and lossy:
        findings.add(
            "lossy-mask",
            f"{len(lossy)} masks are JPEG files, such as {lossy[0]}. JPEG changes colours; each "
            f"colour within {NEAR} levels of a class colour is mapped to that class.",
            lossy,
            fix="" if len(lossy) < len(counts) else None,
        )
    if not isinstance(coding, Threshold) or config.encoding == "threshold":
        return
    shares = {}
    for each in counts:
        between = (each.values > 0) & (each.values < coding.values[1])
        if between.any():
            shares[each.path] = float(each.pixels[between].sum() / each.pixels.sum())
    if shares:
        worst = max(shares, key=lambda path: shares[path])
        findings.add(
            "lossy-mask",
            f"{len(shares)} of {len(counts)} masks have pixels between 0 and {coding.values[1]}, "
            f"from smoothing or JPEG; the upper half is class 1. Most are in {worst}: "
            f"{shares[worst]:.2%}.",
            list(shares),
            # with an encoding, no legend is read
            flags={
                "encoding": "threshold",
                **({"classes": coding.names} if coding.names else {}),
            },
        )


def _check_background(
    coding: Coding, counts: Sequence[MaskCounts], config: DataConfig, findings: Findings
) -> None:
    """Find masks whose class 0 looks like foreground, such as black objects on white."""
    given = config.values or config.colors or config.encoding or config.classes or coding.names
    if given or coding.num_classes != 2 or isinstance(coding, Instances):
        return
    if isinstance(coding, Colors):
        key: str = "colors"
        stored: tuple[Any, ...] = tuple(write_color(pack(color)) for color in coding.colors)
        census = Census()
        masks = [each.path for each in counts]
        for path, (found, pixels, edge) in zip(masks, count_all_colors(masks), strict=True):
            census.add(path, coding.count(found, pixels), False, coding.count(found, edge))
        is_second = census.ground(None, NEARLY_ALL) == 1
    else:
        key, stored = "values", coding.values
        is_second = take_census(counts).ground(coding.ignore, NEARLY_ALL) == stored[1]
    if is_second:
        ground = stored[1]
        choices = {
            f"{ground} is the background": {key: stored[::-1]},
            f"{ground} is the object": {key: stored},
        }
        is_smooth = isinstance(coding, Threshold)
        more = (
            " If it is one, invert the masks." if is_smooth else findings.lines(choices, write=True)
        )
        findings.add(
            "which-background",
            f"{key[:-1].capitalize()} {ground} is class 1, but looks like background: it has most "
            f"of the pixels, also along the image borders.{more}",
            fix=None,
            severity="warning",
        )


def _count_classes(coding: Coding, counts: Sequence[MaskCounts], findings: Findings) -> Contents:
    masks = [each.path for each in counts]
    pixels = np.zeros((len(counts), coding.num_classes), np.int64)
    if isinstance(coding, Colors):
        strays: list[tuple[int, float]] = []
        for row, (found, each_color, _) in enumerate(count_all_colors(masks)):
            pixels[row] = coding.count(found, each_color)
            known = coding.classify(found) != IGNORED
            void = -1 if coding.ignore is None else coding.ignore * 0x010101
            others = np.where(known | (found == void), 0, each_color)
            strays.append((int(found[others.argmax()]), float(others.sum() / each_color.sum())))
        _check_stray_colors(masks, strays, findings)
    else:
        for row, each in enumerate(counts):
            pixels[row] = coding.count(each.values, each.pixels)
    return Contents(coding, pixels, masks)


def _check_stray_colors(
    masks: Sequence[Source], strays: Sequence[tuple[int, float]], findings: Findings
) -> None:
    """Find masks with a colour of no class; one that many masks share is intentional.

    `strays` holds, for each mask, the commonest such colour and the fraction of all of them.
    """
    much = [(path, *stray) for path, stray in zip(masks, strays, strict=True) if stray[1] > _STRAY]
    files = Counter(color for _, color, _ in much)
    for path, color, share in much:
        if files[color] <= max(1, _FEW_MASKS * len(masks)) and 2 * len(much) < len(masks):
            findings.add(
                "stray-color",
                f"{path}: {share:.2%} of its pixels have colours of no class, most often "
                f"{write_color(color)}. They are ignored.",
                [path],
                severity="error" if share > _PHOTO else "warning",
            )


# class statistics


def check_contents(contents: Contents, pairs: Sequence[Pair], findings: Findings) -> None:
    """Find masks that are empty or ignored, and rare classes.

    `pairs` are those of the masks, in the same order.
    """
    pixels, masks = contents.pixels, contents.masks
    total = pixels.sum(axis=1)
    shown = np.flatnonzero(pixels.any(axis=0))
    if len(shown) == 1:
        findings.add(
            "one-class",
            f"All {len(masks)} masks contain only class {shown[0]}: there is nothing to learn. "
            f"Check that {masks[0]} and the others are the right files.",
            masks,
        )
        return
    for index in np.flatnonzero(total == 0):
        message = f"{masks[index]}: every pixel is ignored, so it is no use for training."
        findings.add("ignored-mask", message, [masks[index]])
    # classes from 1 on are foreground
    foreground = pixels[:, 1:].sum(axis=1)
    empty = np.flatnonzero((total > 0) & (foreground == 0))
    if len(empty):
        few = len(empty) <= max(1, _FEW_EMPTY * len(masks))
        more = "" if few else f" (like {len(empty)} of {len(masks)} masks, so probably intended)"
        for index in empty:
            findings.add(
                "empty-mask",
                f"{masks[index]} has no foreground{more}.",
                [masks[index]],
                severity=None if few else "note",
            )
    _check_rare(contents, findings)
    trained = np.array([pair.part in (None, "train") for pair in pairs])
    if trained.any() and not trained.all():
        seen = pixels[trained].sum(axis=0)
        for class_id in np.flatnonzero((seen == 0) & (pixels.sum(axis=0) > 0)):
            holders = [masks[k] for k in np.flatnonzero(pixels[:, class_id])]
            findings.add(
                "class-not-in-training",
                f"Class {class_id} occurs in {len(holders)} masks, but in none of the train split, "
                f"so it cannot be learned. For example: {holders[0]}.",
                holders,
            )


def _check_rare(contents: Contents, findings: Findings) -> None:
    """Find classes in very few masks, often values set by mistake."""
    coding, masks = contents.coding, contents.masks
    shows = contents.pixels > 0
    few = max(1, 0.02 * len(masks))
    if len(masks) < 5 or coding.num_classes < 3:
        return
    held = [np.flatnonzero(shows[:, class_id]) for class_id in range(coding.num_classes)]
    rare = [class_id for class_id, rows in enumerate(held) if 0 < len(rows) <= few]
    if len(rare) > max(_FEW_RARE, coding.num_classes / 2) and not coding.names:
        _add_many_rare(coding, rare, masks, findings)
        return
    for class_id in rare:
        holders = [masks[row] for row in held[class_id]]
        count = int(contents.pixels[:, class_id].sum())
        fix, flags = _without_class(coding, class_id, holders)
        findings.add(
            "rare-class",
            f"Class {class_id} occurs in {len(holders)} of {len(masks)} masks, {count} pixels: "
            f"{', '.join(map(str, holders[:3]))}. If it is a mistake:",
            holders,
            fix=fix,
            flags=flags,
        )


def _add_many_rare(
    coding: Coding, rare: Sequence[int], masks: Sequence[Source], findings: Findings
) -> None:
    """Report classes of which most are rare: such values or colours number objects."""
    is_colored = isinstance(coding, Colors)
    has_ground = not isinstance(coding, Colors) or (0, 0, 0) in coding.colors
    means = f"they number objects, and all but {'black' if is_colored else '0'} is one class:"
    if not has_ground:
        means = "they number segments, export masks of class ids instead."
    findings.add(
        "rare-class",
        f"{len(rare)} of {coding.num_classes} {'colours' if is_colored else 'values'} occur in "
        f"very few of the {len(masks)} masks. That is usual for many classes in few masks; if "
        f"{means}",
        fix=None,
        flags={"encoding": "instances"} if has_ground else None,
    )


def _without_class(
    coding: Coding, class_id: int, holders: Sequence[Source]
) -> tuple[Change | str, dict[str, Any] | None]:
    """How to ignore a class: a change to its masks, or flags; neither if it has a name."""
    if not isinstance(coding, Values) or coding.names:
        return "", None
    value = coding.values[class_id]
    if coding.ignore is not None:  # there is only one
        return change_of("values", holders, (value, coding.ignore)), None
    others = tuple(each for each in coding.values if each != value)
    if others == tuple(range(len(others))):
        return "", {"ignore": value}
    return "", {"values": others, "ignore": value}
