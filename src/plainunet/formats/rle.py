"""Read class ids from CSV lists of run-length codes, as used on Kaggle."""

import csv
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from plainunet.errors import Error
from plainunet.files import require_regular
from plainunet.formats.problems import DataError, require_decodable
from plainunet.formats.sources import RleImage
from plainunet.system import shorten

# column names in lower case without punctuation, by priority
_IMAGE = ("imageid", "image", "img", "imgid", "imagename", "filename", "file", "name", "id")
_IMAGE_AND_CLASS = ("imageidclassid", "imagelabel", "imageclass")
_SURE_CODE = ("encodedpixels", "rlemask", "maskrle", "rle")
_CODE = (*_SURE_CODE, "segmentation", "encoding", "annotation", "mask", "pixels")
_CLASS = ("classid", "class", "classname", "categoryid", "category", "celltype", "label")
_MOST_CLASSES = 254
_LOCK = Lock()
_NOTHING = ("", "-1", "nan", "none", "null")


class Row(NamedTuple):
    """A line: its number from 1, its class or "", and its code "start length start ..."."""

    line: int
    class_name: str
    code: str


class _Columns(NamedTuple):
    image: int
    code: int
    class_name: int | None
    both: bool  # the class follows the image name
    fields: int
    sure: bool  # the header alone proves that these are run-length codes


@dataclass
class Codes:
    """The lines of each image name, and the sorted classes, empty without such a column."""

    rows: dict[str, list[Row]] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    attribute: str = ""
    """A class as in the file, if attributes follow its number."""


def is_rle(file: Path) -> bool:
    """Whether a file lists run-length codes, by its first lines."""
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
    """Read a list of run-length codes; cached until the file changes."""
    try:
        state = file.stat()
    except OSError:
        with _open(file):
            raise
    with _LOCK:  # only one of several threads parses the file
        return _parse(file, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4)
def _parse(file: Path, size: int, _changed: int) -> Codes:
    # codes may exceed the default field size; a C long has 32 bits on Windows
    usual = csv.field_size_limit()
    csv.field_size_limit(max(usual, min(size, 2**31 - 1)))
    try:
        with _open(file) as text:
            reader = csv.reader(text, strict=True)
            codes = Codes()
            try:
                _add_rows(codes, reader, file)
            except UnicodeDecodeError:
                raise Error(
                    f"{file}, line {_first_bad_line(file)}: not UTF-8. Save the list as "
                    "'CSV UTF-8'."
                ) from None
            except csv.Error as error:
                raise Error(
                    f"{file}, line {reader.line_num}: invalid CSV ({error}). Fix the line."
                ) from None
    finally:
        csv.field_size_limit(usual)
    return codes


def _add_rows(codes: Codes, reader: Any, file: Path) -> None:
    header: list[str] = next(reader, [])
    columns = _find_columns(header)
    if columns is None:
        raise Error(
            f"{file}: the header is '{shorten(','.join(header))}', but a list of run-length codes "
            "needs the columns ImageId,EncodedPixels, separated by commas."
        )
    classes: set[str] = set()
    for line, row in _lines(reader):
        where = f"{file}, line {line}"
        if len(row) != columns.fields:
            raise Error(
                f"{where}: {len(row)} comma-separated fields, but {columns.fields} in the header. "
                "Fix the line."
            )
        name, code = row[columns.image].strip(), row[columns.code].strip()
        code = "" if code.lower() in _NOTHING else code
        class_name = "" if columns.class_name is None else row[columns.class_name].strip()
        if columns.both:
            name, _, class_name = name.rpartition("_")
        if not name or name.lower() == "nan":
            raise Error(f"{where}: the image name is missing. Add it, or remove the line.")
        if "//" in name or "/." in name:
            # normalise paths
            name = re.sub(r"/(?:\.?/)+", "/", name)
        has_classes = columns.both or columns.class_name is not None
        if has_classes and class_name.lower() not in _NOTHING:
            class_name = re.sub(r"(\d)\.0+$", r"\1", class_name)
            classes.add(class_name)
        elif has_classes and code:
            raise Error(f"{where}: the class is missing. Add it.")
        if class_name.lower() == "background":
            raise Error(
                f"{where}: 'background' is implied by pixels in no run. Remove the lines of this "
                "class."
            )
        codes.rows.setdefault(name, []).append(Row(line, class_name, code))
    if not codes.rows:
        raise Error(f"{file} lists no images. Copy it again, or pass another file.")
    with_attributes = sorted(name for name in classes if "_" in name)
    if with_attributes and all(re.fullmatch(r"\d+(_\d+)*", name) for name in classes):
        codes.attribute = with_attributes[0]
        classes = {_category(name) for name in classes}
        for name, found in codes.rows.items():
            codes.rows[name] = [row._replace(class_name=_category(row.class_name)) for row in found]
    if len(classes) > _MOST_CLASSES:
        raise Error(
            f"{file} names {len(classes)} classes; the maximum is {_MOST_CLASSES}. Merge some of "
            "them."
        )
    codes.classes = tuple(sorted(classes, key=_by_number))


