"""Parts of a picture, without the rest of it in memory.

In: a picture file. Out: any window of it, as `read_image` would give it. A TIFF file is decoded
segment by segment (its tiles or strips), of which those used last are kept; any other picture is
decoded once, whole, if it is small enough.
"""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from itertools import product
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tifffile import PHOTOMETRIC, PLANARCONFIG, TiffFile, TiffPage

from plainunet.formats.encoded import decoding, open_encoded
from plainunet.formats.images import (
    fill,
    image_shape,
    image_size,
    match_channels,
    read_with_missing,
)
from plainunet.formats.problems import DataError, command
from plainunet.formats.sources import ImageSource, files_of, stem_of
from plainunet.formats.tiff import (
    find_missing,
    find_slices,
    has_alpha,
    read_nodata,
    read_segment,
)

KEPT = 192 * 2**20
"""Bytes of decoded segments that are kept of a file."""
LARGEST = 64 * 2**20
"""Bytes of a segment beyond which a file is not read in windows."""


class Windows(Protocol):
    """A picture that is read in parts: `shape` is its height, width and channels."""

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        """Read a window [h, w, C], as `read_image` would give it; it ends where the image does."""

    def missing(self, top: int, height: int) -> NDArray[np.bool_] | None:
        """Find the pixels of some rows, [h, W], that do not exist, or None for none."""


class ArrayWindows:
    """Windows of a picture in memory; `reduced` has it at other sizes, by h and w, where known."""

    def __init__(self, image: NDArray[Any], missing: NDArray[np.bool_] | None = None) -> None:
        """Take an image [H, W, C], and where its pixels do not exist, [H, W]."""
        self.shape: tuple[int, int, int] = (image.shape[0], image.shape[1], image.shape[2])
        self.dtype = image.dtype
        self.reduced: dict[tuple[int, int], NDArray[Any]] = {}
        self._image, self._missing = image, missing

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        """As of `Windows`."""
        return self._image[top : top + height, left : left + width]

    def missing(self, top: int, height: int) -> NDArray[np.bool_] | None:
        """As of `Windows`."""
        return None if self._missing is None else self._missing[top : top + height]


def as_windows(image: NDArray[Any], missing: NDArray[np.bool_] | None = None) -> ArrayWindows:
    """Take an image in memory, [H, W, C], or [H, W] for one channel, filled where it is NaN.

    `missing` are pixels of a file, see `read_with_missing`; else NaN does not exist.
    """
    image = np.asarray(image)
    image = image[..., None] if image.ndim == 2 else image
    if image.ndim != 3:
        raise ValueError(f"A picture is [H, W, C]; this one is {list(image.shape)}.")
    if not image.size:
        raise ValueError(f"This picture has no pixels: {list(image.shape)}.")
    if missing is None and (missing := find_missing(image)) is not None:
        image = fill(image, missing)
    return ArrayWindows(image, missing)


class _AsChannels:
    """Windows of a picture that is shown with other channels."""

    def __init__(self, picture: Windows, channels: int) -> None:
        self.shape = *picture.shape[:2], channels
        self.dtype = picture.dtype
        self._picture = picture

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        """As of `Windows`."""
        return match_channels(self._picture.read(top, left, height, width), self.shape[2])

    def missing(self, top: int, height: int) -> NDArray[np.bool_] | None:
        """As of `Windows`."""
        return self._picture.missing(top, height)


def as_channels(picture: Windows, channels: int) -> Windows:
    """Bring an image to the channels that a network takes, as `match_channels` does."""
    if picture.shape[2] == channels:
        return picture
    if isinstance(picture, ArrayWindows):
        image = match_channels(picture.read(0, 0, *picture.shape[:2]), channels)
        return ArrayWindows(image, picture.missing(0, picture.shape[0]))
    match_channels(picture.read(0, 0, 1, 1), channels)  # refuses what cannot be
    return _AsChannels(picture, channels)


_Segment = tuple[NDArray[Any], NDArray[np.bool_] | None]
"""A tile, or a strip, [h, w, C], that ends where the image does; where pixels do not exist."""
_LOOKED_AT = 64


