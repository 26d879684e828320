"""Pictures on disk -> arrays.

In: JPEG, PNG, GIF, BMP, WebP, TIFF, AVIF, JPEG 2000, HEIC and .npy files, told apart by content.
Out: [H, W, C] arrays, upright, dtype kept. OpenCV decodes what it decodes exactly and fast; Pillow
takes palettes, 1-bit and CMYK pictures and AVIF; tifffile takes TIFF, pillow-heif HEIC.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, features
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import jpeg_factory
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from plainunet.formats.encoded import (
    array_shape,
    decoding,
    find_orientation,
    open_encoded,
    png_chunks,
    read_array,
    read_encoded,
    turn_upright,
)
from plainunet.formats.problems import Change, DataError, require_bearable
from plainunet.formats.sources import ImageSource
from plainunet.formats.tiff import find_missing, read_tiff, tiff_shape

IMAGE_SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".npy"),
        *(".avif", ".jp2", ".j2k", ".jpx", ".heic", ".heif"),
    }
)
UNREAD_SUFFIXES = frozenset(
    {
        *(".dcm", ".nii", ".nii.gz", ".mha", ".nrrd", ".czi", ".nd2", ".lif", ".svs", ".exr"),
        *(".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".psd", ".xcf", ".svg", ".pdf", ".pgm"),
        *(".ppm", ".pbm", ".tga", ".hdr", ".ecw", ".img"),
    }
)
"""Of files that hold images and are not read."""


def _open_avif(file: BinaryIO, name: str) -> ImageFile.ImageFile:
    if not features.check("avif"):
        raise DataError("Pillow reads no AVIF here", "not-a-picture")
    from PIL.AvifImagePlugin import AvifImageFile  # from Pillow 11.3 on

    return AvifImageFile(file, name)


def _open_heic(file: BinaryIO, name: str) -> ImageFile.ImageFile:
    try:
        from pillow_heif.as_plugin import HeifImageFile  # type: ignore[import-not-found]
    except ImportError:
        raise DataError("pillow-heif is not installed", "not-a-picture") from None
    picture: ImageFile.ImageFile = HeifImageFile(file, name)
    return picture


_OPENERS: dict[str, Callable[[BinaryIO, str], ImageFile.ImageFile]] = {
    "jpeg": jpeg_factory,
    "png": PngImageFile,
    "gif": GifImageFile,
    "bmp": BmpImageFile,
    "webp": WebPImageFile,
    "jp2": Jpeg2KImageFile,
    "avif": _open_avif,
    "heic": _open_heic,
}
_MOST_STEPS = 64  # of an alpha channel
_GREY_MODES = ("1", "L", "LA", "La", "I;16", "I;16B", "I", "F")


def read_image(path: ImageSource) -> NDArray[Any]:
    """Read a picture as [H, W, C], C >= 1, upright (EXIF orientation applied), colours as RGB.

    Integers keep their dtype and range (1-bit and bool become uint8 0/255); floats become float32
    and keep their range. Pixels that do not exist are filled, see `read_with_missing`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a picture, damaged, cut off, too large, infinite, partly
            transparent, of 64-bit integers, or has several pages.
    """
    return read_with_missing(path)[0]


def read_with_missing(path: ImageSource) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Read an image as `read_image` does, and which pixels [H, W] do not exist, or None for none.

    These are NaN, or what a TIFF file's tag names as nodata; see `find_missing` and `fill`.
    """
    kind, data = read_encoded(path)
    missing = None
    with decoding(path):
        if kind == "tiff":
            tiff = read_tiff(BytesIO(data), path)
            image, alpha, orientation = tiff.colors, tiff.alpha, tiff.orientation
            missing = tiff.missing
        elif kind == "npy":
            image, alpha, orientation = read_array(BytesIO(data), path), None, 1
            missing = find_missing(image)
        else:
            image, alpha, orientation = _decode(kind, data, path)
    if alpha is not None and (alpha != _full(alpha.dtype)).any():
        if kind != "tiff" or not _is_mask(alpha):
            raise _transparent(path, kind, alpha)
        missing = (alpha == 0) if missing is None else missing | (alpha == 0)  # as GDAL has it
    if image.dtype.kind == "b":
        image = image.astype(np.uint8) * np.uint8(255)
    if image.dtype in (np.int64, np.uint64):
        raise DataError(
            f"{path} holds {image.dtype} values, and integers are divided by the largest that "
            "their type can hold, which would leave nothing. Save it as uint8, uint16 or float32.",
            "unusable-values",
        )
    if missing is not None:
        image = fill(image, missing)
        missing = turn_upright(missing, orientation)
    if image.dtype.kind not in "ui":
        image = _as_finite(image, f"{path}: ")
    return turn_upright(image, orientation), missing