def _category(name: str) -> str:
    """A class without the attributes after its number, as in Fashionpedia ("20_2_7")."""
    return name.partition("_")[0]


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

    both = at(_IMAGE_AND_CLASS)
    image, code = at(_IMAGE) if both is None else both, at(_CODE)
    if image is None or code is None:
        return None
    sure = names[code] in _SURE_CODE
    class_name = at(_CLASS) if both is None else None
    return _Columns(image, code, class_name, both is not None, len(header), sure)


def _first_bad_line(file: Path) -> int:
    with file.open("rb") as data:
        for line, text in enumerate(data, 1):
            try:
                text.decode()
            except UnicodeDecodeError:
                return line
    return 1


def _open(file: Path) -> TextIO:
    require_regular(file)
    try:
        with file.open("rb") as data:
            is_wide = data.read(2) in (b"\xff\xfe", b"\xfe\xff")
        return file.open(encoding="utf-16" if is_wide else "utf-8-sig", newline="")
    except FileNotFoundError:
        raise FileNotFoundError(f"{file} does not exist. Check the path.") from None
    except OSError as error:
        raise Error(
            f"{file} cannot be opened ({error.strerror}). Check its type and permissions."
        ) from None


ORDERS = ("rows", "columns")
_SAMPLE = 20
_CLEAR = 1.7
_ASK = {"By rows, as in Carvana": {"rle": "rows"}, "By columns, as most others": {"rle": "columns"}}
_FEW = 4


def listed_names(file: Path) -> list[str]:
    """The names of the images in a list of run-length codes, in the order of the file."""
    return list(read_codes(file).rows)


def listed_images(
    file: Path,
    sizes: Mapping[str, tuple[int, int]],
    order: str | None,
    on_note: Callable[[str], None] | None = None,
) -> dict[str, RleImage]:
    """Read a list of run-length codes: the masks of each image by its listed name.

    Codes do not specify row-major or column-major order. For images that are not square, the
    right order gives masks with similar neighbouring lines. `order` is "rows", "columns" or None
    to infer it; `sizes` are the height and width of each image [pixels], by its listed name.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not such a list, has an invalid line, does not list an image, a code does
            not fit the image size, or the order is not clear.
    """
    if order not in (*ORDERS, None):
        raise Error(
            f"The order of run-length codes is '{order}'. Pass --rle rows or --rle columns."
        )
    codes = read_codes(file)
    if codes.attribute and on_note is not None:
        on_note(
            f"{file}: attributes after a class are ignored: '{codes.attribute}' is class "
            f"{_category(codes.attribute)}."
        )
    for name in sizes:
        if name not in codes.rows:
            raise Error(f"{file} does not list the image '{name}'. Add a line for it.")
    if order is None:
        order = _find_order(file, codes, sizes)
        if on_note is not None:
            on_note(
                f"The run-length codes in {file} are ordered by {order}, inferred from the image "
                "sizes."
            )
    return {name: RleImage(file, name, *size, order) for name, size in sizes.items()}


def read_ids(image: RleImage) -> NDArray[np.uint8]:
    """Read an image's class ids: [H, W] uint8, 0 outside all runs, classes from 1."""
    height, width = image.height, image.width
    if image.order == "empty":
        return np.zeros((height, width), np.uint8)
    codes, rows = _find_rows(image)
    numbers = {name: number for number, name in enumerate(codes.classes, 1)}
    ids = np.zeros(height * width, np.uint8)
    names = sorted(
        {row.class_name for row in rows if row.code}, key=lambda name: numbers.get(name, 1)
    )
    overlap = 0
    for name in names:
        own = [row for row in rows if row.class_name == name]
        covered = _cover(image.file, own, ids.size)
        overlap += int(np.count_nonzero(ids[covered])) if len(names) > 1 else 0
        ids[covered] = numbers.get(name, 1)
    if overlap:
        raise Error(
            f"{image}: {overlap} pixels ({overlap / np.count_nonzero(ids):.2%} of those labelled) "
            f"have two of the classes {', '.join(names)}. Remove the overlapping runs of one class "
            f"from {image.file}."
        )
    if image.order == "rows":
        return ids.reshape(height, width)
    return ids.reshape(width, height).T.copy()


def item_size(image: RleImage) -> tuple[int, int]:
    """An image's height and width, after checking its codes against them."""
    for row in () if image.order == "empty" else _find_rows(image)[1]:
        _runs(image.file, row, image.height * image.width)
    return image.height, image.width


