"""Legends: files next to masks with the name and the colour or value of each class."""

import csv
import json
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from os.path import commonpath
from pathlib import Path
from typing import Any, NamedTuple

from plainunet.files import require_regular
from plainunet.formats.problems import Change, DataError
from plainunet.formats.sources import Source, files_of

Color = tuple[int, int, int]
Colors = tuple[Color, ...]

_FILES = re.compile(
    r"(legend|(?:label_)?class_dict(?:_seg)?|codes|_?classes|class_names|label_names|labels?"
    r"|label_colou?rs|labelmap|(?:.+[_-])?colou?rmap)\.(csv|txt)"
    r"|(dataset|classes|id2label|label2id)\.json",
    re.I,
)
_CVAT = re.compile(r"([^:]+):(\d+),(\d+),(\d+):[^:]*:[^:]*$")
_ITK_SNAP = re.compile(r'(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+[\d.]+\s+[01]\s+[01]\s+"(.+)"$')
_NAME_FIRST = re.compile(r"(.*?)[\s,;:]+(\d+)[\s,;]+(\d+)[\s,;]+(\d+)\W*$")
_NAME_LAST = re.compile(r"(\d+)[\s,;]+(\d+)[\s,;]+(\d+)[\s,;]+(.+)$")
_NUMBERED = re.compile(r"(\d+)[\s,;:=]+([^\W\d].*)$")
_NUMBER_LAST = re.compile(r"([^\W\d][^,;:=\t]*)[,;:=\t]\s*(\d+)$")
_NAME_ID = re.compile(r"(.*?)[\s,;:]+(\d+)((?:[\s,;]+\d+){3})$")
_WITH_ALPHA = re.compile(r"(.*[\s,;:]\d+[\s,;]+\d+[\s,;]+\d+)[\s,;]+(?:0|255)$")
_HEX = re.compile(r"#?([0-9a-f]{6})", re.I)
_HEX_ALPHA = re.compile(r"#?(?:[0-9a-f]{6}ff|ff[0-9a-f]{6})", re.I)
_RGB = re.compile(r"(?:rgb)?[(\[]?\s*(\d+)[\s,;]+(\d+)[\s,;]+(\d+)\s*[)\]]?", re.I)
_NAME = re.compile(r"[^\W\d][\w &()+',/-]*")
_NAME_HEADS = ("name", "class name", "label name", "class", "label")  # the best first
_HEADS = {
    **{head: head[0] for head in ("r", "g", "b", "red", "green", "blue")},
    **dict.fromkeys(("value", "pixel value"), "value"),
    **dict.fromkeys(("id", "class id", "label id", "index"), "id"),
    **dict.fromkeys(("hex", "color", "colour"), "hex"),
}
_MOST_FOLDERS = 1000
_WHITE = 255
_VOID_NAMES = {"void", "ignore", "ignored", "dontcare", "donotcare", "nodata"}


class Legend(NamedTuple):
    """A legend file: class names, background first, and their colours or values."""

    path: Path
    names: tuple[str, ...]
    colors: Colors = ()
    values: tuple[int, ...] = ()
    by_place: bool = False
    """Whether the values are the positions of the names in a list."""

    @property
    def stored(self) -> tuple[int, ...]:
        """The value of each class, also from grey colours; () if colours are not grey."""
        return self.values or self.greys

    @property
    def greys(self) -> tuple[int, ...]:
        """The grey level of each class; () if any colour is not grey."""
        is_grey = all(len(set(color)) == 1 for color in self.colors)
        return tuple(color[0] for color in self.colors) if is_grey else ()

    def without(self, ignore: int | None) -> "Legend":
        """The legend without the ignored class, given by its value or grey level."""
        stored: Sequence[object] = self.values or self.colors
        ignored = ignore if self.values else (ignore,) * 3
        return self.take([k for k in range(len(self.names)) if stored[k] != ignored])

    def take(self, places: Sequence[int]) -> "Legend":
        """A legend of some classes, in this order."""
        return self._replace(
            names=tuple(self.names[k] for k in places),
            colors=tuple(self.colors[k] for k in places if self.colors),
            values=tuple(self.values[k] for k in places if self.values),
        )


def is_legend(name: str) -> bool:
    """Whether a file has the name of a legend."""
    return bool(_FILES.fullmatch(name))


def is_background(name: str) -> bool:
    """Whether a class name means background: `background`, `_background_`, `BG`."""
    return name.strip(" _").casefold() in ("background", "bg")


