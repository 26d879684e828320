"""Masks that name classes by colour: from pixels to class ids, and the legend of the colours."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from plainunet.formats.encoded import decoding, read_encoded, turn_upright
from plainunet.formats.images import open_still
from plainunet.formats.legends import Color, Colors, find_legend, is_background
from plainunet.formats.problems import DataError
from plainunet.formats.sources import ImageSource, Page, Source, path_of
from plainunet.formats.tiff import read_tiff

IGNORED = 255
NEAR = 32
"""Largest channel difference at which a colour counts as a damaged one of the legend."""


class ColoredMaskError(DataError):
    """A mask's channels differ: its colours are the classes."""


def colored_mask(path: Source) -> ColoredMaskError:
    """Make the error for a coloured mask where none should be."""
    return ColoredMaskError(
        f"{path} is coloured (3 channels that differ), and which class each colour stands for is "
        "not known. Save the class ids as a grey or palette PNG.",
        "colored-mask",
        [path],
    )


@dataclass
class ColorCensus:
    """Of each colour, its pixels in a set of masks, and the first mask with it, from 1 on.

    `edge` counts those of its pixels that lie along the borders of the masks.
    """

    # zeros take no memory before they are written to
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1 << 24, np.int64))
    edge: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1 << 24, np.int64))
    first: NDArray[np.int32] = field(default_factory=lambda: np.zeros(1 << 24, np.int32))
    paths: list[Source] = field(default_factory=list)

    def add(
        self,
        path: Source,
        found: NDArray[np.uint32],
        counts: NDArray[np.int64],
        edge: NDArray[np.int64] | None = None,
    ) -> None:
        """Count one more mask: its colours [n] uint32, each once, and the pixels of each [n].

        `edge` [n] are those along its borders; left out, the pixels stand for them.
        """
        self.paths.append(path)
        new = found[self.pixels[found] == 0]
        self.first[new] = len(self.paths)
        self.pixels[found] += counts
        self.edge[found] += counts if edge is None else edge

    def place(self, color: int) -> str:
        """Say how often a colour occurs, and where first."""
        path = self.paths[self.first[color] - 1]
        return f"{self.pixels[color]} pixels, first in {path}"


def pack(color: Sequence[int]) -> int:
    """Turn R, G and B, 0..255, into 0xRRGGBB."""
    red, green, blue = color
    return red << 16 | green << 8 | blue


def unpack(color: int) -> Color:
    """Turn 0xRRGGBB into R, G and B, 0..255."""
    return color >> 16, color >> 8 & 255, color & 255


def read_colors(path: Source) -> NDArray[np.uint32]:
    """Read the colours of a mask: [H, W] uint32, 0xRRGGBB, upright.

    Of a palette picture they are the palette's, of a grey one three times the grey value. Alpha
    is left out.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a picture, damaged, cut off, deeper than 8 bits, has several
            pages, or channels that are no colours.
    """
    if not isinstance(path, Path | Page):
        raise DataError(
            f"{path} names its classes, and not by colours. Leave out --colors.", "not-a-mask"
        )
    kind, data = read_encoded(path)
    if kind == "npy":
        raise DataError(
            f"{path}: colours are not read from .npy files. Save the mask as a PNG.", "not-a-mask"
        )
    with decoding(path):
        if kind == "tiff":
            samples, orientation = _tiff_samples(data, path)
        else:
            with open_still(BytesIO(data), kind, path) as (picture, orientation):
                if picture.mode.startswith(("I", "F")) or (kind == "png" and data[24] == 16):
                    raise _too_deep(path)
                # through RGBA where there is alpha, since Pillow warns of leaving it out
                clear = "transparency" in picture.info or picture.mode.endswith(("A", "a"))
                samples = np.asarray(picture.convert("RGBA" if clear else "RGB"))
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
            f"{path} has {samples.shape[-1]} channels; a colour has three.", "not-a-mask"
        )
    return samples, tiff.orientation


