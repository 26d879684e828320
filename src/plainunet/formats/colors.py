"""Colour-coded masks: class ids from colours, with or without a legend."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from plainunet.errors import Error
from plainunet.formats.image_files import decoding, read_encoded, turn_upright
from plainunet.formats.images import open_still
from plainunet.formats.legends import (
    Color,
    Colors,
    Legend,
    WithoutVoid,
    find_legend,
    is_background,
    is_void,
    leave_out_void,
    notes_of_unread,
)
from plainunet.formats.problems import DataError
from plainunet.formats.sources import ImageSource, Source, path_of
from plainunet.formats.tiff import read_tiff
from plainunet.palette import voc_color

IGNORED = 255
NEAR = 32
"""Maximum difference in each channel for mapping a colour to one of the legend."""


class ColoredMaskError(DataError):
    """A mask is colour-coded: its channels differ."""


def colored_mask(path: Source) -> ColoredMaskError:
    """The error for an unexpected coloured mask."""
    return ColoredMaskError(
        f"{path} is coloured (3 different channels), and the class of each colour is unknown. Save "
        "the class ids as a grey or palette PNG.",
        "colored-mask",
        [path],
    )


@dataclass
class ColorCensus:
    """The number of pixels of each colour in a set of masks, and the first mask with it, from 1.

    `edge` counts only pixels along the image borders.
    """

    # zeros take no memory until they are written
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1 << 24, np.int64))
    edge: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1 << 24, np.int64))
    first: NDArray[np.int32] = field(default_factory=lambda: np.zeros(1 << 24, np.int32))
    paths: list[Source] = field(default_factory=list)
    distinct: list[int] = field(default_factory=list)
    """Number of colours other than black in each mask."""

    def add(
        self,
        path: Source,
        found: NDArray[np.uint32],
        counts: NDArray[np.int64],
        edge: NDArray[np.int64] | None = None,
    ) -> None:
        """Add a mask: its unique colours [n] uint32, and the number of pixels of each [n].

        `edge` [n] are those along the image borders; the default is `counts`.
        """
        self.paths.append(path)
        self.distinct.append(int(np.count_nonzero(found)))
        new = found[self.pixels[found] == 0]
        self.first[new] = len(self.paths)
        self.pixels[found] += counts
        self.edge[found] += counts if edge is None else edge

    def place(self, color: int) -> str:
        """The number of pixels of a colour, and the first mask with it."""
        path = self.paths[self.first[color] - 1]
        return f"{self.pixels[color]} pixels, first in {path}"


def pack(color: Sequence[int]) -> int:
    """Pack R, G and B, 0..255, into 0xRRGGBB."""
    red, green, blue = color
    return red << 16 | green << 8 | blue


def unpack(color: int) -> Color:
    """Unpack 0xRRGGBB into R, G and B, 0..255."""
    return color >> 16, color >> 8 & 255, color & 255


def read_colors(path: Source) -> NDArray[np.uint32]:
    """Read the colours of a mask: [H, W] uint32, 0xRRGGBB, upright.

    Palette images use the colours of their palette; grey images repeat the grey value. Alpha is
    ignored.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not an image, damaged, truncated, deeper than 8 bits, or has several
            pages, or other channels than colours.
    """
    if not isinstance(path, ImageSource):
        raise DataError(f"{path} names its classes without colours. Remove --colors.", "not-a-mask")
    kind, data = read_encoded(path)
    if kind == "npy":
        raise DataError(
            f"{path}: .npy masks cannot hold colours. Save the mask as a PNG.", "not-a-mask"
        )
    with decoding(path):
        if kind == "tiff":
            samples, orientation = _tiff_samples(data, path)
        else:
            with open_still(BytesIO(data), kind, path) as (image, orientation):
                if image.mode.startswith(("I", "F")) or (kind == "png" and data[24] == 16):
                    raise _too_deep(path)
                # convert alpha to RGBA, since Pillow warns of dropping it
                clear = "transparency" in image.info or image.mode.endswith(("A", "a"))
                samples = np.asarray(image.convert("RGBA" if clear else "RGB"))
    if samples.shape[-1] < 3:
        samples = samples[..., [0, 0, 0]]
    packed = samples[..., 0].astype(np.uint32)
    for channel in (1, 2):
        packed <<= 8
        packed |= samples[..., channel]
    colors: NDArray[np.uint32] = turn_upright(packed, orientation)
    return colors


def _tiff_samples(data: bytes, path: ImageSource) -> tuple[NDArray[np.uint8], int]:
    tiff = read_tiff(BytesIO(data), path)
    samples = tiff.colors
    if samples.dtype == np.bool_:
        samples = samples * np.uint8(255)
    if samples.dtype != np.uint8:
        raise _too_deep(path)
    if samples.shape[-1] not in (1, 3):
        raise DataError(
            f"{path} has {samples.shape[-1]} channels; a colour-coded mask has three.", "not-a-mask"
        )
    return samples, tiff.orientation


def _too_deep(path: ImageSource) -> ValueError:
    return DataError(
        f"{path} has more than 8 bits per channel, in a set of colour-coded masks. Save it as "
        "8-bit RGB.",
        "not-a-mask",
    )


def count_runs(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Run-length encode an array in row-major order: the value and the length of each run."""
    flat = values.ravel()
    starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1])))
    return flat[starts], np.diff(starts, append=flat.size)