def _is_mask(alpha: NDArray[Any]) -> bool:
    """Tell whether some pixels are wholly transparent, and the others opaque."""
    return bool(((alpha == 0) | (alpha == _full(alpha.dtype))).all() and alpha.any())


def _transparent(path: ImageSource, kind: str, alpha: NDArray[Any]) -> DataError:
    said = (
        f"{path} is transparent in {(alpha != _full(alpha.dtype)).mean():.1%} of its pixels; "
        "what is behind them is unknown. Save it without an alpha channel."
    )
    if kind != "tiff" or not isinstance(path, Path) or len(np.unique(alpha)) <= _MOST_STEPS:
        return DataError(said, "transparent")
    said += (
        " Or its last band is a channel, such as infrared, which GDAL marks as alpha unless it is "
        "told otherwise; then the file can say so:"
    )
    return DataError(said, "transparent", [path], Change("channel", (path,)))


def fill(image: NDArray[Any], missing: NDArray[np.bool_]) -> NDArray[Any]:
    """Give pixels [H, W] of an image [H, W, C] the mean of each channel over the others.

    Whatever a file holds there, the network is to see nothing extreme, and no edge that is
    stronger than need be. Where no pixel exists, all are 0.
    """
    filled = image.copy()
    there = image[~missing]
    with np.errstate(over="ignore", invalid="ignore"):  # of what is infinite, `_as_finite` tells
        filled[missing] = there.mean(axis=0, dtype=np.float64) if len(there) else 0
    return filled


def image_shape(path: ImageSource) -> tuple[int, int, int]:
    """Read height, width and channels of what `read_image` returns, from the header alone."""
    height, width, channels, orientation = stored_shape(path)
    return (width, height, channels) if orientation > 4 else (height, width, channels)


def stored_shape(path: ImageSource) -> tuple[int, int, int, int]:
    """Read height, width and channels as stored, and EXIF orientation, 1..8; see `image_shape`."""
    with open_encoded(path) as (kind, file), decoding(path):
        if kind == "tiff":
            return tiff_shape(file, path)
        if kind == "npy":
            return *array_shape(file, path), 1
        head = file.read(26)
        with open_still(file, kind, path) as (picture, orientation):
            channels = 1 if _is_grey(picture, head) else 3
            return picture.height, picture.width, channels, orientation


def image_size(path: ImageSource) -> tuple[int, int]:
    """Read an image's height and width, upright, from the header alone."""
    return image_shape(path)[:2]


def to_unit(image: NDArray[Any]) -> NDArray[np.float32]:
    """Divide integers by their dtype's maximum; leave floats, which must be finite, as they are.

    The result is float32; unsigned integers land in [0, 1].
    """
    if image.dtype.kind in "ui":
        unit: NDArray[np.float32] = np.divide(
            image, np.float32(np.iinfo(image.dtype).max), dtype=np.float32
        )
        return unit
    if image.dtype.kind == "b":
        return image.astype(np.float32)
    return _as_finite(image, "")


def match_channels(image: NDArray[Any], channels: int) -> NDArray[Any]:
    """Bring a picture [H, W, C] to the channels that a network takes; a grey one is shown as RGB.

    Raises:
        ValueError: Any other conversion: it would lose or invent something.
    """
    if image.shape[2] == channels:
        return image
    if image.shape[2] == 1 and channels == 3:
        return np.repeat(image, 3, axis=2)
    raise DataError(
        f"the picture has {image.shape[2]} channels, {channels} are needed. "
        "Save it with as many, like the pictures that the model is trained on.",
        "odd-channels",
    )