def _too_deep(path: ImageSource) -> ValueError:
    return DataError(
        f"{path} holds more than 8 bits in a channel, in a set of masks that name classes by "
        "colour. Save it as RGB in 8 bits.",
        "not-a-mask",
    )


def count_runs(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Cut an array into runs of one value, row by row: the value and the length of each."""
    flat = values.ravel()
    starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1])))
    return flat[starts], np.diff(starts, append=flat.size)


def count_colors(
    path: Source,
) -> tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.int64]]:
    """Count a mask's colours: [n] uint32, ascending, the pixels of each and those at borders."""
    colors = read_colors(path)
    values, lengths = count_runs(colors)
    found, places = np.unique(values, return_inverse=True)
    edge = np.concatenate([colors[0], colors[-1], colors[1:-1, 0], colors[1:-1, -1]])
    at_edge = np.bincount(np.searchsorted(found, edge), minlength=len(found))
    return found, np.bincount(places, weights=lengths).astype(np.int64), at_edge.astype(np.int64)


def match_colors(
    found: NDArray[np.uint32], colors: Colors, ignore: int | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Give colours, [n] uint32, their classes.

    A colour outside the legend is taken for the one that is within `NEAR` of it in every
    channel, if there is exactly one: smoothing and JPEG move colours that far. `ignore` is the
    grey value of pixels that belong to no class. Returns class ids [n] uint8, 255 where there is
    none, and [n] bool, whether a colour was taken for one near it.
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
    """Turn packed colours [H, W] into class ids [H, W] uint8, 255 where ignored."""
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
"""Background is what more of the pixels have, and more of those along the borders."""
_FEW_CLASSES = 4
"""From so many on, none of them most, there may be no background: land cover, streets."""


class ColorMeaning(NamedTuple):
    """What the colours mean: each class's colour, its pixels [K] int64, notes, and names."""

    colors: Colors
    pixels: NDArray[np.int64]
    notes: list[str]
    names: tuple[str, ...] = ()


def find_meaning(
    census: ColorCensus, colors: Colors, num_classes: int | None, ignore: int | None
) -> ColorMeaning:
    """Tell what the colours of a set of masks mean.

    Without a legend, given or in a file beside the masks, at most 64 colours, each of at least
    0.01% of the pixels and more than 8 apart in some channel, are the classes: the background's
    first, the others sorted by red, green and blue. `colors` is empty, `num_classes` and `ignore`
    are None where nothing is given. The notes say where the legend comes from, which share of the
    pixels was moved to a near colour of it, and which share belongs to no class.

    Raises:
        ValueError: There is no legend and the colours are too many or too rare, the legend
            does not fit the masks, or K is another number.
    """
    notes = []
    names: tuple[str, ...] = ()
    if not colors:
        if legend := find_legend(census.paths, lambda each: bool(each.colors)):
            origin = f"from {legend.path}"
            _, names, colors, *_ = legend.without(ignore)
            _require_background(census, names, colors, legend.path, ignore)
        else:
            colors, has_ground = _background_first(census, _find_colors(census, ignore))
            ground = "the background's first, the others " if has_ground else ""
            origin = f"found in the masks, {ground}sorted (another order: --colors)"
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
            f"{_share(lost, pixels.sum())} of the mask pixels have no class's colour, since JPEG "
            "changes colours. Save the masks as PNG; or give the colours with --colors, and these "
            "pixels are ignored.",
            "lossy-mask",
            lossy,
        )
    classes = np.bincount(ids[known], pixels[known], len(colors)).astype(np.int64)
    _require_fit(census, colors, found, known & ~moved)
    notes += _describe(census, found, known, moved, ignore)
    if missing := [class_id for class_id, count in enumerate(classes) if count == 0]:
        said = ", ".join(f"{k} ({write_color(pack(colors[k]))})" for k in missing)
        notes.append(f"note: no mask has a pixel of class {said}")
    return ColorMeaning(colors, classes, notes, names)


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
            f"note: {_share(pixels[moved].sum(), total)} of the mask pixels are of colours up to "
            f"{NEAR} beside one of the legend, and are taken for it"
        )
    void_colors = found[~known]
    if ignore is not None:
        void_colors = void_colors[void_colors != ignore * 0x010101]
    if len(void_colors):
        commonest = int(void_colors[census.pixels[void_colors].argmax()])
        yield (
            f"note: {_share(census.pixels[void_colors].sum(), total)} of the mask pixels are of "
            f"colours outside the legend, and are ignored; the commonest is "
            f"{write_color(commonest)}: {census.place(commonest)}"
        )


