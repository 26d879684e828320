"""TIFF files: images with their tags, and slices of stacks.

tifffile decodes. The file structure is parsed here, because tifffile takes five to nine times as
long to count the pages of every file of a dataset, or to extract a slice of a stack of thousands.
"""

import logging
import lzma
import os
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.TiffImagePlugin import TiffImageFile
from tifffile import (
    COMPRESSION,
    EXTRASAMPLE,
    PHOTOMETRIC,
    PLANARCONFIG,
    TiffFile,
    TiffPage,
    imwrite,
)

from plainunet.errors import Error
from plainunet.formats.problems import DataError, cut_off, how_to_restore, require_decodable
from plainunet.formats.sources import ImageSource, Page, path_of

# GDAL writes nodata values that the type cannot hold, which is no reason to warn of each file
logging.getLogger("tifffile").addFilter(lambda record: "GDAL_NODATA" not in record.getMessage())

Tag = tuple[int, int, bytes]
"""Type, count, and the value or, if longer than a pointer, its offset in the file."""
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_SIZES |= {16: 8, 17: 8, 18: 8}
_UNSIGNED = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}


class TagReader:
    """The structure of a TIFF file: offsets and formats (`order`, `pointer`, `entry`)."""

    def __init__(self, file: BinaryIO) -> None:
        """Read the header."""
        self.file = file
        self.size = file.seek(0, os.SEEK_END)
        file.seek(0)
        head = file.read(16)
        self.order = {b"II": "<", b"MM": ">"}[head[:2]]
        big = struct.unpack(f"{self.order}H", head[2:4])[0] == 43
        self.pointer = f"{self.order}{'Q' if big else 'I'}"
        self.width = struct.calcsize(self.pointer)
        self.counter = f"{self.order}{'Q' if big else 'H'}"
        self.entry = struct.Struct(f"{self.order}HH{'Q8s' if big else 'I4s'}")
        self.first: int = struct.unpack_from(self.pointer, head, self.width)[0]

    def page(self, at: int) -> tuple[list[tuple[int, Tag]], int]:
        """Read a page's tags (some programs write one twice), and the offset of the next, or 0."""
        self.file.seek(at)
        data = self.file.read(1024)
        if len(data) < self.width:
            raise EOFError(f"it ends after {self.size} bytes, but its next page begins at {at}")
        start = struct.calcsize(self.counter)
        (count,) = struct.unpack_from(self.counter, data)
        end = start + count * self.entry.size
        if end + self.width > self.size - at:
            raise EOFError(f"it ends after {self.size} bytes, within the tags of a page")
        data += self.file.read(max(0, end + self.width - len(data)))
        tags = [
            (code, (kind, number, value))
            for code, kind, number, value in self.entry.iter_unpack(data[start:end])
        ]
        return tags, struct.unpack_from(self.pointer, data, end)[0]

    def value(self, tag: Tag, most: int | None = None) -> bytes:
        """Read a tag's value, or its first `most` bytes, in the file's byte order."""
        kind, count, value = tag
        size = _SIZES[kind] * count
        if size <= self.width:
            return value[:size]
        (at,) = struct.unpack(self.pointer, value)
        if at + size > self.size:
            raise EOFError(f"it ends after {self.size} bytes, but a tag value after {at + size}")
        self.file.seek(at)
        return self.file.read(size if most is None else min(size, most))

    def numbers(self, tag: Tag) -> tuple[int, ...]:
        """Read a tag's value as unsigned numbers."""
        return struct.unpack(f"{self.order}{tag[1]}{_UNSIGNED[tag[0]]}", self.value(tag))

    def number(self, tags: dict[int, Tag], code: int, otherwise: int) -> int:
        """Read the first number of a tag; `otherwise` if the page has no such tag."""
        return self.numbers(tags[code])[0] if code in tags else otherwise

    def pack_numbers(self, numbers: list[int]) -> Tag:
        """Make a tag of numbers, with the value inline at any length."""
        kind = 16 if self.width == 8 else 4
        packed = struct.pack(f"{self.order}{len(numbers)}{_UNSIGNED[kind]}", *numbers)
        return kind, len(numbers), packed


