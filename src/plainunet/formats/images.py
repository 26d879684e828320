"""Read image files as arrays.

Reads JPEG, PNG, GIF, BMP, WebP, TIFF, AVIF, JPEG 2000, HEIC, PPM, PGM, PBM and .npy files,
detected by content, as [H, W, C] arrays, upright, with their dtype. OpenCV decodes the formats it
reads exactly and fast; Pillow palettes, 1-bit and CMYK images and AVIF; tifffile TIFF; pillow-heif
HEIC.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, features
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import jpeg_factory
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.WebPImagePlugin import WebPImageFile

from plainunet.errors import Error, take_path, wrong
from plainunet.formats.geo import cut_window
from plainunet.formats.image_files import (
    array_shape,
    decoding,
    find_orientation,
    open_encoded,
    png_chunks,
    read_array,
    read_encoded,
    turn_upright,
)
from plainunet.formats.problems import Change, DataError, require_decodable
from plainunet.formats.sources import ImageSource, Window, parse_image
from plainunet.formats.tiff import find_missing, read_tiff, tiff_shape

IMAGE_SUFFIXES = frozenset(
    {
        *(
            ".jpg",
            ".jpeg",
            ".jfif",
            ".jpe",
            ".png",
            ".bmp",
            ".webp",
            ".gif",
            ".tif",
            ".tiff",
            ".npy",
        ),
        *(".avif", ".jp2", ".j2k", ".jpx", ".heic", ".heif", ".ppm", ".pgm", ".pbm", ".pnm"),
    }
)
_SUFFIXES = {
    "jpeg": (".jpg", ".jpeg", ".jfif", ".jpe"),
    "tiff": (".tif", ".tiff"),
    "jp2": (".jp2", ".j2k", ".jpx"),
    "heic": (".heic", ".heif"),
    "pnm": (".ppm", ".pgm", ".pbm", ".pnm"),
}
UNREAD_SUFFIXES = frozenset(
    {
        *(".dcm", ".nii", ".nii.gz", ".mha", ".nrrd", ".czi", ".nd2", ".lif", ".svs", ".exr"),
        *(".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".psd", ".xcf", ".svg", ".pdf", ".tga"),
        *(".hdr", ".ecw", ".img", ".npz"),
    }
)
"""Suffixes of unsupported image formats."""


def fitting_suffix(path: Path, kind: str) -> str:
    """Return the suffix of a file's format (`find_kind`); its own if that fits."""
    usual = _SUFFIXES.get(kind, (f".{kind}",))
    return path.suffix if path.suffix.lower() in usual else usual[0]


def _open_avif(file: BinaryIO, name: str) -> ImageFile.ImageFile:
    if not features.check("avif"):
        raise DataError("this Pillow has no AVIF support", "not-an-image")
    from PIL.AvifImagePlugin import AvifImageFile  # since Pillow 11.3

    return AvifImageFile(file, name)


def _open_heic(file: BinaryIO, name: str) -> ImageFile.ImageFile:
    try:
        from pillow_heif.as_plugin import HeifImageFile  # type: ignore[import-not-found]
    except ImportError:
        raise DataError("pillow-heif is not installed", "not-an-image") from None
    image: ImageFile.ImageFile = HeifImageFile(file, name)
    return image


def _open_pnm(file: BinaryIO, name: str) -> ImageFile.ImageFile:
    """Open a PPM, PGM or PBM file; grey values stay as stored, which Pillow would scale."""
    image = PpmImageFile(file, name)
    if image.mode in ("L", "I"):
        raw = ({"L": "L", "I": "I;16B"}[image.mode], 0, 1)
        image.tile = [image.tile[0]._replace(codec_name="raw", args=raw)]
    return image


_OPENERS: dict[str, Callable[[BinaryIO, str], ImageFile.ImageFile]] = {
    "jpeg": jpeg_factory,
    "png": PngImageFile,
    "gif": GifImageFile,
    "bmp": BmpImageFile,
    "webp": WebPImageFile,
    "jp2": Jpeg2KImageFile,
    "avif": _open_avif,
    "heic": _open_heic,
    "pnm": _open_pnm,
}
_MOST_STEPS = 64  # maximum number of values in an alpha channel
_GREY_MODES = ("1", "L", "LA", "La", "I;16", "I;16B", "I", "F")


