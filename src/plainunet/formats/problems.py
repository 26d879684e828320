"""Data errors with a code, the files concerned and a fix."""

import os
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal

from plainunet.errors import Error
from plainunet.formats.sources import Member, Source, path_of


@dataclass(frozen=True)
class Change:
    """A change to files that fixes an error, applied by `plainunet.doctor.fix`.

    The content of `how` depends on `kind`; the last six change the pixels of masks:

    - rename: the new path of one file or folder
    - exchange: empty; swaps the contents of two files
    - unlink: empty; removes links, not their targets
    - channel: empty; marks the last band of a TIFF image as a channel instead of alpha
    - nodata: the value that tags are to mark as nodata
    - values: pairs of an old and a new value
    - renumber: the class names, then pairs of values for each mask; for masks with class lists
    - turn: an orientation 2..8, see `turn_upright`
    - move: pixels to the right and down; border pixels are repeated
    - resize: width and height [pixels]; nearest neighbour
    - flatten: the colour, 0xRRGGBB, for pixels less than half opaque
    """

    kind: Literal[
        "rename",
        "exchange",
        "unlink",
        "values",
        "renumber",
        "turn",
        "move",
        "resize",
        "channel",
        "nodata",
        "flatten",
    ]
    files: tuple[Path, ...]
    how: tuple[Any, ...] = ()


class DataError(Error):
    """An error in the data that a user can fix.

    Attributes:
        code: The kind of error, one of `plainunet.doctor.findings.CODES`.
        files: The files concerned.
        fix: The fix: a change to files, a command, or "".
        flags: Flags of `plainunet check` that fix it, such as {"ignore": 7}.
        choices: If the user must decide: the meaning of each answer, and its flags.
        parts: The single errors of a combined one; else only itself.
    """

    def __init__(
        self,
        message: str,
        code: str = "unclear",
        files: Sequence[Source] = (),
        fix: Change | str = "",
        parts: "Sequence[DataError]" = (),
        flags: Mapping[str, Any] | None = None,
        choices: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Create the error; `parts` are the single errors of a combined one."""
        super().__init__(message, code, next((path_of(each) for each in files), None))
        self.files = tuple(files)
        self.fix = fix
        self.flags = dict(flags or {})
        self.choices = dict(choices or {})
        self.parts = tuple(parts) or (self,)


def as_problem(error: Exception, *files: Source) -> DataError:
    """Convert an error raised while reading files to a `DataError` that names them."""
    if isinstance(error, DataError):
        if error.files:
            return error
        return DataError(
            str(error), error.code, files, error.fix, flags=error.flags, choices=error.choices
        )
    return DataError(str(error), "missing-file" if isinstance(error, OSError) else "unclear", files)


def command(*words: object) -> str:
    """Quote a command for bash, zsh and cmd; paths that begin with a dash get a "./".

    Names that are not UTF-8, or have characters special in double quotes, need a POSIX shell.
    """
    return " ".join(_quote(_as_argument(word)) for word in words)


def _as_argument(word: object) -> str:
    is_flag = isinstance(word, PurePath) and str(word).startswith("-")
    return f".{os.sep}{word}" if is_flag else str(word)


def _quote(word: str) -> str:
    if os.name == "nt":
        return subprocess.list2cmdline([word])
    if word.isprintable() and not any("\udc80" <= char <= "\udcff" for char in word):
        if re.fullmatch(r"[\w@%+:,./-][\w@%+=:,./-]*", word):
            return word
        return shlex.quote(word) if re.search(r'["$`\\!%]', word) or not word else f'"{word}"'
    inside = "".join(
        f"\\x{byte:02x}" if not 32 <= byte < 127 or byte in b"\\'" else chr(byte)
        for byte in word.encode(errors="surrogateescape")
    )
    return f"$'{inside}'"


def first_five(paths: Sequence[object]) -> str:
    """List up to five items, and the number of others."""
    more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
    return ", ".join(str(path) for path in paths[:5]) + more


MOST_PIXELS = 178_956_970
"""Maximum number of pixels, as in Pillow; see `require_decodable`."""


def require_decodable(pixels: int, path: Source, channels: int = 1) -> None:
    """Reject images that may exhaust memory; up to four channels are free."""
    if pixels * max(1, channels / 4) > MOST_PIXELS:
        of = f" of {channels} channels" if channels > 4 else ""
        raise DataError(
            f"{path} is too large to be decoded safely: {pixels} pixels{of}; the limit is "
            f"{MOST_PIXELS} with up to four channels. Cut it into smaller images.",
            "too-large",
        )


def how_to_restore(path: Source) -> str:
    """The fix of a damaged file: a sample in a shard cannot be removed."""
    if isinstance(path, Member):
        return "Copy the shard again, or write the shards again."
    return "Copy it again, or remove it, with its mask or image."


def cut_off(path: Source, size: int) -> ValueError:
    """The error for a truncated file."""
    return DataError(
        f"{path} is cut off: the image is not complete after {size} bytes. {how_to_restore(path)}",
        "cut-off",
    )
