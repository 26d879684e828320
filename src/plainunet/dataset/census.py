"""What masks hold: the counts of their values and colours, and the regions of each value.

From these `classes` finds out which value is which class, numbers an object or is a smoothed edge.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from plainunet.dataset.cache import recall
from plainunet.formats.colors import ColoredMaskError, count_colors, count_runs, read_colors, unpack
from plainunet.formats.image_files import open_encoded
from plainunet.formats.masks import VOID, mask_traits, read_mask
from plainunet.formats.problems import DataError
from plainunet.formats.sources import Source
from plainunet.reporter import Reporter

_SAMPLE = 16
_NEARLY_ALL = 0.95
_MOSTLY = 0.85
_MOSTLY_WHOLE = 0.5
_ALIKE = 0.75
_IN_PLACE = 0.5
_MOST_GREY = 0.1
_MOST_OBJECTS, _GAPS = 255, 0.2
_OWN = 1.5  # masks that hold a value, in the mean
_MANY = 32
_WHITE = 255
_RARE = 1e-3
_FEW_MASKS = 0.05
_WHITE_COLOR = 0xFFFFFF
_SAME_COLOR = 8  # largest difference of a channel
_T = TypeVar("_T")
_Numbered = tuple[NDArray[Any], list[int]]  # a mask, and the numbers in it


class MaskCounts(NamedTuple):
    """Contents of a mask."""

    path: Source
    size: tuple[int, int]
    values: NDArray[np.int64]  # [n] as stored, ascending; empty if coloured
    pixels: NDArray[np.int64]  # [n], of each value
    digest: str  # of its values or colours and its size; "" if there is only one
    kind: str  # file format, see `find_kind`; "" if it has no file of its own
    is_deep: bool  # whether it has 16 bits
    is_colored: bool  # whether its channels differ, so it is read by colour
    palette: tuple[int, ...] = ()  # [n], the colour of each value, if it has a palette
    is_inverted: bool = False  # whether 0 is white
    has_void: bool = False  # whether -1, read as `VOID`, marks pixels of no class
    hides: bool = False  # whether pixels of one colour differ in opacity, or clear ones in colour
    clear: int | None = None  # the one colour below transparent pixels
    nodata: int | None = None  # the nodata value of its file
    edge: tuple[int, ...] = ()  # [n], pixels of each value along the borders


def values_of(counts: Iterable[MaskCounts]) -> set[int]:
    """All values that occur in masks."""
    return {value for each in counts for value in each.values.tolist()}


def count_masks(paths: Sequence[Source]) -> Iterator[MaskCounts | DataError]:
    """Count the values of masks, in parallel; yields an error for an unreadable mask."""
    found = recall("mask values 7", [(path,) for path in paths], _count)
    for path, facts in zip(paths, found, strict=True):
        if isinstance(facts, DataError):
            yield facts
            continue
        digest, kind, is_deep, size, *columns, (palette, *marks) = facts
        values, pixels = (np.array(column, np.int64) for column in columns)
        is_colored = not len(values)
        known = digest, kind, is_deep, is_colored, tuple(palette)
        yield MaskCounts(path, tuple(size), values, pixels, *known, *marks)


@dataclass
class Census:
    """How often each value occurs in a set of masks; arrays are [65536] int64, by value."""

    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(65536, np.int64))
    files: NDArray[np.int64] = field(default_factory=lambda: np.zeros(65536, np.int64))
    """Masks with the value."""
    first: NDArray[np.int64] = field(default_factory=lambda: np.zeros(65536, np.int64))
    """The first of them, as an index into `paths`."""
    edge: NDArray[np.int64] = field(default_factory=lambda: np.zeros(65536, np.int64))
    """Pixels along the borders of the masks."""
    paths: list[Source] = field(default_factory=list)
    distinct: list[int] = field(default_factory=list)
    """Number of values in each 16-bit mask."""
    with_both: int = 0
    """Masks with the values 1 and 255."""
    crowded: int = 0
    """Masks with two values or more besides 0."""
    up_to_one: int = 0
    """Masks in which 1 is the largest value."""

    def add(
        self,
        path: Source,
        counts: NDArray[np.int64],
        is_deep: bool,
        edge: NDArray[np.int64] | None = None,
    ) -> None:
        """Add a mask: `counts` [n <= 65536] int64 are its pixels of value 0..n-1.

        `edge` [n] are those along its borders; by default, the same as `counts`.
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
        self.crowded += bool(np.count_nonzero(values) > 1)
        self.up_to_one += bool(values.size and values[-1] == 1)

    def ground(self, ignore: int | None = None, least: float = 0.5) -> int | None:
        """The value with more than this fraction of the pixels and of the borders; or None."""
        pixels, edge = self.pixels.copy(), self.edge.copy()
        if ignore is not None:
            pixels[ignore] = edge[ignore] = 0
        top = int(pixels.argmax())
        is_ground = pixels[top] > least * pixels.sum() and edge[top] > least * edge.sum()
        return top if is_ground else None

    def is_slip(self, value: int) -> bool:
        """Whether a value is rare enough to be a mistake."""
        few = self.files[value] <= max(1, _FEW_MASKS * len(self.paths))
        rare = self.pixels[value] < _RARE * self.pixels.sum()
        half = 2 * self.files[value] > len(self.paths) > 1
        return bool((few or rare) and not half)

    def place(self, value: int) -> str:
        """Describe where a value occurs: pixels, first mask, and number of other masks."""
        more = int(self.files[value]) - 1
        others = f" and {more} more mask{'s' * (more > 1)}" if more else ""
        return f"{self.pixels[value]} pixels in {self.paths[self.first[value]]}{others}"


