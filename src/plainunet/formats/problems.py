"""What is wrong with a file or a folder: an error with a code, the files and the cure."""

import shlex
from collections.abc import Sequence
from pathlib import Path


class DataError(ValueError):
    """A mistake in the data that a user can mend.

    Attributes:
        code: What kind of mistake, one of `plainunet.doctor.findings.CODES`.
        files: The files at fault.
        cure: A command that mends it, or flags of `plainunet check` that do, or "".
        parts: Where it is many mistakes of one kind, each of them; else itself alone.
    """

    def __init__(
        self,
        message: str,
        code: str = "unclear",
        files: Sequence[Path] = (),
        cure: str = "",
        parts: "Sequence[DataError]" = (),
    ) -> None:
        """Describe the mistake.

        Args:
            message: What is wrong, with the file's name, and what to do.
            code: What kind of mistake.
            files: The files at fault.
            cure: A command that mends it, or flags ("--ignore 7"), if there are any.
            parts: Each mistake, where it is many.
        """
        super().__init__(message, code, files, cure, parts)
        self.code = code
        self.files = tuple(files)
        self.cure = cure
        self.parts = tuple(parts) or (self,)

    def __str__(self) -> str:
        """The message."""
        return str(self.args[0])


def as_problem(error: Exception, *files: Path) -> DataError:
    """Give an error that came up while files were read a code and their names.

    Args:
        error: The error.
        files: What was being read.

    Returns:
        The error itself if it has all that, else one with its message.
    """
    if isinstance(error, DataError):
        return error if error.files else DataError(str(error), error.code, files, error.cure)
    return DataError(str(error), "missing-file" if isinstance(error, OSError) else "unclear", files)


def command(*words: object) -> str:
    """Write a command as a POSIX shell takes it, also with names that are not UTF-8.

    Args:
        words: The command and its arguments.

    Returns:
        One line.
    """
    return " ".join(_quote(str(word)) for word in words)


def _quote(word: str) -> str:
    if word.isprintable() and not any("\udc80" <= char <= "\udcff" for char in word):
        return shlex.quote(word)
    inside = "".join(
        f"\\x{byte:02x}" if not 32 <= byte < 127 or byte in b"\\'" else chr(byte)
        for byte in word.encode(errors="surrogateescape")
    )
    return f"$'{inside}'"


def first_five(paths: Sequence[object]) -> str:
    """Name up to five of some files, for an error.

    Args:
        paths: The files.

    Returns:
        Their names, and how many more there are.
    """
    more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
    return ", ".join(str(path) for path in paths[:5]) + more
