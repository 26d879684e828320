"""Read class ids from labelme and Supervisely JSON files, which hold the shapes of one image.

Later shapes cover earlier ones.
"""

import base64
import json
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from plainunet.errors import Error
from plainunet.files import require_regular
from plainunet.formats.legends import is_background
from plainunet.formats.problems import MOST_PIXELS, DataError, require_decodable
from plainunet.formats.sources import Shapes

_IGNORED = 255
_MOST_CLASSES = 255
_LINE = 10  # width of lines, as in labelme [pixels]
_POINT = 5  # radius of points [pixels]
_AREAS = ("", "polygon", "rotation", "rectangle", "quadrilateral")  # by their corners
_IMAGE_DATA = re.compile(rb'"imageData"\s*:\s*"')
_Point = tuple[float, float]


class _Shape(NamedTuple):
    label: str
    kind: str
    points: list[_Point]
    holes: list[list[_Point]]
    bitmap: str  # base64 of a PNG, positioned at the first point


class _Content(NamedTuple):
    height: int
    width: int
    shapes: list[_Shape]


def is_shapes(file: Path) -> bool:
    """Whether a JSON file looks like one of labelme or Supervisely, by its keys."""
    try:
        data = file.read_bytes()
    except OSError:
        return False
    return (b'"shapes"' in data and b'"imagePath"' in data) or (
        b'"objects"' in data and b'"size"' in data
    )


def holds_image(file: Path) -> bool:
    """Whether a labelme file holds its image."""
    return is_shapes(file) and bool(_IMAGE_DATA.search(file.read_bytes()))


def class_names(files: Sequence[Path]) -> tuple[str, ...]:
    """The classes of files: background, then all labels, sorted or in the order of meta.json."""
    labels = {shape.label for file in files for shape in _open(file).shapes}
    listed = next(filter(None, map(_read_meta, files[0].parents[:4])), sorted(labels))
    names = [name for name in listed if not is_background(name) and name != "__ignore__"]
    missing = {each for each in labels if not is_background(each)} - {*names, "__ignore__"}
    if missing or len(names) >= _MOST_CLASSES:
        raise Error(
            f"{files[0]} and {len(files) - 1} more: meta.json does not list {sorted(missing)}."
            if missing
            else f"{files[0]} and {len(files) - 1} more name {len(names)} classes; the "
            f"maximum is {_MOST_CLASSES - 1}."
        )
    return ("background", *names)


