"""Read class ids from COCO JSON files: polygons and run-length codes."""

import gc
import json
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask  # type: ignore[import-untyped]

from plainunet.errors import Error
from plainunet.files import require_regular
from plainunet.formats.legends import is_background
from plainunet.formats.problems import first_five, require_decodable
from plainunet.formats.sources import CocoImage

_MOST_SHARE = 0.01
_OVER = np.ones((3, 3), np.uint8)  # ignores overlaps up to 2 pixels wide
Outline = list[NDArray[Any]] | NDArray[np.int64] | bytes
"""Polygons [x, y, x, y, ...], run lengths, or compressed run lengths."""
_Runs = NDArray[np.int64]
"""[R, 2]: first pixel and the one after the last, in column-major order."""


class Labelled(NamedTuple):
    """An object: its name in messages, its class 0..254, and its outline [pixels]."""

    label: str
    class_id: int
    outline: Outline


def read_outline(raw: Any, height: int, width: int) -> Outline:
    """Parse the `segmentation` of a COCO annotation; numbers are checked when painting."""
    if isinstance(raw, dict):
        if raw.get("size") != [height, width]:
            raise Error(
                f"has a run-length code of size {raw.get('size')!r}, but its image has "
                f"{[height, width]} (height, width)"
            )
        counts = raw.get("counts")
        if isinstance(counts, str) and counts.isascii():
            return counts.encode()
        numbers = _numbers(counts)
        if numbers is None or numbers.dtype.kind not in "iu":
            raise Error("has a run-length code that is neither plain text nor a list of integers")
        return numbers.astype(np.int64, copy=False)
    polygons = []
    for each in raw if isinstance(raw, list) else [raw]:
        numbers = _numbers(each)
        if numbers is None:
            raise Error(
                "has a segmentation that is neither a list of polygons nor a run-length code"
            )
        if len(numbers) % 2 or len(numbers) < 6:
            raise Error(
                f"has a polygon of {len(numbers)} coordinates; it needs an even number, at least 6"
            )
        polygons.append(numbers.astype(np.float64, copy=False))
    return polygons


def paint_ids(
    objects: Sequence[Labelled], height: int, width: int, names: Sequence[str]
) -> NDArray[np.uint8]:
    """Paint objects, the largest first: [H, W] uint8 class ids, 0 for background."""
    found = []
    for label, class_id, outline in objects:
        try:
            found.append((class_id, _find_runs(outline, height, width)))
        except ValueError as error:
            raise Error(
                f"{label} {error}. Export the file again, or fix or remove this one."
            ) from None
    ids = np.zeros(height * width, np.uint8)
    found.sort(key=lambda each: -int((each[1][:, 1] - each[1][:, 0]).sum()))
    for class_id, runs in found:
        _paint(ids, runs, class_id)
    if len({class_id for class_id, _ in found}) > 1:
        _require_apart(found, height, width, names)
    return np.ascontiguousarray(ids.reshape(width, height).T)


def _paint(pixels: NDArray[Any], runs: _Runs, value: int) -> None:
    for start, end in runs.tolist():
        pixels[start:end] = value


def _require_apart(
    objects: list[tuple[int, _Runs]], height: int, width: int, names: Sequence[str]
) -> None:
    def layer(class_id: int) -> NDArray[np.uint8]:
        pixels = np.zeros(height * width, np.uint8)
        for each, runs in objects:
            if each == class_id:
                _paint(pixels, runs, 1)
        return pixels

    class_ids = sorted({class_id for class_id, _ in objects})
    count = np.zeros(height * width, np.uint8)
    for class_id in class_ids:
        count += layer(class_id)
    several = (count > 1).astype(np.uint8).reshape(width, height)
    if not several.any():
        return
    wide = cv2.morphologyEx(several, cv2.MORPH_OPEN, _OVER).ravel() > 0
    share = np.count_nonzero(wide) / np.count_nonzero(count)
    if share <= _MOST_SHARE:
        return
    inside = {class_id: layer(class_id)[wide] for class_id in class_ids}
    both = {
        (one, other): int(np.count_nonzero(inside[one] & inside[other]))
        for one, other in combinations(class_ids, 2)
    }
    most = max(both, key=lambda pair: both[pair])
    raise Error(
        f"{share:.1%} of its labelled pixels have two classes (maximum {_MOST_SHARE:.0%}); "
        f"{both[most]} pixels are both '{names[most[0]]}' and '{names[most[1]]}'. Fix the "
        "polygons, remove one of the categories, or save the masks as PNG files."
    )


