"""Masks that name classes by colour: from pixels to class ids.

In: RGB, grey and palette pictures, and the colour of each class. Out: class ids, and how often
each colour occurs in a set. A colour is packed into one integer, 0xRRGGBB, so that all pixels
can be looked at quickly. Limitations: 8 bits; alpha does not count.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plainunet.data.codecs.encoded import decoding, read_encoded
from plainunet.data.codecs.orientation import turn_upright
from plainunet.data.codecs.tiff import read_tiff
from plainunet.data.images import open_still
from plainunet.data.problems import DataError

Color = tuple[int, int, int]
Colors = tuple[Color, ...]

IGNORED = 255
NEAR = 32
"""Largest channel difference at which a colour counts as a damaged one of the legend."""


class ColoredMaskError(DataError):
    """A mask's channels differ: its colours are the classes."""


def colored_mask(path: Path) -> ColoredMaskError:
    """Make the error for a mask that is coloured, where none should be.

    Args:
        path: Its file.

    Returns:
        The error, to be raised.
    """
    return ColoredMaskError(
        f"{path} is coloured (3 channels that differ), and which class each colour stands for is "
        "not known. Save the class ids as a grey or palette PNG.",
        "colored-mask",
        [path],
    )


@dataclass
class ColorCensus:
    """How often each colour occurs in a set of masks.

    Attributes:
        pixels: [2^24] int64, pixels of each colour.
        first: [2^24] int32, the first mask in which it occurs, from 1 on.
        paths: The masks.
    """

    # zeros take no memory before they are written to
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1 << 24, np.int64))
    first: NDArray[np.int32] = field(default_factory=lambda: np.zeros(1 << 24, np.int32))
    paths: list[Path] = field(default_factory=list)

    def add(self, path: Path, found: NDArray[np.uint32], counts: NDArray[np.int64]) -> None:
        """Count one more mask.

        Args:
            path: Its file.
            found: [n] uint32, its colours, each once.
            counts: [n] int64, the pixels of each.
        """
        self.paths.append(path)
        new = found[self.pixels[found] == 0]
        self.first[new] = len(self.paths)
        self.pixels[found] += counts

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


def read_colors(path: Path) -> NDArray[np.uint32]:
    """Read the colours of a mask.

    Args:
        path: The file.

    Returns:
        [H, W] uint32, 0xRRGGBB, upright: of a palette picture the palette's colours, of a grey
        one three times the grey value. Alpha is left out.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a picture, damaged, cut off, deeper than 8 bits, has several
            pages, or channels that are no colours.
    """
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


def _tiff_samples(data: bytes, path: Path) -> tuple[NDArray[np.uint8], int]:
    tiff = read_tiff(BytesIO(data), path)
    samples = tiff.samples
    if tiff.palette is not None:
        # TIFF keeps palettes in 16 bits; the high byte is the 8-bit colour
        samples = (tiff.palette >> 8).astype(np.uint8)[samples[..., 0]]
    if samples.dtype == np.bool_:
        samples = samples * np.uint8(255)
    if samples.dtype != np.uint8:
        raise _too_deep(path)
    if samples.shape[-1] not in (1, 3):
        raise DataError(
            f"{path} has {samples.shape[-1]} channels; a colour has three.", "not-a-mask"
        )
    return samples, tiff.orientation


def _too_deep(path: Path) -> ValueError:
    return DataError(
        f"{path} holds more than 8 bits in a channel, in a set of masks that name classes by "
        "colour. Save it as RGB in 8 bits.",
        "not-a-mask",
    )


def count_runs(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Cut an array into runs of one value; masks are long ones, so this saves nine tenths.

    Args:
        values: Any shape, not empty.

    Returns:
        The value and the length of each run, row by row.
    """
    flat = values.ravel()
    starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1])))
    return flat[starts], np.diff(starts, append=flat.size)


def count_colors(path: Path) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Count the pixels of each colour of a mask.

    Args:
        path: The file.

    Returns:
        Its colours [n] uint32, ascending, and the pixels of each [n] int64.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read; see `read_colors`.
    """
    values, lengths = count_runs(read_colors(path))
    found, places = np.unique(values, return_inverse=True)
    return found, np.bincount(places, weights=lengths).astype(np.int64)


def match_colors(
    found: NDArray[np.uint32], colors: Colors, ignore: int | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Give colours their classes.

    A colour outside the legend is taken for the one that is within `NEAR` of it in every
    channel, if there is exactly one: smoothing and JPEG move colours that far.

    Args:
        found: [n] uint32, any colours.
        colors: The legend, in the order of the classes.
        ignore: The grey value of pixels that belong to no class, or None.

    Returns:
        Class ids [n] uint8, 255 where there is none, and [n] bool, whether the colour is
        outside the legend and was taken for the one near it.
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
    """Turn the colours of a mask into class ids.

    Args:
        packed: [H, W] uint32, as from `read_colors`.
        colors: The legend, in the order of the classes.
        ignore: The grey value of pixels that belong to no class, or None.

    Returns:
        [H, W] uint8: class ids, 255 where ignored; see `match_colors`.
    """
    values, lengths = count_runs(packed)
    found, places = np.unique(values, return_inverse=True)
    ids = match_colors(found, colors, ignore)[0][places]
    return np.repeat(ids, lengths).reshape(packed.shape)
