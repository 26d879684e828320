"""Masks of pictures that are too large to be in memory.

In: the windows of a picture. Out: a tiled, compressed TIFF file of class ids with their colours,
and the coordinates of a GeoTIFF. Rows are kept in a file beside it as they come, a byte for each
pixel, so that one that was interrupted goes on where it was.
"""

import json
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tifffile import TiffFile

from plainunet.data.windows import TiffWindows, Windows
from plainunet.files import write_json
from plainunet.prediction.geo import read_geo
from plainunet.prediction.predictor import Predictor
from plainunet.prediction.writers import TILE, write_tiff_bands

LARGE = 100_000_000
"""Pixels from which on a mask is written as TIFF, and a picture read in parts."""


def predict_large(
    predictor: Predictor,
    picture: Windows,
    path: Path,
    key: str,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    stamp: str = "",
) -> NDArray[np.int64]:
    """Write the mask of a picture, and begin where an earlier try has ended.

    Args:
        predictor: The model.
        picture: Its windows.
        path: The TIFF file to write.
        key: Says what the mask is made from; it is kept in the file.
        on_progress: Told how many of how many rows are done.
        stamp: Tells the picture from what it was before: rows of another one, or of another key
            or model, are not gone on with.

    Returns:
        [K] int64, pixels of each class.

    Raises:
        ValueError: The picture cannot be read or predicted.
        OSError: The disk is full.
    """
    height, width, _ = picture.shape
    rows, said = (path.with_name(f".{path.stem}-rows.{end}") for end in ("raw", "json"))
    description = {"key": f"{predictor.digest()} {key} {stamp}", "size": [height, width]}
    done = 0
    if rows.is_file() and said.is_file():
        known = json.loads(said.read_text(encoding="utf-8"))
        done = rows.stat().st_size // width if known == description else 0
    if done == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        rows.write_bytes(b"")
        write_json(said, description)
    with rows.open("r+b", buffering=0) as file:
        file.truncate(done * width)
        file.seek(0, 2)
        if done < height:
            for band in predictor.mask_bands(picture, done):
                _append(file, band, path)
                done += len(band)
                if on_progress:
                    on_progress(done, height)
    place = read_geo(picture.page) if isinstance(picture, TiffWindows) else None
    counts = np.zeros(len(predictor.card.class_names), np.int64)

    def bands() -> Iterator[NDArray[np.uint8]]:
        # read, and not mapped: pages of a mapped file count as memory of the process
        with rows.open("rb") as file:
            while len(band := np.fromfile(file, np.uint8, TILE * width)):
                counts[:] += np.bincount(band, minlength=len(counts))
                yield band.reshape(-1, width)

    tags = place.tags if place else []
    write_tiff_bands(path, (height, width), bands(), predictor.card.colors, tags, key)
    rows.unlink()
    said.unlink()
    return counts


def _append(file: FileIO, band: NDArray[np.uint8], path: Path) -> None:
    """Write rows; what is wrong with the disk is said of the mask."""
    left = np.ascontiguousarray(band).data.cast("B")
    try:
        while left:
            left = left[file.write(left) :]
    except OSError as error:
        raise OSError(
            f"{path}: cannot be written ({error.strerror}). Make room for it, and run the same "
            "command again: it goes on where it was."
        ) from error


def count_large(path: Path, classes: int) -> NDArray[np.int64]:
    """Count the pixels of a mask that `predict_large` has written.

    Args:
        path: The file.
        classes: K.

    Returns:
        [K] int64, pixels of each class.
    """
    counts = np.zeros(256, np.int64)
    with TiffFile(path) as file:
        page = file.pages.first
        for data, (*_, top, left, _), _ in page.segments():
            if data is None:  # no tile of a mask is left out
                continue
            part = data[0, : page.imagelength - top, : page.imagewidth - left]
            counts += np.bincount(part.ravel(), minlength=256)
    return counts[:classes]
