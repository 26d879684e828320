"""Masks on disk -> class ids, and what their values mean.

In: mask files of a whole data set. Out: one `MaskCoding` that says which stored value is
which class, and how many pixels each class has. Limitations: one class per pixel, stored as
a number; masks that name classes by colour are refused.
"""

from collections.abc import Sequence
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

from plainunet.data.encoded import decoding, png_chunks, read_encoded
from plainunet.data.images import find_orientation, require_one_frame, turn_upright
from plainunet.data.tiff import read_tiff
from plainunet.data.values import Census, find_values, list_values

IGNORED = 255


def read_mask(path: Path) -> NDArray[Any]:
    """Read the values of a mask as they are stored.

    Args:
        path: The file.

    Returns:
        [H, W] uint8 or uint16, upright: indices of a palette, 0/1 of a 1-bit picture, or grey
        values; of a grey picture stored as RGB(A), the one value that all colours share.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a picture, damaged, cut off, coloured, or has several pages.
    """
    kind, data = read_encoded(path)
    with decoding(path):
        if kind == "tiff":
            tiff = read_tiff(BytesIO(data), path)
            samples, orientation = tiff.samples, tiff.orientation
        else:
            has_exif = kind != "png" or b"eXIf" in png_chunks(BytesIO(data))
            with Image.open(BytesIO(data)) as picture:
                require_one_frame(picture, path)
                orientation = find_orientation(picture) if has_exif else 1
                samples = _stored_values(picture, path)
    mask = _one_channel(samples, path)
    if mask.dtype.kind in "fi" and mask.min() >= 0 and (mask == np.rint(mask)).all():
        mask = mask.astype(np.uint16) if mask.max() < 65536 else mask
    if mask.dtype == np.uint32 and mask.max() < 65536:
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
        raise ValueError(
            f"{path} is coloured ({samples.shape[-1]} channels that differ), and which class "
            "each colour stands for is not known. Save the class ids as a grey or palette PNG."
        )
    return first


@dataclass(frozen=True)
class MaskCoding:
    """Which stored value is which class.

    Attributes:
        values: The value of class 0, of class 1, and so on; for "instances", (0, 1), where
            1 stands for everything above 0.
        ignore: The value of pixels that belong to no class, or None.
        kind: "ids", "two values" or "instances".
    """

    values: tuple[int, ...]
    ignore: int | None
    kind: str

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.values)

    def encode(self, mask: NDArray[Any], path: Path | None = None) -> NDArray[np.uint8]:
        """Turn stored values into class ids.

        Args:
            mask: [H, W] uint8 or uint16, as from `read_mask`.
            path: The mask's file, for the message.

        Returns:
            [H, W] uint8: 0..K-1, or 255 where ignored.

        Raises:
            ValueError: The mask holds a value that is no class's.
        """
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
    paths: Sequence[Path], num_classes: int | None = None, ignore: int | None = None
) -> tuple[MaskCoding, NDArray[np.int64]]:
    """Look at every mask of a data set, and tell what their values mean.

    Args:
        paths: The masks; every one of them is read, several at a time.
        num_classes: Number of classes K, where it is known.
        ignore: The value of pixels that belong to no class, where it is known.

    Returns:
        The coding, and the pixels of each class, [K] int64.

    Raises:
        FileNotFoundError: A mask is missing.
        ValueError: A mask cannot be read, or the values make no sense together; see
            `find_values`.
    """
    census = Census()
    # codecs let go of the interpreter while they decode, so threads are enough
    with ThreadPoolExecutor(min(8, cpu_count() or 1)) as pool:
        for path, (counts, is_deep) in zip(paths, pool.map(_count_values, paths), strict=True):
            census.add(path, counts, is_deep)
    meaning = find_values(census, num_classes, ignore)
    coding = MaskCoding(meaning.values, meaning.ignore, meaning.kind)
    class_pixels = census.pixels[list(coding.values)]
    if coding.kind == "instances":
        left_out = 0 if coding.ignore is None else census.pixels[coding.ignore]
        class_pixels[1] = census.pixels.sum() - class_pixels[0] - left_out
    return coding, class_pixels


def _count_values(path: Path) -> tuple[NDArray[np.int64], bool]:
    mask = read_mask(path)
    flat = mask.ravel()
    # masks are long runs of one value, so counting runs takes a tenth of counting pixels
    starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1])))
    lengths = np.diff(starts, append=flat.size)
    counts = np.bincount(flat[starts], weights=lengths).astype(np.int64)
    return counts, mask.dtype == np.uint16
