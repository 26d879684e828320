"""One picture or mask in a NumPy file (.npy).

In: a file. Out: its samples, [H, W, C], in the machine's byte order. Nothing in the file is
ever executed: arrays of Python objects are refused. A file of several arrays (.npz) is not
read.
"""

from math import prod
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from plainunet.data.codecs.encoded import cut_off
from plainunet.data.problems import DataError

_MOST_LEADING_CHANNELS = 32


def read_array(file: BinaryIO, path: Path) -> NDArray[Any]:
    """Read the array of a .npy file.

    Args:
        file: The file, open; it is read from its beginning.
        path: Its path, for messages.

    Returns:
        [H, W, C], C >= 1: bool, integers or floats as stored, in the machine's byte order,
        whichever order of bytes and axes the file has; contiguous.

    Raises:
        ValueError: As `array_shape`.
    """
    shape, is_fortran, dtype = _header(file, path)
    array = np.frombuffer(file.read(prod(shape) * dtype.itemsize), dtype)
    array = array.reshape(shape, order="F" if is_fortran else "C")
    return np.ascontiguousarray(array.reshape(*shape[:2], -1), dtype.newbyteorder("="))


def read_mask_array(file: BinaryIO, path: Path) -> NDArray[Any]:
    """Read the array of a .npy file that holds a mask.

    Args:
        file: The file, open; it is read from its beginning.
        path: Its path, for messages.

    Returns:
        [H, W], as of `read_array`.

    Raises:
        ValueError: As `array_shape`, or it has several channels.
    """
    array = read_array(file, path)
    if array.shape[2] != 1:
        raise DataError(
            f"{path} has {array.shape[2]} channels; a mask is [H, W], one class id per pixel. If "
            "each channel stands for a class, save `np.argmax(mask, axis=-1).astype(np.uint8)`.",
            "not-a-mask",
        )
    return array[..., 0]


def array_shape(file: BinaryIO, path: Path) -> tuple[int, int, int]:
    """Read the shape of a .npy file from its header, and see that the file is whole.

    Args:
        file: The file, open; it is read from its beginning.
        path: Its path, for messages.

    Returns:
        Height, width and channels.

    Raises:
        ValueError: The header is damaged, the file is cut off, it holds no numbers or no
            pixels, it is neither [H, W] nor [H, W, C], or it seems to be [C, H, W].
    """
    height, width, *channels = _header(file, path)[0]
    return height, width, channels[0] if channels else 1


def _header(file: BinaryIO, path: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    size = file.seek(0, 2)
    file.seek(0)
    # the third version differs in the names of fields, which pictures do not have
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(file)
    if version not in readers:
        raise DataError(
            f"{path} is a .npy file of version {version[0]}.{version[1]}, which cannot be read. "
            "Save the array with named fields taken apart: `np.save(path, array)`.",
            "damaged",
        )
    try:
        shape, is_fortran, dtype = readers[version](file)
    except TokenError:
        raise ValueError("the header makes no sense") from None
    if dtype.kind not in "buif":
        what = "Python objects" if dtype.hasobject else f"values of type {dtype}"
        raise DataError(
            f"{path} holds {what}, not plain numbers. Save it again as numbers: "
            "`np.save(path, array.astype(np.uint8))`, or uint16 or float32.",
            "unusable-values",
        )
    if len(shape) not in (2, 3):
        raise DataError(
            f"{path} has {len(shape)} axes, {_written(shape)}; a picture has [H, W] or "
            "[H, W, C]. Save each picture as an array of its own.",
            "odd-channels",
        )
    if min(shape) < 1:
        raise DataError(
            f"{path} is empty, {_written(shape)}: it holds no pixels. Remove it.", "empty-file"
        )
    if len(shape) == 3 and shape[0] <= _MOST_LEADING_CHANNELS and shape[0] < min(shape[1:]):
        raise DataError(
            f"{path} is {_written(shape)}, which looks like [C, H, W]; a picture is [H, W, C]. "
            "Save `np.moveaxis(array, 0, -1)`.",
            "odd-channels",
        )
    if file.tell() + prod(shape) * dtype.itemsize > size:
        raise cut_off(path, size)
    return shape, is_fortran, dtype


def _written(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"