def _find_runs(outline: Outline, height: int, width: int) -> _Runs:
    if isinstance(outline, list):
        outline = _rasterise(outline, height, width)
    counts = _decompress(outline) if isinstance(outline, bytes) else outline
    if counts.min(initial=0) < 0 or counts.max(initial=0) > height * width:
        raise Error("has a run-length code with a run below 0 or longer than the image")
    total = int(counts.sum())
    if total != height * width:
        raise Error(
            f"has a run-length code for {total} pixels, but the image has {height * width} "
            f"(height {height}, width {width})"
        )
    ends = np.cumsum(counts)
    return np.stack([ends - counts, ends], axis=1)[1::2]


def _rasterise(polygons: list[NDArray[Any]], height: int, width: int) -> bytes:
    points = np.concatenate(polygons).reshape(-1, 2)
    low, high = points.min(axis=0), points.max(axis=0)
    reach = max(height, width)
    # also rejects NaN
    if not (low.min() >= -reach and high.max() <= 2 * reach):
        raise Error(
            f"has coordinates from {low.min():g} to {high.max():g}, far outside its image of "
            f"height {height} and width {width}"
        )
    if (high <= 0).any() or low[0] >= width or low[1] >= height:
        raise Error(
            f"lies outside the image: x from {low[0]:g} to {high[0]:g}, y from {low[1]:g} "
            f"to {high[1]:g}, in an image of height {height} and width {width}"
        )
    codes = coco_mask.frPyObjects(polygons, height, width)
    return bytes(coco_mask.merge(codes)["counts"])