_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _DESCRIPTION = 256, 257, 258, 259, 270
_OFFSETS, _SAMPLES, _ROWS, _COUNTS, _PLANAR = 273, 277, 278, 279, 284
_TILE_OFFSETS, _TILE_COUNTS, _DEPTH, _TILE_DEPTH = 324, 325, 32997, 32998
_SUBFILE, _METAMORPH = 254, 33629
# what decoders need besides the pixels; without references to other pages
_KEPT = (
    *(_WIDTH, _HEIGHT, _BITS, _COMPRESSION, 262, 266, 274, _SAMPLES, _ROWS, _PLANAR, 292, 293),
    *(317, 320, 322, 323, 338, 339, 340, 341, 347, 530, 532, 42113, 50674),
)
_PRIVATE = 32768
_OF_PLACES = (33432, 33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113)  # GeoTIFF and GDAL
_SHAPE = re.compile(rb'(?:\{"shape": \[|shape=\()([\d, ]+)')
_IMAGES = re.compile(rb"ImageJ=.*?^images=(\d+)", re.DOTALL | re.MULTILINE)
_AXES = {"C": "channels", "Z": "slices", "T": "times", "S": "samples"}


@dataclass(frozen=True)
class Slices:
    """The offsets of pages of the size of the first [bytes], or the number of slices in one."""

    pages: tuple[int, ...]
    inside: int
    size: tuple[int, int]

    @property
    def count(self) -> int:
        """The number of slices."""
        return max(len(self.pages), self.inside)


def find_slices(file: BinaryIO, path: ImageSource) -> Slices:
    """Find the slices of a TIFF file without reading its pixels.

    Pages of other sizes than the first are previews and skipped. Channels, several axes and
    unsupported layouts raise ValueError, damaged files any Exception.
    """
    reader = TagReader(file)
    pages: list[int] = []
    seen: set[int] = set()
    size = (0, 0)
    first: list[tuple[int, Tag]] = []
    at = reader.first
    while at or not seen:
        if at in seen:
            raise Error(f"its page at {at} is part of a cycle")
        seen.add(at)
        listed, following = reader.page(at)
        tags = dict(listed)
        this = reader.number(tags, _WIDTH, 0), reader.number(tags, _HEIGHT, 0)
        if not first:
            first, size = listed, this
        if this == size:
            if reader.number(tags, _SUBFILE, 0) & 4:
                raise Error(
                    f"{path} has a transparency mask page, which is not supported. Save it without "
                    "that page."
                )
            pages.append(at)
        at = following
    inside = _inside(reader, first, size, path) if len(pages) == 1 else 1
    found = Slices(tuple(pages), inside, size)
    if found.count > 1 and any(_tells_axes(code) for code, _ in first):
        _require_one_axis(file, path)
    return found


def _tells_axes(code: int) -> bool:
    """Whether a tag may name the axes of a file: a description or a private tag."""
    return code == _DESCRIPTION or (code >= _PRIVATE and code not in _OF_PLACES)


def _inside(
    reader: TagReader, listed: list[tuple[int, Tag]], size: tuple[int, int], path: ImageSource
) -> int:
    """The number of slices in a single page."""
    tags = dict(listed)
    depth = reader.number(tags, _DEPTH, 1)
    if _METAMORPH in tags and tags[_METAMORPH][1] > 1:
        raise Error(
            f"{path} is a MetaMorph stack of {tags[_METAMORPH][1]} slices, which is not "
            "supported. Save it as a TIFF file with one page per slice."
        )
    if depth > 1:
        if reader.number(tags, _TILE_DEPTH, 1) > 1 or reader.number(tags, _PLANAR, 1) == 2:
            raise Error(
                f"{path} is a volume of {depth} interleaved slices, which is not supported. Save "
                "it as a TIFF file with one page per slice."
            )
        return depth
    samples = reader.number(tags, _SAMPLES, 1)
    listed_count = 1
    for code, tag in listed:
        if code == _DESCRIPTION and tag[1] > reader.width:
            named = _named_slices(reader.value(tag, 1 << 16), size[0] * size[1] * samples)
            listed_count = max(listed_count, named)
    if listed_count == 1 or reader.number(tags, _COMPRESSION, 1) != 1 or _OFFSETS not in tags:
        return 1
    needed = _bytes_of(reader, tags)
    fits = (reader.size - reader.numbers(tags[_OFFSETS])[0]) // max(1, needed)
    if fits < 2:  # a slice saved alone keeps the description of its stack
        return 1
    if fits < listed_count:
        raise EOFError(f"it ends after {fits} of {listed_count} slices")
    return listed_count


