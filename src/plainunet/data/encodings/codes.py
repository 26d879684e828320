"""A CSV list of run-length codes -> the codes of each picture, as text.

In: a file with a column for the picture's name, one for its code, and perhaps one for the
class, under the names that Kaggle's competitions gave them. Out: the codes by picture, not yet
decoded, and the classes. The last few files are kept in memory.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, TextIO

# compared in small letters, without "_" and the like; the first in this order is taken
_PICTURE = ("imageid", "image", "img", "imgid", "imagename", "filename", "file", "name", "id")
_PICTURE_AND_CLASS = ("imageidclassid", "imagelabel", "imageclass")
_SURE_CODE = ("encodedpixels", "rlemask", "maskrle", "rle")
_CODE = (*_SURE_CODE, "segmentation", "encoding", "annotation", "mask", "pixels")
_CLASS = ("classid", "class", "classname", "categoryid", "category", "celltype", "label")
_MOST_CLASSES = 254
_LOCK = Lock()
_NOTHING = ("", "-1", "nan", "none", "null")


class Row(NamedTuple):
    """A line of the file.

    Attributes:
        line: Its number, from 1.
        class_name: The class, or "" where no class is told.
        code: "start length start length ...", or "" where nothing is labelled.
    """

    line: int
    class_name: str
    code: str


class _Columns(NamedTuple):
    picture: int
    code: int
    class_name: int | None
    both: bool  # the class stands behind the picture's name
    fields: int
    sure: bool  # the header alone tells that these are run-length codes


@dataclass
class Codes:
    """The codes of a file.

    Attributes:
        rows: The lines of each picture, by its name, in the file's order.
        classes: The names of the classes, numbers as numbers before words; empty where the
            file has no column for them.
    """

    rows: dict[str, list[Row]] = field(default_factory=dict)
    classes: tuple[str, ...] = ()


def is_rle(file: Path) -> bool:
    """Tell from the first lines of a file whether it lists run-length codes.

    Args:
        file: Any file.

    Returns:
        Whether it is a .csv with columns for a picture and for its code, and the codes are no
        names of files.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be opened.
    """
    if file.suffix.lower() != ".csv":
        return False
    with _open(file) as text:
        try:
            rows = csv.reader(islice(iter(lambda: text.readline(65536), ""), 100))
            columns = _find_columns(next(rows, []))
            if columns is None or columns.sure:
                return columns is not None
            for row in rows:
                code = row[columns.code].strip() if len(row) == columns.fields else ""
                if code.lower() not in _NOTHING:
                    return re.fullmatch(r"\d+\s+\d+(\s.*)?", code, re.DOTALL) is not None
        except (UnicodeDecodeError, csv.Error):
            pass
    return False


def read_codes(file: Path) -> Codes:
    """Read a list of run-length codes.

    Args:
        file: The list.

    Returns:
        Its codes; they are kept until the file changes, and are not to be changed.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no such list, or has a wrong line.
    """
    try:
        state = file.stat()
    except OSError:
        with _open(file):
            raise
    with _LOCK:  # or each of several threads would parse the file
        return _parse(file, state.st_size, state.st_mtime_ns)


def shorten(text: str) -> str:
    """Shorten a text for a message.

    Args:
        text: Any.

    Returns:
        Its first 40 letters, and "..." if there are more.
    """
    return text if len(text) <= 40 else f"{text[:40]}..."


@lru_cache(maxsize=4)
def _parse(file: Path, size: int, _changed: int) -> Codes:
    # a code may be longer than what a field may hold; a C long has 32 bits on Windows
    usual = csv.field_size_limit()
    csv.field_size_limit(max(usual, min(size, 2**31 - 1)))
    try:
        with _open(file) as text:
            reader = csv.reader(text, strict=True)
            codes = Codes()
            try:
                _add_rows(codes, reader, file)
            except UnicodeDecodeError:
                raise ValueError(
                    f"{file}, line {_first_bad_line(file)}: this is not UTF-8. Save the list as "
                    "'CSV UTF-8'."
                ) from None
            except csv.Error as error:
                raise ValueError(
                    f"{file}, line {reader.line_num}: this is not CSV ({error}). Mend the line."
                ) from None
    finally:
        csv.field_size_limit(usual)
    return codes


def _add_rows(codes: Codes, reader: Any, file: Path) -> None:
    header: list[str] = next(reader, [])
    columns = _find_columns(header)
    if columns is None:
        raise ValueError(
            f"{file}: the header is '{shorten(','.join(header))}'; a list of run-length codes has "
            "a column for the picture and one for the code. Name them ImageId,EncodedPixels, with "
            "commas between the fields of every line."
        )
    classes: set[str] = set()
    for line, row in _lines(reader):
        where = f"{file}, line {line}"
        if len(row) != columns.fields:
            raise ValueError(
                f"{where}: fields with commas between: {len(row)}, in the header {columns.fields}. "
                "Mend it."
            )
        name, code = row[columns.picture].strip(), row[columns.code].strip()
        code = "" if code.lower() in _NOTHING else code
        class_name = "" if columns.class_name is None else row[columns.class_name].strip()
        if columns.both:
            name, _, class_name = name.rpartition("_")
        if not name or name.lower() == "nan":
            raise ValueError(f"{where}: there is no picture's name. Add it, or remove the line.")
        if "//" in name or "/." in name:
            # as paths are written
            name = re.sub(r"/(?:\.?/)+", "/", name)
        has_classes = columns.both or columns.class_name is not None
        if has_classes and class_name.lower() not in _NOTHING:
            class_name = re.sub(r"(\d)\.0+$", r"\1", class_name)
            classes.add(class_name)
        elif has_classes and code:
            raise ValueError(f"{where}: there is a code, but no class. Add the class.")
        if class_name.lower() == "background":
            raise ValueError(
                f"{where}: 'background' is what lies in no run. Remove the lines of this class."
            )
        codes.rows.setdefault(name, []).append(Row(line, class_name, code))
    if not codes.rows:
        raise ValueError(f"{file} lists no pictures. Copy it again, or name another one.")
    if len(classes) > _MOST_CLASSES:
        raise ValueError(
            f"{file} names {len(classes)} classes; at most {_MOST_CLASSES} can be told apart. "
            "Join some of them."
        )
    codes.classes = tuple(sorted(classes, key=_by_number))


def _by_number(name: str) -> tuple[bool, float, str]:
    is_number = re.fullmatch(r"-?\d{1,15}(\.\d{1,15})?", name) is not None
    return not is_number, float(name) if is_number else 0.0, name


def _lines(reader: Any) -> Iterator[tuple[int, list[str]]]:
    for row in reader:
        if row:
            yield reader.line_num, row


def _find_columns(header: list[str]) -> _Columns | None:
    names = [re.sub(r"[\W_]+", "", name.casefold()) for name in header]

    def at(known: tuple[str, ...]) -> int | None:
        return next((names.index(name) for name in known if name in names), None)

    both = at(_PICTURE_AND_CLASS)
    picture, code = at(_PICTURE) if both is None else both, at(_CODE)
    if picture is None or code is None:
        return None
    sure = names[code] in _SURE_CODE
    class_name = at(_CLASS) if both is None else None
    return _Columns(picture, code, class_name, both is not None, len(header), sure)


def _first_bad_line(file: Path) -> int:
    with file.open("rb") as data:
        for line, text in enumerate(data, 1):
            try:
                text.decode()
            except UnicodeDecodeError:
                return line
    return 1


def _open(file: Path) -> TextIO:
    try:
        return file.open(encoding="utf-8-sig", newline="")
    except FileNotFoundError:
        raise FileNotFoundError(f"{file} does not exist. Check the path.") from None
    except OSError as error:
        raise ValueError(
            f"{file} cannot be opened ({error.strerror}). Check what it is, and its permissions."
        ) from None