def take_census(counts: Sequence[MaskCounts]) -> Census:
    """Sum up the counts of masks."""
    census = Census()
    for each in counts:
        pixels = np.bincount(each.values, each.pixels).astype(np.int64)
        edge = np.bincount(each.values, each.edge).astype(np.int64)
        census.add(each.path, pixels, each.is_deep, edge)
    return census


def require_opaque(counts: Sequence[MaskCounts]) -> None:
    """Refuse masks in which colours do not tell transparent pixels from classes."""
    are_mixed = len({each.clear for each in counts} - {None}) > 1
    hiding = [each.path for each in counts if each.hides or (are_mixed and each.clear is not None)]
    if hiding:
        raise DataError(
            f"{len(hiding)} of {len(counts)} masks have pixels of one colour but different "
            "opacity, or transparent pixels of different colours, so colours do not identify the "
            f"classes: {hiding[0]}. Flatten the masks onto a colour that no class has.",
            "transparent",
            hiding,
        )


def note_inverted(counts: Sequence[MaskCounts], reporter: Reporter) -> None:
    """Tell of TIFF masks in which 0 is white."""
    inverted = [each.path for each in counts if each.is_inverted]
    if inverted:
        reporter.note(
            f"note: in {len(inverted)} TIFF masks, 0 is white (ImageJ's inverting lookup table); "
            "labels are read as stored, and 1-bit masks as shown (white is 1). For example "
            f"{inverted[0]}"
        )


def palettes_differ(counts: Sequence[MaskCounts]) -> bool:
    """Whether the masks' palettes map one index to different colours.

    Black and white masks are ignored next to palettes of other colours; if all palettes are grey,
    grey masks with the same greys, and inverting tables, are compared as well, and each grey must
    be one value.
    """
    pairs = [{*zip(each.values.tolist(), each.palette, strict=False)} for each in counts]
    shown = {color for each in pairs for _, color in each}
    if all(color % 0x010101 == 0 for color in shown) and _greys_differ(counts):
        return True
    plain = {(0, 0), (1, _WHITE_COLOR), (255, _WHITE_COLOR)}
    known: dict[int, tuple[int, int, int]] = {}
    for value, color in {pair for each in pairs if not each <= plain for pair in each}:
        other = known.setdefault(value, unpack(color))
        if max(abs(a - b) for a, b in zip(other, unpack(color), strict=True)) > _SAME_COLOR:
            return bool(shown - {0, _WHITE_COLOR})
    return False


