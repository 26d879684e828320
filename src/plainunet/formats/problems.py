"""What is wrong with a file or a folder: an error with a code, and who hears of it.

In: a message that names the file and the cure. Out: an exception; or, where somebody collects
problems, a call, after which the rest of the folder is looked at.
"""

import shlex
from collections.abc import Callable, Sequence

from plainunet.formats.sources import Source


class DataError(ValueError):
    """A mistake in the data that a user can mend.

    Attributes:
        code: What kind of mistake, one of `plainunet.doctor.findings.CODES`.
        files: The files at fault.
        cure: A command that mends it, or flags of `plainunet check` that do, or "".
    """

    def __init__(
        self, message: str, code: str = "unclear", files: Sequence[Source] = (), cure: str = ""
    ) -> None:
        """Describe the mistake.

        Args:
            message: What is wrong, with the file's name, and what to do.
            code: What kind of mistake.
            files: The files at fault.
            cure: A command that mends it, or flags ("--ignore 7"), if there are any.
        """
        super().__init__(message, code, files, cure)
        self.code = code
        self.files = tuple(files)
        self.cure = cure

    def __str__(self) -> str:
        """The message."""
        return str(self.args[0])


OnProblem = Callable[[DataError], None]


def report(problem: DataError, on_problem: OnProblem | None) -> None:
    """Raise a problem, or hand it to whoever collects them.

    Args:
        problem: The problem.
        on_problem: Who collects them, if anybody.

    Raises:
        DataError: Nobody does.
    """
    if on_problem is None:
        raise problem
    on_problem(problem)


def as_problem(error: Exception, *files: Source) -> DataError:
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