def read_image(path: str | ImageSource) -> NDArray[Any]:
    """Read an image as [H, W, C], C >= 1, upright (EXIF orientation applied), colours as RGB.

    Integers keep their dtype and range (1-bit and bool become uint8 0/255); floats become float32
    and keep their range. Nodata pixels are filled, see `read_with_missing`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not an image, damaged, truncated, too large, infinite, partly
            transparent, of 64-bit integers, or has several pages.

    Example:
        ```python
        from plainunet import read_image

        image = read_image("my-data/images/a.jpg")
        print(image.shape, image.dtype)
        ```
    """
    return read_with_missing(_take_source(path))[0]


def take_image(given: Any) -> NDArray[Any]:
    """Take an array [H, W, C] or [H, W], an image of Pillow, or the path of an image file.

    Raises:
        FileNotFoundError: There is no such file.
        Error: It is none of these, or of another shape or dtype; or as by `read_image`.
    """
    if isinstance(given, str | PathLike | ImageSource):
        return read_image(given if isinstance(given, ImageSource) else take_path(given, "image"))
    if isinstance(given, Image.Image):
        return _from_pillow(given)
    wanted = "an array [H, W, C] or [H, W] of integers or floats, an image of Pillow, or a path"
    if type(given).__module__ == "torch":
        raise wrong("image", given, "an array [H, W, C] (tensor.permute(1, 2, 0).numpy())")
    if not isinstance(given, np.ndarray) or given.dtype.kind not in "uif":
        raise wrong("image", given, wanted)
    if given.ndim not in (2, 3) or not given.size:
        raise wrong("image", given, wanted)
    if given.dtype in (np.int64, np.uint64):
        raise Error(
            f"image: {given.dtype} values would vanish when divided by the maximum of their type. "
            "Convert it to uint8, uint16 or float32: image.astype(np.uint8)."
        )
    return given if given.ndim == 3 else given[..., None]


def _take_source(given: Any) -> ImageSource:
    is_part = isinstance(given, ImageSource) and not isinstance(given, Path)
    return given if is_part else parse_image(take_path(given, "path"))


