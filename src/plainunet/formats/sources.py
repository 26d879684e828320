"""Where an image or a mask is read from.

Most are a file of their own: a `Path`. Others are a page of a TIFF stack, an image of a COCO file
or of a list of run-length codes, the shapes in a file of labelme's or Supervisely's, one file for
each class, or one for each object. Their text (`stack.tif[3]`, `annotations.json[17]`,
`masks.csv[cat 40x30 rows]`, `7.json["background", "cat"]`, `masks/{road,car}/7.png`,
`masks/{7_a.png|7_b.png}`) stands in lists of pairs and in messages, and `parse_source` reads it
back. What tells files apart, and the folder
where things are remembered about them, are here too.
"""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PAGE = re.compile(r"(.+?\.(?i:tiff?))\[([0-9]{1,9})\]", re.DOTALL)
_COCO = re.compile(r"(.+?\.(?i:json))\[(-?[0-9]+)\]", re.DOTALL)
_RLE = re.compile(
    r"(.+?\.(?i:csv))\[(.+) ([0-9]{1,9})x([0-9]{1,9}) (rows|columns|empty)\]", re.DOTALL
)
_SHAPES = re.compile(r'(.+?\.(?i:json))(\[".*"\])', re.DOTALL)
_OBJECTS = re.compile(r"(.*)\{([^{}/]*\|[^{}/]*)\}", re.DOTALL)
_CLASSES = re.compile(r"\{([^{}]*,[^{}]*)\}")
HERE = "\0"
"""What stands for the class in the template of `ClassFiles`."""


class _NoFile:
    """A source that is no file of its own; its order among others is that of its text."""

    def __lt__(self, other: object) -> bool:
        return Path(str(self)) < Path(str(other))

    def __gt__(self, other: object) -> bool:
        return Path(str(self)) > Path(str(other))

    @property
    def name(self) -> str:
        """The last part of its text, as a path has it."""
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
class CocoImage(_NoFile):
    """The masks of an image in a COCO file, by the image's id."""

    file: Path
    image_id: int

    def __str__(self) -> str:
        """Such as `annotations.json[17]`."""
        return f"{self.file}[{self.image_id}]"


@dataclass(frozen=True)
class RleImage(_NoFile):
    """The masks of an image in a list of run-length codes, which count by "rows" or "columns".

    The order "empty" is of an image that the list does not name: it has no masks.
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
    """A mask that has one file for each class, in the order of their ids.

    `template` is the path of such a file, with `HERE` for the class.
    """

    template: str
    classes: tuple[str, ...]

    def __str__(self) -> str:
        """Such as `masks/{road,car}/7.png`."""
        return self.template.replace(HERE, f"{{{','.join(self.classes)}}}")

    @property
    def files(self) -> dict[str, Path]:
        """Each class's file by its name, whether it exists or not."""
        return {name: Path(self.template.replace(HERE, name)) for name in self.classes}


@dataclass(frozen=True)
class Shapes(_NoFile):
    """The shapes of an image in a file of its own; the classes in the order of their ids."""

    file: Path
    classes: tuple[str, ...]

    def __str__(self) -> str:
        """Such as `7.json["background", "cat"]`."""
        return str(self.file) + json.dumps(self.classes).replace("/", "\\u002f")


@dataclass(frozen=True)
class ObjectFiles(_NoFile):
    """Several masks of one image, such as one for each object; they are joined."""

    folder: Path
    names: tuple[str, ...]

    def __str__(self) -> str:
        """Such as `masks/{7_a.png|7_b.png}`."""
        return str(self.folder / f"{{{'|'.join(self.names)}}}")

    @property
    def files(self) -> list[Path]:
        """The files."""
        return [self.folder / name for name in self.names]


ImageSource = Path | Page
Source = ImageSource | CocoImage | RleImage | Shapes | ClassFiles | ObjectFiles


def parse_image(text: str | Path) -> ImageSource:
    """Read what `str(source)` gives of an image: a file, or a page of one, there or not."""
    text = str(text)
    page = _PAGE.fullmatch(text) if text[-1:] == "]" else None
    return Page(Path(page[1]), int(page[2])) if page else Path(text)


def parse_classes(text: str) -> ClassFiles | None:
    """Read the text of a mask that has one file for each class; None where it is no such text."""
    found = _CLASSES.search(text) if "{" in text else None
    # the same list may stand twice: masks/{road,car}/7_{road,car}.png
    return ClassFiles(text.replace(found[0], HERE), tuple(found[1].split(","))) if found else None


def parse_source(text: str | Path) -> Source:
    """Read what `str(source)` gives of a mask.

    It is a file where the text is that of no other source, or where such a file exists though its
    name has braces.
    """
    text = str(text)
    if text[-1:] == "]":
        if coco := _COCO.fullmatch(text):
            return CocoImage(Path(coco[1]), int(coco[2]))
        if rle := _RLE.fullmatch(text):
            return RleImage(Path(rle[1]), rle[2], int(rle[3]), int(rle[4]), rle[5])
        if shapes := _SHAPES.fullmatch(text):
            return Shapes(Path(shapes[1]), tuple(json.loads(shapes[2])))
        return parse_image(text)
    if text[-1:] == "}" and (objects := _OBJECTS.fullmatch(text)):
        return ObjectFiles(Path(objects[1]), tuple(objects[2].split("|")))
    classes = parse_classes(text)
    return classes if classes and not Path(text).exists() else Path(text)


def path_of(source: Source) -> Path:
    """Take the text of a source for a path: for its name and folder, not to be opened."""
    return source if isinstance(source, Path) else Path(str(source))


def files_of(source: Source) -> list[Path]:
    """List the files that an image or a mask is read from; of those of classes, the existing."""
    if isinstance(source, Path):
        return [source]
    if isinstance(source, ClassFiles):
        there = [file for file in source.files.values() if file.exists()]
        return there or [path_of(source)]
    if isinstance(source, ObjectFiles):
        return source.files
    return [source.file]


def stem_of(source: ImageSource) -> str:
    """Name what is made from an image: its file's stem, with "_" and the number of a page."""
    return source.stem if isinstance(source, Path) else f"{source.file.stem}_{source.index}"


def stamp_files(sources: Sequence[Source]) -> list[list[Any]]:
    """List what tells files from others, and from what they were or will be.

    Of each file that a source is read from: where it lies (links followed), size [bytes] and time
    of the last change [ns]; before them the source's own text, where it is no file of its own.
    A missing file is a FileNotFoundError.
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
    """Say where things are remembered: PLAINUNET_CACHE, or a folder in the user's cache."""
    user = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("PLAINUNET_CACHE") or Path(user) / "plainunet")
