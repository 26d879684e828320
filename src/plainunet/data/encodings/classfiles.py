"""One mask file for each class -> class ids.

In: the files of a picture's classes, as a path with braces names them
(`masks/{road,car}/7.png`, `masks/7_{road,car}.png`). Out: class ids, 0 where there is no class.
A picture may lack the file of a class that it does not show. Limitations: one class per pixel.
"""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from plainunet.data.encodings.colors import IGNORED, ColoredMaskError
from plainunet.data.encodings.values import THRESHOLD
from plainunet.data.folders.layouts import PARTS
from plainunet.data.folders.names import Key
from plainunet.data.places import class_files

_MOST_CLASSES = 254
_HERE = "\0"
_DARK, _BRIGHT = 32, 224
_PAIRS = "--pairs 'images/*.jpg:masks/{road,car}/*.png'"


def read_ids(
    files: Mapping[str, Path], path: Path, read: Callable[[Path], NDArray[Any]]
) -> NDArray[np.uint8]:
    """Read the class ids of a picture from one file for each class.

    A class is where its file is not 0; where an 8-bit file has more than two values, its edges
    are smoothed, and the class is where it is at least 128.

    Args:
        files: Each class's file by its name; at least one must exist.
        path: The path with braces, for messages.
        read: Reads the stored values of a file, [H, W] uint8 or uint16.

    Returns:
        [H, W] uint8: 0 where there is no class, 1 for the first, and so on. Where one is named
        background, that is 0, the others count from 1, and 255 is where there is no class.

    Raises:
        FileNotFoundError: None of the files exists.
        ValueError: A file cannot be read or is no mask of one class, their sizes differ, a
            pixel belongs to two classes, or the classes' names are no names.
    """
    names = class_names(tuple(files))
    ids: NDArray[np.uint8] | None = None
    first, overlap, example = path, 0, ("", "")
    for class_id, name in enumerate(names):
        if name not in files or not _is_there(files[name]):
            continue
        inside = _foreground(files[name], read)
        if ids is None:
            ids, first = np.full(inside.shape, IGNORED, np.uint8), files[name]
        if inside.shape != ids.shape:
            raise _sizes_differ(first, ids.shape, files[name], inside.shape)
        there = ids[inside]
        others = there[there != IGNORED]
        if others.size and not overlap:
            example = names[int(np.bincount(others).argmax())], name
        overlap += others.size
        ids[inside] = class_id
    if ids is None:
        raise _none_exists(files, path)
    if overlap:
        labelled = np.count_nonzero(ids != IGNORED)
        raise ValueError(
            f"{path}: {overlap} pixels ({overlap / ids.size:.2%} of the picture, "
            f"{overlap / labelled:.2%} of what is labelled) belong to two classes, such as "
            f"'{example[0]}' and '{example[1]}'; each pixel has one. Set them to 0 in the file "
            "of one of the two."
        )
    if names[0] not in files:
        ids[ids == IGNORED] = 0
    return ids


def common_size(
    files: Mapping[str, Path], path: Path, size_of: Callable[[Path], tuple[int, int]]
) -> tuple[int, int]:
    """Tell the size that all files of a picture's classes have.

    Args:
        files: Each class's file by its name; at least one must exist.
        path: The path with braces, for messages.
        size_of: Tells a file's height and width [pixels].

    Returns:
        Height and width [pixels].

    Raises:
        FileNotFoundError: None of the files exists.
        ValueError: Two sizes differ, a file cannot be read, or the classes' names are no names.
    """
    class_names(tuple(files))
    there = [file for file in files.values() if _is_there(file)]
    if not there:
        raise _none_exists(files, path)
    sizes = [size_of(file) for file in there]
    for file, size in zip(there, sizes, strict=True):
        if size != sizes[0]:
            raise _sizes_differ(there[0], sizes[0], file, size)
    return sizes[0]


def class_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """List the classes in the order of their ids.

    Args:
        names: The names in braces.

    Returns:
        The background and the names; where one of these is background (in large or small
        letters), it comes first, and none is added. Empty where there are no names.

    Raises:
        ValueError: A name is empty, two are background, or there are too many.
    """
    if not names:
        return ()
    grounds = [name for name in names if name.casefold() == "background"]
    classes = [name for name in names if name not in grounds]
    if not all(name.strip() for name in names) or len(grounds) > 1 or not classes:
        raise ValueError(
            f"The classes {{{','.join(names)}}} need a name each, and at most one is the "
            "background. Name them like this: masks/{road,car}/7.png."
        )
    if len(classes) > _MOST_CLASSES:
        raise ValueError(
            f"There are {len(classes)} classes in braces; at most {_MOST_CLASSES} can be told "
            "apart. Join some of them."
        )
    return (*(grounds or ["background"]), *classes)


def _is_there(file: Path) -> bool:
    try:
        file.lstat()  # a link that leads nowhere is an error, not a class that is not shown
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise ValueError(f"{file} cannot be opened ({error.strerror}). Check its name.") from None
    return True


def _none_exists(files: Mapping[str, Path], path: Path) -> FileNotFoundError:
    return FileNotFoundError(
        f"{path}: none of the {len(files)} files for {', '.join(files)} exists. Add the file of "
        "at least one class, or remove the picture."
    )


def _sizes_differ(
    first: Path, size: tuple[int, ...], other: Path, other_size: tuple[int, ...]
) -> ValueError:
    return ValueError(
        f"{other} is {other_size[1]}x{other_size[0]} pixels, {first} is {size[1]}x{size[0]}. Make "
        "the masks of all classes as large as their picture."
    )


