"""The slices of a TIFF stack: how many there are, and one of them as a file of its own."""

import os
import re
import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from tifffile import TiffFile

from plainunet.formats.sources import ImageSource, Page

Tag = tuple[int, int, bytes]
"""Type, count, and the value or, where it is longer than a pointer, its place in the file."""
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_SIZES |= {16: 8, 17: 8, 18: 8}
_UNSIGNED = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}


class TagReader:
    """A TIFF file's structure.

    Attributes:
        file: The file.
        size: Its length [bytes].
        order: "<" or ">", as for `struct`.
        pointer: Format of a place in the file.
        width: Length of a place [bytes].
        counter: Format of the number of a page's tags.
        entry: Format of a tag.
        first: Where the first page begins [bytes].
    """

    def __init__(self, file: BinaryIO) -> None:
        """Read the header.

        Args:
            file: The file, open.
        """
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
        """Read a page's tags.

        Args:
            at: Where the page begins [bytes].

        Returns:
            The tags by their codes (a few programs write one twice), and where the next page
            begins; 0 where there is none.

        Raises:
            EOFError: The file ends before.
        """
        self.file.seek(at)
        data = self.file.read(1024)
        if len(data) < self.width:
            raise EOFError(f"it ends after {self.size} bytes, its next page begins at {at}")
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
        """Read a tag's value.

        Args:
            tag: The tag.
            most: Read no more than so many bytes.

        Returns:
            The value, in the file's byte order.

        Raises:
            EOFError: The file ends before.
        """
        kind, count, value = tag
        size = _SIZES[kind] * count
        if size <= self.width:
            return value[:size]
        (at,) = struct.unpack(self.pointer, value)
        if at + size > self.size:
            raise EOFError(f"it ends after {self.size} bytes, a tag's value after {at + size}")
        self.file.seek(at)
        return self.file.read(size if most is None else min(size, most))

    def numbers(self, tag: Tag) -> tuple[int, ...]:
        """Read a tag's value as numbers from 0 on."""
        return struct.unpack(f"{self.order}{tag[1]}{_UNSIGNED[tag[0]]}", self.value(tag))

    def number(self, tags: dict[int, Tag], code: int, otherwise: int) -> int:
        """Read the first number of a tag; `otherwise` where the page has no such tag."""
        return self.numbers(tags[code])[0] if code in tags else otherwise

    def pack_numbers(self, numbers: list[int]) -> Tag:
        """Make a tag of numbers; in its third place stands the value, however long."""
        kind = 16 if self.width == 8 else 4
        packed = struct.pack(f"{self.order}{len(numbers)}{_UNSIGNED[kind]}", *numbers)
        return kind, len(numbers), packed


_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _DESCRIPTION = 256, 257, 258, 259, 270
_OFFSETS, _SAMPLES, _ROWS, _COUNTS, _PLANAR = 273, 277, 278, 279, 284
_TILE_OFFSETS, _TILE_COUNTS, _DEPTH, _TILE_DEPTH = 324, 325, 32997, 32998
_SUBFILE, _METAMORPH = 254, 33629
# what decoders need beside the places of the pixels; anything that tells of other pages is left
_KEPT = (
    *(_WIDTH, _HEIGHT, _BITS, _COMPRESSION, 262, 266, 274, _SAMPLES, _ROWS, _PLANAR, 292, 293),
    *(317, 320, 322, 323, 338, 339, 340, 341, 347, 530, 532, 50674),
)
_SHAPE = re.compile(rb'(?:\{"shape": \[|shape=\()([\d, ]+)')
_IMAGES = re.compile(rb"ImageJ=.*?^images=(\d+)", re.DOTALL | re.MULTILINE)
_AXES = {"C": "channels", "Z": "slices", "T": "times", "S": "samples"}


@dataclass(frozen=True)
class Slices:
    """Where the slices of a TIFF file lie.

    Attributes:
        pages: Where each page begins that is as large as the first one [bytes].
        inside: Slices within the first page; where it is more than 1, there is one page.
        size: Width and height [pixels].
    """

    pages: tuple[int, ...]
    inside: int
    size: tuple[int, int]

    @property
    def count(self) -> int:
        """How many slices there are."""
        return max(len(self.pages), self.inside)


