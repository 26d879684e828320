"""Masks on disk -> class ids, and what their values mean.

In: mask files of a whole data set. Out: one `MaskCoding` that says which stored value or
colour is which class, and how many pixels each class has. Limitations: one class per pixel.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from os import cpu_count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from plainunet.data.arrays import read_mask_array
from plainunet.data.colors import (
    IGNORED,
    ColorCensus,
    ColoredMaskError,
    Colors,
    count_colors,
    count_runs,
    encode_colors,
    read_colors,
)
from plainunet.data.encoded import decoding, png_chunks, read_encoded
from plainunet.data.images import find_orientation, require_one_frame, turn_upright
from plainunet.data.legend import find_meaning
from plainunet.data.tiff import read_tiff
from plainunet.data.values import Census, find_values, list_values


def read_mask(path: Path) -> NDArray[Any]:
    """Read the values of a mask as they are stored.

    Args:
        path: The file.

    Returns:
        [H, W] uint8 or uint16, upright: indices of a palette, 0/1 of a 1-bit picture, or grey
        values; of a grey picture stored as RGB(A), the one value that all colours share.

    Raises:
        FileNotFoundError: There is no such file.
        ColoredMaskError: Its colours differ.
        ValueError: It is not a picture, damaged, cut off, or has several pages.
    """
    kind, data = read_encoded(path)
    with decoding(path):
        if kind == "tiff":
            tiff = read_tiff(BytesIO(data), path)
            samples, orientation = tiff.samples, tiff.orientation
        elif kind == "npy":
            samples, orientation = read_mask_array(BytesIO(data), path), 1
        else:
            has_exif = kind != "png" or b"eXIf" in png_chunks(BytesIO(data))
            with Image.open(BytesIO(data)) as picture:
                require_one_frame(picture, path)
                orientation = find_orientation(picture) if has_exif else 1
                samples = _stored_values(picture, path)
    mask = _one_channel(samples, path)
    if mask.dtype.kind in "fi" and mask.min() >= 0 and (mask == np.rint(mask)).all():
        mask = mask.astype(np.uint16) if mask.max() < 65536 else mask
    if mask.dtype in (np.uint32, np.uint64) and mask.max() < 65536:
        mask = mask.astype(np.uint16)
    if mask.dtype not in (np.bool_, np.uint8, np.uint16):
        raise ValueError(
            f"{path} holds {mask.dtype} values from {mask.min()} to {mask.max()}; a mask holds "
            "whole numbers from 0 to 65535. Save it as an 8-bit or 16-bit PNG."
        )
    return turn_upright(mask.astype(np.uint8) if mask.dtype == np.bool_ else mask, orientation)


def _stored_values(picture: ImageFile.ImageFile, path: Path) -> NDArray[Any]:
    raw_mode = str(picture.tile[0].args) if picture.format == "PNG" else ""
    if picture.mode != "I;16" and "16" in raw_mode:
        raise ValueError(f"{path} is coloured in 16 bits. Save the class ids as a grey PNG.")
    # grey PNGs of 2 and 4 bits are spread over 0..255 on reading, where ids get lost
    spread = {"L;2": 85, "L;4": 17}.get(raw_mode, 1)
    samples = np.asarray(picture)
    return samples // samples.dtype.type(spread) if spread > 1 else samples


def _one_channel(samples: NDArray[Any], path: Path) -> NDArray[Any]:
    if samples.ndim == 2:
        return samples
    if samples.shape[-1] in (2, 4):
        samples = samples[..., :-1]
    first = samples[..., 0]
    if samples.shape[-1] not in (1, 3) or (samples != first[..., None]).any():
        raise (ColoredMaskError if samples.shape[-1] == 3 else ValueError)(
            f"{path} is coloured ({samples.shape[-1]} channels that differ), and which class "
            "each colour stands for is not known. Save the class ids as a grey or palette PNG."
        )
    return first


@dataclass(frozen=True)
class MaskCoding:
    """Which stored value or colour is which class.

    Attributes:
        values: The value of class 0, of class 1, and so on; for "instances", (0, 1), where
            1 stands for everything above 0; for "colors", the class ids themselves.
        ignore: The value of pixels that belong to no class, or None; for "colors", a grey.
        kind: "ids", "two values", "instances" or "colors".
        colors: For "colors", R, G and B of class 0, of class 1, and so on.
    """

    values: tuple[int, ...]
    ignore: int | None
    kind: str
    colors: Colors = ()

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.values)

    def read(self, path: Path) -> NDArray[np.uint8]:
        """Read the class ids of a mask.

        Args:
            path: The file.

        Returns:
            [H, W] uint8: 0..K-1, or 255 where ignored.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It cannot be read, or holds a value that is no class's.
        """
        return self.encode(self.read_stored(path), path)

    def read_stored(self, path: Path) -> NDArray[Any]:
        """Read what `encode` turns into class ids.

        Args:
            path: The file.

        Returns:
            [H, W]: the stored values as by `read_mask`; for "colors", as by `read_colors`.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It cannot be read.
        """
        return read_colors(path) if self.kind == "colors" else read_mask(path)

    def encode(self, mask: NDArray[Any], path: Path | None = None) -> NDArray[np.uint8]:
        """Turn stored values into class ids.

        Args:
            mask: [H, W] uint8 or uint16, or uint32 for "colors", as from `read_stored`.
            path: The mask's file, for the message.

        Returns:
            [H, W] uint8: 0..K-1, or 255 where ignored.

        Raises:
            ValueError: The mask holds a value that is no class's. Colours that are no class's
                are ignored.
        """
        if self.kind == "colors":
            return encode_colors(mask, self.colors, self.ignore)
        table = _table(self, 256 if mask.dtype == np.uint8 else 65536)
        ids = table[mask]
        if ids.min(initial=0) < 0:
            value = int(mask[ids < 0].min())
            prefix = "the mask" if path is None else str(path)
            raise ValueError(
                f"{prefix} has {int((mask == value).sum())} pixels of value {value}; known are "
                f"{list_values(self.values)}"
                + ("" if self.ignore is None else f", and {self.ignore} to be ignored")
                + f". Replace {value} in it by one of these."
            )
        encoded: NDArray[np.uint8] = ids.astype(np.uint8)
        return encoded


@lru_cache(maxsize=8)
def _table(coding: MaskCoding, size: int) -> NDArray[np.int16]:
    table = np.full(size, -1, np.int16)
    if coding.kind == "instances":
        table[:] = 1
    for class_id, value in enumerate(coding.values):
        if value < size:
            table[value] = class_id
    if coding.ignore is not None and coding.ignore < size:
        table[coding.ignore] = IGNORED
    return table


def understand_masks(
    paths: Sequence[Path],
    num_classes: int | None = None,
    ignore: int | None = None,
    colors: Colors = (),
    on_note: Callable[[str], None] = lambda note: None,
) -> tuple[MaskCoding, NDArray[np.int64]]:
    """Look at every mask of a data set, and tell what their values or colours mean.

    Masks are read by their colours if these are given, or if the channels of any of them
    differ; else by their values, palette pictures by their indices.

    Args:
        paths: The masks; every one of them is read, several at a time.
        num_classes: Number of classes K, where it is known.
        ignore: The value of pixels that belong to no class, where it is known; of colours,
            the grey of that value.
        colors: R, G and B of each class, in their order, where they are known.
        on_note: Told what a user should know: which colours were taken for which class, which
            share of the pixels was moved to a near colour, and which is ignored.

    Returns:
        The coding, and the pixels of each class, [K] int64.

    Raises:
        FileNotFoundError: A mask is missing.
        ValueError: A mask cannot be read, or the values or colours make no sense together; see
            `find_values` and `find_meaning`.
    """
    if not colors:
        try:
            return _understand_values(paths, num_classes, ignore)
        except ColoredMaskError:
            pass
    census = ColorCensus()
    with _threads() as pool:
        for path, (found, counts) in zip(paths, pool.map(count_colors, paths), strict=True):
            census.add(path, found, counts)
    meaning = find_meaning(census, colors, num_classes, ignore)
    for note in meaning.notes:
        on_note(note)
    values = tuple(range(len(meaning.colors)))
    return MaskCoding(values, ignore, "colors", meaning.colors), meaning.pixels


def _understand_values(
    paths: Sequence[Path], num_classes: int | None, ignore: int | None
) -> tuple[MaskCoding, NDArray[np.int64]]:
    census = Census()
    with _threads() as pool:
        for path, (counts, is_deep) in zip(paths, pool.map(_count_values, paths), strict=True):
            census.add(path, counts, is_deep)
    meaning = find_values(census, num_classes, ignore)
    coding = MaskCoding(meaning.values, meaning.ignore, meaning.kind)
    class_pixels = census.pixels[list(coding.values)]
    if coding.kind == "instances":
        left_out = 0 if coding.ignore is None else census.pixels[coding.ignore]
        class_pixels[1] = census.pixels.sum() - class_pixels[0] - left_out
    return coding, class_pixels


def _threads() -> ThreadPoolExecutor:
    # codecs let go of the interpreter while they decode, so threads are enough
    return ThreadPoolExecutor(min(8, cpu_count() or 1))


def _count_values(path: Path) -> tuple[NDArray[np.int64], bool]:
    mask = read_mask(path)
    values, lengths = count_runs(mask)
    counts = np.bincount(values, weights=lengths).astype(np.int64)
    return counts, mask.dtype == np.uint16
