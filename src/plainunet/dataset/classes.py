"""What the values or colours in the masks of a data set mean."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plainunet.config import DataConfig
from plainunet.dataset.coding import (
    Census,
    Encoding,
    MaskCoding,
    MaskCounts,
    class_table,
    count_all_colors,
    count_masks,
    find_values,
    list_values,
)
from plainunet.dataset.pairs import Pair
from plainunet.dataset.split import SPLIT_FILE, write_split
from plainunet.files import require_writable
from plainunet.formats.colors import IGNORED, ColorCensus, Colors, colored_mask, find_meaning, pack
from plainunet.formats.masks import stored_names
from plainunet.formats.problems import DataError
from plainunet.formats.sources import Source, path_of
from plainunet.settings import DATASET_FILE, write_dataset


def understand_masks(
    paths: Sequence[Source],
    num_classes: int | None = None,
    ignore: int | None = None,
    colors: Colors = (),
    values: Sequence[int] = (),
    encoding: Encoding | None = None,
    on_note: Callable[[str], None] = lambda note: None,
) -> tuple[MaskCoding, NDArray[np.int64]]:
    """Look at every mask of a data set, and tell what their values or colours mean.

    Masks are read by their colours if these are given, or if the channels of any of them
    differ; else by their values, palette pictures by their indices.

    Args:
        paths: The masks; every one of them is read, several at a time.
        num_classes: Number of classes K, where it is known.
        ignore: The value of pixels that belong to no class, where it is known; of colours,
            the grey of that value.
        colors: R, G and B of each class, in their order, where they are known.
        values: The value of each class, in their order, where they are known.
        encoding: How values are to be read, if it is not to be found.
        on_note: Told what a user should know: which colours were taken for which class, which
            share of the pixels was moved to a near colour, and which is ignored.

    Returns:
        The coding, and the pixels of each class, [K] int64.

    Raises:
        FileNotFoundError: A mask is missing.
        ValueError: A mask cannot be read, or the values or colours make no sense together; see
            `find_values` and `find_meaning`.
    """
    counts: list[MaskCounts] = []
    if not colors:
        common_names(paths)  # what is wrong with them is told before any mask is read
        for each in count_masks(paths):
            if isinstance(each, DataError):
                raise each
            counts.append(each)
    return explain_masks(paths, counts, num_classes, ignore, colors, values, encoding, on_note)


def explain_masks(
    paths: Sequence[Source],
    counts: Sequence[MaskCounts],
    num_classes: int | None = None,
    ignore: int | None = None,
    colors: Colors = (),
    values: Sequence[int] = (),
    encoding: Encoding | None = None,
    on_note: Callable[[str], None] = lambda note: None,
) -> tuple[MaskCoding, NDArray[np.int64]]:
    """Tell what the values or colours of masks mean that are counted already.

    Args:
        paths: The masks.
        counts: What each holds; not needed where colours are given.
        num_classes: As for `understand_masks`, and so are the others.
        ignore: As there.
        colors: As there.
        values: As there.
        encoding: As there.
        on_note: As there.

    Returns:
        The coding, and the pixels of each class, [K] int64.

    Raises:
        FileNotFoundError: A mask is missing.
        ValueError: As `understand_masks`.
    """
    if colors and (values or encoding):
        raise ValueError(
            "Masks are read by --colors or by --values and --encoding. Leave out one of the two."
        )
    names = common_names(paths)
    if names and ignore is None:
        ignore = IGNORED  # what is in no class's file
    colored = next((each.path for each in counts if each.is_colored), None)
    if colored and (values or encoding):
        raise colored_mask(colored)
    if colors or colored:
        return _explain_colors(paths, colors, num_classes, ignore, on_note)
    known = num_classes or len(names) or None
    coding, pixels = _explain_values(counts, known, ignore, values, encoding, on_note)
    return replace(coding, names=names), pixels


def common_names(paths: Sequence[Source]) -> tuple[str, ...]:
    """Name the classes as the masks' own files do.

    Args:
        paths: The masks.

    Returns:
        The names in the order of the class ids, the background's first; empty where the files
        have none.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file cannot be read, or they name different classes.
    """
    found: dict[tuple[str, ...], Source] = {}
    for path in paths:
        found.setdefault(stored_names(path), path)
    if len(found) > 1:
        (some, first), (other, second) = list(found.items())[:2]
        raise ValueError(
            f"{first} has the classes {', '.join(some) or 'that its values say'}, {second} "
            f"{', '.join(other) or 'those that its values say'}. Name the same in all, in the same "
            "order."
        )
    return next(iter(found), ())


def _explain_values(
    counts: Sequence[MaskCounts],
    num_classes: int | None,
    ignore: int | None,
    values: Sequence[int],
    encoding: Encoding | None,
    on_note: Callable[[str], None],
) -> tuple[MaskCoding, NDArray[np.int64]]:
    census = Census()
    for each in counts:
        census.add(each.path, np.bincount(each.values, each.pixels).astype(np.int64), each.is_deep)
    meaning = find_values(census, num_classes, ignore, values, encoding)
    lossy = [path for path in census.paths if path_of(path).suffix.lower() in (".jpg", ".jpeg")]
    if lossy and meaning.kind == "ids" and len(meaning.values) > 2 and not (values or encoding):
        raise DataError(
            f"{lossy[0]} is a JPEG, which changes values, and the masks hold "
            f"{list_values(meaning.values)}. Save the class ids as PNG; or, if these are right, "
            "say --encoding ids.",
            "lossy-mask",
            lossy,
        )
    if meaning.note:
        on_note(meaning.note)
    coding = MaskCoding(meaning.values, meaning.ignore, meaning.kind)
    class_pixels = census.pixels[list(coding.values)]
    if coding.kind == "instances":
        left_out = 0 if coding.ignore is None else census.pixels[coding.ignore]
        class_pixels[1] = census.pixels.sum() - class_pixels[0] - left_out
    if coding.kind == "threshold":
        ids = class_table(coding, 256)
        class_pixels = np.array([census.pixels[:256][ids == k].sum() for k in (0, 1)])
    return coding, class_pixels


def _explain_colors(
    paths: Sequence[Source],
    colors: Colors,
    num_classes: int | None,
    ignore: int | None,
    on_note: Callable[[str], None],
) -> tuple[MaskCoding, NDArray[np.int64]]:
    census = ColorCensus()
    for path, (found, counts) in zip(paths, count_all_colors(paths), strict=True):
        census.add(path, found, counts)
    meaning = find_meaning(census, colors, num_classes, ignore)
    for note in meaning.notes:
        on_note(note)
    ids = tuple(range(len(meaning.colors)))
    return MaskCoding(ids, ignore, "colors", meaning.colors, meaning.names), meaning.pixels


def describe(coding: MaskCoding, classes: tuple[str, ...]) -> DataConfig:
    """Say what a data folder would say of itself.

    Args:
        coding: What mask values mean.
        classes: Names of the classes, in their order; empty where they have none.

    Returns:
        What goes into a dataset.toml beside a `split.csv`.
    """
    by_value = coding.kind in ("ids", "two values", "values")
    return DataConfig(
        pairs=SPLIT_FILE,
        classes=classes,
        values=coding.values if by_value else (),
        colors=tuple(f"{pack(color):06x}" for color in coding.colors),
        ignore=coding.ignore,
        encoding=coding.kind if coding.kind in ("instances", "threshold") else None,
    )


def write_understood(folder: Path, pairs: Sequence[Pair], said: DataConfig) -> list[Path]:
    """Write a dataset.toml and its list into a data folder.

    Args:
        folder: The data folder; files of these names that are there already are kept, with
            .bak, .bak2, ... at the end of their names.
        pairs: The pairs to be listed.
        said: What the dataset.toml says.

    Returns:
        The files written.

    Raises:
        ValueError: The folder cannot be written to.
    """
    require_writable(folder)
    files = [folder / SPLIT_FILE, folder / DATASET_FILE]
    for file in files:
        if file.exists():
            _keep(file)
    write_split(files[0], pairs, folder)
    write_dataset(files[1], said)
    return files


def _keep(file: Path) -> None:
    """Copy a file to the first name that is free, unless there is such a copy already."""
    for number in count(1):
        copy = file.with_name(f"{file.name}.bak{number if number > 1 else ''}")
        if not copy.exists():
            shutil.copy2(file, copy)
            return
        if copy.is_file() and copy.read_bytes() == file.read_bytes():
            return