def _named_slices(description: bytes, values: int) -> int:
    shape = _SHAPE.match(description)
    if shape:
        product = 1
        for length in shape[1].split(b","):
            product *= int(length) if length.strip() else 1
        return product // max(1, values)
    images = _IMAGES.match(description)
    return int(images[1]) if images else 1


def _bytes_of(reader: TagReader, tags: dict[int, Tag]) -> int:
    """Size of one slice, uncompressed [bytes]."""
    samples, bits = (reader.number(tags, code, 1) for code in (_SAMPLES, _BITS))
    width, height = (reader.number(tags, code, 0) for code in (_WIDTH, _HEIGHT))
    return (width * samples * bits + 7) // 8 * height


def _require_one_axis(file: BinaryIO, path: ImageSource) -> None:
    file.seek(0)
    with TiffFile(file) as tiff:
        series = tiff.series[0]
        axes = [
            (axis, length)
            for axis, length in zip(series.axes, series.shape, strict=True)
            if axis not in "YXS" and length > 1
        ]
    lengths = ", ".join(f"{length} {_AXES.get(axis, axis)}" for axis, length in axes)
    if len(axes) > 1:
        raise Error(
            f"{path} is a stack along {len(axes)} axes ({lengths}); only one is supported. Save it "
            "as several stacks."
        )
    if axes and axes[0][0] == "C":
        raise Error(
            f"{path} has pages marked as channels ({lengths}) of one image. If they are, save them "
            "as one page with as many samples; if they are slices, mark them so (in ImageJ: Image "
            "> Properties; in tifffile: metadata={'axes': 'ZYX'})."
        )


@lru_cache(maxsize=256)
def _known_slices(path: Path, size: int, time: int) -> Slices:
    with path.open("rb") as file:
        return find_slices(file, path)


def cut_slice(file: BinaryIO, page: Page) -> bytes:
    """Copy one slice of a TIFF file, as stored, into a separate TIFF file."""
    status = os.fstat(file.fileno())
    slices = _known_slices(page.file, status.st_size, status.st_mtime_ns)
    index = page.index
    if not 0 <= index < slices.count:
        raise Error(
            f"{page} does not exist: {page.file} has {slices.count} "
            f"slice{'s' * (slices.count > 1)}. Name one from [0] to [{slices.count - 1}]."
        )
    reader = TagReader(file)
    tags = dict(reader.page(slices.pages[0 if slices.inside > 1 else index])[0])
    kept = {code: (*tags[code][:2], reader.value(tags[code])) for code in _KEPT if code in tags}
    chunks = _chunks(reader, tags)
    if slices.inside > 1:
        per_slice, rest = divmod(len(chunks), slices.inside)
        if not rest and _DEPTH in tags:
            chunks = chunks[index * per_slice : (index + 1) * per_slice]
        elif reader.number(tags, _COMPRESSION, 1) == 1 and _TILE_OFFSETS not in tags:
            length = _bytes_of(reader, tags)
            chunks = [(chunks[0][0] + index * length, length)]
            kept.pop(_ROWS, None)
        else:
            raise Error("its tags contradict each other")
    return _write(reader, kept, chunks, tiled=_TILE_OFFSETS in tags)


