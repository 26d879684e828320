"""Errors with a code, which name the files at fault; raised, or told to whoever collects them."""

import os
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from plainunet.formats.sources import Source


@dataclass(frozen=True)
class Change:
    """A change of files that fixes a mistake, for `plainunet.doctor.fix` to carry out.

    What `how` holds depends on `kind`; the last six are of the pixels of masks:

    - rename: the new path of the one file or folder
    - exchange: nothing; each of two files gets the other's content
    - unlink: nothing; of links, not of what they lead to
    - channel: nothing; the last band of a TIFF image becomes a channel, and is no alpha any more
    - values: pairs of an old value and a new one
    - renumber: of masks and the lists of names beside them: the names; of each mask, its pairs
    - turn: 2..8, as of `turn_upright`
    - move: pixels to the right, and down; borders are repeated
    - resize: width and height [pixels]; no new values come up
    - flatten: the colour, 0xRRGGBB, of pixels less than half opaque
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
        "flatten",
    ]
    files: tuple[Path, ...]
    how: tuple[Any, ...] = ()


class DataError(ValueError):
    """A mistake in the data that a user can fix.

    Attributes:
        code: What kind of mistake, one of `plainunet.doctor.findings.CODES`.
        files: The files at fault.
        fix: What fixes it: a change of files, or a command, or "".
        flags: Flags of `plainunet check` that fix it, such as {"ignore": 7}.
        choices: Where only the user can tell, what each answer means, and its flags.
        parts: Where it is many mistakes of one kind, each of them; else itself alone.
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
        """Describe the mistake; `parts` are the single mistakes where it is many."""
        super().__init__(message, code, files, fix, parts, flags, choices)
        self.code = code
        self.files = tuple(files)
        self.fix = fix
        self.flags = dict(flags or {})
        self.choices = dict(choices or {})
        self.parts = tuple(parts) or (self,)

    def __str__(self) -> str:
        """The message."""
        return str(self.args[0])


def as_problem(error: Exception, *files: Source) -> DataError:
    """Give an error that came up while files were read a code and their names."""
    if isinstance(error, DataError):
        if error.files:
            return error
        return DataError(
            str(error), error.code, files, error.fix, flags=error.flags, choices=error.choices
        )
    return DataError(str(error), "missing-file" if isinstance(error, OSError) else "unclear", files)


def command(*words: object) -> str:
    """Write a command as bash, zsh and cmd take it, except for names that only a POSIX shell can.

    Such are names that are not UTF-8, and of signs that mean something within double quotes.
    """
    return " ".join(_quote(str(word)) for word in words)


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
    """Name up to five of some files, and how many more there are."""
    more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
    return ", ".join(str(path) for path in paths[:5]) + more


MOST_PIXELS = 178_956_970
"""Beyond this Pillow refuses to decode a file, and so does `require_bearable`."""


def require_bearable(pixels: int, path: Source, channels: int = 1) -> None:
    """Refuse an image that is larger than its small file suggests; four channels count as one."""
    if pixels * max(1, channels / 4) > MOST_PIXELS:
        of = f" of {channels} channels" if channels > 4 else ""
        raise DataError(
            f"{path} is too large to be decoded safely: {pixels} pixels{of}, at most "
            f"{MOST_PIXELS} of up to four are read from a compressed file. Cut it into smaller "
            "images.",
            "too-large",
        )


def cut_off(path: Source, size: int) -> ValueError:
    """Make the error for a file that ends too early."""
    return DataError(
        f"{path} is cut off: the picture is not complete after {size} bytes. "
        "Copy it again, or remove it together with its partner.",
        "cut-off",
    )
