"""Sources: where an image or a mask is read from.

Most are a file: a `Path`. Others are a page of a TIFF stack, a member of a tar shard, a window of a
scene and the polygons in it, an image in a COCO file or a list of run-length codes, the shapes in a
labelme or Supervisely file, one file per class, or one per object. Their text (`stack.tif[3]`,
`train-00000.tar[7 mask]`, `scene.tif[0:512,512:1024]`, `annotations.json[17]`,
`masks.csv[cat 40x30 rows]`, `7.json["background", "cat"]`, `masks/{road,car}/7.png`,
`masks/{7_a.png|7_b.png}`) is used in lists of pairs and in messages; `parse_source` reads it back.
"""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

_PAGE = re.compile(r"(.+?\.(?i:tiff?))\[([0-9]{1,9})\]", re.DOTALL)
_MEMBER = re.compile(r"(.+?\.tar)\[([0-9]{1,9})( mask)?\]", re.DOTALL)
_WINDOW = re.compile(r"(.+)\[([0-9]{1,9}):([0-9]{1,9}),([0-9]{1,9}):([0-9]{1,9})\]", re.DOTALL)
_COCO = re.compile(r"(.+?\.(?i:json))\[(-?[0-9]+)\]", re.DOTALL)
_RLE = re.compile(
    r"(.+?\.(?i:csv))\[(.+) ([0-9]{1,9})x([0-9]{1,9}) (rows|columns|empty)\]", re.DOTALL
)
_SHAPES = re.compile(r'(.+?\.(?i:json))(\[".*"\])', re.DOTALL)
_POLYGONS = re.compile(r"(.+?\.(?i:gpkg|geojson|shp|fgb))(\[\[.*\]\])", re.DOTALL)
_OBJECTS = re.compile(r"(.*)\{([^{}/]*\|[^{}/]*)\}", re.DOTALL)
_CLASSES = re.compile(r"\{([^{}]*,[^{}]*)\}")
HERE = "\0"
"""Placeholder for the class in the template of `ClassFiles`."""


class _NoFile:
    """A source other than a file, sorted by its text."""

    def __lt__(self, other: object) -> bool:
        return Path(str(self)) < Path(str(other))

    def __gt__(self, other: object) -> bool:
        return Path(str(self)) > Path(str(other))

    @property
    def name(self) -> str:
        """The last component of its text as a path."""
        return Path(str(self)).name


@dataclass(frozen=True)
class Page(_NoFile):
    """A page of a TIFF stack, counted from 0."""

    file: Path
    index: int

    def __str__(self) -> str:
        """Such as `stack.tif[3]`."""
        return f"{self.file}[{self.index}]"


@dataclass(frozen=True)
class Member(_NoFile):
    """The image of a sample in a tar shard, counted from 0, or its mask."""

    file: Path
    index: int
    is_mask: bool = False

    def __str__(self) -> str:
        """Such as `train-00000.tar[7]`, or `train-00000.tar[7 mask]`."""
        return f"{self.file}[{self.index}{' mask' if self.is_mask else ''}]"


@dataclass(frozen=True)
class Window(_NoFile):
    """A rectangle of an image file [pixels]."""

    file: Path
    top: int
    left: int
    height: int
    width: int

    def __str__(self) -> str:
        """Its rows and columns, such as `scene.tif[0:512,512:1024]`."""
        rows = f"{self.top}:{self.top + self.height}"
        return f"{self.file}[{rows},{self.left}:{self.left + self.width}]"

    def within(self, top: int, left: int, height: int, width: int) -> "Window":
        """A window of this one, clipped to it."""
        height, width = min(height, self.height - top), min(width, self.width - left)
        return Window(self.file, self.top + top, self.left + left, height, width)


@dataclass(frozen=True)
class Polygons(_NoFile):
    """The polygons of files in a window of a scene; `classes` are in the order of class ids.

    A polygon's class is its value in a column, or the stem of its file if `column` is "".
    """

    files: tuple[Path, ...]
    column: str
    classes: tuple[str, ...]
    window: Window

    def __str__(self) -> str:
        """Such as `roads.gpkg[["kind"], ["background", "road"], ["scene.tif[0:512,0:512]"]]`."""
        first, *others = self.files
        below = [os.path.relpath(each, first.parent) for each in (path_of(self.window), *others)]
        lists = json.dumps([[self.column], self.classes, below])
        return str(first) + lists.replace("/", "\\u002f")

    def within(self, top: int, left: int, height: int, width: int) -> "Polygons":
        """The polygons of a window of this one's."""
        return replace(self, window=self.window.within(top, left, height, width))


@dataclass(frozen=True)
class CocoImage(_NoFile):
    """The masks of an image in a COCO file, by image id."""

    file: Path
    image_id: int

    def __str__(self) -> str:
        """Such as `annotations.json[17]`."""
        return f"{self.file}[{self.image_id}]"


@dataclass(frozen=True)
class RleImage(_NoFile):
    """The masks of an image in a list of run-length codes, ordered by "rows" or "columns".

    The order "empty" means that the image is not listed and has no masks.
    """

    file: Path
    image: str
    height: int
    width: int
    order: str

    def __str__(self) -> str:
        """Such as `masks.csv[cat 40x30 rows]`."""
        return f"{self.file}[{self.image} {self.height}x{self.width} {self.order}]"


@dataclass(frozen=True)
class ClassFiles(_NoFile):
    """A mask with one file per class, in the order of class ids.

    `template` is the path of such a file, with `HERE` for the class.
    """

    template: str
    classes: tuple[str, ...]

    def __str__(self) -> str:
        """Such as `masks/{road,car}/7.png`."""
        return self.template.replace(HERE, f"{{{','.join(self.classes)}}}")

    @property
    def files(self) -> dict[str, Path]:
        """The file of each class name, existing or not."""
        return {name: Path(self.template.replace(HERE, name)) for name in self.classes}


