"""Read windows of an image without loading all of it.

Windows have the values that `read_image` returns. TIFF files are decoded by segments (tiles or
strips), with the last used ones cached; other images are decoded as a whole if small enough.
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

from plainunet.errors import Error
from plainunet.formats.image_files import decoding, open_encoded
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
"""Size of the cache of decoded segments of a file [bytes]."""
LARGEST = 64 * 2**20
"""Maximum size of a segment for reading a file in windows [bytes]."""


class Windows(Protocol):
    """An image read in windows; `shape` is its height, width and channels."""

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        """Read a window [h, w, C] as by `read_image`, clipped to the image."""

    def missing(self, top: int, height: int) -> NDArray[np.bool_] | None:
        """The nodata pixels of some rows, [h, W], or None if there are none."""


class ArrayWindows:
    """Windows of an image in memory; `reduced` caches it at other sizes, by h and w."""

    def __init__(
        self,
        image: NDArray[Any],
        missing: NDArray[np.bool_] | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        """Use an image [H, W, C], with its nodata pixels [H, W].

        `size` is the height and width of the whole image if it was decoded at a smaller one (see
        `read_reduced`); no windows can be read then, it can only be reduced further.
        """
        height, width = size or image.shape[:2]
        self.shape: tuple[int, int, int] = (height, width, image.shape[2])
        self.dtype = image.dtype
        self.reduced: dict[tuple[int, int], NDArray[Any]] = {}
        self.decoded, self._missing = image, missing

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        """See `Windows`."""
        assert self.decoded.shape == self.shape, "decoded at a smaller size"
        return self.decoded[top : top + height, left : left + width]

    def missing(self, top: int, height: int) -> NDArray[np.bool_] | None:
        """See `Windows`."""
        return None if self._missing is None else self._missing[top : top + height]


def as_windows(image: NDArray[Any], missing: NDArray[np.bool_] | None = None) -> ArrayWindows:
    """Windows of an image in memory, [H, W, C], or [H, W] for one channel; NaN is filled.

    `missing` are the nodata pixels from `read_with_missing`; by default those that are NaN.
    """
    image = np.asarray(image)
    image = image[..., None] if image.ndim == 2 else image
    if image.ndim != 3:
        raise Error(f"An image is [H, W, C]; this one is {list(image.shape)}.")
    if not image.size:
        raise Error(f"This image has no pixels: {list(image.shape)}.")
    if missing is None and (missing := find_missing(image)) is not None:
        image = fill(image, missing)
    return ArrayWindows(image, missing)


class _AsChannels:
    """Windows of an image converted to other channels."""

    def __init__(self, image: Windows, channels: int) -> None:
        self.shape = *image.shape[:2], channels
        self.dtype = image.dtype
        self._image = image

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        """See `Windows`."""
        return match_channels(self._image.read(top, left, height, width), self.shape[2])

    def missing(self, top: int, height: int) -> NDArray[np.bool_] | None:
        """See `Windows`."""
        return self._image.missing(top, height)


def as_channels(windows: Windows, channels: int) -> Windows:
    """Match an image to the network's input channels, see `match_channels`."""
    if windows.shape[2] == channels:
        return windows
    if isinstance(windows, ArrayWindows):
        image = match_channels(windows.read(0, 0, *windows.shape[:2]), channels)
        return ArrayWindows(image, windows.missing(0, windows.shape[0]))
    match_channels(windows.read(0, 0, 1, 1), channels)  # raises if impossible
    return _AsChannels(windows, channels)


_Segment = tuple[NDArray[Any], NDArray[np.bool_] | None]
"""A tile or strip [h, w, C], clipped to the image, and its nodata pixels [h, w]."""
_SAMPLED = 64


class TiffWindows:
    """Windows of a page of a TIFF file."""

    def __init__(self, page: TiffPage, path: ImageSource) -> None:
        """Use a page of an open file for which `_is_windowed` holds."""
        self.page, self._path = page, path
        self._is_split = page.planarconfig == PLANARCONFIG.SEPARATE and page.samplesperpixel > 1
        self._planes = page.samplesperpixel if self._is_split else 1
        self.shape = page.imagelength, page.imagewidth, page.samplesperpixel
        assert page.dtype is not None  # checked by `_is_windowed`
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
        """See `Windows`."""
        height, width = min(height, self.shape[0] - top), min(width, self.shape[1] - left)
        window = np.empty((height, width, self.shape[2]), self.dtype)
        rows = range(top // self._length, -(-(top + height) // self._length))
        columns = range(left // self._width, -(-(left + width) // self._width))
        # keep the segments of a row of windows
        self._limit = max(KEPT // self._bytes, len(rows) * len(columns))
        for row, column in product(rows, columns):
            segment = self._segment(row, column)[0]
            y, x = row * self._length, column * self._width
            part = segment[max(top - y, 0) : top + height - y, max(left - x, 0) : left + width - x]
            below, right = max(y - top, 0), max(x - left, 0)
            window[below : below + part.shape[0], right : right + part.shape[1]] = part
        return window

    def missing(self, top: int, height: int) -> NDArray[np.bool_] | None:
        """See `Windows`."""
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
        """A segment, with nodata pixels set to 0."""
        number = row * self._across + column
        planes = [
            self._decode(plane * self._down * self._across + number)
            for plane in range(self._planes)
        ]
        segment = np.concatenate(planes, axis=2)
        # tiles extend beyond the image
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
        """The fill values for nodata pixels, as in `fill`: means over a sample of segments."""
        places = list(product(range(self._down), range(self._across)))
        total, count = np.zeros(self.shape[2]), 0
        for place in places[:: -(-len(places) // _SAMPLED)]:
            segment, missing = self._stored(*place)
            total += segment.sum(axis=(0, 1), dtype=np.float64)
            count += segment[..., 0].size - (0 if missing is None else int(missing.sum()))
        return total / max(count, 1)

    def _decode(self, number: int) -> NDArray[Any]:
        page = self.page
        with decoding(self._path):
            stored = read_segment(page, number, self._path) or None
            data, _, shape = page.decode(stored, number, jpegtables=page.jpegtables)
        if data is None:  # empty segments are not stored
            return np.full(shape[1:], page.nodata, page.dtype)
        inside: NDArray[Any] = data[0, : shape[1], : shape[2]]
        return inside


def stored_size(path: ImageSource) -> tuple[int, int]:
    """Read the height and width of an image of any size; of a TIFF file as stored."""
    with open_encoded(path) as (kind, file), decoding(path):
        if kind == "tiff":
            with TiffFile(file) as tiff:
                return tiff.pages.first.imagelength, tiff.pages.first.imagewidth
    return image_size(path)


@contextmanager
def open_windows(path: ImageSource, most: int) -> Iterator[Windows]:
    """Open an image to read windows of it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not an image, or is larger than `most` [bytes] and cannot be read in
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
            f"{path} has {whole[0]} ({whole[1] / 2**30:.1f} GiB), more than the limit of "
            f"{most / 2**30:.1f} GiB, and its file cannot be read in parts. Save it as a tiled "
            f"TIFF file: {fix}",
            "too-large",
            [path],
            fix,
        )
    yield ArrayWindows(*read_with_missing(path))


def _is_windowed(page: TiffPage, path: ImageSource) -> bool:
    """Whether a page can be read in windows with the values of `read_image`."""
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
        except Exception:  # unknown to tifffile; `read_image` may support it
            return False
    return fits
