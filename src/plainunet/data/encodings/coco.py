"""A COCO file (JSON) -> class ids.

In: a file with `images`, `annotations` and `categories`; outlines as polygons or as run-length
codes, compressed or not. Out: for each image the class of every pixel: 0 where nothing is
outlined, then the categories in the order of their ids. A category called "background" is class
0; the root entry that Roboflow adds (id 0, used by no annotation, the supercategory of others)
is left out. `iscrowd` makes no difference. Limitations: one class per pixel (`outlines` says how
far those of two classes may overlap); no key points, no panoptic PNG; the whole file in memory.
"""

import gc
import json
from collections import defaultdict
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from plainunet.data.codecs.encoded import require_bearable
from plainunet.data.encodings.outlines import Labelled, paint_ids, read_outline
from plainunet.data.folders.partners import first_five
from plainunet.data.places import Place, name_place

_KEYS = ("images", "annotations", "categories")
_MOST_CLASSES = 255
_LOCK = Lock()


class _Content(NamedTuple):
    names: tuple[str, ...]
    items: dict[str, str]  # by file name
    sizes: dict[str, tuple[int, int]]  # by item
    objects: dict[str, list[Labelled]]  # by item


class _NotCocoError(ValueError):
    """It is another kind of file."""


def is_coco(file: Path) -> bool:
    """Tell whether a file holds COCO's lists; whether they are right is not looked at.

    Args:
        file: A file.

    Returns:
        Whether it is JSON with the lists `images`, `annotations` and `categories`.

    Raises:
        FileNotFoundError: There is no such file.
    """
    return file.suffix.lower() == ".json" and not isinstance(_open(file), _NotCocoError)


def listed_names(file: Path) -> dict[str, str]:
    """List the images of a COCO file.

    Args:
        file: The file.

    Returns:
        Each image's id, as text, by its file name as listed, in the file's order.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no COCO file, cut off, or an entry is wrong.
    """
    return _content(file).items


def class_names(file: Path) -> tuple[str, ...]:
    """List the classes of a COCO file.

    Args:
        file: The file.

    Returns:
        "background", then the names of the categories in the order of their ids.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: As for `listed_names`.
    """
    return _content(file).names


def item_size(place: Place, path: Path) -> tuple[int, int]:
    """Look up an image's size.

    Args:
        place: The file and the image's id.
        path: The same as one path, for the message.

    Returns:
        Height and width [pixels].

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: As for `listed_names`, or there is no such image.
    """
    sizes = _content(place.file).sizes
    if place.item not in sizes:
        raise ValueError(
            f"{path}: none of the {len(sizes)} images in {place.file} has the id {place.item}. "
            "Was the file changed? Pair the pictures anew."
        )
    return sizes[place.item]


def read_ids(place: Place, path: Path) -> NDArray[np.uint8]:
    """Paint the outlines of an image.

    Args:
        place: The file and the image's id.
        path: The same as one path, for the message.

    Returns:
        [H, W] uint8: 0 for the background, 1..K-1 for the categories in the order of their ids.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: As for `item_size`, an outline is wrong, or classes overlap.
    """
    height, width = item_size(place, path)
    content = _content(place.file)
    try:
        return paint_ids(content.objects.get(place.item, ()), height, width, content.names)
    except ValueError as error:
        name = next(name for name, item in content.items.items() if item == place.item)
        raise ValueError(f"{path} ({name}): {error}") from None


def _content(file: Path) -> _Content:
    found = _open(file)
    if isinstance(found, ValueError):
        raise ValueError(str(found))
    return found


def _open(file: Path) -> _Content | ValueError:
    state = file.stat()
    # of several threads that want a file, one parses it
    with _LOCK:
        return _parse(file, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=8)
def _parse(file: Path, size: int, changed: int) -> _Content | ValueError:
    # looking for garbage among millions of numbers that stay would take longer than reading
    looked_for = gc.isenabled()
    gc.disable()
    try:
        return _parse_coco(file)
    except ValueError as error:
        return error.with_traceback(None)
    finally:
        if looked_for:
            gc.enable()