def count_colors(
    path: Source,
) -> tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.int64]]:
    """Count a mask's colours: [n] uint32, ascending, the pixels of each, and at image borders."""
    colors = read_colors(path)
    values, lengths = count_runs(colors)
    found, places = np.unique(values, return_inverse=True)
    edge = np.concatenate([colors[0], colors[-1], colors[1:-1, 0], colors[1:-1, -1]])
    at_edge = np.bincount(np.searchsorted(found, edge), minlength=len(found))
    return found, np.bincount(places, weights=lengths).astype(np.int64), at_edge.astype(np.int64)


def number_colors(found: NDArray[np.uint32], ignore: int | None = None) -> NDArray[np.uint16]:
    """The object numbers of a mask's colours [n], ascending: black is 0, ignored grey `ignore`."""
    numbers = np.arange(len(found)) + int(found[0] != 0)
    if ignore is not None:
        numbers += numbers >= ignore
        numbers[found == ignore * 0x010101] = ignore
    return numbers.clip(0, 65535).astype(np.uint16)


def match_colors(
    found: NDArray[np.uint32], colors: Colors, ignore: int | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Map colours, [n] uint32, to classes.

    A colour outside the legend is mapped to the one within `NEAR` of it in every channel, if
    there is exactly one, to allow for smoothing and JPEG. `ignore` is the grey value of ignored
    pixels. Returns class ids [n] uint8, 255 for none, and [n] bool, whether a colour was mapped
    to a near one.
    """
    channels = np.stack([found >> 16, found >> 8 & 255, found & 255]).astype(np.int16)
    ids = np.full(len(found), IGNORED, np.uint8)
    candidates = np.zeros(len(found), np.uint8)
    for class_id, color in enumerate(colors):
        distance = np.abs(channels - np.array(color, np.int16)[:, None]).max(axis=0)
        ids[distance <= NEAR] = class_id
        candidates += distance <= NEAR
    ids[candidates != 1] = IGNORED
    moved = candidates == 1
    for class_id, color in enumerate(colors):
        exact = found == pack(color)
        ids[exact] = class_id
        moved[exact] = False
    if ignore is not None:
        void = found == ignore * 0x010101
        ids[void] = IGNORED
        moved[void] = False
    return ids, moved


def encode_colors(
    packed: NDArray[np.uint32], colors: Colors, ignore: int | None = None
) -> NDArray[np.uint8]:
    """Map packed colours [H, W] to class ids [H, W] uint8, 255 for ignored pixels."""
    values, lengths = count_runs(packed)
    found, places = np.unique(values, return_inverse=True)
    ids = match_colors(found, colors, ignore)[0][places]
    return np.repeat(ids, lengths).reshape(packed.shape)


_MOST_COLORS = 64
_RARE = 1e-4
_ALIKE = 8
_MOST_LOST = 0.01
_SAMPLE = 16
_FILLED = 0.2
_MOST = 0.5
"""The background has a higher fraction of all pixels, and of those along image borders."""
_WHITE = 0xFFFFFF
_VOC = [voc_color(value) for value in (*range(21), IGNORED)]
"""The colours of PASCAL VOC's classes and, last, of its pixels of no class."""
_OWN = 1.5
"""Colours of objects are in fewer masks, in the mean."""
_MANY, _FEW_MASKS, _MOST_THIN = 8, 3, 0.1
_FEW_CLASSES = 4
"""From this number on, without a majority, there may be no background: land cover, streets."""


class ColorMeaning(NamedTuple):
    """The mapping of colours.

    The colour of each class, its pixels [K] int64, notes, names, and the ignored grey.
    """

    colors: Colors
    pixels: NDArray[np.int64]
    notes: list[str]
    names: tuple[str, ...] = ()
    ignore: int | None = None


def find_meaning(
    census: ColorCensus, colors: Colors, num_classes: int | None, ignore: int | None
) -> ColorMeaning:
    """Find the classes of colour-coded masks.

    Without `colors` or a legend file, the colours found are the classes: at most 64, each with at
    least 0.01% of the pixels and more than 8 apart in some channel; the background first, the
    others sorted by red, green and blue. `colors` may be empty, `num_classes` and `ignore` None.
    The notes name the origin of the legend and the fractions of pixels mapped to a near colour or
    to no class.

    Raises:
        ValueError: There is no legend and the colours are too many or too rare, the legend does
            not fit the masks, or K differs.
    """
    notes = []
    names: tuple[str, ...] = ()
    if not colors:
        if legend := find_legend(census.paths, lambda each: bool(each.colors)):
            origin = f"from {legend.path}"
            left = _without_void(census, legend._replace(values=()).without(ignore), ignore)
            (_, names, colors, *_), ignore, note = left
            notes += [note] if note else []
            _require_background(census, names, colors, legend.path, ignore)
        else:
            _require_plain_colors(census)
            if num_classes is None:
                _require_shared_colors(census, ignore)
            colors, has_ground = _background_first(census, _find_colors(census, ignore))
            ground = "background first, the others " if has_ground else ""
            origin = f"found in the masks, {ground}sorted (to change the order: --colors)"
            notes += notes_of_unread(census.paths)
        notes.append(f"note: classes by colour, {origin}: {_number(colors)}")
    _check(colors, num_classes)
    found = np.flatnonzero(census.pixels).astype(np.uint32)
    pixels = census.pixels[found]
    ids, moved = match_colors(found, colors, ignore)
    known = ids < len(colors)
    lossy = [path for path in census.paths if path_of(path).suffix.lower() in (".jpg", ".jpeg")]
    lost = int(pixels[~known].sum()) if ignore is None else 0
    if names and lossy and lost > _MOST_LOST * pixels.sum():
        raise DataError(
            f"{_share(lost, pixels.sum())} of the mask pixels have the colour of no class, because "
            "JPEG changes colours. Save the masks as PNG, or pass --colors to ignore them.",
            "lossy-mask",
            lossy,
        )
    classes = np.bincount(ids[known], pixels[known], len(colors)).astype(np.int64)
    _require_fit(census, colors, found, known & ~moved)
    notes += _describe(census, found, known, moved, ignore)
    if missing := [class_id for class_id, count in enumerate(classes) if count == 0]:
        absent = ", ".join(f"{k} ({write_color(pack(colors[k]))})" for k in missing)
        notes.append(f"note: no mask has pixels of class {absent}")
    return ColorMeaning(colors, classes, notes, names, ignore)


def _without_void(census: ColorCensus, legend: Legend, ignore: int | None) -> WithoutVoid:
    """Leave out void classes, unless their pixels would go to a class of nearly their colour."""
    places = [k for k, name in enumerate(legend.names) if not is_void(name)]
    void = [pack(color) for k, color in enumerate(legend.colors) if k not in places]
    others = legend.take(places).colors
    tinted = [color for color in void if len({*unpack(color)}) > 1]  # greys are matched exactly
    if tinted and (match_colors(np.array(tinted, np.uint32), others)[0] != IGNORED).any():
        return WithoutVoid(legend, ignore)
    found = np.flatnonzero(census.pixels).astype(np.uint32)
    ids = match_colors(found, legend.colors, ignore)[0]
    known, count = ids < len(legend.names), len(legend.names)
    pixels = np.bincount(ids[known], census.pixels[found[known]], count).astype(int).tolist()
    return leave_out_void(legend, pixels, ignore)


def _require_plain_colors(census: ColorCensus) -> None:
    """Raise if the colours are numbers in three channels, as in COCO panoptic and ADE20K."""
    path = path_of(census.paths[0])
    if re.fullmatch(r"ADE_\w+_\d+(_seg|_parts_\d)", path.stem):
        how = "ADE20K stores the class as R // 10 * 256 + G, and numbers objects in B"
        tool = ""
    elif listed := _panoptic_list(path.parent):
        how = (
            "COCO panoptic masks number segments by R + 256 G + 65536 B, and "
            f"{listed} lists the category_id of each in segments_info"
        )
        tool = ", for example with panopticapi's panoptic2semantic_segmentation.py"
    else:
        return
    raise DataError(
        f"{path}: {how}, so a colour is no class. Write the class of each pixel as a grey PNG"
        f"{tool}.",
        "not-a-mask",
    )


def _require_shared_colors(census: ColorCensus, ignore: int | None) -> None:
    """Ask if masks on black have many colours of their own, as where each object has one."""
    void = 0 if ignore is None else ignore * 0x010101
    found = [color for color in np.flatnonzero(census.pixels).tolist() if color not in (0, void)]
    holders = sum(count > 0 for count in census.distinct)
    are_own = sum(census.distinct) < _OWN * len(found)
    if not are_own or holders < _FEW_MASKS or len(found) < _MANY or census.edge.argmax() != 0:
        return
    sampled = min(1.0, _SAMPLE / len(census.paths))
    if len(_thin_colors(census)) > _MOST_THIN * sampled * len(found):  # smoothed, or photographs
        return
    choices: dict[str, dict[str, Any]] = {
        "Each colour is an object, black is the background": {"encoding": "instances"}
    }
    if len(found) < _MOST_COLORS:
        choices["Each colour is a class"] = {"colors": _write([0, *found])}
    raise DataError(
        f"The {len(census.paths)} masks are colour-coded with {len(found)} colours next to black, "
        "and few colours are in several masks, so each may be an object. Choose one.",
        "ids-or-objects",
        choices=choices,
    )


def _panoptic_list(folder: Path) -> Path | None:
    """The JSON file of a folder of COCO panoptic masks; or None."""
    folder = folder.absolute()
    for path in (folder.parent / f"{folder.name}.json", *folder.glob("*panoptic*.json")):
        if path.is_file() and path.stat().st_size:
            with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
                if data.find(b'"segments_info"') >= 0:
                    return path
    return None


def _describe(
    census: ColorCensus,
    found: NDArray[np.uint32],
    known: NDArray[np.bool_],
    moved: NDArray[np.bool_],
    ignore: int | None,
) -> Iterator[str]:
    pixels = census.pixels[found]
    total = int(pixels.sum())
    if moved.any():
        yield (
            f"note: {_share(pixels[moved].sum(), total)} of the mask pixels are within {NEAR} "
            "levels of a colour of the legend, and mapped to it"
        )
    void_colors = found[~known]
    if ignore is not None:
        void_colors = void_colors[void_colors != ignore * 0x010101]
    if len(void_colors):
        commonest = int(void_colors[census.pixels[void_colors].argmax()])
        yield (
            f"note: {_share(census.pixels[void_colors].sum(), total)} of the mask pixels have "
            f"colours outside the legend and are ignored, most often {write_color(commonest)}: "
            f"{census.place(commonest)}"
        )


def write_color(color: int) -> str:
    """Format a colour for --colors: 0x8429F6 as 8429F6."""
    return f"{color:06X}"


def _find_colors(census: ColorCensus, ignore: int | None) -> Colors:
    found = np.flatnonzero(census.pixels)
    if ignore is not None:
        found = found[found != ignore * 0x010101]
    if len(found) > 2 and np.isin(found, _VOC).all():
        found = found[found != _VOC[-1]]
    total = census.pixels.sum()
    common = found[census.pixels[found] >= _RARE * total]
    if len(found) <= _MOST_COLORS and len(common) == len(found) and not _any_alike(found):
        return tuple(unpack(int(color)) for color in found)
    by_pixels = sorted(common.tolist(), key=lambda color: -int(census.pixels[color]))
    thin = _thin_colors(census)
    apart: list[int] = []  # without artefacts of smoothing or JPEG
    for color in by_pixels:
        near = match_colors(np.array(apart, np.uint32), (unpack(color),))[1]
        blend = color in thin and _is_between(color, apart)
        if len(apart) < _MOST_COLORS and not near.any() and not blend:
            apart.append(color)
    rare = int(found[census.pixels[found].argmin()])
    reason = (
        f"The masks are colour-coded with {len(found)} colours: too many, too rare or too similar "
        f"for classes (at most {_MOST_COLORS} are accepted, each with at least {_RARE:.2%} of the "
        f"pixels and more than {_ALIKE} apart in red, green or blue; {write_color(rare)} has "
        f"{census.place(rare)})."
    )
    file = [census.paths[census.first[rare] - 1]]
    if len(apart) < 2:
        raise DataError(f"{reason} Are they photographs? Check the folder of masks.", "not-a-mask")
    shown = ", ".join(
        f"{write_color(color)} ({_share(census.pixels[color], total)})" for color in by_pixels[:12]
    )
    classes = _write(_put_first(sorted(apart), _likely_background(census, apart)))
    raise DataError(
        f"{reason} The commonest: {shown}. Pass the colours of classes, background first, such as "
        f"--colors {' '.join(classes)}; others are mapped to a near colour, or ignored. To avoid "
        "smoothed edges, export the masks without anti-aliasing.",
        "stray-color",
        file,
        flags={"colors": classes},
    )


def _thin_colors(census: ColorCensus) -> set[int]:
    """The colours that rarely fill squares of 2 x 2 pixels, in a sample of the masks."""
    filled, pixels = Counter[int](), Counter[int]()
    for path in census.paths[:: -(-len(census.paths) // _SAMPLE)]:
        colors = read_colors(path)
        corner = colors[:-1, :-1]
        same = [corner == each for each in (colors[1:, :-1], colors[:-1, 1:], colors[1:, 1:])]
        for counted, each in ((filled, corner[np.all(same, axis=0)]), (pixels, corner)):
            found, counts = np.unique(each, return_counts=True)
            counted.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
    return {color for color in pixels if filled[color] < _FILLED * pixels[color]}


def _is_between(color: int, others: Sequence[int]) -> bool:
    """Whether a colour lies between two others, as in smoothed edges."""
    ends = np.array([unpack(each) for each in others], float).reshape(-1, 3)
    one, other = (ends[each] for each in np.triu_indices(len(ends), 1))
    line, point = other - one, np.array(unpack(color)) - one
    along = ((point * line).sum(axis=1) / (line**2).sum(axis=1))[:, None].clip(0, 1)
    return bool((np.abs(point - along * line).max(axis=1) <= 2 * _ALIKE).any())


def _write(colors: Sequence[int]) -> tuple[str, ...]:
    return tuple(write_color(color) for color in colors)


def _put_first(colors: Sequence[int], first: int) -> list[int]:
    return [first, *(color for color in colors if color != first)]


def _likely_background(census: ColorCensus, colors: Sequence[int]) -> int:
    """The most likely colour of class 0; the smallest if none is likely."""
    edge = max(colors, key=lambda color: int(census.edge[color]))
    return edge if census.edge[edge] > _MOST * census.edge.sum() else min(colors)


def _background_first(census: ColorCensus, colors: Colors) -> tuple[Colors, bool]:
    """Put the background colour first; returns whether there is one.

    It has most of the pixels and of those along image borders, or is black with most along
    borders. Of black and white, it is black, as in grey masks. If of four or more classes none has
    more than half of either, there is no background. Otherwise the user must decide.
    """
    packed = [pack(color) for color in colors]
    if packed == [0, _WHITE]:
        return colors, True
    shares = census.pixels[packed] / max(1, census.pixels[packed].sum())
    edges = census.edge[packed] / max(1, census.edge[packed].sum())
    top, edge = int(shares.argmax()), int(edges.argmax())
    is_most = min(shares[top], edges[edge]) > _MOST or len(colors) < _FEW_CLASSES
    if (top == edge and (is_most or not packed[top])) or (edges[edge] > _MOST and not packed[edge]):
        ordered = _put_first(packed, packed[edge])
        return tuple(unpack(color) for color in ordered), True
    if max(shares[top], edges[edge]) <= _MOST and len(colors) >= _FEW_CLASSES:
        return colors, False
    ordered = _put_first(packed, _likely_background(census, packed))
    shown = ", ".join(
        f"{write_color(color)} has {share:.1%} of the pixels and {at:.1%} of those along image "
        "borders"
        for color, share, at in zip(packed, shares, edges, strict=True)
    )
    raise DataError(
        f"The masks are colour-coded, but the background is not clear: {shown}. Pass the colours, "
        f"background first; if it is {write_color(ordered[0])}: "
        f"--colors {' '.join(_write(ordered))}",
        "which-background",
        flags={"colors": _write(ordered)},
    )


def _require_background(
    census: ColorCensus, names: Sequence[str], colors: Colors, path: Path, ignore: int | None
) -> None:
    """Raise if a legend lacks the colour of most pixels and of most along image borders."""
    edge = int(census.edge.argmax())
    half = _MOST * census.pixels.sum()
    is_void = ignore is not None and edge == ignore * 0x010101
    is_known = match_colors(np.array([edge], np.uint32), colors)[0][0] != IGNORED
    if is_void or is_known or census.pixels[edge] <= half or any(map(is_background, names)):
        return
    listed = _write([edge, *(pack(color) for color in colors)])
    flags = {"colors": listed, "classes": ("background", *names)}
    raise DataError(
        f"{path} has no class for the colour {write_color(edge)} of most mask pixels: "
        f"{census.place(edge)}. If it is the background: --colors {' '.join(listed)}; if these "
        f"pixels are to be ignored: --colors {' '.join(listed[1:])}",
        "which-background",
        flags=flags,
    )


def _any_alike(found: NDArray[np.int64]) -> bool:
    """Whether any two colours, [n] packed, are similar enough to be JPEG artefacts."""
    channels = np.stack([found >> 16, found >> 8 & 255, found & 255])
    apart = np.abs(channels[:, :, None] - channels[:, None]).max(axis=0)
    return bool((apart <= _ALIKE).sum() > len(found))


def _check(colors: Colors, num_classes: int | None) -> None:
    listed = ", ".join(write_color(pack(color)) for color in colors)
    if any(not 0 <= channel <= 255 for color in colors for channel in color):
        raise Error(f"The colours {colors} must be from 0 to 255 in red, green and blue.")
    if len(set(colors)) < len(colors):
        raise Error(f"The colours {listed} must be unique. Pass each once.")
    if not 2 <= len(colors) <= 255:
        raise Error(
            f"The masks have {len(colors)} colours ({listed}), but need 2 to 255. Check the masks, "
            "or pass the colour of each class with --colors."
        )
    if num_classes is not None and num_classes != len(colors):
        raise Error(
            f"There are {num_classes} classes, but {len(colors)} colours ({listed}). Pass one "
            "colour per class, in order, with --colors; others are ignored."
        )


def _require_fit(
    census: ColorCensus, colors: Colors, found: NDArray[np.uint32], exact: NDArray[np.bool_]
) -> None:
    """Raise if masks do not use the legend, such as class ids stored in grey."""
    is_grey = bool((found % 0x010101 == 0).all())
    needs_color = any(len(set(color)) > 1 for color in colors)
    if exact.all() or (exact.any() and not (is_grey and needs_color)):
        return
    if not is_grey and match_colors(found, colors)[1].any():
        return
    commonest = found[np.argsort(-census.pixels[found])[:6]]
    shown = ", ".join(write_color(int(color)) for color in commonest)
    raise DataError(
        f"The masks do not use the colours {_number(colors)}: "
        + (f"they have {len(found)} grey values. " if is_grey else f"they have {shown}. ")
        + "If they hold class ids, remove --colors; else pass their colours.",
        "stray-color",
    )


def _number(colors: Colors) -> str:
    return ", ".join(f"{k} = {write_color(pack(color))}" for k, color in enumerate(colors))


def _share(part: int, total: int) -> str:
    share = part / total
    return f"{share:.2%}" if share >= _RARE else f"{100 * share:.2g}%"