@dataclass(frozen=True)
class Shapes(_NoFile):
    """The shapes of an image in a file of its own; `classes` are in the order of class ids."""

    file: Path
    classes: tuple[str, ...]

    def __str__(self) -> str:
        """Such as `7.json["background", "cat"]`."""
        return str(self.file) + json.dumps(self.classes).replace("/", "\\u002f")


@dataclass(frozen=True)
class ObjectFiles(_NoFile):
    """Several masks of one image, such as one per object, to be merged."""

    folder: Path
    names: tuple[str, ...]

    def __str__(self) -> str:
        """Such as `masks/{7_a.png|7_b.png}`."""
        return str(self.folder / f"{{{'|'.join(self.names)}}}")

    @property
    def files(self) -> list[Path]:
        """The files."""
        return [self.folder / name for name in self.names]


ImageSource = Path | Page | Member | Window
Source = ImageSource | Polygons | CocoImage | RleImage | Shapes | ClassFiles | ObjectFiles


def parse_image(text: str | Path) -> ImageSource:
    """Parse `str(source)` of an image: a file or a part of one, existing or not."""
    text = str(text)
    if text[-1:] != "]":
        return Path(text)
    if page := _PAGE.fullmatch(text):
        return Page(Path(page[1]), int(page[2]))
    if member := _MEMBER.fullmatch(text):
        return Member(Path(member[1]), int(member[2]), member[3] is not None)
    window = _WINDOW.fullmatch(text)
    if window is None or Path(text).exists():
        return Path(text)
    top, bottom, left, right = map(int, window.groups()[1:])
    return Window(Path(window[1]), top, left, bottom - top, right - left)


def _parse_polygons(file: Path, lists: str) -> Polygons:
    (column,), classes, below = json.loads(lists)
    window, *others = (Path(os.path.normpath(file.parent / each)) for each in below)
    found = parse_image(window)
    assert isinstance(found, Window)
    return Polygons((file, *others), column, tuple(classes), found)


def parse_classes(text: str) -> ClassFiles | None:
    """Parse the text of a mask with one file per class; None if it is not such a text."""
    found = _CLASSES.search(text) if "{" in text else None
    # the same list may occur twice: masks/{road,car}/7_{road,car}.png
    return ClassFiles(text.replace(found[0], HERE), tuple(found[1].split(","))) if found else None


def parse_source(text: str | Path) -> Source:
    """Parse `str(source)` of a mask.

    The result is a file if the text matches no other source, or if a file exists whose name has
    braces.
    """
    text = str(text)
    if text[-1:] == "]":
        if coco := _COCO.fullmatch(text):
            return CocoImage(Path(coco[1]), int(coco[2]))
        if rle := _RLE.fullmatch(text):
            return RleImage(Path(rle[1]), rle[2], int(rle[3]), int(rle[4]), rle[5])
        if shapes := _SHAPES.fullmatch(text):
            return Shapes(Path(shapes[1]), tuple(json.loads(shapes[2])))
        if polygons := _POLYGONS.fullmatch(text):
            return _parse_polygons(Path(polygons[1]), polygons[2])
        return parse_image(text)
    if text[-1:] == "}" and (objects := _OBJECTS.fullmatch(text)):
        return ObjectFiles(Path(objects[1]), tuple(objects[2].split("|")))
    classes = parse_classes(text)
    return classes if classes and not Path(text).exists() else Path(text)


def path_of(source: Source) -> Path:
    """The text of a source as a path, for its name and folder; not to be opened."""
    return source if isinstance(source, Path) else Path(str(source))


def files_of(source: Source) -> list[Path]:
    """The files that an image or a mask is read from; of class files, the existing ones."""
    if isinstance(source, Path):
        return [source]
    if isinstance(source, ClassFiles):
        existing = [file for file in source.files.values() if file.exists()]
        return existing or [path_of(source)]
    if isinstance(source, ObjectFiles):
        return source.files
    if isinstance(source, Polygons):
        tables = [file.with_suffix(".dbf") for file in source.files if file.suffix == ".shp"]
        return [*source.files, *filter(Path.is_file, tables), source.window.file]
    return [source.file]


def stem_of(source: ImageSource) -> str:
    """The name for files made from an image: its stem, with its page number or corner."""
    if isinstance(source, Window):
        return f"{source.file.stem}_{source.top}_{source.left}"
    return source.stem if isinstance(source, Path) else f"{source.file.stem}_{source.index}"


def stamp_files(sources: Sequence[Source]) -> list[list[Any]]:
    """Stamps that identify the content of sources, as cache keys.

    A stamp has the resolved path, size [bytes] and modification time [ns] of each file of a
    source, after the text of the source if that is not a file. Missing files raise
    FileNotFoundError.
    """
    known: dict[Path, tuple[str, int, int]] = {}  # one file may hold the masks of all images

    def stamp(file: Path) -> tuple[str, int, int]:
        if file not in known:
            status = file.stat()
            known[file] = os.path.realpath(file), status.st_size, status.st_mtime_ns
        return known[file]

    stamps: list[list[Any]] = []
    for source in sources:
        named = [] if isinstance(source, Path) else [str(path_of(source).absolute())]
        stamps.append([*named, *(part for file in files_of(source) for part in stamp(file))])
    return stamps


def cache_folder() -> Path:
    """The cache folder: PLAINUNET_CACHE, or a folder in the user's cache."""
    user = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("PLAINUNET_CACHE") or Path(user) / "plainunet")
