"""One image of a TIFF file, with what its tags say about it."""

import struct
from dataclasses import dataclass
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFile
from PIL.TiffImagePlugin import TiffImageFile
from tifffile import COMPRESSION, EXTRASAMPLE, PHOTOMETRIC, TiffFile, TiffPage

from plainunet.formats.encoded import cut_off, require_bearable
from plainunet.formats.problems import DataError
from plainunet.formats.slices import Slices, find_slices
from plainunet.formats.sources import ImageSource, path_of

_ORIENTATION = 274
_PLAIN = (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.RGB, PHOTOMETRIC.PALETTE)
_ALPHA = (EXTRASAMPLE.ASSOCALPHA, EXTRASAMPLE.UNASSALPHA)


@dataclass(frozen=True)
class TiffPicture:
    """What a TIFF file holds.

    Attributes:
        samples: [H, W, S] as stored (bool for 1-bit), without alpha; inverted where the
            file says that 0 is white.
        alpha: [H, W], the dtype of `samples`, or None.
        palette: [n, 3] uint16, colours that the samples are indices of, or None.
        orientation: As in EXIF, 1..8; it has not been applied.
    """

    samples: NDArray[Any]
    alpha: NDArray[Any] | None
    palette: NDArray[np.uint16] | None
    orientation: int


def read_tiff(file: BinaryIO, path: ImageSource) -> TiffPicture:
    """Read the one picture of a TIFF file.

    Args:
        file: The file, open; it is read from its beginning.
        path: Its path, for messages.

    Returns:
        The picture.

    Raises:
        ValueError: As `tiff_shape`; or the file stores its colours as CMYK or the like, its
            grey values in 2, 4 or 12 bits, or is compressed in a way that needs imagecodecs.
    """
    file.seek(0)
    with TiffFile(file) as tiff:
        page = _only_page(tiff, file, path)
        samples = _decode(page, file, path)
    if samples.size != page.size:
        raise ValueError("its tags contradict each other")
    if page.axes == "SYX":
        samples = np.moveaxis(samples, 0, -1)
    samples = samples.reshape(page.imagelength, page.imagewidth, -1)
    if page.photometric == PHOTOMETRIC.MINISWHITE:
        if samples.dtype.kind not in "bu":
            raise DataError(
                f"{path} says that 0 is white, which means nothing for {samples.dtype} values. "
                "Save it with 0 as black (photometric MINISBLACK).",
                "unusable-values",
            )
        samples = np.invert(samples)
    # tifffile hands big-endian files on in their own byte order, which OpenCV refuses
    samples = samples.astype(samples.dtype.newbyteorder("="), copy=False)
    alpha = None
    if has_alpha(page):
        samples, alpha = samples[..., :-1], samples[..., -1]
    palette = None if page.colormap is None else page.colormap.T.astype(np.uint16)
    return TiffPicture(samples, alpha, palette, _orientation(page))


def tiff_shape(file: BinaryIO, path: ImageSource) -> tuple[int, int, int, int]:
    """Read the shape of the one picture of a TIFF file, and see that the file is whole.

    Args:
        file: The file, open; it is read from its beginning.
        path: Its path, for messages.

    Returns:
        Height, width, channels without alpha (three for a palette), orientation 1..8.

    Raises:
        ValueError: The file is cut off, is a stack of slices (see `find_slices`), holds no
            pixels, or is compressed and has more than `MOST_PIXELS`.
    """
    file.seek(0)
    with TiffFile(file) as tiff:
        page = _only_page(tiff, file, path)
        channels = 3 if page.colormap is not None else page.samplesperpixel - has_alpha(page)
        return page.imagelength, page.imagewidth, channels, _orientation(page)


def _only_page(tiff: TiffFile, file: BinaryIO, path: ImageSource) -> TiffPage:
    slices = find_slices(file, path)
    if slices.count > 1:
        raise _is_stack(slices, path)
    first = tiff.pages.first
    if not first.size:
        raise DataError(f"{path} holds no pixels. Copy it again, or remove it.", "empty-file")
    if first.nbytes > tiff.filehandle.size:
        require_bearable(first.imagelength * first.imagewidth, path)
    end = max(a + b for a, b in zip(first.dataoffsets, first.databytecounts, strict=True))
    if end > tiff.filehandle.size:
        raise cut_off(path, tiff.filehandle.size)
    return first


def _is_stack(slices: Slices, path: ImageSource) -> ValueError:
    width, height = slices.size
    said = f"{path} is a stack of {slices.count} slices of {width}x{height} pixels"
    if path_of(path).suffix.lower() not in (".tif", ".tiff"):
        return DataError(f"{said}. Rename it so that it ends in .tif.", "several-frames")
    return DataError(
        f"{said}, where one picture is needed. Name a slice, counted from 0: '{path}[0]'; as "
        "training data, pair it with a stack of as many masks, one page for each.",
        "several-frames",
    )


def has_alpha(page: TiffPage) -> bool:
    """Tell whether a page's last samples say how opaque it is.

    Args:
        page: The page.

    Returns:
        Whether they do.
    """
    return page.samplesperpixel > 1 and bool(page.extrasamples) and page.extrasamples[-1] in _ALPHA


def _orientation(page: TiffPage) -> int:
    value = page.tags.valueof(_ORIENTATION, 1)
    return int(value) if value in range(1, 9) else 1


class _LargeTiff(TiffImageFile):
    """Without Pillow's warning of large pictures; how large it may be, `_only_page` has seen to."""

    def load_prepare(self) -> None:
        ImageFile.ImageFile.load_prepare(self)


def _decode(page: TiffPage, file: BinaryIO, path: ImageSource) -> NDArray[Any]:
    if page.bitspersample not in (1, 8, 16, 32, 64) and page.colormap is None:
        # of 2, 4 or 12 bits one decoder keeps the values, another spreads them over the range
        raise _unreadable(page, path)
    if page.photometric in _PLAIN:
        try:
            return page.asarray()
        except (ValueError, LookupError, ImportError, NotImplementedError) as error:
            # whichever package it misses, Pillow may know the compression
            if "imagecodecs" not in str(error) and not isinstance(error, ImportError):
                raise
    file.seek(0)
    data = bytearray(file.read())
    # Pillow turns TIFF upright by itself, which is for whoever reads the tags to do
    tag = page.tags.get(_ORIENTATION)
    if tag is not None:
        order = "<H" if page.parent.byteorder == "<" else ">H"
        struct.pack_into(order, data, tag.valueoffset, 1)
    try:
        with _LargeTiff(BytesIO(data), "") as picture:
            samples = np.asarray(picture)
            other_colours = picture.mode in ("CMYK", "LAB", "YCbCr")
    except SyntaxError:
        raise _unreadable(page, path) from None
    if other_colours or samples.shape != page.shape or samples.dtype != page.dtype:
        raise _unreadable(page, path)
    return np.invert(samples) if page.photometric == PHOTOMETRIC.MINISWHITE else samples


def _unreadable(page: TiffPage, path: ImageSource) -> ValueError:
    return DataError(
        f"{path} stores its pixels in a way that cannot be read here "
        f"({PHOTOMETRIC(page.photometric).name}, compression "
        f"{COMPRESSION(page.compression).name}, {page.bitspersample} bits). Save it as 8-bit or "
        "16-bit grey or RGB TIFF, uncompressed or deflate-compressed; if it is the compression, "
        "`pip install imagecodecs` will do.",
        "unusable-values",
    )