def without_commas(names: Sequence[str]) -> tuple[str, ...]:
    """Class names as settings can hold them, which separate names by commas."""
    return tuple(re.sub(r"\s*,\s*", " / ", name) for name in names)


def is_void(name: str) -> bool:
    """Whether a class name means pixels of no class for sure; `unlabelled` or `other` may not."""
    return "".join(filter(str.isalnum, name.casefold())) in _VOID_NAMES


class WithoutVoid(NamedTuple):
    """What is left of a legend without its void classes, the ignored value, and a note or ""."""

    legend: Legend
    ignore: int | None
    note: str = ""


def leave_out_void(legend: Legend, pixels: Sequence[int], ignore: int | None) -> WithoutVoid:
    """Leave out classes whose name means pixels of no class, if two others are left.

    Args:
        legend: The classes, by value, else by colour.
        pixels: The number of pixels of each class.
        ignore: The value that is ignored already.

    Raises:
        DataError: A void class may be the background: no other class has more pixels or is
            named background, or the masks hold fewer than two others.
    """
    void = [k for k, name in enumerate(legend.names) if is_void(name)]
    void_present = [k for k in void if pixels[k]]
    rest = legend.take(void_present)
    # other colours than greys are ignored without a setting
    levels = rest.values or [color[0] for color in rest.colors if len({*color}) == 1]
    if ignore is None and len(levels) > 1 and _WHITE in levels:
        less = legend.without(_WHITE)
        counts = [pixels[legend.names.index(name)] for name in less.names]
        return leave_out_void(less, counts, _WHITE)
    left = legend.take([k for k in range(len(legend.names)) if k not in void])
    if not void or len(left.names) < 2:
        return WithoutVoid(legend, ignore)
    if not void_present:
        return WithoutVoid(left, ignore)
    name = legend.names[void_present[0]]
    found = {*levels} if ignore is None else {*levels, ignore}
    if len(found) > 1:
        return WithoutVoid(
            legend, ignore, f"note: {name} is read as a class, since only one value can be ignored"
        )
    ignored = next(iter(found), None)
    _require_other_ground(legend, left, void_present[0], ignored, pixels)
    shown = legend.path.name
    return WithoutVoid(
        left,
        ignored,
        f"note: {name} ({_stored(rest)[0]}) marks pixels of no class and is ignored (to keep it "
        f"as a class, give it another name in {shown})",
    )


def _require_other_ground(
    legend: Legend,
    left: Legend,
    void: int,
    ignore: int | None,
    pixels: Sequence[int],
) -> None:
    """Ask if a void class may be the background."""
    others = [k for k, name in enumerate(legend.names) if not is_void(name)]
    is_ground = pixels[void] == max(pixels) or sum(pixels[k] > 0 for k in others) < 2
    if any(map(is_background, legend.names)) or not is_ground:
        return
    name = legend.names[void]
    as_ground = legend.take([void, *others])
    key = "values" if legend.values else "colors"
    ignored = {} if ignore is None else {"ignore": ignore}
    raise DataError(
        f"{legend.path} names the class {name}, which has {pixels[void] / sum(pixels):.1%} "
        "of the mask pixels, and none background. Choose one.",
        "which-background",
        choices={
            f"{name} marks pixels of no class": {
                key: _stored(left),
                "classes": left.names,
                **ignored,
            },
            f"{name} is the background": {key: _stored(as_ground), "classes": as_ground.names},
        },
    )


def _stored(legend: Legend) -> tuple[object, ...]:
    """The values, or colours as for --colors."""
    return legend.values or tuple(bytes(color).hex().upper() for color in legend.colors)


def find_legend(masks: Sequence[Source], fits: Callable[[Legend], bool]) -> Legend | None:
    """Find a matching legend in the common folder of all masks, above it, or in or above each.

    Raises:
        ValueError: A legend is invalid, or folders have different legends.
    """
    parents = {files_of(mask)[0].absolute().parent for mask in masks}
    common = Path(commonpath(parents))
    above = [common, common.parent]
    while len(list(islice(above[-1].iterdir(), 2))) == 1 and above[-1] != above[-1].parent:
        above.append(above[-1].parent)  # SegmentationClass/shots/
    for folder in above:
        if legend := next(filter(fits, _legends_in(folder)), None):
            return legend
    # CVAT's labelmap.txt lies above SegmentationClass/ of each task
    others = sorted((parents | {each.parent for each in parents}) - {*above})
    try:
        return _of_all(others, fits)
    except DataError as error:
        if change := _renumbered(masks):
            raise DataError(str(error), error.code, fix=change) from None
        raise