def _read_meta(folder: Path) -> list[str]:
    try:
        raw = json.loads((folder / "meta.json").read_bytes())
        return [str(each["title"]) for each in raw["classes"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []


def image_size(file: Path) -> tuple[int, int]:
    """Read the height and width of the image of a file."""
    content = _open(file)
    return content.height, content.width


def read_ids(source: Shapes) -> NDArray[np.uint8]:
    """Paint the shapes of an image: [H, W] uint8, 0 for background, 255 for ignored pixels."""
    content = _open(source.file)
    numbers = {name: number for number, name in enumerate(source.classes)}
    numbers |= {each.label: 0 for each in content.shapes if is_background(each.label)}
    numbers["__ignore__"] = _IGNORED
    canvas = Image.new("L", (content.width, content.height))
    for number, shape in enumerate(content.shapes, 1):
        if shape.label not in numbers:
            raise DataError(
                f"{source}: shape {number} has the unknown label '{shape.label}'; the classes are "
                f"{', '.join(source.classes)}. Pair the images again.",
                "stray-value",
            )
        try:
            _paint(canvas, shape, numbers[shape.label])
        except (ValueError, TypeError, OSError, SyntaxError, OverflowError, zlib.error) as error:
            raise DataError(
                f"{source.file}: shape {number} ({shape.label}, {shape.kind}) cannot be painted: "
                f"{error}. Draw it again.",
                "damaged",
                [source],
            ) from None
    return np.array(canvas)


def _paint(canvas: Image.Image, shape: _Shape, value: int) -> None:
    draw, points = ImageDraw.Draw(canvas), shape.points
    low, high = -max(canvas.size), 2 * max(canvas.size)
    if not all(low <= x <= high for point in points for x in point):  # also rejects NaN
        raise Error("its coordinates are far outside the image")
    (x, y), *_ = points
    if shape.bitmap:
        stamp = _decode(shape.bitmap)
        canvas.paste(value, (round(x), round(y)), stamp)
    elif shape.kind in _AREAS and len(points) > 2:
        mask = Image.new("1", canvas.size)
        within = ImageDraw.Draw(mask)
        within.polygon(points, fill=1, outline=1)
        for hole in shape.holes:
            within.polygon(hole, fill=0, outline=0)
        canvas.paste(value, mask=mask)
    elif shape.kind == "rectangle" and len(points) == 2:
        (left, right), (top, bottom) = map(sorted, zip(*points, strict=True))
        draw.rectangle((left, top, right, bottom), fill=value, outline=value)
    elif shape.kind == "circle" and len(points) == 2:
        radius = math.dist(*points)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=value, outline=value)
    elif shape.kind in ("line", "linestrip", "polyline") and len(points) > 1:
        draw.line(points, fill=value, width=_LINE)
    elif shape.kind == "point":
        draw.ellipse((x - _POINT, y - _POINT, x + _POINT, y + _POINT), fill=value, outline=value)
    else:
        raise Error(f"it has {len(points)} points")


def _decode(text: str) -> Image.Image:
    data = base64.b64decode(text)
    if not data.startswith(b"\x89PNG"):  # Supervisely compresses it again
        data = zlib.decompressobj().decompress(data, MOST_PIXELS)
    with Image.open(BytesIO(data), formats=["PNG"]) as image:
        if image.width * image.height > MOST_PIXELS:
            raise Error("its bitmap is too large")
        mode = image.mode
        plane = np.asarray(image)
        plane = plane[..., 3] if mode == "RGBA" else plane
        return Image.fromarray((plane > 0).astype(np.uint8) * np.uint8(255))


def _open(file: Path) -> _Content:
    require_regular(file)
    state = file.stat()
    return _parse(file, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=256)
def _parse(file: Path, _size: int, _changed: int) -> _Content:
    try:
        raw = json.loads(file.read_bytes())
        found = _labelme(raw) if "shapes" in raw else _supervisely(raw)
        size = (
            (raw["imageHeight"], raw["imageWidth"])
            if "shapes" in raw
            else (raw["size"]["height"], raw["size"]["width"])
        )
        height, width = map(int, size)
        content = _Content(height, width, list(found))
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise DataError(
            f"{file} is not a complete labelme or Supervisely file ({type(error).__name__}: "
            f"{error}). Save it again.",
            "damaged",
            [file],
        ) from None
    if height < 1 or width < 1:
        raise DataError(f"{file} has an image size of {width}x{height} pixels.", "damaged", [file])
    require_decodable(height * width, file)
    return content


def _labelme(raw: Any) -> Iterator[_Shape]:
    for each in raw["shapes"]:
        kind = str(each.get("shape_type") or "polygon")
        bitmap = str(each.get("mask") or "") if kind == "mask" else ""
        yield _Shape(str(each["label"]), kind, _points(each["points"]), [], bitmap)


def _supervisely(raw: Any) -> Iterator[_Shape]:
    for each in raw["objects"]:
        if each.get("bitmap"):
            origin, data = each["bitmap"]["origin"], each["bitmap"]["data"]
            yield _Shape(str(each["classTitle"]), "bitmap", _points([origin]), [], str(data))
            continue
        holes = [_points(hole) for hole in each["points"].get("interior") or ()]
        kind = str(each.get("geometryType") or "polygon")
        yield _Shape(str(each["classTitle"]), kind, _points(each["points"]["exterior"]), holes, "")


def _points(raw: Any) -> list[_Point]:
    points = [(float(x), float(y)) for x, y in raw]
    if not points:
        raise Error("a shape has no points")
    return points