def _chunks(reader: TagReader, tags: dict[int, Tag]) -> list[tuple[int, int]]:
    """The offsets and lengths of the strips or tiles of a page [bytes]."""
    tiled = _TILE_OFFSETS in tags
    offsets = reader.numbers(tags[_TILE_OFFSETS if tiled else _OFFSETS])
    code = _TILE_COUNTS if tiled else _COUNTS
    counts = reader.numbers(tags[code]) if code in tags else (_bytes_of(reader, tags),)
    return list(zip(offsets, counts, strict=True))


def _write(
    reader: TagReader, tags: dict[int, Tag], chunks: list[tuple[int, int]], tiled: bool
) -> bytes:
    end = max(offset + length for offset, length in chunks)
    if end > reader.size:
        raise EOFError(f"it ends after {reader.size} bytes, but the slice at {end}")
    if sum(length for _, length in set(chunks)) > reader.size:
        raise Error("its strips overlap")
    reader.file.seek(0)
    content = bytearray(reader.file.read(2 * reader.width))
    moved: dict[tuple[int, int], int] = {}
    for offset, length in chunks:
        if (offset, length) not in moved:
            moved[offset, length] = len(content)
            reader.file.seek(offset)
            content += reader.file.read(length)
    places = [moved[chunk] if chunk[1] else 0 for chunk in chunks]
    tags[_TILE_OFFSETS if tiled else _OFFSETS] = reader.pack_numbers(places)
    lengths = [length for _, length in chunks]
    tags[_TILE_COUNTS if tiled else _COUNTS] = reader.pack_numbers(lengths)
    listed = struct.pack(reader.counter, len(tags))
    for code, (kind, count, value) in sorted(tags.items()):
        if len(value) > reader.width:
            value, at = struct.pack(reader.pointer, len(content)), value
            content += at
        listed += reader.entry.pack(code, kind, count, value)
    struct.pack_into(reader.pointer, content, reader.width, len(content))
    return bytes(content + listed + bytes(reader.width))


_ORIENTATION = 274
_PLAIN = (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.RGB, PHOTOMETRIC.PALETTE)
_ALPHA = (EXTRASAMPLE.ASSOCALPHA, EXTRASAMPLE.UNASSALPHA)


@dataclass(frozen=True)
class TiffImage:
    """The content of a TIFF file.

    Samples [H, W, S] as stored, inverted if 0 is white; alpha [H, W]; the palette [n, 3] uint16
    that samples are indices of; and the orientation 1..8, which has not been applied.
    """

    samples: NDArray[Any]
    alpha: NDArray[Any] | None
    palette: NDArray[np.uint16] | None
    orientation: int
    is_inverted: bool = False
    """Whether 0 is white, so that the samples differ from the stored numbers."""
    missing: NDArray[np.bool_] | None = None
    """[H, W], the nodata pixels, if there are any; see `find_missing`."""

    @property
    def colors(self) -> NDArray[Any]:
        """The samples or, with a palette, their colours [H, W, 3] uint8."""
        if self.palette is None:
            return self.samples
        # TIFF palettes have 16 bits; the high byte is the 8-bit colour
        colors: NDArray[Any] = (self.palette >> 8).astype(np.uint8)[self.samples[..., 0]]
        return colors


