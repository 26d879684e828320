"""The tags of a TIFF file, without its pixels.

In: an open file, classic TIFF or BigTIFF, in either byte order. Out: each page's tags, and where
the next page begins. Limitations: what is raised on damaged files is for callers to turn into an
error (`encoded.decoding`); nothing is read that lies outside of the file.
"""

import os
import struct
from typing import BinaryIO

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