def _decompress(code: bytes) -> NDArray[np.int64]:
    # pycocotools reads and writes out of bounds for damaged codes, so they are decoded here:
    # little-endian groups of 5 bits, bit 5 set if more follow; from the fourth number on, each
    # is the difference to the last but one
    groups = np.frombuffer(code, np.uint8).astype(np.int64) - 48
    if not len(groups) or groups.min() < 0 or groups.max() > 63 or groups[-1] & 32:
        raise Error("has a compressed run-length code that is damaged or truncated")
    last = np.flatnonzero(groups & 32 == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    lengths = last - first + 1
    if lengths.max() > 7:
        raise Error("has a compressed run-length code with a number that is too large")
    places = np.arange(len(groups)) - np.repeat(first, lengths)
    counts = np.add.reduceat((groups & 31) << (5 * places), first)
    counts -= np.where(groups[last] & 16, np.int64(1) << (5 * lengths), 0)
    for start in (1, 2):
        counts[start::2] = np.cumsum(counts[start::2])
    return counts


def _numbers(raw: Any) -> NDArray[Any] | None:
    try:
        numbers = np.array(raw) if isinstance(raw, list) and raw else np.zeros(0)
    except ValueError:
        return None  # lists of different lengths
    known = isinstance(raw, list) and numbers.ndim == 1 and numbers.dtype.kind in "iuf"
    return numbers if known else None


_KEYS = ("images", "annotations", "categories")
_MOST_CLASSES = 255
_LOCK = Lock()


class _Content(NamedTuple):
    names: tuple[str, ...]
    ids: dict[str, int]  # by file name
    sizes: dict[int, tuple[int, int]]  # by id
    objects: dict[int, list[Labelled]]  # by id


class _NotCocoError(ValueError):
    """The file is not a COCO file."""


def is_coco(file: Path) -> bool:
    """Whether a file is JSON with the lists of COCO; their content is not checked."""
    return file.suffix.lower() == ".json" and not isinstance(_open(file), _NotCocoError)


def listed_images(file: Path) -> dict[str, CocoImage]:
    """The images of a COCO file by file name, in the order of the file."""
    return {name: CocoImage(file, number) for name, number in _content(file).ids.items()}


def class_names(file: Path) -> tuple[str, ...]:
    """The classes: "background", then the categories in the order of their ids."""
    return _content(file).names


def item_size(image: CocoImage) -> tuple[int, int]:
    """Look up an image's height and width."""
    sizes = _content(image.file).sizes
    if image.image_id not in sizes:
        raise Error(
            f"{image}: none of the {len(sizes)} images in {image.file} has the id "
            f"{image.image_id}. Was the file changed? Pair the images again."
        )
    return sizes[image.image_id]


def read_ids(image: CocoImage) -> NDArray[np.uint8]:
    """Paint the objects of an image: [H, W] uint8, 0 background, 1..K-1 categories by id."""
    height, width = item_size(image)
    content = _content(image.file)
    try:
        return paint_ids(content.objects.get(image.image_id, ()), height, width, content.names)
    except ValueError as error:
        name = next(name for name, number in content.ids.items() if number == image.image_id)
        raise Error(f"{image} ({name}): {error}") from None


def _content(file: Path) -> _Content:
    found = _open(file)
    if isinstance(found, ValueError):
        raise Error(str(found))
    return found


def _open(file: Path) -> _Content | ValueError:
    state = file.stat()
    # only one of several threads parses a file
    with _LOCK:
        return _parse(file, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=8)
def _parse(file: Path, size: int, changed: int) -> _Content | ValueError:
    # garbage collection among millions of live numbers takes longer than parsing
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return _parse_coco(file)
    except ValueError as error:
        return error.with_traceback(None)
    finally:
        if was_enabled:
            gc.enable()


def _parse_coco(file: Path) -> _Content:
    raw = _read_lists(file)
    problems: list[str] = []
    ids, sizes = _images(raw["images"], file, problems)
    classes, names = _classes(raw["categories"], raw["annotations"], file)
    content = _Content(names, ids, sizes, defaultdict(list))
    boxes: dict[int, int] = defaultdict(int)
    for number, entry in enumerate(raw["annotations"]):
        if not isinstance(entry, dict):
            problems.append(f"annotation number {number + 1} is not an object")
            continue
        label = f"annotation {entry['id']}" if "id" in entry else f"annotation number {number + 1}"
        image, category = _whole(entry.get("image_id")), _whole(entry.get("category_id"))
        if image is None or image not in sizes:
            problems.append(
                f"{label} has the image_id {entry.get('image_id')!r}, but no image has it"
            )
        elif category not in classes:
            problems.append(
                f"{label} has the category_id {entry.get('category_id')!r}, but no category has it"
            )
        elif not entry.get("segmentation"):
            boxes[image] += 1
        else:
            try:
                outline = read_outline(entry["segmentation"], *sizes[image])
            except ValueError as error:
                problems.append(f"{label} {error}")
            else:
                content.objects[image].append(Labelled(label, classes[category], outline))
    if problems:
        raise Error(
            f"{file} has {len(problems)} invalid entries: {first_five(problems)}. Export it again, "
            "or fix or remove them."
        )
    if boxes:
        named = [name for name, number in ids.items() if number in boxes]
        raise Error(
            f"{file}: {sum(boxes.values())} of {len(raw['annotations'])} annotations are boxes "
            f"without a segmentation, in {len(named)} of {len(ids)} images ({first_five(named)}). "
            "Export the polygons, or remove these annotations."
        )
    return content._replace(objects=dict(content.objects))


def _read_lists(file: Path) -> dict[str, list[Any]]:
    fix = "Pass another file or a folder of masks with --masks."
    try:
        require_regular(file)
        data = file.read_bytes()
    except OSError as error:
        raise _NotCocoError(f"{file} cannot be read ({error.strerror}). {fix}") from None
    except ValueError as error:
        raise _NotCocoError(str(error)) from None
    # do not parse other files, such as one per image
    missing = [key for key in _KEYS if f'"{key}"'.encode() not in data]
    try:
        raw = {} if missing and data.rstrip().endswith((b"}", b"]")) else json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _NotCocoError(
            f"{file} is not JSON, or truncated after {len(data)} bytes ({error}). Copy it again, "
            "or pass another file with --masks."
        ) from None
    if not isinstance(raw, dict) or not all(isinstance(raw.get(key), list) for key in _KEYS):
        raise _NotCocoError(
            f"{file} is not a COCO file: it lacks one of the lists {', '.join(_KEYS)}. {fix}"
        )
    return raw


def _images(
    entries: list[Any], file: Path, problems: list[str]
) -> tuple[dict[str, int], dict[int, tuple[int, int]]]:
    ids: dict[str, int] = {}
    sizes: dict[int, tuple[int, int]] = {}
    for number, entry in enumerate(entries):
        label = f"image number {number + 1}"
        if not isinstance(entry, dict):
            problems.append(f"{label} is not an object")
            continue
        name, image = entry.get("file_name"), _whole(entry.get("id"))
        height, width = _whole(entry.get("height")), _whole(entry.get("width"))
        if not isinstance(name, str) or not name:
            problems.append(f"{label} has no file_name")
        elif image is None:
            problems.append(f"{name} has the id {entry.get('id')!r}, which is not an integer")
        elif image in sizes:
            problems.append(f"{name} has the id {image} of another image")
        elif name in ids:
            problems.append(f"{name} is listed twice")
        elif height is None or width is None or height < 1 or width < 1:
            problems.append(
                f"{name} has the height {entry.get('height')!r} and the width "
                f"{entry.get('width')!r} instead of integers above 0"
            )
        else:
            require_decodable(height * width, CocoImage(file, image))
            ids[name], sizes[image] = image, (height, width)
    return ids, sizes


def _classes(
    entries: list[Any], annotations: list[Any], file: Path
) -> tuple[dict[int | None, int], tuple[str, ...]]:
    named: dict[int, str] = {}
    above = set()
    for entry in entries:
        number = _whole(entry.get("id")) if isinstance(entry, dict) else None
        name = entry.get("name") if isinstance(entry, dict) else None
        if number is None or number in named or not isinstance(name, str) or not name.strip():
            raise Error(
                f"{file}: {str(entry)[:100]} is not a valid category. Each needs a unique integer "
                "id and a name."
            )
        named[number] = name.strip()
        above.add(entry.get("supercategory") if number != 0 else None)
    used = {_whole(each.get("category_id")) for each in annotations if isinstance(each, dict)}
    if 0 in named and 0 not in used and named[0] in above:
        del named[0]
    behind = {number for number, name in named.items() if is_background(name)}
    order = [number for number in sorted(named) if number not in behind]
    names = ("background", *(named[number] for number in order))
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice or len(behind) > 1:
        raise Error(
            f"{file} has several categories with the same name: "
            f"{first_five(twice or ['background'])}. Rename them, or merge them under one id."
        )
    if not 2 <= len(names) <= _MOST_CLASSES:
        raise Error(
            f"{file} has {len(names)} classes with the background, but needs 2 to {_MOST_CLASSES}. "
            "Add or remove categories."
        )
    return {**{n: k for k, n in enumerate(order, 1)}, **dict.fromkeys(behind, 0)}, names


def _whole(raw: Any) -> int | None:
    if type(raw) is int:  # not bool
        return raw
    return int(raw) if isinstance(raw, float) and raw.is_integer() else None
