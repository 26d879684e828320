"""Encoded image files: format, completeness, EXIF orientation, and `.npy` arrays."""

import errno
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from math import prod
from tokenize import TokenError
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image
from PIL.PpmImagePlugin import PpmImageFile

from plainunet.errors import Error
from plainunet.files import require_regular
from plainunet.formats.geo import cut_window
from plainunet.formats.problems import DataError, command, cut_off, how_to_restore
from plainunet.formats.shards import read_member
from plainunet.formats.sources import ImageSource, Member, Page, Source, Window, path_of
from plainunet.formats.tiff import cut_slice
from plainunet.system import is_out_of_memory


def find_orientation(image: Image.Image) -> int:
    """Read the EXIF orientation, 1..8; 1 if unknown."""
    try:
        value = image.getexif().get(0x0112, 1)
    except (OSError, SyntaxError, ValueError, TypeError, LookupError):
        return 1
    return int(value) if value in range(1, 9) else 1


def turn_upright(image: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Undo the rotation or reflection of an EXIF orientation 1..8 (EXIF 2.32, tag 274).

    Turns [H, W] or [H, W, C] into [W, H, ...] for 5..8; contiguous.
    """
    if orientation > 4:
        image = image.swapaxes(0, 1)
    # the remaining cases flip one axis, the other, or both
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


_MAGIC = {
    b"\xff\xd8\xff": "jpeg",
    b"\x89PNG\r\n\x1a\n": "png",
    b"GIF87a": "gif",
    b"GIF89a": "gif",
    b"BM": "bmp",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    b"II+\0": "tiff",
    b"MM\0+": "tiff",
    b"\x93NUMPY": "npy",
    b"\0\0\0\x0cjP  \r\n\x87\n": "jp2",
    b"\xff\x4f\xff\x51": "jp2",
    **{b"P%d" % kind + space: "pnm" for kind in (4, 5, 6) for space in (b"\n", b"\r", b" ", b"\t")},
}
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "avif"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1"), "heic"),
}
_END_OF_JPEG = b"\xff\xd9"


def find_kind(head: bytes, path: Source) -> str:
    """Detect the format from a file's first 16 bytes: "jpeg", "png", "gif", "bmp" and so on."""
    if not head:
        raise DataError(f"{path} is empty (0 bytes). Copy it again, or remove it.", "empty-file")
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[4:8] == b"ftyp" and head[8:12] in _BRANDS:
        return _BRANDS[head[8:12]]
    raise DataError(
        f"{path} is not a supported image: its content begins with {head[:8]!r}. "
        "Save it as PNG, JPEG, TIFF, GIF, BMP, WebP, AVIF, JPEG 2000, PPM or .npy, or remove it.",
        "not-an-image",
    )


@contextmanager
def open_encoded(path: ImageSource) -> Iterator[tuple[str, BinaryIO]]:
    """Open an image file; yields its format, see `find_kind`, and the file at its start.

    A slice, a window or a member of a shard is copied into a file in memory; nothing else is read.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is a folder, cannot be opened, is empty or not an image; or there is no
            such slice.
    """
    if isinstance(path, Window):
        yield "tiff", BytesIO(cut_window(path))
        return
    if isinstance(path, Page):
        with open_encoded(path.file) as (kind, file):
            if kind != "tiff":
                raise DataError(
                    f"{path} names a slice, but {path.file} is {kind.upper()}, not TIFF. Name "
                    "the file itself.",
                    "not-an-image",
                )
            with decoding(path.file):
                data = cut_slice(file, path)
        yield kind, BytesIO(data)
        return
    if isinstance(path, Member):
        data = read_member(path)
        yield find_kind(data[:16], path), BytesIO(data)
        return
    try:
        require_regular(path)
        file = path.open("rb")
    except ValueError as error:
        raise DataError(str(error), "not-an-image", [path]) from None
    except FileNotFoundError:
        if path.is_symlink():
            raise FileNotFoundError(
                f"{path} is a link to {path.readlink()}, which does not exist. Fix or remove it."
            ) from None
        raise FileNotFoundError(f"{path} does not exist. Check the path.") from None
    except IsADirectoryError:
        raise DataError(
            f"{path} is a folder, not an image. Rename or remove it.", "not-an-image"
        ) from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise DataError(f"{path} is a circular link. Remove it.", "link-loop") from None
        raise DataError(
            f"{path} cannot be opened ({error.strerror}). Check its permissions.",
            "not-readable",
            [path],
            command("chmod", "u+r", path),
        ) from None
    with file:
        kind = find_kind(file.read(16), path)
        file.seek(0)
        yield kind, file


def read_encoded(path: ImageSource) -> tuple[str, bytes]:
    """Read an image file without decoding it; raises an error if it is truncated.

    Returns the format, see `find_kind`, and the content; for slices see `open_encoded`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is a folder, cannot be opened, is empty, not an image, truncated (for TIFF
            and .npy, `read_tiff` and `read_array` check that) or a damaged PNG.
    """
    with open_encoded(path) as (kind, file):
        data = file.read()
    whole = True
    if kind == "jpeg":
        whole = _jpeg_is_whole(data)
    elif kind == "png":
        whole = b"IEND" in png_chunks(BytesIO(data))
    elif kind == "gif":
        whole = data.rstrip(b"\0\r\n").endswith(b";")
    elif kind == "bmp":
        whole = int.from_bytes(data[2:6], "little") <= len(data)
    elif kind == "webp":
        whole = 8 + int.from_bytes(data[4:8], "little") <= len(data)
    elif kind == "pnm":
        with decoding(path):
            whole = _pnm_is_whole(data)
    if not whole:
        raise cut_off(path, len(data))
    if kind == "png" and not _png_is_valid(data):
        # only one of the two decoders checks it
        raise DataError(
            f"{path} is damaged (wrong checksum). {how_to_restore(path)}",
            "damaged",
        )
    return kind, data


def _jpeg_is_whole(data: bytes) -> bool:
    # skip the headers: a thumbnail in them has its own end marker
    position = 2
    while position + 4 <= len(data):
        marker = data[position + 1]
        if data[position] != 0xFF or marker == 0xDA:
            return data.rfind(_END_OF_JPEG, position) > 0
        if marker == 0xFF:
            position += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD7:
            position += 2
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return False


def _pnm_is_whole(data: bytes) -> bool:
    with PpmImageFile(BytesIO(data)) as image:
        bits = {"1": 1, "L": 8, "I": 16, "RGB": 24}[image.mode]
        tile = image.tile[0]
        if image.mode == "RGB" and isinstance(tile.args, tuple) and tile.args[1] > 255:
            bits *= 2
        return tile.offset + image.height * -(-image.width * bits // 8) <= len(data)


def _png_is_valid(data: bytes) -> bool:
    view, position = memoryview(data), 8
    while position + 12 <= len(data):
        end = position + 8 + int.from_bytes(view[position : position + 4], "big")
        name = bytes(view[position + 4 : position + 8])
        checksum = int.from_bytes(view[end : end + 4], "big")
        # critical chunks have upper-case names
        if name.isupper() and zlib.crc32(view[position + 4 : end]) != checksum:
            return False
        if name == b"IEND":
            break
        position = end + 4
    return True


def png_chunks(file: BinaryIO) -> set[bytes]:
    """The types of chunks in a PNG file; includes b"IEND" if it is complete."""
    size = file.seek(0, 2)
    position = 8
    names: set[bytes] = set()
    while position + 12 <= size and b"IEND" not in names:
        file.seek(position)
        length = int.from_bytes(file.read(4), "big")
        name = file.read(4)
        position += 12 + length
        names.add(name)
    file.seek(0)
    return names


@contextmanager
def decoding(path: Source) -> Iterator[None]:
    """Convert any error of a codec into one that names the file."""
    try:
        yield
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{path} is too large to be decoded safely ({error}). Cut it into smaller images.",
            "too-large",
        ) from None
    # codecs raise all of these for damaged headers
    except (
        *(OSError, SyntaxError, EOFError, ValueError, TypeError, LookupError, struct.error),
        *(ZeroDivisionError, OverflowError, MemoryError, RuntimeError, AssertionError),
        *(AttributeError, ImportError, zlib.error, cv2.error),
    ) as error:
        if isinstance(error, ValueError) and str(error).startswith(str(path)):
            raise
        reason = " ".join(str(error).split())
        if any(isinstance(each, struct.error) for each in (error, error.__cause__)):
            reason = "a header is not complete"
        if is_out_of_memory(error):
            raise DataError(
                f"{path} does not fit in memory ({reason}). Cut it into smaller images, or free "
                "memory; if the image is small, the file is damaged: copy it again.",
                "too-large",
            ) from None
        raise DataError(
            f"{path} is damaged ({reason}). {how_to_restore(path)}",
            "damaged",
        ) from None


_MOST_LEADING_CHANNELS = 32
_EXPORT_MASKS = (
    "import cv2, numpy, pathlib; [cv2.imwrite(str(f)[:-8] + '_cp_masks.png', numpy.load(f, "
    "allow_pickle=True).item()['masks'].astype('uint16')) for f in pathlib.Path({folder!r})"
    ".glob('*_seg.npy')]"
)


def read_array(file: BinaryIO, path: Source) -> NDArray[Any]:
    """Read a .npy file: [H, W, C], in the machine's byte order, contiguous."""
    shape, is_fortran, dtype = _header(file, path)
    array = np.frombuffer(file.read(prod(shape) * dtype.itemsize), dtype)
    array = array.reshape(shape, order="F" if is_fortran else "C")
    return np.ascontiguousarray(array.reshape(*shape[:2], -1), dtype.newbyteorder("="))


def read_mask_array(file: BinaryIO, path: Source) -> NDArray[Any]:
    """Read a mask [H, W] from a .npy file."""
    array = read_array(file, path)
    if array.shape[2] != 1:
        raise DataError(
            f"{path} has {array.shape[2]} channels; a mask is [H, W], one class id per pixel. If "
            "each channel is a class, save `np.argmax(mask, axis=-1).astype(np.uint8)`.",
            "not-a-mask",
        )
    return array[..., 0]


def array_shape(file: BinaryIO, path: Source) -> tuple[int, int, int]:
    """Read height, width and channels from a .npy header; a truncated file is an error."""
    height, width, *channels = _header(file, path)[0]
    return height, width, channels[0] if channels else 1


def _header(file: BinaryIO, path: Source) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    size = file.seek(0, 2)
    file.seek(0)
    # version 3 only adds field names, which images do not have
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(file)
    if version not in readers:
        raise DataError(
            f"{path} is a .npy file of version {version[0]}.{version[1]}, which is not supported. "
            "Save a plain array without named fields: `np.save(path, array)`.",
            "damaged",
        )
    try:
        shape, is_fortran, dtype = readers[version](file)
    except TokenError:
        raise Error("its header is invalid") from None
    if dtype.hasobject and path_of(path).stem.endswith("_seg"):
        code = _EXPORT_MASKS.format(folder=str(path_of(path).parent))
        export = command("python", "-c", code)
        raise DataError(
            f"{path} is of Cellpose, in its own format. Save the masks as PNG: in Cellpose, File > "
            "Save masks as PNG/tif; or, if you trust the files, by this command.",
            "unusable-values",
            [path],
            export,
        )
    if dtype.kind not in "buif":
        what = "Python objects" if dtype.hasobject else f"values of type {dtype}"
        raise DataError(
            f"{path} has {what}, not plain numbers. Save it again as numbers: "
            "`np.save(path, array.astype(np.uint8))`, or uint16 or float32.",
            "unusable-values",
        )
    if len(shape) not in (2, 3):
        raise DataError(
            f"{path} has {len(shape)} axes, {_written(shape)}; an image has [H, W] or [H, W, C]. "
            "Save each image as a separate array.",
            "odd-channels",
        )
    if min(shape) < 1:
        raise DataError(
            f"{path} is empty, {_written(shape)}: it has no pixels. Remove it.", "empty-file"
        )
    if len(shape) == 3 and shape[0] <= _MOST_LEADING_CHANNELS and shape[0] < min(shape[1:]):
        raise DataError(
            f"{path} is {_written(shape)}, which looks like [C, H, W]; an image is [H, W, C]. "
            "Save `np.moveaxis(array, 0, -1)`.",
            "odd-channels",
        )
    if file.tell() + prod(shape) * dtype.itemsize > size:
        raise cut_off(path, size)
    return shape, is_fortran, dtype


def _written(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"