def find_slices(file: BinaryIO, path: ImageSource) -> Slices:
    """Find the slices of a TIFF file. No pixels are read.

    Args:
        file: The file, open.
        path: Its path, for messages.

    Returns:
        Where they lie; of a file with one picture, one slice. Pages of other sizes than the
        first one's are previews or the upper levels of a pyramid, and do not count.

    Raises:
        ValueError: Its pages are channels, or numbered along more than one axis, or a page says
            which pixels of another count, or they are laid out in a way that cannot be read.
        Exception: Any other, where the file is damaged.
    """
    reader = TagReader(file)
    pages: list[int] = []
    seen: set[int] = set()
    size = (0, 0)
    first: list[tuple[int, Tag]] = []
    at = reader.first
    while at or not seen:
        if at in seen:
            raise ValueError(f"its page at {at} follows itself")
        seen.add(at)
        listed, following = reader.page(at)
        tags = dict(listed)
        this = reader.number(tags, _WIDTH, 0), reader.number(tags, _HEIGHT, 0)
        if not first:
            first, size = listed, this
        if this == size:
            if reader.number(tags, _SUBFILE, 0) & 4:
                raise ValueError(
                    f"{path} has a page that says which pixels count (a transparency mask), "
                    "which is not read. Save it without that page."
                )
            pages.append(at)
        at = following
    inside = _inside(reader, first, size, path) if len(pages) == 1 else 1
    found = Slices(tuple(pages), inside, size)
    if found.count > 1:
        _require_one_axis(file, path)
    return found


def _inside(
    reader: TagReader, listed: list[tuple[int, Tag]], size: tuple[int, int], path: ImageSource
) -> int:
    """How many slices lie in the one page of a file."""
    tags = dict(listed)
    depth = reader.number(tags, _DEPTH, 1)
    if _METAMORPH in tags and tags[_METAMORPH][1] > 1:
        raise ValueError(
            f"{path} is a MetaMorph stack of {tags[_METAMORPH][1]} slices, which is not read. "
            "Save it as a TIFF file with a page for each slice."
        )
    if depth > 1:
        if reader.number(tags, _TILE_DEPTH, 1) > 1 or reader.number(tags, _PLANAR, 1) == 2:
            raise ValueError(
                f"{path} is a volume of {depth} slices that are not stored one after the other. "
                "Save it as a TIFF file with a page for each slice."
            )
        return depth
    samples = reader.number(tags, _SAMPLES, 1)
    said = 1
    for code, tag in listed:
        if code == _DESCRIPTION and tag[1] > reader.width:
            said = max(said, _said(reader.value(tag, 1 << 16), size[0] * size[1] * samples))
    if said == 1 or reader.number(tags, _COMPRESSION, 1) != 1 or _OFFSETS not in tags:
        return 1
    needed = _bytes_of(reader, tags)
    fits = (reader.size - reader.numbers(tags[_OFFSETS])[0]) // max(1, needed)
    if fits < 2:  # a slice that was saved alone keeps the description of its stack
        return 1
    if fits < said:
        raise EOFError(f"it says that it holds {said} slices and ends after {fits}")
    return said


def _said(description: bytes, values: int) -> int:
    shape = _SHAPE.match(description)
    if shape:
        product = 1
        for length in shape[1].split(b","):
            product *= int(length) if length.strip() else 1
        return product // max(1, values)
    images = _IMAGES.match(description)
    return int(images[1]) if images else 1


def _bytes_of(reader: TagReader, tags: dict[int, Tag]) -> int:
    """Bytes of one slice, uncompressed."""
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
    said = ", ".join(f"{length} {_AXES.get(axis, axis)}" for axis, length in axes)
    if len(axes) > 1:
        raise ValueError(
            f"{path} is a stack along {len(axes)} axes ({said}); slices along one can be read. "
            "Save it as several stacks."
        )
    if axes and axes[0][0] == "C":
        raise ValueError(
            f"{path} says that its pages are channels ({said}) of one picture. If they are, save "
            "them as one page with as many samples; if they are slices, save it with slices as "
            "its axis (in ImageJ: Image > Properties; in tifffile: metadata={'axes': 'ZYX'})."
        )


@lru_cache(maxsize=256)
def _known_slices(path: Path, size: int, time: int) -> Slices:
    with path.open("rb") as file:
        return find_slices(file, path)


def cut_slice(file: BinaryIO, page: Page) -> bytes:
    """Copy one slice of a TIFF file, as it is stored, into a TIFF file of its own.

    Args:
        file: The file, open.
        page: The slice.

    Returns:
        The content of a TIFF file with one page.

    Raises:
        ValueError: There is no such slice, or as `find_slices`.
        Exception: Any other, where the file is damaged.
    """
    status = os.fstat(file.fileno())
    slices = _known_slices(page.file, status.st_size, status.st_mtime_ns)
    index = page.index
    if not 0 <= index < slices.count:
        raise ValueError(
            f"{page} is not there: {page.file} has {slices.count} "
            f"slice{'s' * (slices.count > 1)}, counted from 0. Name one from [0] to "
            f"[{slices.count - 1}]."
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
            raise ValueError("its tags contradict each other")
    return _write(reader, kept, chunks, tiled=_TILE_OFFSETS in tags)


def _chunks(reader: TagReader, tags: dict[int, Tag]) -> list[tuple[int, int]]:
    """Where the strips or tiles of a page lie, and how long they are."""
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
        raise EOFError(f"it ends after {reader.size} bytes, the slice at {end}")
    if sum(length for _, length in set(chunks)) > reader.size:
        raise ValueError("its strips overlap")
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
