"""One mask file for each class -> class ids.

In: the files of a picture's classes, as a path with braces names them
(`masks/{road,car}/7.png`, `masks/7_{road,car}.png`). Out: class ids, 0 where there is no class.
A picture may lack the file of a class that it does not show. Limitations: one class per pixel.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plainunet.data.encodings.colors import IGNORED, ColoredMaskError
from plainunet.data.encodings.values import THRESHOLD
from plainunet.data.problems import DataError

_MOST_CLASSES = 254
_DARK, _BRIGHT = 32, 224


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
        raise DataError(
            f"{path}: {overlap} pixels ({overlap / ids.size:.2%} of the picture, "
            f"{overlap / labelled:.2%} of what is labelled) belong to two classes, such as "
            f"'{example[0]}' and '{example[1]}'; each pixel has one. Set them to 0 in the file "
            "of one of the two.",
            "overlapping-classes",
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
    return DataError(
        f"{other} is {other_size[1]}x{other_size[0]} pixels, {first} is {size[1]}x{size[0]}. Make "
        "the masks of all classes as large as their picture.",
        "size-mismatch",
    )


def _foreground(file: Path, read: Callable[[Path], NDArray[Any]]) -> NDArray[np.bool_]:
    try:
        values = read(file)
    except ColoredMaskError:
        raise DataError(
            f"{file} is coloured, but is to show one class only: 0 outside of it, another value "
            "inside. Save it as a grey PNG.",
            "not-a-mask",
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
        raise DataError(
            f"{file} holds {len(found)} values from {found[0]} to {found[-1]}, but is to show one "
            "class only: 0 outside of it, another value inside. Save it with two values.",
            "stray-value",
        )
    return np.asarray(values >= THRESHOLD)
