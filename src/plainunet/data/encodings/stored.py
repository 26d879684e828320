"""A mask on disk -> the numbers that it holds.

In: a path. Out: one number for each pixel, as stored; what it means is for `masks` to tell.
"""

from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFile

from plainunet.data.codecs.arrays import read_mask_array
from plainunet.data.codecs.encoded import decoding, read_encoded
from plainunet.data.codecs.orientation import turn_upright
from plainunet.data.codecs.tiff import read_tiff
from plainunet.data.encodings import classfiles, coco, rle
from plainunet.data.encodings.colors import colored_mask
from plainunet.data.images import image_size, open_still
from plainunet.data.places import Place, class_files, find_place
from plainunet.data.problems import DataError

_KINDS = {".json": coco, ".csv": rle}


def read_mask(path: Path) -> NDArray[Any]:
    """Read the values of a mask as they are stored.

    Args:
        path: The file, or what `places` says that a path may name.

    Returns:
        [H, W] uint8 or uint16, upright: indices of a palette, 0/1 of a 1-bit picture, or grey
        values; of a grey picture stored as RGB(A), the one value that all colours share. Of an
        item or of a file for each class: 0 where there is no class, else its number from 1.

    Raises:
        FileNotFoundError: There is no such file.
        ColoredMaskError: Its colours differ.
        ValueError: It is not a picture, damaged, cut off, has several pages, or its classes
            overlap.
    """
    place, kind = _find_item(path)
    if place is not None:
        ids: NDArray[np.uint8] = kind.read_ids(place, path)
        return ids
    files = _find_classes(path)
    return classfiles.read_ids(files, path, _read_file) if files else _read_file(path)


def _find_item(path: Path) -> tuple[Place | None, ModuleType]:
    """The item that a path names of a COCO file or a list of codes, and what reads it."""
    place = find_place(path)
    kind = None if place is None else _KINDS.get(place.file.suffix.lower())
    return (None, coco) if kind is None else (place, kind)


def _find_classes(path: Path) -> dict[str, Path]:
    """The files of the classes that a path names; none where it names a file of its own."""
    files = class_files(path)
    return {} if files and path.exists() else files


def _read_file(path: Path) -> NDArray[Any]:
    kind, data = read_encoded(path)
    with decoding(path):
        if kind == "tiff":
            tiff = read_tiff(BytesIO(data), path)
            samples, orientation = tiff.samples, tiff.orientation
        elif kind == "npy":
            samples, orientation = read_mask_array(BytesIO(data), path), 1
        else:
            with open_still(BytesIO(data), kind, path) as (picture, orientation):
                samples = _stored_values(picture, path)
    mask = _one_channel(samples, path)
    if mask.dtype.kind in "fi" and mask.min() >= 0 and (mask == np.rint(mask)).all():
        mask = mask.astype(np.uint16) if mask.max() < 65536 else mask
    if mask.dtype in (np.uint32, np.uint64) and mask.max() < 65536:
        mask = mask.astype(np.uint16)
    if mask.dtype not in (np.bool_, np.uint8, np.uint16):
        raise DataError(
            f"{path} holds {mask.dtype} values from {mask.min()} to {mask.max()}; a mask holds "
            "whole numbers from 0 to 65535. Save it as an 8-bit or 16-bit PNG.",
            "not-a-mask",
        )
    return turn_upright(mask.astype(np.uint8) if mask.dtype == np.bool_ else mask, orientation)


def mask_size(path: Path) -> tuple[int, int]:
    """Read a mask's size without its pixels, and see that its files are whole.

    Args:
        path: As for `read_mask`.

    Returns:
        Height and width, upright [pixels].

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a picture, damaged, cut off, or a class's file has another size.
    """
    place, kind = _find_item(path)
    if place is not None:
        height, width = kind.item_size(place, path)
        return height, width
    files = _find_classes(path)
    return classfiles.common_size(files, path, _file_size) if files else _file_size(path)


def _file_size(path: Path) -> tuple[int, int]:
    read_encoded(path)
    return image_size(path)


def stored_names(path: Path) -> tuple[str, ...]:
    """List the names of the classes where a mask's own path or file has them.

    Args:
        path: As for `read_mask`.

    Returns:
        The names in the order of the class ids, the background's first; empty where there
        are none.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be read.
    """
    place, kind = _find_item(path)
    if place is not None:
        return tuple(kind.class_names(place.file))
    return classfiles.class_names(tuple(_find_classes(path)))


def _stored_values(picture: ImageFile.ImageFile, path: Path) -> NDArray[Any]:
    raw_mode = str(picture.tile[0].args) if picture.format == "PNG" else ""
    if picture.mode != "I;16" and "16" in raw_mode:
        raise DataError(
            f"{path} is coloured in 16 bits. Save the class ids as a grey PNG.", "not-a-mask"
        )
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
        if samples.shape[-1] == 3:
            raise colored_mask(path)
        raise DataError(
            f"{path} has {samples.shape[-1]} channels that differ; a mask has one. Save the class "
            "ids as a grey or palette PNG.",
            "not-a-mask",
            [path],
        )
    return first