def class_names(file: Path) -> tuple[str, ...]:
    """The classes: "background", then the others, sorted; empty without a class column."""
    classes = read_codes(file).classes
    return ("background", *classes) if classes else ()


def _find_rows(image: RleImage) -> tuple[Codes, list[Row]]:
    pixels = image.height * image.width
    if not pixels:
        raise Error(f"{image}: it has no pixels. Give the size of its image.")
    codes = read_codes(image.file)
    # Windows paths have backslashes
    name = image.image if image.image in codes.rows else image.image.replace("\\", "/")
    if name not in codes.rows:
        raise Error(
            f"{image}: {image.file} does not list the image '{image.image}'. Add a line for it, or "
            f"use one of its {len(codes.rows)} images."
        )
    require_decodable(pixels, image)
    return codes, codes.rows[name]


def _runs(file: Path, row: Row, pixels: int) -> NDArray[np.int64]:
    where = f"{file}, line {row.line}"
    try:
        numbers = np.array(row.code.split(), np.int64)
    except (ValueError, OverflowError):
        numbers = np.empty(1, np.int64)
    if numbers.size % 2:
        raise Error(
            f"{where}: the code '{shorten(row.code)}' must be pairs of integers, the start and the "
            "length of each run, separated by spaces."
        )
    starts, lengths = numbers.reshape(-1, 2).T
    last = pixels - np.minimum(lengths, pixels) + 1
    wrong = np.flatnonzero((starts < 1) | (lengths < 1) | (lengths > pixels) | (starts > last))
    if wrong.size:
        start, length = int(starts[wrong[0]]), int(lengths[wrong[0]])
        raise Error(
            f"{where}: a run of {length} pixels from pixel {start} (counted from 1) does not fit "
            f"in the {pixels} pixels of the image. Fix the line, or use the image at the size at "
            "which it was labelled."
        )
    back = np.flatnonzero(starts[1:] < starts[:-1])
    if back.size:
        first, then = starts[back[0] : back[0] + 2].tolist()
        raise Error(
            f"{where}: the run from pixel {then} follows the one from {first}, so starts may be "
            "relative to the previous run. Write them relative to the first pixel of the image, in "
            "ascending order."
        )
    return np.stack([starts - 1, starts - 1 + lengths])


def _cover(file: Path, rows: list[Row], pixels: int) -> NDArray[np.bool_]:
    covered = np.zeros(pixels, np.bool_)
    for row in rows:
        starts, ends = _runs(file, row, pixels)
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            covered[start:end] = True
    return covered


def _find_order(file: Path, codes: Codes, sizes: Mapping[str, tuple[int, int]]) -> str:
    ask = "Pass the order: --rle rows (Carvana) or --rle columns (most other Kaggle datasets)."
    unequal = [
        name
        for name, (height, width) in sizes.items()
        if height != width and any(row.code for row in codes.rows[name])
    ]
    if not any(row.code for name in sizes for row in codes.rows[name]):
        raise Error(f"{file} has no code for any image, so there is nothing to learn.")
    if not unequal:
        square = all(height == width for height, width in sizes.values())
        raise DataError(
            f"The run-length codes in {file} may be ordered by rows or by columns: "
            + (f"all {len(sizes)} images" if square else "all labelled images")
            + f" are square, so both fit. {ask}",
            choices=_ASK,
        )
    sample = unequal[:: -(-len(unequal) // _SAMPLE)]
    torn, scaled = np.zeros(2), np.zeros(2)
    inside = banded = 0
    for name in sample:
        height, width = sizes[name]
        require_decodable(height * width, file)
        covered = _cover(file, codes.rows[name], height * width)
        for number, line in enumerate((width, height)):
            changes = np.count_nonzero(covered[line:] != covered[:-line])
            torn[number] += changes
            scaled[number] += changes / line
        edges = np.flatnonzero(np.diff(covered, prepend=False, append=False)).reshape(-1, 2)
        lengths = edges[:, 1] - edges[:, 0]
        inside += int(lengths.sum())
        banded += int(lengths[lengths > min(height, width)].sum())
    # a band across the image changes once per line in either order, so only the changes per pixel
    # of a line are comparable
    for right, wrong in ((0, 1), (1, 0)):
        clear = torn[wrong] > _CLEAR * (torn[right] + _FEW)
        if clear and (2 * banded <= inside or scaled[wrong] > _CLEAR * scaled[right]):
            return ORDERS[right]
    raise DataError(
        f"The run-length codes in {file} may be ordered by rows or by columns: the labelled areas "
        f"in the {len(sample)} sampled images are too small to decide. {ask}",
        choices=_ASK,
    )