def _foreground(file: Path, read: Callable[[Path], NDArray[Any]]) -> NDArray[np.bool_]:
    try:
        values = read(file)
    except ColoredMaskError:
        raise ValueError(
            f"{file} is coloured, but is to show one class only: 0 outside of it, another value "
            "inside. Save it as a grey PNG."
        ) from None
    if values.dtype != np.uint8:
        return np.asarray(values > 0)
    counts = np.bincount(values.ravel(), minlength=256)
    found = np.flatnonzero(counts).tolist()
    if len(found) == 1 or (len(found) == 2 and found[0] == 0):
        return np.asarray(values > 0)
    smoothed = counts[_BRIGHT:].sum() > counts[_DARK:_BRIGHT].sum()
    # of 0, 1 and 255, the last may be pixels that are to be ignored
    if not smoothed or len(found) == 2 or found == [0, 1, 255]:
        raise ValueError(
            f"{file} holds {len(found)} values from {found[0]} to {found[-1]}, but is to show one "
            "class only: 0 outside of it, another value inside. Save it with two values."
        )
    return np.asarray(values >= THRESHOLD)


def join_classes(images: Mapping[Key, Path], masks: Mapping[Key, Path]) -> dict[Key, Path] | None:
    """Join the masks of each picture where there is one folder for each class.

    Such folders are known by their pictures, which have none: `masks/road/1.png` and
    `masks/car/1.png` for `images/1.jpg`, `masks/train/road/1.png` or `masks/road/train/1.png`
    for `images/train/1.jpg`. The masks' names may hold the class (`road/1_road.png`).

    Args:
        images: The pictures, by folder and stem.
        masks: The masks.

    Returns:
        The masks by the pictures' folders and the stem that the classes share, each a path with
        all classes in braces, sorted, the background first; None where the folders are no
        classes.

    Raises:
        ValueError: The files of a picture's classes differ in suffix or spelling, or a folder's
            name cannot stand in braces.
    """
    spots = _find_spots({where for where, _ in images}, {where for where, _ in masks})
    names = {spot.class_name for spot in spots.values()}
    if len(names) < 2 or {name.lower() for name in names} <= PARTS.keys():
        return None
    # "1", "1_road" or "road_1"
    for own_name in ("(?P<core>.+)", "(?P<core>.+)[-_. ]+{}", "{}[-_. ]+(?P<core>.+)"):
        found = _by_picture(masks, spots, own_name)
        # patients' folders look the same, but their masks have no name in common
        if any(len(files) > 1 for files in found.values()):
            classes = [name for name in class_names(tuple(sorted(names))) if name in names]
            return _in_braces(found, f"{{{','.join(classes)}}}")
    return None


class _Spot(NamedTuple):
    where: str  # the pictures' folder
    class_name: str
    depth: int  # of the class's folder above the mask, from 0


class _Joined(NamedTuple):
    mask: Path
    template: str  # its path, with _HERE for the class
    class_name: str


def _find_spots(pictured: set[str], masked: set[str]) -> dict[str, _Spot]:
    if pictured & masked:
        return {}
    parts = {where: Path(where).parts for where in masked}
    fits = []
    for at in range(min(map(len, parts.values()), default=0)):
        spots = {
            where: _Spot(str(Path(*each[:at], *each[at + 1 :])), each[at], len(each) - 1 - at)
            for where, each in parts.items()
        }
        if all(spot.where in pictured for spot in spots.values()):
            fits.append(spots)
    return fits[0] if len(fits) == 1 else {}


def _by_picture(
    masks: Mapping[Key, Path], spots: Mapping[str, _Spot], own_name: str
) -> dict[Key, list[_Joined]]:
    found: dict[Key, list[_Joined]] = defaultdict(list)
    patterns = {
        where: re.compile(own_name.format(re.escape(spot.class_name)), re.DOTALL)
        for where, spot in spots.items()
    }
    above: dict[str, tuple[str, str]] = {}
    for (where, stem), path in masks.items():
        spot = spots[where]
        match = patterns[where].fullmatch(stem)
        if match is None:
            return {}
        folder, own = os.path.split(path)
        if folder not in above:
            parts = list(Path(folder).parts)
            # as it is spelled on the disk
            name, parts[-1 - spot.depth] = parts[-1 - spot.depth], _HERE
            above[folder] = str(Path(*parts)), name
        template, name = above[folder]
        start, end = match.span("core")
        if start:
            own = _HERE + own[len(name) :]
        elif end < len(stem):
            cut = own.rindex(name) if name in own else 0
            own = own[:cut] + _HERE + own[cut + len(name) :]
        found[spot.where, match["core"]].append(_Joined(path, f"{template}{os.sep}{own}", name))
    return found


def _in_braces(found: Mapping[Key, list[_Joined]], braces: str) -> dict[Key, Path]:
    masks: dict[Key, Path] = {}
    for key, joined in found.items():
        mask = Path(joined[0].template.replace(_HERE, braces))
        alike = all(each.template == joined[0].template for each in joined)
        # what braces stand for is the same for all
        if not alike or (
            not masks and class_files(mask).get(joined[0].class_name) != joined[0].mask
        ):
            raise ValueError(
                f"{' and '.join(str(each.mask) for each in joined[:2])} cannot be joined: the "
                "masks of a picture's classes must have one name and suffix but for the class, "
                "and no braces or commas in their folders' names. Rename them, or say what "
                f"belongs together: {_PAIRS}."
            )
        masks[key] = mask
    return masks