def read_tiff(file: BinaryIO, path: ImageSource) -> TiffImage:
    """Read a TIFF file with a single image."""
    file.seek(0)
    with TiffFile(file) as tiff:
        page = _only_page(tiff, file, path)
        if page.compression in _RATIO:
            for number in range(len(page.dataoffsets)):
                read_segment(page, number, path)
        samples = _decode(page, file, path)
    if samples.size != page.size:
        raise Error("its tags contradict each other")
    if page.axes == "SYX":
        samples = np.moveaxis(samples, 0, -1)
    samples = samples.reshape(page.imagelength, page.imagewidth, -1)
    is_inverted = page.photometric == PHOTOMETRIC.MINISWHITE
    bands = samples[..., :-1] if has_alpha(page) else samples
    missing = find_missing(bands, read_nodata(page))
    if is_inverted:
        if samples.dtype.kind not in "bu":
            raise DataError(
                f"{path} is marked as white for 0, which is invalid for {samples.dtype} values. "
                "Save it with 0 as black (photometric MINISBLACK).",
                "unusable-values",
            )
        samples = np.invert(samples)
    # tifffile keeps big-endian byte order, which OpenCV rejects
    samples = samples.astype(samples.dtype.newbyteorder("="), copy=False)
    alpha = None
    if has_alpha(page):
        samples, alpha = samples[..., :-1], samples[..., -1]
    palette = None if page.colormap is None else page.colormap.T.astype(np.uint16)
    return TiffImage(samples, alpha, palette, _orientation(page), is_inverted, missing)


_NODATA = 42113
_HUGE = 1e30
_EXTREME = 0.97
"""Fraction of the highest float above which a number is meant to be it: tags have few digits."""
_USUAL = (-999, -9999, -99999, -32767, -32768, -(2**31))


def read_nodata(page: TiffPage) -> float | None:
    """Read the nodata value (GDAL_NODATA), or None.

    Also None if it is not a number, or does not fit the data type.
    """
    try:
        value = float(str(page.tags.valueof(_NODATA, "")).strip("\0 ").replace(",", "."))
    except ValueError:
        return None
    dtype = np.dtype(page.dtype)
    if dtype.kind == "f":
        # such as the minimum of float64 in a float32 file
        limit = float(np.finfo(dtype).max)
        return float(np.clip(value, -limit, limit)) if np.isfinite(value) else value
    least, most = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return value if value.is_integer() and least <= value <= most else None


def find_missing(samples: NDArray[Any], nodata: float | None = None) -> NDArray[np.bool_] | None:
    """Find the nodata pixels of an image [H, W, C]: [H, W], or None if there are none.

    They are NaN in any band, or `nodata` in all bands, as in GDAL. For floats and signed
    integers, a non-zero `nodata` in any band is enough, since it is unlikely to be a real value.
    The lowest and highest number of float32 or float64 are never real values, so they need no tag.
    """
    missing = None
    if nodata is not None and not np.isnan(nodata):
        if samples.dtype.kind == "f":
            # the decimal number in the tag is rounded
            nearly = 1e-2 if abs(nodata) > _HUGE else 1e-6
            is_nodata = np.isclose(samples, nodata, rtol=nearly, atol=0)
        else:
            is_nodata = samples == samples.dtype.type(int(nodata))
        is_odd = samples.dtype.kind in "fi" and nodata != 0
        missing = is_nodata.any(axis=2) if is_odd else is_nodata.all(axis=2)
    highest = _EXTREME * float(np.finfo(np.float32).max)
    is_float = samples.dtype.kind == "f"
    if is_float and not -highest < float(samples.min()) <= float(samples.max()) < highest:
        none = (np.isnan(samples) | _are_extreme(samples)).any(axis=2)
        missing = none if missing is None else missing | none
    return missing if missing is not None and missing.any() else None


def _are_extreme(samples: NDArray[Any]) -> NDArray[np.bool_]:
    """Where floats are the lowest or highest number of float32 or float64."""
    size = np.abs(samples.astype(np.float64, copy=False))
    found = np.zeros(size.shape, bool)
    for kind in (np.float32, np.float64):
        highest = float(np.finfo(kind).max)
        found |= (size > _EXTREME * highest) & (size <= highest)
    return found


def find_untagged(image: NDArray[Any]) -> float | None:
    """The value [H, W, C] that is probably nodata, although nothing marks it; None without one.

    It is the lowest, usual for nodata, and further from the others than they are from each other.
    """
    lowest = float(image.min())
    if image.dtype.kind not in "fi" or lowest not in _USUAL:
        return None
    others = image[image != image.dtype.type(lowest)]
    if not others.size:
        return lowest
    least, most = float(others.min()), float(others.max())
    return lowest if least - lowest > most - least else None