def _greys_differ(counts: Sequence[MaskCounts]) -> bool:
    """Whether masks with grey palettes, inverting tables or none store a grey as several values."""
    flat = [each for each in counts if not each.is_colored]
    tables = [{*zip(each.values.tolist(), _shades(each), strict=True)} for each in flat]
    own = [table for table, each in zip(tables, flat, strict=True) if _has_table(each)]
    greys = [table for table, each in zip(tables, flat, strict=True) if not _has_table(each)]
    levels = {color for each in own for _, color in each} | {0, _WHITE_COLOR}
    if not own or any(color not in levels for each in greys for _, color in each):
        greys = []
    both = set().union(*own, *greys)
    return (
        len({color for _, color in both}) < len(both)
        and (len({value for value, _ in both}) < len(both) or bool(greys))
        and not _same_borders(flat)
    )


def _has_table(mask: MaskCounts) -> bool:
    return bool(mask.palette) or (mask.is_inverted and not mask.is_deep)


def _shades(mask: MaskCounts) -> Sequence[int]:
    """The colours that a mask shows, of each of its values."""
    if mask.palette:
        return mask.palette
    values = mask.values.tolist()
    return [(255 - each if _has_table(mask) else each) * 0x010101 for each in values]


def _same_borders(counts: Sequence[MaskCounts]) -> bool:
    """Whether the borders of masks have the same value rather than the same colour."""
    values: Counter[int] = Counter()
    colors: Counter[int] = Counter()
    for each in counts:
        top = int(np.argmax(each.edge))
        values[int(each.values[top])] += 1
        colors[_shades(each)[top]] += 1
    return max(values.values()) > max(colors.values())


def count_all_colors(
    paths: Sequence[Source],
) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.int64]]]:
    """Count the colours of masks: 0xRRGGBB [n], ascending, with all and border pixels of each."""

    def count(path: Source) -> Any:
        return [part.tolist() for part in count_colors(path)]

    for facts in recall("mask colours 2", [(path,) for path in paths], count):
        if isinstance(facts, DataError):
            raise facts
        colors, pixels, edge = facts
        yield np.array(colors, np.uint32), np.array(pixels, np.int64), np.array(edge, np.int64)


def _count(path: Source) -> Any:
    kind = ""
    if isinstance(path, Path):
        with open_encoded(path) as (kind, _):
            pass
    try:
        mask = read_mask(path)
    except ColoredMaskError:
        colors = read_colors(path)
        digest = _digest(colors.shape, *count_runs(colors))
        traits = mask_traits(path)
        marks = [[], False, False, traits.hides, traits.clear, None, []]
        return [digest, kind, False, colors.shape, [], [], marks]
    traits = mask_traits(path)
    runs, lengths = count_runs(mask)
    pixels = np.bincount(runs, weights=lengths).astype(np.int64)
    digest = _digest(mask.shape, runs, lengths)
    values = np.flatnonzero(pixels)
    columns = values.tolist(), pixels[values].tolist()
    has_void = (traits.is_signed or traits.nodata == VOID) and columns[0][-1] == VOID
    is_deep = mask.dtype == np.uint16 and not (has_void and max(columns[0][:-1], default=0) < 256)
    is_known = columns[0][-1] < len(traits.palette)
    palette = [traits.palette[value] for value in columns[0]] if is_known else []
    nodata = traits.nodata if traits.nodata in columns[0] else None
    around = np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]])
    edge = np.bincount(around, minlength=len(pixels))[values].tolist()
    marks = [palette, traits.is_inverted, has_void, traits.hides, traits.clear, nodata, edge]
    return [digest, kind, is_deep, mask.shape, *columns, marks]