@contextmanager
def open_still(
    file: BinaryIO, kind: str, path: ImageSource
) -> Iterator[tuple[ImageFile.ImageFile, int]]:
    """Open an image that Pillow reads, with its EXIF orientation; refuse animations."""
    has_exif = kind != "png" or b"eXIf" in png_chunks(file)
    file.seek(0)
    # Image.open would warn of large pictures, and warnings are filtered for all threads at once
    try:
        opened = _OPENERS[kind](file, "")
    except DataError as error:
        install = " Or install it: pip install 'plainunet[heic]'." if kind == "heic" else ""
        raise DataError(
            f"{path} is {kind.upper()}, which is not read: {error}. Save it as PNG or JPEG."
            f"{install}",
            error.code,
            [path],
        ) from None
    with opened as picture:
        require_bearable(picture.width * picture.height, path)
        # a JPEG with several frames is a photograph with previews: the first one is meant
        frames = int(getattr(picture, "n_frames", 1))
        if frames > 1 and picture.format not in ("JPEG", "MPO"):
            raise DataError(
                f"{path} is an animation of {frames} frames; one picture per file can be read. "
                "Save each frame as a file of its own.",
                "several-frames",
            )
        yield picture, find_orientation(picture) if has_exif else 1


_Decoded = tuple[NDArray[Any], NDArray[Any] | None, int]


def _decode(kind: str, data: bytes, path: ImageSource) -> _Decoded:
    with open_still(BytesIO(data), kind, path) as (picture, orientation):
        deep = kind == "png" and data[24] == 16
        see_through = "transparency" in picture.info and not deep
        if (
            kind in ("gif", "avif", "heic")
            or see_through
            or picture.mode not in ("L", "LA", "RGB", "RGBA", "I;16")
        ):
            return *_decode_pillow(picture, _is_grey(picture, data)), orientation
        grey = _is_grey(picture, data)
    # the orientation is applied to all formats in one place, not by the codec
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        raise ValueError("its content makes no sense")
    if image.ndim == 2:
        return image[..., None], None, orientation
    alpha = image[..., 3] if image.shape[-1] == 4 else None
    image = image[..., :1] if grey else cv2.cvtColor(image[..., :3], cv2.COLOR_BGR2RGB)
    return image, alpha, orientation


def _is_grey(picture: Image.Image, head: bytes) -> bool:
    # Pillow calls 16-bit grey PNGs with alpha RGBA; the header's colour type is 0 or 4
    if picture.format == "PNG":
        return head[25] in (0, 4)
    # of two GIFs that look grey, Pillow calls only one so: it depends on the palette's order
    return picture.format != "GIF" and picture.mode in _GREY_MODES


def _decode_pillow(picture: Image.Image, grey: bool) -> tuple[NDArray[Any], NDArray[Any] | None]:
    if "transparency" in picture.info or picture.mode in ("LA", "PA", "RGBA"):
        samples = np.asarray(picture.convert("RGBA"))
        return samples[..., : 1 if grey else 3], samples[..., 3]
    samples = np.asarray(picture.convert("L" if grey else "RGB"))
    return samples.reshape(picture.height, picture.width, -1), None


def _full(dtype: np.dtype[Any]) -> float:
    return float(np.iinfo(dtype).max) if dtype.kind in "ui" else 1.0


def _as_finite(image: NDArray[Any], prefix: str) -> NDArray[np.float32]:
    if image.dtype.kind != "f":
        raise DataError(
            f"{prefix}{image.dtype} is not a kind of number that pictures have. "
            "Save integers or floats.",
            "unusable-values",
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite
        image = image.astype(np.float32)
    bad = int((~np.isfinite(image)).sum())
    if bad:
        raise DataError(
            f"{prefix}{bad} of {image.size} values are infinite or not a number. "
            "Replace them before training or predicting.",
            "not-finite",
        )
    return image