def tiff_shape(file: BinaryIO, path: ImageSource) -> tuple[int, int, int, int]:
    """Height, width, channels without alpha (three for a palette) and orientation, 1..8."""
    file.seek(0)
    with TiffFile(file) as tiff:
        page = _only_page(tiff, file, path)
        channels = 3 if page.colormap is not None else page.samplesperpixel - has_alpha(page)
        return page.imagelength, page.imagewidth, channels, _orientation(page)


class TiffMarks(NamedTuple):
    """Properties of a TIFF file other than its samples."""

    palette: NDArray[np.uint16] | None
    dtype: np.dtype[Any]
    is_inverted: bool
    has_alpha: bool
    nodata: float | None


def tiff_marks(file: BinaryIO, path: ImageSource) -> TiffMarks:
    """Read the properties of a TIFF file from its header."""
    file.seek(0)
    with TiffFile(file) as tiff:
        page = _only_page(tiff, file, path)
        palette = None if page.colormap is None else page.colormap.T.astype(np.uint16)
        is_inverted = page.photometric == PHOTOMETRIC.MINISWHITE
        marks = np.dtype(page.dtype), is_inverted, has_alpha(page), read_nodata(page)
        return TiffMarks(palette, *marks)


def _only_page(tiff: TiffFile, file: BinaryIO, path: ImageSource) -> TiffPage:
    slices = find_slices(file, path)
    if slices.count > 1:
        raise _is_stack(slices, path)
    first = tiff.pages.first
    if not first.size:
        raise DataError(f"{path} has no pixels. Copy it again, or remove it.", "empty-file")
    if first.nbytes > tiff.filehandle.size:
        require_decodable(first.imagelength * first.imagewidth, path, first.samplesperpixel)
    end = max(a + b for a, b in zip(first.dataoffsets, first.databytecounts, strict=True))
    if end > tiff.filehandle.size:
        raise cut_off(path, tiff.filehandle.size)
    return first


_INFLATED = 2**26
"""Decompressed size that any segment may have unchecked [bytes]."""
_DEFLATE = (COMPRESSION.ADOBE_DEFLATE, COMPRESSION.DEFLATE)
_RATIO: dict[int, int] = {**dict.fromkeys(_DEFLATE, 1032), COMPRESSION.LZMA: 10**5}
"""Maximum compression ratio."""


def read_segment(page: TiffPage, number: int, path: ImageSource) -> bytes:
    """Read a strip or tile as stored; reject one whose decompressed size exceeds its tags.

    tifffile would decompress any size.
    """
    file, count = page.parent.filehandle, page.databytecounts[number]
    file.seek(page.dataoffsets[number])
    data: bytes = file.read(count) if count else b""
    expected = segment_bytes(page)
    if count * _RATIO.get(page.compression, 0) > max(_INFLATED, 4 * expected):
        is_lzma = page.compression == COMPRESSION.LZMA
        inflate: Any = lzma.LZMADecompressor() if is_lzma else zlib.decompressobj()
        if len(inflate.decompress(data, expected + 1)) > expected:
            raise DataError(
                f"{path} is damaged: a segment decompresses to more than the {expected} bytes in "
                f"its tags. {how_to_restore(path)}",
                "damaged",
            )
    return data


def segment_bytes(page: TiffPage) -> int:
    """The size of a strip or tile of a page, uncompressed [bytes]."""
    length, width, depth = page.rowsperstrip, page.imagewidth, 1
    if page.is_tiled:
        length, width, depth = page.tilelength, page.tilewidth, page.tiledepth
    samples = 1 if page.planarconfig == PLANARCONFIG.SEPARATE else page.samplesperpixel
    rows = min(length, page.imagelength) if not page.is_tiled else length
    return (width * samples * page.bitspersample + 7) // 8 * rows * depth