def notes_of_unread(masks: Sequence[Source]) -> list[str]:
    """A note for a file next to the masks, or above, that has a legend's name but is not read."""
    common = Path(commonpath([files_of(mask)[0].absolute().parent for mask in masks]))
    for path in (*sorted(common.iterdir()), *sorted(common.parent.iterdir())):
        # labels.csv may list images, and dataset.json settings
        if is_legend(path.name) and path.stem.lower() not in ("labels", "label", "dataset"):
            with suppress(DataError):
                if path.is_file() and read_legend(path) is None:
                    return [
                        f"note: {path} has the name of a list of classes, but its form is not "
                        "understood, so it is not used. Name the classes: --classes"
                    ]
    return []


def _of_all(others: Sequence[Path], fits: Callable[[Legend], bool]) -> Legend | None:
    """Find a legend in each of many folders; all must agree."""
    found: Legend | None = None
    for folder in others if len(others) <= _MOST_FOLDERS else ():
        # a legend with too few classes for all masks still shows whether numbering is consistent
        legend = next((each for each in _legends_in(folder) if each.by_place or fits(each)), None)
        found = _agreeing(found, legend) if found and legend else found or legend
    return found if found and fits(found) else None


def _agreeing(one: Legend, other: Legend) -> Legend:
    """The longer of two legends, which must agree on common classes."""
    short, long = sorted((one, other), key=lambda legend: len(legend.names))
    maps = [set(zip(each.names, each.colors or each.values, strict=True)) for each in (short, long)]
    if maps[0] <= maps[1]:
        return long
    raise DataError(
        f"{one.path} and {other.path} list different classes ({', '.join(one.names)}; "
        f"{', '.join(other.names)}), so a value or colour has another meaning in each folder. Use "
        "one class list for all masks; for labelme, run labelme2voc.py with one list of labels; "
        "if a value means the same in all, name the classes (--classes).",
        "legends-differ",
    )


def _renumbered(masks: Sequence[Source]) -> Change | None:
    """The change that numbers classes by one list, if each folder of masks has one of its own."""
    files = [mask for mask in masks if isinstance(mask, Path)]
    found = {folder: [*_legends_in(folder)] for folder in {mask.parent for mask in files}}
    own = {folder: lists[0] for folder, lists in found.items() if len(lists) == 1}
    grounds = {each.names[0] for each in own.values()}
    are_lists = all(each.by_place for each in own.values())
    if len(files) < len(masks) or len(own) < len(found) or len(grounds) != 1 or not are_lists:
        return None
    if not all(map(is_background, grounds)):
        return None
    names = (*grounds, *sorted({name for each in own.values() for name in each.names} - grounds))
    pairs = tuple(
        tuple((k, names.index(name)) for k, name in enumerate(own[mask.parent].names))
        for mask in files
    )
    return Change("renumber", (*files, *(each.path for each in own.values())), (names, *pairs))


def _legends_in(folder: Path) -> Iterator[Legend]:
    for path in sorted(path for path in folder.iterdir() if is_legend(path.name)):
        if path.is_file() and (legend := read_legend(path)):
            yield legend


def read_legend(path: Path) -> Legend | None:
    """Read a legend; None if the file is not one.

    Reads tables with the columns name, r, g, b or name, hex or name, value; lines of a name and
    a colour, or of a name and a value; names in the order of class ids (.txt); nnU-Net's
    dataset.json, names by value (id2label.json), and Supervisely's titles and colours.

    Raises:
        DataError: The file cannot be read, or an entry is wrong.
    """
    require_regular(path)
    try:
        text = _decode(path.read_bytes())
    except PermissionError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}). Change its permissions, or remove it.",
            "unclear",
            [path],
        ) from error
    if path.suffix.lower() == ".json":
        return _read_json(path, text)
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        return None
    for read in (_read_table, _read_colors, _read_numbered):
        if legend := read(path, lines):
            return legend
    names = [line for line in lines if line != "__ignore__"]
    is_list = len(set(names)) == len(names) > 1 and all(map(_NAME.fullmatch, names))
    return _listed(path, names) if path.suffix.lower() == ".txt" and is_list else None