def _digest(shape: tuple[int, ...], runs: NDArray[Any], lengths: NDArray[np.int64]) -> str:
    # of the runs, which are far fewer than pixels; masks of one value are all equal
    if runs.min() == runs.max():
        return ""
    data = np.array(shape).tobytes() + runs.tobytes() + lengths.tobytes()
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _sample(masks: Sequence[_T], most: int = _SAMPLE) -> Sequence[_T]:
    """Select some masks, spread evenly."""
    return masks[:: -(-len(masks) // most)]


def number_objects(counts: Sequence[MaskCounts], ignore: int | None) -> str:
    """Whether values number objects: "yes", "maybe" or "no".

    They may if nearly each is one region in its mask, and masks hold the first few of all values
    (an erased object leaves a gap; in 16 bits any are allowed) or values of their own. If masks
    hold equally many, these must also be found all over the image. It is certain for numbers from
    1 on without gaps if a mask has four or more (three in 16 bits), their numbers vary widely and
    so do their positions: class ids hardly ever do. With fewer, regions that touch or stay in
    place are classes, such as a tumour in an organ.
    """
    busy = [(each, held) for each in counts if len(held := _numbers(each, ignore))]
    lengths = Counter(len(held) for _, held in busy)
    most = max(lengths, default=0)
    if not 2 <= most <= _MOST_OBJECTS or len(busy) < (3 if most > 2 else 5):
        return "no"
    is_deep = 2 * sum(each.is_deep for each in counts) > len(counts)
    every = np.unique(np.concatenate([held for _, held in busy]))
    gaps = sum(len(held) <= np.searchsorted(every, held[-1]) for _, held in busy)
    are_own = sum(len(held) for _, held in busy) < _OWN * len(every)
    # masks of classes have gaps all over
    if gaps > _GAPS * len(busy) and not (is_deep or are_own):
        return "no"
    # class ids are nearly always the same, except for mistakes
    ((usual, number),) = lengths.most_common(1)
    are_alike = number > _ALIKE * len(busy)
    if are_alike and (usual < 3 or len(busy) < 5):
        return "no"
    sample = _sample(busy, _SAMPLE if most <= _MANY else _SAMPLE // 4)
    masks = [(read_mask(each.path), held.tolist()) for each, held in sample]
    whole, in_place = _share_whole(masks), _share_in_place(masks) > _IN_PLACE
    few = most < 4 or are_alike
    if whole < (_NEARLY_ALL if are_alike or in_place else _MOSTLY) or (few and in_place):
        return "no"
    if few and _share_touching(masks) > _NEARLY_ALL:
        return "no"
    vary = _spread(masks) > _IN_PLACE
    if are_alike:
        return "maybe" if vary else "no"
    is_run = not gaps and every[-1] == len(every) and whole >= _NEARLY_ALL
    is_sure = is_run and most >= (3 if is_deep else 4) and len(lengths) > 2
    return "yes" if is_sure and vary and not in_place else "maybe"


def are_in_pieces(counts: Sequence[MaskCounts], ignore: int | None) -> bool:
    """Whether most values are several regions in their mask, as class ids are, unlike objects.

    At least one mask must have foreground. A few masks and values are looked at, spread evenly.
    """
    masks = []
    for each in _sample([each for each in counts if len(_numbers(each, ignore))], _SAMPLE // 4):
        numbers = _numbers(each, ignore)
        masks.append((read_mask(each.path), numbers[:: -(-len(numbers) // _MANY)].tolist()))
    return _share_whole(masks) < _MOSTLY_WHOLE


def _numbers(mask: MaskCounts, ignore: int | None) -> NDArray[np.int64]:
    no_number = [0, VOID] if ignore is None else [0, VOID, ignore]
    return np.setdiff1d(mask.values, no_number)


def _share_whole(masks: Sequence[_Numbered]) -> float:
    """Fraction of values that are one region in their mask."""
    return float(np.mean([_is_whole(mask == k) for mask, numbers in masks for k in numbers]))


def _is_whole(region: NDArray[np.bool_]) -> bool:
    return cv2.connectedComponents(region.astype(np.uint8), connectivity=8)[0] == 2


def _share_in_place(masks: Sequence[_Numbered]) -> float:
    """Mean overlap of each number's regions across masks: 1 if they are identical."""
    sizes = {mask.shape for mask, _ in masks}
    shares = []
    for number in {number for _, numbers in masks for number in numbers}:
        regions = [mask == number for mask, numbers in masks if number in numbers]
        if len(sizes) == 1 and len(regions) > 2:
            total = np.sum(regions, axis=0)
            shares.append(total.sum() / (total > 0).sum() / len(regions))
    return float(np.mean(shares)) if shares else 0.0


def _spread(masks: Sequence[_Numbered]) -> float:
    """How far the centres of a number spread across masks, relative to those of all numbers."""
    centers: dict[int, list[NDArray[np.float64]]] = {}
    for mask, numbers in masks:
        for number in numbers:
            center = np.argwhere(mask == number).mean(axis=0) / mask.shape
            centers.setdefault(number, []).append(center)
    places = [np.array(each) for each in centers.values() if len(each) > 2]
    if not places:
        return 1.0
    within = np.concatenate([each - each.mean(axis=0) for each in places])
    around = np.concatenate(places)
    degrees = (len(around) - 1) / max(1, len(around) - len(places))
    return float(
        np.sqrt((within**2).sum() / (np.var(around, axis=0).sum() * len(around)) * degrees)
    )


def _share_touching(masks: Sequence[_Numbered]) -> float:
    """Fraction of regions that touch another, in masks with several."""
    around = np.ones((3, 3), np.uint8)
    touching = []
    for mask, numbers in masks:
        for number in numbers if len(numbers) > 1 else ():
            near = mask[cv2.dilate((mask == number).astype(np.uint8), around) > 0]
            touching.append(bool(np.isin(near, [k for k in numbers if k != number]).any()))
    return float(np.mean(touching)) if touching else 0.0


def are_edges(counts: Sequence[MaskCounts], plain: Sequence[int] = ()) -> bool:
    """Whether all greys between black and white come from smoothed edges.

    Each grey pixel then has a darker and a lighter neighbour, unlike inside a class. White is
    255, or 65535 in 16 bits; `plain` are other values that are not such greys.
    """
    white = _WHITE if all(each.values[-1] <= _WHITE for each in counts) else 65535
    plain = (0, white, *plain)
    greys = [int(each.pixels[~np.isin(each.values, plain)].sum()) for each in counts]
    with_greys = [each for each, of_each in zip(counts, greys, strict=True) if of_each]
    total = sum(int(each.pixels.sum()) for each in counts)
    values = values_of(counts)
    if not with_greys or not {0, white} <= values:
        return False
    if sum(greys) > _MOST_GREY * total:
        return False
    edges = 0
    grey = 0
    for each in _sample(with_greys):
        stored = read_mask(each.path)
        is_grey = ~np.isin(stored, plain)
        grey += int(is_grey.sum())
        edges += int((_edges(stored) & is_grey).sum())
    return edges >= _NEARLY_ALL * grey


def _edges(stored: NDArray[Any]) -> NDArray[np.bool_]:
    """The pixels with a darker and a lighter neighbour."""
    around = np.ones((3, 3), np.uint8)
    is_edge: NDArray[np.bool_] = cv2.erode(stored, around) < stored
    return is_edge & (cv2.dilate(stored, around) > stored)


def main_values(counts: Sequence[MaskCounts]) -> list[int]:
    """List the values, except rare ones, whose pixels are mostly not on edges."""
    inside, pixels = np.zeros(65536, np.int64), np.zeros(65536, np.int64)
    for each in _sample(counts):
        stored = read_mask(each.path)
        pixels += np.bincount(stored.ravel(), minlength=65536)
        inside += np.bincount(stored[~_edges(stored)], minlength=65536)
    is_main = (2 * inside > pixels) & (pixels > _RARE * pixels.sum())
    return [int(value) for value in np.flatnonzero(is_main)]