class TiffWindows:
    """Windows of a page of a TIFF file."""

    def __init__(self, page: TiffPage, path: ImageSource) -> None:
        """Take a page of an open file, one that `_is_windowed`."""
        self.page, self._path = page, path
        self._is_split = page.planarconfig == PLANARCONFIG.SEPARATE and page.samplesperpixel > 1
        self._planes = page.samplesperpixel if self._is_split else 1
        self.shape = page.imagelength, page.imagewidth, page.samplesperpixel
        assert page.dtype is not None  # `_is_windowed` has seen to it
        kind = np.float32 if page.dtype.kind == "f" else page.dtype.newbyteorder("=")
        self.dtype = np.dtype(kind)
        self._length = page.tilelength if page.is_tiled else page.rowsperstrip
        self._width = page.tilewidth if page.is_tiled else page.imagewidth
        self._length = min(self._length, page.imagelength)
        self._across = -(-page.imagewidth // self._width)
        self._down = -(-page.imagelength // self._length)
        self._bytes = self._length * self._width * page.samplesperpixel * self.dtype.itemsize
        self._kept: OrderedDict[tuple[int, int], _Segment] = OrderedDict()
        self._nodata = read_nodata(page)
        self._limit, self._whole = 1, set[tuple[int, int]]()

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        """As of `Windows`."""
        height, width = min(height, self.shape[0] - top), min(width, self.shape[1] - left)
        window = np.empty((height, width, self.shape[2]), self.dtype)
        rows = range(top // self._length, -(-(top + height) // self._length))
        columns = range(left // self._width, -(-(left + width) // self._width))
        # a band of windows side by side finds its segments still there
        self._limit = max(KEPT // self._bytes, len(rows) * len(columns))
        for row, column in product(rows, columns):
            segment = self._segment(row, column)[0]
            y, x = row * self._length, column * self._width
            part = segment[max(top - y, 0) : top + height - y, max(left - x, 0) : left + width - x]
            below, right = max(y - top, 0), max(x - left, 0)
            window[below : below + part.shape[0], right : right + part.shape[1]] = part
        return window

    def missing(self, top: int, height: int) -> NDArray[np.bool_] | None:
        """As of `Windows`."""
        if self._nodata is None and self.dtype.kind != "f":
            return None
        height = min(height, self.shape[0] - top)
        found = np.zeros((height, self.shape[1]), np.bool_)
        rows = range(top // self._length, -(-(top + height) // self._length))
        for row, column in product(rows, range(self._across)):
            if (row, column) in self._whole:
                continue
            part = self._segment(row, column)[1]
            if part is not None:
                y, x = row * self._length, column * self._width
                part = part[max(top - y, 0) : top + height - y]
                below = max(y - top, 0)
                found[below : below + part.shape[0], x : x + part.shape[1]] = part
        return found if found.any() else None

    def _segment(self, row: int, column: int) -> _Segment:
        if (row, column) in self._kept:
            self._kept.move_to_end((row, column))
            return self._kept[row, column]
        segment, missing = self._stored(row, column)
        if missing is None:
            self._whole.add((row, column))
        else:
            segment[missing] = self._filling
        self._kept[row, column] = segment, missing
        while len(self._kept) > self._limit:
            self._kept.popitem(last=False)
        return segment, missing

    def _stored(self, row: int, column: int) -> _Segment:
        """A segment, 0 where pixels do not exist."""
        number = row * self._across + column
        planes = [
            self._decode(plane * self._down * self._across + number)
            for plane in range(self._planes)
        ]
        segment = np.concatenate(planes, axis=2)
        # a tile goes on beyond the image
        segment = segment[
            : self.shape[0] - row * self._length, : self.shape[1] - column * self._width
        ]
        missing = find_missing(segment, self._nodata)
        if self.page.photometric == PHOTOMETRIC.MINISWHITE:
            segment = np.invert(segment)
        if missing is not None:
            segment[missing] = 0
        return segment.astype(self.dtype, copy=False), missing

    @cached_property
    def _filling(self) -> NDArray[np.float64]:
        """What pixels that do not exist are filled with, as by `fill`: means over some segments."""
        places = list(product(range(self._down), range(self._across)))
        total, count = np.zeros(self.shape[2]), 0
        for place in places[:: -(-len(places) // _LOOKED_AT)]:
            segment, missing = self._stored(*place)
            total += segment.sum(axis=(0, 1), dtype=np.float64)
            count += segment[..., 0].size - (0 if missing is None else int(missing.sum()))
        return total / max(count, 1)

    def _decode(self, number: int) -> NDArray[Any]:
        page = self.page
        with decoding(self._path):
            stored = read_segment(page, number, self._path) or None
            data, _, shape = page.decode(stored, number, jpegtables=page.jpegtables)
        if data is None:  # nothing is stored where all is nothing
            return np.full(shape[1:], page.nodata, page.dtype)
        inside: NDArray[Any] = data[0, : shape[1], : shape[2]]
        return inside


def picture_size(path: ImageSource) -> tuple[int, int]:
    """Read an image's height and width, however large it is; of a TIFF file as it is stored."""
    with open_encoded(path) as (kind, file), decoding(path):
        if kind == "tiff":
            with TiffFile(file) as tiff:
                return tiff.pages.first.imagelength, tiff.pages.first.imagewidth
    return image_size(path)


@contextmanager
def open_windows(path: ImageSource, most: int) -> Iterator[Windows]:
    """Open a picture to read parts of it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no picture, or is larger than `most` [bytes] and cannot be read in
            windows.
    """
    with open_encoded(path) as (kind, file), ExitStack() as opened:
        parts = None
        with decoding(path):
            if kind == "tiff" and find_slices(file, path).count == 1:
                file.seek(0)
                page = opened.enter_context(TiffFile(file)).pages.first
                whole = f"{page.imagewidth} x {page.imagelength} pixels", page.nbytes
                parts = TiffWindows(page, path) if _is_windowed(page, path) else None
            else:
                height, width, channels = image_shape(path)
                whole = f"{width} x {height} pixels", height * width * channels
        if parts is not None:
            yield parts
            return
    if whole[1] > most:
        other = files_of(path)[0].with_name(f"{stem_of(path)}-tiled.tif")
        tiled = ["-co", "TILED=YES", "-co", "COMPRESS=DEFLATE", "-co", "BIGTIFF=IF_SAFER"]
        fix = command("gdal_translate", *tiled, path, other)
        raise DataError(
            f"{path} has {whole[0]}, too many to be in memory at once "
            f"({whole[1] / 2**30:.1f} GiB, at most {most / 2**30:.1f}), and its file cannot be "
            f"read in parts. Save it as a TIFF file with tiles: {fix}",
            "too-large",
            [path],
            fix,
        )
    yield ArrayWindows(*read_with_missing(path))


def _is_windowed(page: TiffPage, path: ImageSource) -> bool:
    """Tell whether a page is to be had in parts, each as `read_image` would give it."""
    plain = (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.RGB)
    length = page.tilelength if page.is_tiled else min(page.rowsperstrip, page.imagelength)
    width = page.tilewidth if page.is_tiled else page.imagewidth
    inverted = page.photometric == PHOTOMETRIC.MINISWHITE
    fits = (
        page.dtype is not None
        and page.dtype.name in ("uint8", "uint16", "uint32", "float32", "float64")
        and page.bitspersample == 8 * page.dtype.itemsize
        and page.photometric in plain
        and not (inverted and page.dtype.kind == "f")
        and page.colormap is None
        and page.imagedepth == 1
        and page.tags.valueof("Orientation", 1) == 1
        and length * width * page.samplesperpixel * page.dtype.itemsize <= LARGEST
        and not has_alpha(page)
    )
    if fits:
        stored = read_segment(page, 0, path) or None
        try:
            page.decode(stored, 0, jpegtables=page.jpegtables)
        except Exception:  # a compression that tifffile does not know: `read_image` may
            return False
    return fits