def write_color(color: int) -> str:
    """Write a colour as --colors takes it: 0x8429F6 as 8429F6."""
    return f"{color:06X}"


def _find_colors(census: ColorCensus, ignore: int | None) -> Colors:
    found = np.flatnonzero(census.pixels)
    if ignore is not None:
        found = found[found != ignore * 0x010101]
    total = census.pixels.sum()
    common = found[census.pixels[found] >= _RARE * total]
    if len(found) <= _MOST_COLORS and len(common) == len(found) and not _any_alike(found):
        return tuple(unpack(int(color)) for color in found)
    by_pixels = sorted(common.tolist(), key=lambda color: -int(census.pixels[color]))
    thin = _thin_colors(census)
    apart: list[int] = []  # without those that smoothing or JPEG made of others
    for color in by_pixels:
        near = match_colors(np.array(apart, np.uint32), (unpack(color),))[1]
        blend = color in thin and _is_between(color, apart)
        if len(apart) < _MOST_COLORS and not near.any() and not blend:
            apart.append(color)
    rare = int(found[census.pixels[found].argmin()])
    said = (
        f"The masks name classes by colour, and hold {len(found)} colours: too many for classes, "
        f"too rare or too alike (up to {_MOST_COLORS} would be taken, each of at least {_RARE:.2%} "
        f"of the pixels and more than {_ALIKE} apart in red, green or blue; {write_color(rare)} "
        f"has {census.place(rare)})."
    )
    file = [census.paths[census.first[rare] - 1]]
    if len(apart) < 2:
        raise DataError(f"{said} Are they photographs? Name the masks' folder.", "not-a-mask")
    shown = ", ".join(
        f"{write_color(color)} ({_share(census.pixels[color], total)})" for color in by_pixels[:12]
    )
    classes = _write(_put_first(sorted(apart), _likely_background(census, apart)))
    raise DataError(
        f"{said} The commonest: {shown}. Say which colours are classes, the background's first, "
        f"such as --colors {' '.join(classes)}; others are taken for the one they are near, or "
        "ignored. Where those are smoothed edges, masks exported without anti-aliasing keep them.",
        "stray-color",
        file,
        flags={"colors": classes},
    )


def _thin_colors(census: ColorCensus) -> set[int]:
    """List the colours that hardly ever fill a square of 2 x 2 pixels, in some of the masks."""
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
    """Tell whether a colour lies between two others, as those of smoothed edges do."""
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
    """The colour that class 0 is likeliest to have; the smallest where none is likely."""
    edge = max(colors, key=lambda color: int(census.edge[color]))
    return edge if census.edge[edge] > _MOST * census.edge.sum() else min(colors)


def _background_first(census: ColorCensus, colors: Colors) -> tuple[Colors, bool]:
    """Put the background's colour first, and tell whether there is any.

    It is the colour of most pixels and of most along the borders, or black where it has most of
    the borders. Four and more classes, none of which has more than half of either, have no
    background. In between, only the user knows.
    """
    packed = [pack(color) for color in colors]
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
    said = ", ".join(
        f"{write_color(color)} has {share:.1%} of the pixels and {at:.1%} of those along the "
        "borders"
        for color, share, at in zip(packed, shares, edges, strict=True)
    )
    raise DataError(
        "The masks name classes by colour, and which of the colours is the background is not "
        f"clear: {said}. Give the colours with the background's first; if it is "
        f"{write_color(ordered[0])}: --colors {' '.join(_write(ordered))}",
        "which-background",
        flags={"colors": _write(ordered)},
    )