def _parse_coco(file: Path) -> _Content:
    raw = _read_lists(file)
    problems: list[str] = []
    items, sizes = _images(raw["images"], file, problems)
    classes, names = _classes(raw["categories"], raw["annotations"], file)
    content = _Content(names, items, sizes, defaultdict(list))
    boxes: dict[str, int] = defaultdict(int)
    for number, entry in enumerate(raw["annotations"]):
        if not isinstance(entry, dict):
            problems.append(f"annotation number {number + 1} is no object")
            continue
        label = f"annotation {entry['id']}" if "id" in entry else f"annotation number {number + 1}"
        item, category = str(_whole(entry.get("image_id"))), _whole(entry.get("category_id"))
        if item not in sizes:
            problems.append(
                f"{label} has the image_id {entry.get('image_id')!r}, which no image has"
            )
        elif category not in classes:
            problems.append(
                f"{label} has the category_id {entry.get('category_id')!r}, which no category has"
            )
        elif not entry.get("segmentation"):
            boxes[item] += 1
        else:
            try:
                outline = read_outline(entry["segmentation"], *sizes[item])
            except ValueError as error:
                problems.append(f"{label} {error}")
            else:
                content.objects[item].append(Labelled(label, classes[category], outline))
    if problems:
        raise ValueError(
            f"{file} has {len(problems)} wrong entries: {first_five(problems)}. Export it again, "
            "or mend or remove them."
        )
    if boxes:
        named = [name for name, item in items.items() if item in boxes]
        raise ValueError(
            f"{file}: {sum(boxes.values())} of {len(raw['annotations'])} annotations are boxes, "
            f"not outlines: they have no segmentation, in {len(named)} of {len(items)} images "
            f"({first_five(named)}). Export the outlines, or remove these annotations."
        )
    return content._replace(objects=dict(content.objects))


def _read_lists(file: Path) -> dict[str, list[Any]]:
    cure = "Name another file: --masks, or give masks as pictures."
    try:
        data = file.read_bytes()
    except OSError as error:
        raise _NotCocoError(f"{file} cannot be read ({error.strerror}). {cure}") from None
    # files of other kinds, one for each picture perhaps, are not parsed
    missing = [key for key in _KEYS if f'"{key}"'.encode() not in data]
    try:
        raw = {} if missing and data.rstrip().endswith((b"}", b"]")) else json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _NotCocoError(
            f"{file} is no JSON, or cut off after {len(data)} bytes ({error}). Copy it again, or "
            "name another file: --masks."
        ) from None
    if not isinstance(raw, dict) or not all(isinstance(raw.get(key), list) for key in _KEYS):
        raise _NotCocoError(
            f"{file} is no COCO file: it lacks one of the lists {', '.join(_KEYS)}. {cure}"
        )
    return raw


def _images(
    entries: list[Any], file: Path, problems: list[str]
) -> tuple[dict[str, str], dict[str, tuple[int, int]]]:
    items: dict[str, str] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for number, entry in enumerate(entries):
        label = f"image number {number + 1}"
        if not isinstance(entry, dict):
            problems.append(f"{label} is no object")
            continue
        name, item = entry.get("file_name"), str(_whole(entry.get("id")))
        height, width = _whole(entry.get("height")), _whole(entry.get("width"))
        if not isinstance(name, str) or not name:
            problems.append(f"{label} has no file_name")
        elif item == "None":
            problems.append(f"{name} has the id {entry.get('id')!r}, no whole number")
        elif item in sizes:
            problems.append(f"{name} has the id {item}, which another image has")
        elif name in items:
            problems.append(f"{name} is listed twice")
        elif height is None or width is None or height < 1 or width < 1:
            problems.append(
                f"{name} has the height {entry.get('height')!r} and the width "
                f"{entry.get('width')!r} instead of whole numbers above 0"
            )
        else:
            require_bearable(height * width, name_place(file, item))
            items[name], sizes[item] = item, (height, width)
    return items, sizes


def _classes(
    entries: list[Any], annotations: list[Any], file: Path
) -> tuple[dict[int | None, int], tuple[str, ...]]:
    named: dict[int, str] = {}
    above = set()
    for entry in entries:
        number = _whole(entry.get("id")) if isinstance(entry, dict) else None
        name = entry.get("name") if isinstance(entry, dict) else None
        if number is None or number in named or not isinstance(name, str) or not name.strip():
            raise ValueError(
                f"{file}: {str(entry)[:100]} is no category, or its id stands there twice. Each "
                "needs an id, a whole number of its own, and a name. Mend it."
            )
        named[number] = name.strip()
        above.add(entry.get("supercategory") if number != 0 else None)
    used = {_whole(each.get("category_id")) for each in annotations if isinstance(each, dict)}
    if 0 in named and 0 not in used and named[0] in above:
        del named[0]
    behind = {n for n, name in named.items() if name.strip("_").casefold() == "background"}
    order = [number for number in sorted(named) if number not in behind]
    names = ("background", *(named[number] for number in order))
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice or len(behind) > 1:
        raise ValueError(
            f"{file} has several categories of one name: {first_five(twice or ['background'])}. "
            "Rename them, or join them under one id."
        )
    if not 2 <= len(names) <= _MOST_CLASSES:
        raise ValueError(
            f"{file} has {len(names)} classes with the background; there must be 2 to "
            f"{_MOST_CLASSES}. Add or remove categories."
        )
    return {**{n: k for k, n in enumerate(order, 1)}, **dict.fromkeys(behind, 0)}, names


def _whole(raw: Any) -> int | None:
    if type(raw) is int:  # and not bool
        return raw
    return int(raw) if isinstance(raw, float) and raw.is_integer() else None
