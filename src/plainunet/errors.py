"""The error for everything that a user can fix, and checks of arguments."""

import difflib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


class Error(ValueError):
    """An error that the user can fix; the message names the file or argument, and the fix.

    Files that are missing or cannot be written are an OSError, such as FileNotFoundError.

    Attributes:
        code: The kind of error, such as "argument" for a wrong argument; of data, one of the
            finding codes of `check`.
        message: What is wrong, and what to do.
        path: The file concerned, if it is known.

    Example:
        ```python
        from plainunet import Error, Predictor

        try:
            Predictor.load("my-data/masks/a.png")
        except Error as error:
            print(error.code, error.message, error.path)
        ```
    """

    code = "invalid"

    def __init__(self, message: str, code: str = "", path: Path | None = None) -> None:
        """Create the error; the default code is that of the class."""
        super().__init__(message)
        self.message, self.path = message, path
        self.code = code or self.code


def wrong(name: str, given: object, wanted: str) -> Error:
    """The error for an argument of another type, dtype or shape than wanted."""
    return Error(f"{name}: expected {wanted}, but got {describe(given)}.", "argument")


def describe(given: Any) -> str:
    """Describe a value for messages: dtype and shape of an array, else its type and value.

    Text, numbers and paths are their value alone, which shows the type.
    """
    kind = type(given).__name__
    if hasattr(given, "shape") and hasattr(given, "dtype"):
        return f"{kind} {given.dtype} {list(given.shape)}"
    text = repr(str(given) if isinstance(given, Path) else given)
    text = text if len(text) <= 80 else f"{text[:77]}..."
    is_plain = given is None or isinstance(given, str | bool | int | float | Path)
    return text if is_plain else f"{kind} {text}"


def take_path(given: object, name: str) -> Path:
    """Take the path of a file or folder; refuse anything else.

    Raises:
        Error: It is neither a str nor a Path, or no path: empty, or with a zero byte.
    """
    if not isinstance(given, str | os.PathLike) or str(given) == "" or "\0" in str(given):
        raise wrong(name, given, "a path, as str or Path")
    return Path(given)


def require_types(**given: tuple[object, type]) -> None:
    """Refuse arguments of another type: `require_types(seed=(seed, int))`; None is one left out.

    Raises:
        Error: One is of another type.
    """
    for name, (value, kind) in given.items():
        if value is not None and not isinstance(value, kind):
            raise wrong(name, value, kind.__name__)


def require_choice(given: object, known: Iterable[str], name: str) -> None:
    """Refuse a value that is not among those known, and name them.

    Raises:
        Error: It is another one.
    """
    known = list(known)
    if given not in known:
        raise Error(unknown_choice(name, given, known), "argument")


def unknown_choice(name: str, given: object, known: Sequence[str]) -> str:
    """The message for a value that is not among those known."""
    near = difflib.get_close_matches(str(given), known, 1)
    near += [each for each in known if str(given).startswith(each)]  # validation, for val
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return f"{name}: {given!r} is unknown. {hint}Choose one of {', '.join(known)}."
