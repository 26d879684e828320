"""Legends: files next to masks with the name and the colour or value of each class."""

import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from os.path import commonpath
from pathlib import Path
from typing import NamedTuple

from plainunet.files import require_regular
from plainunet.formats.problems import Change, DataError
from plainunet.formats.sources import Source, files_of

Color = tuple[int, int, int]
Colors = tuple[Color, ...]

_FILES = re.compile(
    r"(legend|(?:label_)?class_dict(?:_seg)?|codes|_?classes|class_names|label_names|labels?|label_colou?rs|labelmap)\.(csv|txt)"
    r"|dataset\.json",
    re.I,
)
_CVAT = re.compile(r"([^:]+):(\d+),(\d+),(\d+):[^:]*:[^:]*$")
_NAME_FIRST = re.compile(r"(.*?)[\s,;:]+(\d+)[\s,;]+(\d+)[\s,;]+(\d+)\W*$")
_NAME_LAST = re.compile(r"(\d+)[\s,;]+(\d+)[\s,;]+(\d+)[\s,;]+(.+)$")
_NAME = re.compile(r"[^\W\d][\w &()+'-]*")
_SAME = {"red": "r", "green": "g", "blue": "b", "class": "name", "pixel value": "value"}
_MOST_FOLDERS = 1000
VOID_NAMES = {"ignore", "void"}


class Legend(NamedTuple):
    """A legend file: class names, background first, and their colours or values."""

    path: Path
    names: tuple[str, ...]
    colors: Colors = ()
    values: tuple[int, ...] = ()
    by_place: bool = False
    """Whether the values are the positions of the names in a list."""
    ignore: int | None = None
    """The ignore index, if the file has one."""

    @property
    def stored(self) -> tuple[int, ...]:
        """The value of each class, also from grey colours; () if colours are not grey."""
        is_grey = all(len(set(color)) == 1 for color in self.colors)
        return self.values or (tuple(color[0] for color in self.colors) if is_grey else ())

    def without(self, ignore: int | None) -> "Legend":
        """The legend without the ignored class, given by its value or grey level."""
        stored: Sequence[object] = self.colors or self.values
        ignored = (ignore,) * 3 if self.colors else ignore
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


def find_legend(masks: Sequence[Source], fits: Callable[[Legend], bool]) -> Legend | None:
    """Find a matching legend in the common folder of all masks, above it, or in each mask folder.

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
    others = sorted(parents - {*above})
    try:
        return _of_all(others, fits)
    except DataError as error:
        if change := _renumbered(masks):
            raise DataError(str(error), error.code, fix=change) from None
        raise


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
        "one class list for all masks; for labelme, run labelme2voc.py with one list of labels.",
        "legends-differ",
    )


def _renumbered(masks: Sequence[Source]) -> Change | None:
    """The change that numbers classes by one list, if each folder has one mask and its list."""
    found = {mask: list(_legends_in(mask.parent)) for mask in masks if isinstance(mask, Path)}
    lists = [legends[0] for legends in found.values() if len(legends) == 1 and legends[0].by_place]
    files = tuple(each.path for each in lists)
    if not len(masks) == len(lists) == len(set(files)):
        return None
    grounds = {name for each in lists for name in each.names[:1] if is_background(name)}
    if len(grounds) != 1 or not all(is_background(each.names[0]) for each in lists):
        return None
    names = (*grounds, *sorted({name for each in lists for name in each.names} - grounds))
    pairs = tuple(
        tuple((k, names.index(name)) for k, name in enumerate(each.names)) for each in lists
    )
    return Change("renumber", (*found, *files), (names, *pairs))


def _legends_in(folder: Path) -> Iterator[Legend]:
    for path in sorted(path for path in folder.iterdir() if is_legend(path.name)):
        if path.is_file() and (legend := read_legend(path)):
            yield legend


def read_legend(path: Path) -> Legend | None:
    """Read a legend; None if the file is not one.

    Reads tables with the columns name, r, g, b or name, value; lines of a name and a colour;
    names in the order of class ids (.txt); and nnU-Net's dataset.json.
    """
    require_regular(path)
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    if path.suffix.lower() == ".json":
        return _read_json(path, text)
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    heads = [head.strip().lower() for head in lines[0].split(",")] if lines else []
    heads = [_SAME.get(head, head) for head in heads]
    for keys in (("name", "r", "g", "b"), ("name", "value")):
        if set(keys) <= set(heads):
            rows = [dict(zip(heads, row, strict=False)) for row in csv.reader(lines[1:])]
            return _made(path, [tuple(row.get(key, "").strip() for key in keys) for row in rows])
    found = [_split(line) for line in lines]
    if any(found):
        return _made(path, found if found[0] else found[1:])  # after a header
    names = [line for line in lines if line != "__ignore__"]
    is_list = len(set(names)) == len(names) > 1 and all(map(_NAME.fullmatch, names))
    if path.suffix.lower() != ".txt" or not is_list:
        return None
    return _in_order(Legend(path, tuple(names), values=tuple(range(len(names))), by_place=True))


def _made(path: Path, found: Sequence[tuple[str, ...]]) -> Legend:
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
    return _in_order(Legend(path, names, colors))


def _read_json(path: Path, text: str) -> Legend | None:
    try:
        labels = json.loads(text)["labels"]
        pairs = [(k, v) if isinstance(v, int) else (v, int(k)) for k, v in labels.items()]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    pairs = [each for each in pairs if isinstance(each[0], str) and each[1] >= 0]
    void = next((value for name, value in pairs if name.casefold() in VOID_NAMES), None)
    pairs = [each for each in pairs if each[0].casefold() not in VOID_NAMES]
    if len(pairs) < 2 or len(dict(pairs)) < len(pairs):
        return None
    pairs.sort(key=lambda each: each[1])
    names, values = zip(*pairs, strict=True)
    return _in_order(Legend(path, names, values=values, ignore=void))


def _in_order(legend: Legend) -> Legend:
    """Put the background class first; the others keep their order."""
    return legend.take(
        sorted(range(len(legend.names)), key=lambda k: not is_background(legend.names[k]))
    )


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