def _is_stack(slices: Slices, path: ImageSource) -> ValueError:
    width, height = slices.size
    message = f"{path} is a stack of {slices.count} slices of {width}x{height} pixels"
    if path_of(path).suffix.lower() not in (".tif", ".tiff"):
        return DataError(f"{message}. Rename it to end in .tif.", "several-frames")
    return DataError(
        f"{message}, but a single image is needed. Name a slice, such as '{path}[0]'; for "
        "training, pair it with a stack of as many masks, one per page.",
        "several-frames",
    )


def has_alpha(page: TiffPage) -> bool:
    """Whether a page's last sample is alpha."""
    return page.samplesperpixel > 1 and bool(page.extrasamples) and page.extrasamples[-1] in _ALPHA


def mark_as_channel(path: Path) -> bytes:
    """Mark the last band of a TIFF file as a channel instead of alpha."""
    file = BytesIO(path.read_bytes())
    with TiffFile(file) as tiff:
        tag = tiff.pages.first.tags["ExtraSamples"]
        tag.overwrite((*tag.value[:-1], 0))
    return file.getvalue()


def mark_nodata(path: Path, value: float) -> bytes:
    """Tag every page of a TIFF file with a nodata value; its pixels stay where they are."""
    data = bytearray(path.read_bytes())
    reader = TagReader(BytesIO(bytes(data)))
    if len(data) + 2**20 > 2 ** (8 * reader.width):
        raise Error("a TIFF file of 4 GiB has no space for a tag")
    text = f"{value:.17g}".encode().ljust(reader.width, b"\0") + b"\0"
    at, link = reader.first, reader.width
    while at:
        listed, following = reader.page(at)
        data += bytes(len(data) % 2)
        place = struct.pack(reader.pointer, len(data))
        data += text + bytes(len(text) % 2)
        tags = [each for each in listed if each[0] != _NODATA] + [(_NODATA, (2, len(text), place))]
        struct.pack_into(reader.pointer, data, link, len(data))
        data += struct.pack(reader.counter, len(tags))
        for code, tag in sorted(tags):
            data += reader.entry.pack(code, *tag)
        at, link = following, len(data)
        data += struct.pack(reader.pointer, following)
    return bytes(data)


def _orientation(page: TiffPage) -> int:
    value = page.tags.valueof(_ORIENTATION, 1)
    return int(value) if value in range(1, 9) else 1


class _LargeTiff(TiffImageFile):
    """Without Pillow's warning of large images; `_only_page` has checked the size."""

    def load_prepare(self) -> None:
        ImageFile.ImageFile.load_prepare(self)


def _decode(page: TiffPage, file: BinaryIO, path: ImageSource) -> NDArray[Any]:
    if page.bitspersample not in (1, 8, 16, 32, 64) and page.colormap is None:
        # decoders disagree on whether to scale values of 2, 4 or 12 bits
        raise _unreadable(page, path)
    if page.photometric in _PLAIN:
        try:
            return page.asarray()
        except (ValueError, LookupError, ImportError, NotImplementedError) as error:
            # if tifffile lacks a package, Pillow may support the compression
            if "imagecodecs" not in str(error) and not isinstance(error, ImportError):
                raise
    file.seek(0)
    data = bytearray(file.read())
    # keep Pillow from applying the orientation, which callers do
    tag = page.tags.get(_ORIENTATION)
    if tag is not None:
        order = "<H" if page.parent.byteorder == "<" else ">H"
        struct.pack_into(order, data, tag.valueoffset, 1)
    try:
        with _LargeTiff(BytesIO(data), "") as image:
            samples = np.asarray(image)
            other_colours = image.mode in ("CMYK", "LAB", "YCbCr")
    except SyntaxError:
        raise _unreadable(page, path) from None
    if other_colours or samples.shape != page.shape or samples.dtype != page.dtype:
        raise _unreadable(page, path)
    return np.invert(samples) if page.photometric == PHOTOMETRIC.MINISWHITE else samples