def _decode(data: bytes) -> str:
    """Decode a text file: UTF-8, UTF-16 (Excel's Unicode text), or else Windows' Western Europe."""
    if data[:2] in (BOM_UTF16_LE, BOM_UTF16_BE):
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def _listed(path: Path, names: Sequence[str]) -> Legend:
    return _in_order(Legend(path, tuple(names), values=tuple(range(len(names))), by_place=True))


def _read_table(path: Path, lines: Sequence[str]) -> Legend | None:
    """Read the columns of a table by their heads."""
    for mark in ",;\t":
        heads = [each.strip(' "').lower().replace("_", " ") for each in lines[0].split(mark)]
        heads = [_HEADS.get(head, head) for head in heads]
        if not {*heads} & {*_NAME_HEADS}:
            continue
        body = list(csv.reader(lines[1:], delimiter=mark, skipinitialspace=True))
        heads = _with_names(heads, body)
        rows = [dict(zip(heads, row, strict=False)) for row in body]

        def columns(*keys: str, rows: list[dict[str, str]] = rows) -> list[tuple[str, ...]]:
            return [tuple(row.get(key, "").strip() for key in keys) for row in rows]

        ids = [number for (number,) in columns("value" if "value" in heads else "id")]
        for keys in (("name", "r", "g", "b"), ("name", "value")):
            if {*keys} <= {*heads}:
                return _made(path, columns(*keys), ids if len(keys) > 2 else ())
        if found := _by_color(columns("name", "hex")):
            return _made(path, found, ids)
        if "id" in heads:
            return _numbered(path, columns("name", "id"))
    return None