def _from_pillow(image: Image.Image) -> NDArray[Any]:
    """An image of Pillow as `read_image` reads its file."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "F" or upright.mode.startswith("I;16"):
        return np.asarray(upright)[..., None]
    if upright.mode == "I":
        raise wrong("image", upright, "8-bit or 16-bit values, not the mode I of Pillow")
    samples, alpha = _decode_pillow(upright, upright.mode in _GREY_MODES)
    if alpha is not None and (alpha != _full(alpha.dtype)).any():
        raise _transparent(Path(getattr(image, "filename", "") or "image"), "pillow", alpha)
    return samples


def read_with_missing(path: ImageSource) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Read an image as `read_image` does, and its nodata pixels [H, W], or None if there are none.

    These are NaN, or the nodata value of a TIFF file; see `find_missing` and `fill`.
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
        missing = (alpha == 0) if missing is None else missing | (alpha == 0)  # as in GDAL
    if image.dtype.kind == "b":
        image = image.astype(np.uint8) * np.uint8(255)
    if image.dtype in (np.int64, np.uint64):
        raise DataError(
            f"{path} has {image.dtype} values, which would vanish when divided by the maximum of "
            "their type. Save it as uint8, uint16 or float32.",
            "unusable-values",
        )
    if missing is not None:
        image = fill(image, missing)
        missing = turn_upright(missing, orientation)
    if image.dtype.kind not in "ui":
        image = _as_finite(image, f"{path}: ")
    return turn_upright(image, orientation), missing


_REDUCTIONS = {
    8: (cv2.IMREAD_REDUCED_COLOR_8, cv2.IMREAD_REDUCED_GRAYSCALE_8),
    4: (cv2.IMREAD_REDUCED_COLOR_4, cv2.IMREAD_REDUCED_GRAYSCALE_4),
    2: (cv2.IMREAD_REDUCED_COLOR_2, cv2.IMREAD_REDUCED_GRAYSCALE_2),
}
_OVERSAMPLING = 2
"""How many times larger than needed an image is decoded at least."""


def read_reduced(
    path: ImageSource, needed: Callable[[tuple[int, int]], tuple[int, int]], channels: int
) -> tuple[NDArray[np.uint8], tuple[int, int]] | None:
    """Decode a JPEG at a half, quarter or eighth of its size, in a fraction of the time.

    Its pixels are nearly area averages: the coefficients of each block of 8 x 8 pixels are
    transformed into fewer pixels.

    Args:
        path: The file.
        needed: From height and width of the whole image, upright, to those that it will be
            reduced to.
        channels: The channels that are needed.

    Returns:
        [h, w, C] uint8, upright, at least twice as large as needed; and height and width of the
        whole image. None if it is not a JPEG, has other channels, or is not so large; its sides
        must be multiples of the reduction.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, truncated or too large.
    """
    if not isinstance(path, Path):
        return None
    with open_encoded(path) as (kind, _):
        if kind != "jpeg":
            return None
    _, data = read_encoded(path)
    with decoding(path):
        with open_still(BytesIO(data), kind, path) as (opened, orientation):
            modes = {"L": 1, "RGB": 3}
            if modes.get(opened.mode) != channels:
                return None
            sides = opened.height, opened.width
        size = sides[::-1] if orientation > 4 else sides
        least = [_OVERSAMPLING * side for side in needed(size)]
        for factor, flags in _REDUCTIONS.items():
            fits = all(side >= factor * small for side, small in zip(size, least, strict=True))
            if fits and not any(side % factor for side in size):
                flag = flags[channels == 1] | cv2.IMREAD_IGNORE_ORIENTATION
                image = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
                if image is None:
                    raise Error("its content cannot be decoded")
                if channels == 3:
                    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
                return turn_upright(image.reshape(*image.shape[:2], channels), orientation), size
    return None


def _is_mask(alpha: NDArray[Any]) -> bool:
    """Whether every pixel is fully transparent or opaque, and some are opaque."""
    return bool(((alpha == 0) | (alpha == _full(alpha.dtype))).all() and alpha.any())


def _transparent(path: ImageSource, kind: str, alpha: NDArray[Any]) -> DataError:
    message = (
        f"{path} is transparent in {(alpha != _full(alpha.dtype)).mean():.1%} of its pixels. "
        "Save it without an alpha channel."
    )
    if kind != "tiff" or not isinstance(path, Path) or len(np.unique(alpha)) <= _MOST_STEPS:
        return DataError(message, "transparent")
    message += (
        " GDAL marks a fourth band as alpha by default; if it is a channel, such as infrared, "
        "mark it so:"
    )
    return DataError(message, "transparent", [path], Change("channel", (path,)))


def fill(image: NDArray[Any], missing: NDArray[np.bool_]) -> NDArray[Any]:
    """Set the nodata pixels [H, W] of an image [H, W, C] to the mean of the others per channel.

    This avoids extreme values and strong edges. If there are no other pixels, all become 0.
    """
    filled = image.copy()
    valid = image[~missing]
    if image.dtype.kind == "f":  # infinite values stay elsewhere, and are reported
        valid = np.where(np.isfinite(valid), valid, 0)
    with np.errstate(over="ignore", invalid="ignore"):
        filled[missing] = valid.mean(axis=0, dtype=np.float64) if len(valid) else 0
    return filled


def image_shape(path: ImageSource) -> tuple[int, int, int]:
    """The shape that `read_image` returns: height, width and channels; reads only the header."""
    height, width, channels, orientation = stored_shape(path)
    return (width, height, channels) if orientation > 4 else (height, width, channels)


def stored_shape(path: ImageSource) -> tuple[int, int, int, int]:
    """Height, width and channels as stored, and the EXIF orientation, 1..8; see `image_shape`."""
    if isinstance(path, Window):
        return path.height, path.width, _scene_channels(path.file, path.file.stat().st_mtime_ns), 1
    with open_encoded(path) as (kind, file), decoding(path):
        if kind == "tiff":
            return tiff_shape(file, path)
        if kind == "npy":
            return *array_shape(file, path), 1
        head = file.read(26)
        with open_still(file, kind, path) as (image, orientation):
            channels = 1 if _is_grey(image, head) else 3
            return image.height, image.width, channels, orientation


@lru_cache(maxsize=256)
def _scene_channels(file: Path, _time: int) -> int:
    """The channels of windows of a scene, from one pixel of it."""
    data = BytesIO(cut_window(Window(file, 0, 0, 1, 1)))
    return tiff_shape(data, file)[2]


def image_size(path: ImageSource) -> tuple[int, int]:
    """An image's height and width, upright; reads only the header."""
    return image_shape(path)[:2]