def _require_background(
    census: ColorCensus, names: Sequence[str], colors: Colors, path: Path, ignore: int | None
) -> None:
    """Ask where a legend leaves out the colour that most pixels and most borders have."""
    edge = int(census.edge.argmax())
    half = _MOST * census.pixels.sum()
    is_void = ignore is not None and edge == ignore * 0x010101
    is_known = match_colors(np.array([edge], np.uint32), colors)[0][0] != IGNORED
    if is_void or is_known or census.pixels[edge] <= half or any(map(is_background, names)):
        return
    said = _write([edge, *(pack(color) for color in colors)])
    flags = {"colors": said, "classes": ("background", *names)}
    raise DataError(
        f"{path} has no class of the colour {write_color(edge)}, which most of the mask pixels are "
        f"of: {census.place(edge)}. If it is the background: --colors {' '.join(said)}; if these "
        f"pixels belong to no class: --colors {' '.join(said[1:])}",
        "which-background",
        flags=flags,
    )


def _any_alike(found: NDArray[np.int64]) -> bool:
    """Tell whether any two colours, [n] packed, look like one that JPEG has damaged."""
    channels = np.stack([found >> 16, found >> 8 & 255, found & 255])
    apart = np.abs(channels[:, :, None] - channels[:, None]).max(axis=0)
    return bool((apart <= _ALIKE).sum() > len(found))


def _check(colors: Colors, num_classes: int | None) -> None:
    listed = ", ".join(write_color(pack(color)) for color in colors)
    if any(not 0 <= channel <= 255 for color in colors for channel in color):
        raise ValueError(f"The colours {colors}: red, green and blue are from 0 to 255.")
    if len(set(colors)) < len(colors):
        raise ValueError(f"The colours {listed}: one is there twice. Name each class's once.")
    if not 2 <= len(colors) <= 255:
        raise ValueError(
            f"The masks' classes have {len(colors)} colours ({listed}); 2 to 255 classes can be "
            "learnt. Check the masks, or name the colour of each class (--colors)."
        )
    if num_classes is not None and num_classes != len(colors):
        raise ValueError(
            f"There are {num_classes} classes, but {len(colors)} colours ({listed}). Name the "
            "colour of each class, in their order (--colors); others are ignored."
        )


def _require_fit(
    census: ColorCensus, colors: Colors, found: NDArray[np.uint32], exact: NDArray[np.bool_]
) -> None:
    """Refuse a legend for masks that do not use it, such as class ids stored in grey."""
    is_grey = bool((found % 0x010101 == 0).all())
    needs_color = any(len(set(color)) > 1 for color in colors)
    if exact.all() or (exact.any() and not (is_grey and needs_color)):
        return
    if not is_grey and match_colors(found, colors)[1].any():
        return
    commonest = found[np.argsort(-census.pixels[found])[:6]]
    shown = ", ".join(write_color(int(color)) for color in commonest)
    raise DataError(
        f"The masks do not name classes by the colours {_number(colors)}: "
        + (f"they hold {len(found)} grey values. " if is_grey else f"they hold {shown}. ")
        + "If they hold class ids, leave out --colors; else give the colours that they have.",
        "stray-color",
    )


def _number(colors: Colors) -> str:
    return ", ".join(f"{k} = {write_color(pack(color))}" for k, color in enumerate(colors))


def _share(part: int, total: int) -> str:
    share = part / total
    return f"{share:.2%}" if share >= _RARE else f"{100 * share:.2g}%"