def _with_names(heads: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """The heads with `name` for the column of names, and `id` for one of numbers beside it."""
    places = [k for k, head in enumerate(heads) if head in _NAME_HEADS]
    numbers = [k for k in places if all(row[k].strip().isdecimal() for row in body if row[k:])]
    names = sorted(places, key=lambda k: (k in numbers, _NAME_HEADS.index(heads[k])))[0]
    own = ["" if k in places else head for k, head in enumerate(heads)]
    own[names] = "name"
    for k in numbers:
        if k != names and not {"id", "value"} & {*own}:
            own[k] = "id"
    return own


def _by_color(found: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Names with R, G and B, from names with a colour in one cell; [] if any is none."""
    cells = [color.strip() for _, color in found]
    if all(map(_HEX_ALPHA.fullmatch, cells)):  # opaque: RRGGBBFF, or FFRRGGBB as QGIS has it
        digits = [cell.removeprefix("#") for cell in cells]
        is_last = all(each[6:].lower() == "ff" for each in digits)
        cells = [each[:6] if is_last else each[2:] for each in digits]
    colors = [_hex_or_rgb(cell) for cell in cells]
    return [(name, *color) for (name, _), color in zip(found, colors, strict=True) if all(colors)]


def _hex_or_rgb(cell: str) -> tuple[str, ...]:
    """R, G and B of `#D50000`, `rgb(213, 0, 0)`, `[213, 0, 0]` or `213 0 0`; () of others."""
    if match := _HEX.fullmatch(cell):
        return tuple(map(str, bytes.fromhex(match[1])))
    match = _RGB.fullmatch(cell)
    return match.groups() if match else ()


def _read_colors(path: Path, lines: Sequence[str]) -> Legend | None:
    """Read lines of a name and a colour, with or without an id and alpha."""
    labels = [match for line in lines if (match := _ITK_SNAP.match(line))]
    if len(labels) == len(lines):
        entries = [match.group(5, 2, 3, 4) for match in labels]
        return _made(path, entries, [match[1] for match in labels])
    has_head = not _split(lines[0])
    body = lines[has_head:]
    if not any(map(_split, body)):
        return None
    numbered = [match for line in body if (match := _NUMBERED.match(line))]
    ids = [match[1] for match in numbered]
    if not len({*ids}) == len(ids) == len(body):
        ids = []
    body = [match[2] for match in numbered] if ids else body
    if not ids and (second := _second_ids(body)):
        ids = second
        body = [_NAME_ID.sub(r"\1\3", line) for line in body]
    found = [_split(line) for line in body]
    opaque = [_split(match[1]) for line in body if (match := _WITH_ALPHA.match(line))]
    if len({entry[0] for entry in opaque if entry}) == len(body):
        found = opaque
    return _made(path, found, ids)


def _second_ids(lines: Sequence[str]) -> list[str]:
    """The ids between names and colours, 0, 1, ... or 1, 2, ...; [] if there are none."""
    found = [match for line in lines if (match := _NAME_ID.match(line))]
    ids = sorted(int(match[2]) for match in found)
    is_run = ids in ([*range(len(lines))], [*range(1, len(lines) + 1)])
    is_unique = len({match[1] for match in found}) == len(lines) > 1
    return [match[2] for match in found] if is_run and is_unique else []


def _read_numbered(path: Path, lines: Sequence[str]) -> Legend | None:
    """Read lines of a value and a name."""
    for pattern, name, number in ((_NUMBERED, 2, 1), (_NUMBER_LAST, 1, 2)):
        found = [match for line in lines if (match := pattern.match(line))]
        if len(found) == len(lines):
            return _numbered(path, [(match[name].strip(), match[number]) for match in found])
    return None


def _numbered(path: Path, found: Sequence[tuple[str, ...]]) -> Legend | None:
    """The legend of names with values; None if these are no class ids, such as of images."""
    names, numbers = zip(*found, strict=True) if found else ((), ())
    is_unique = len({*names}) == len({*numbers}) == len(found) > 1
    are_ids = all(number.isdecimal() and int(number) < 256 for number in numbers)
    return (
        _made(path, found) if is_unique and are_ids and not any(map(str.isdecimal, names)) else None
    )


def _made(path: Path, found: Sequence[tuple[str, ...]], ids: Sequence[str] = ()) -> Legend:
    for number, entry in enumerate(found, start=1):
        if not entry or not all(part.isdecimal() and int(part) < 256 for part in entry[1:]):
            raise DataError(
                f"{path}: entry {number} must be a name with a colour (three numbers from 0 to "
                "255) or a value. Correct it, or pass the colours or values with --colors or "
                "--values.",
                "unclear",
                [path],
            )
    names = tuple(entry[0] for entry in found)
    if all(len(entry) == 2 for entry in found):
        return _in_order(Legend(path, names, values=tuple(int(value) for _, value in found)))
    colors = tuple((int(r), int(g), int(b)) for _, r, g, b in found)
    are_ids = all(each.isdecimal() and int(each) < 256 for each in ids)
    values = tuple(map(int, ids)) if are_ids and len({*ids}) == len(names) else ()
    return _in_order(Legend(path, names, colors, values))


def _read_json(path: Path, text: str) -> Legend | None:
    try:
        content = json.loads(text)
        if path.stem.lower() == "dataset":
            content = content["labels"]
        elif isinstance(content, dict):
            content = content.get("classes", content)
        if isinstance(content, list):
            return _read_list(path, content)
        cells = [(name, str(color)) for name, color in content.items()]
        if found := _by_color(cells):
            return _made(path, found)
        pairs = [(k, v) if isinstance(v, int) else (v, int(k)) for k, v in content.items()]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    pairs = [each for each in pairs if isinstance(each[0], str) and each[1] >= 0]
    if len(pairs) < 2 or len(dict(pairs)) < len(pairs):
        return None
    pairs.sort(key=lambda each: each[1])
    names, values = zip(*pairs, strict=True)
    if len({*values}) < len(values) or values[-1] > 65535:
        return None
    return _in_order(Legend(path, names, values=values))


def _read_list(path: Path, classes: list[Any]) -> Legend | None:
    """Read names, or Supervisely's titles and colours."""
    if len(classes) > 1 and all(isinstance(each, str) for each in classes):
        return _listed(path, classes)
    entries = [(str(each.get("title", each.get("name"))), str(each["color"])) for each in classes]
    found = _by_color(entries)
    return _made(path, found) if len({name for name, *_ in found}) == len(classes) > 1 else None


def _in_order(legend: Legend) -> Legend:
    """Put the background class first (of two, void is one), the others by value if there are any.

    Ids from 0 on so stay class ids, whatever the order of the lines.
    """
    names = without_commas(legend.names)
    is_two = len(names) == 2 and not any(map(is_background, names))
    is_first = [
        name.strip(" _").casefold() == "void" if is_two else is_background(name) for name in names
    ]
    order = sorted(range(len(names)), key=lambda k: (not is_first[k], *legend.stored[k : k + 1]))
    return legend._replace(names=names).take(order)


def _split(line: str) -> tuple[str, ...]:
    if match := _CVAT.match(line):
        return match.groups()
    if match := _NAME_FIRST.match(line):
        name, *color = match.groups()
        return re.split(r"[,;]", name)[-1].strip(' "'), *color
    if match := _NAME_LAST.match(line):
        *color, name = match.groups()
        return name.strip(' "'), *color
    return ()