def to_unit(image: NDArray[Any]) -> NDArray[np.float32]:
    """Divide integers by the maximum of their dtype; floats must be finite and keep their range.

    Returns float32; unsigned integers map to [0, 1].
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
    """Match an image [H, W, C] to the network's input channels; grey becomes RGB.

    Raises:
        ValueError: Any other conversion.
    """
    if image.shape[2] == channels:
        return image
    if image.shape[2] == 1 and channels == 3:
        return np.repeat(image, 3, axis=2)
    raise DataError(
        f"the image has {image.shape[2]} channels, but the model needs {channels}. Save it with "
        "the channels of the training images.",
        "odd-channels",
    )


@contextmanager
def open_still(
    file: BinaryIO, kind: str, path: ImageSource
) -> Iterator[tuple[ImageFile.ImageFile, int]]:
    """Open an image with Pillow and read its EXIF orientation; animations are an error."""
    has_exif = kind != "png" or b"eXIf" in png_chunks(file)
    file.seek(0)
    # Image.open warns of large images, and warning filters affect all threads
    try:
        opened = _OPENERS[kind](file, "")
    except DataError as error:
        install = " Or install it: pip install pillow-heif." if kind == "heic" else ""
        raise DataError(
            f"{path} is {kind.upper()}, which cannot be read: {error}. Save it as PNG or JPEG."
            f"{install}",
            error.code,
            [path],
        ) from None
    with opened as image:
        require_decodable(image.width * image.height, path)
        # further frames of a JPEG are previews
        frames = int(getattr(image, "n_frames", 1))
        if frames > 1 and image.format not in ("JPEG", "MPO"):
            raise DataError(
                f"{path} is an animation of {frames} frames; a file must have one image. Save each "
                "frame as a separate file.",
                "several-frames",
            )
        yield image, find_orientation(image) if has_exif else 1


_Decoded = tuple[NDArray[Any], NDArray[Any] | None, int]


def _decode(kind: str, data: bytes, path: ImageSource) -> _Decoded:
    with open_still(BytesIO(data), kind, path) as (opened, orientation):
        deep = kind == "png" and data[24] == 16
        is_transparent = "transparency" in opened.info and not deep
        if (
            kind in ("gif", "avif", "heic")
            or is_transparent
            or opened.mode not in ("L", "LA", "RGB", "RGBA", "I;16", "I")
        ):
            return *_decode_pillow(opened, _is_grey(opened, data)), orientation
        grey = _is_grey(opened, data)
    # the orientation is applied in one place for all formats, not by the codec
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        raise Error("its content cannot be decoded")
    if image.ndim == 2:
        return image[..., None], None, orientation
    alpha = image[..., 3] if image.shape[-1] == 4 else None
    image = image[..., :1] if grey else cv2.cvtColor(image[..., :3], cv2.COLOR_BGR2RGB)
    return image, alpha, orientation


def _is_grey(image: Image.Image, head: bytes) -> bool:
    # Pillow opens 16-bit grey PNGs with alpha as RGBA; their colour type is 0 or 4
    if image.format == "PNG":
        return head[25] in (0, 4)
    # for GIF, the mode depends on the order of the palette
    return image.format != "GIF" and image.mode in _GREY_MODES


def _decode_pillow(image: Image.Image, grey: bool) -> tuple[NDArray[Any], NDArray[Any] | None]:
    if "transparency" in image.info or image.mode in ("LA", "PA", "RGBA"):
        samples = np.asarray(image.convert("RGBA"))
        return samples[..., : 1 if grey else 3], samples[..., 3]
    samples = np.asarray(image.convert("L" if grey else "RGB"))
    return samples.reshape(image.height, image.width, -1), None


def _full(dtype: np.dtype[Any]) -> float:
    return float(np.iinfo(dtype).max) if dtype.kind in "ui" else 1.0


def _as_finite(image: NDArray[Any], prefix: str) -> NDArray[np.float32]:
    if image.dtype.kind != "f":
        raise DataError(
            f"{prefix}{image.dtype} is not supported. Save integers or floats.",
            "unusable-values",
        )
    with np.errstate(over="ignore"):  # overflow becomes infinite
        image = image.astype(np.float32)
    bad = int((~np.isfinite(image)).sum())
    if bad:
        raise DataError(
            f"{prefix}{bad} of {image.size} values are infinite or NaN. "
            "Replace them before training or predicting.",
            "not-finite",
        )
    return image