def _unreadable(page: TiffPage, path: ImageSource) -> ValueError:
    return DataError(
        f"{path} has an unsupported pixel format ({PHOTOMETRIC(page.photometric).name}, "
        f"compression {COMPRESSION(page.compression).name}, {page.bitspersample} bits). Save it as "
        "8-bit or 16-bit grey or RGB TIFF, uncompressed or deflate-compressed; for other "
        "compressions, `pip install imagecodecs` may help.",
        "unusable-values",
    )


_PIXELS = (_WIDTH, _HEIGHT, _OFFSETS, _ROWS, _COUNTS, 282, 283, _TILE_OFFSETS, _TILE_COUNTS)
"""Tags that depend on the pixels and their segments, and rationals; encoders recompute them."""
_OWN = {*_PIXELS, 254, _BITS, _COMPRESSION, 262, _SAMPLES, _PLANAR, 296, 317, 320, 322, 323}
_OWN |= {338, 339}
"""Tags that encoders write themselves."""


def rewrite_tiff(
    data: bytes, path: ImageSource, how: Callable[[NDArray[Any]], NDArray[Any]]
) -> bytes:
    """Encode a TIFF file with new samples, [H, W] or [H, W, S], and the same tags.

    Raises:
        ValueError: No installed encoder can write all of it.
    """
    file = BytesIO(data)
    with TiffFile(file) as tiff:
        page = _only_page(tiff, file, path)
        stored = _decode(page, file, path)
        values = how(stored)
        if values.shape[:2] != stored.shape[:2] and set(_OF_PLACES) & {*page.tags.keys()}:
            raise Error("its georeference depends on its size")
        if page.compression in (1, 8, 32946):  # tifffile can write it without imagecodecs
            written = _encode(page, values)
        else:
            written = _encode_by_pillow(page, BytesIO(data), values)
        # optional tags: sample format, and planar configuration for one sample per pixel
        optional = (*_PIXELS, 339, *([_PLANAR] if stored.ndim == 2 else []))
        tags = {tag.code: str(tag.value) for tag in page.tags if tag.code not in optional}
    file = BytesIO(written)
    with TiffFile(file) as tiff:
        page = _only_page(tiff, file, path)
        kept = {tag.code: str(tag.value) for tag in page.tags}
        lost = [code for code, value in tags.items() if kept.get(code) != value]
        decoded = _decode(page, file, path)
        if lost or decoded.dtype != stored.dtype or not np.array_equal(decoded, values):
            raise Error(f"tags {lost} would be lost")
    return written


def _encode(page: TiffPage, values: NDArray[Any]) -> bytes:
    tags, file = page.tags, BytesIO()
    size = (tags.valueof(282), tags.valueof(283))
    imwrite(
        file,
        values,
        byteorder=page.parent.byteorder,
        bigtiff=page.parent.is_bigtiff,
        photometric=page.photometric,
        compression=page.compression,
        predictor=page.predictor if page.predictor > 1 else None,
        planarconfig=page.planarconfig if page.samplesperpixel > 1 else None,
        extrasamples=page.extrasamples or None,
        tile=(page.tilelength, page.tilewidth) if page.is_tiled else None,
        rowsperstrip=None if page.is_tiled else min(page.rowsperstrip, len(values)),
        colormap=page.colormap,
        resolution=size if all(size) else None,
        resolutionunit=tags.valueof(296) if all(size) else None,
        metadata=None,
        software=False,
        extratags=[(t.code, t.dtype, t.count, t.value, True) for t in tags if t.code not in _OWN],
    )
    return file.getvalue()


def _encode_by_pillow(page: TiffPage, file: BinaryIO, values: NDArray[Any]) -> bytes:
    written = BytesIO()
    with _LargeTiff(file, "") as image:
        changed = Image.fromarray(values)
        if image.palette:
            changed.putpalette(image.palette)
        own = _OWN - {282, 283, 296, 317}
        tags = {code: value for code, value in image.tag_v2.items() if code not in own}
        changed.save(written, "TIFF", compression=image.info["compression"], tiffinfo=tags)
    return written.getvalue()
