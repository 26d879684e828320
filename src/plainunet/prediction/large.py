"""Masks of pictures that are too large to be in memory.

In: the windows of a picture. Out: a tiled, compressed TIFF file of class ids with their colours,
and the coordinates of a GeoTIFF. Rows are kept in a file beside it as they come, a byte for each
pixel, so that one that was interrupted goes on where it was.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tifffile import TiffWriter

from plainunet.data.windows import TiffWindows, Windows
from plainunet.files import write_json, write_whole
from plainunet.prediction.predictor import Predictor
from plainunet.prediction.writers import Colors

LARGE = 100_000_000
"""Pixels from which on a mask is written as TIFF, and a picture read in parts."""
_TILE = 512
_BIG = 2**31  # bytes from which on a TIFF file may need 64-bit offsets

Tag = tuple[int, int, int, Any, bool]


def predict_large(
    predictor: Predictor,
    picture: Windows,
    path: Path,
    key: str,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the mask of a picture, and begin where an earlier try has ended.

    Args:
        predictor: The model.
        picture: Its windows.
        path: The TIFF file to write.
        key: Says what the mask depends on beside the model: rows that were made with another
            are not gone on with.
        on_progress: Told how many of how many rows are done.

    Raises:
        ValueError: The picture cannot be read or predicted.
        OSError: The disk is full.
    """
    height, width, _ = picture.shape
    rows, said = (path.with_name(f".{path.stem}-rows.{end}") for end in ("raw", "json"))
    description = {"key": f"{key} {_digest(predictor)}", "size": [height, width]}
    done = 0
    if rows.is_file() and said.is_file():
        known = json.loads(said.read_text(encoding="utf-8"))
        done = rows.stat().st_size // width if known == description else 0
    if done == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        rows.write_bytes(b"")
        write_json(said, description)
    with rows.open("r+b") as file:
        file.truncate(done * width)
        file.seek(0, 2)
        if done < height:
            for band in predictor.mask_bands(picture, done):
                band.tofile(file)
                file.flush()
                done += len(band)
                if on_progress:
                    on_progress(done, height)
    mask = np.memmap(rows, np.uint8, "r", shape=(height, width))
    tags = geo_tags(picture) if isinstance(picture, TiffWindows) else []
    write_tiff_mask(path, mask, predictor.card.colors, tags)
    del mask
    rows.unlink()
    said.unlink()


def write_tiff_mask(
    path: Path, mask: NDArray[np.uint8], colors: Colors, tags: list[Tag] | None = None
) -> None:
    """Write a palette TIFF, in tiles, deflate-compressed: the pixel values are the class ids.

    Args:
        path: The file to write.
        mask: [H, W] uint8, class ids; it may be mapped into memory.
        colors: RGB of each class, 0..255.
        tags: More TIFF tags, as `geo_tags` gives them.
    """
    table = np.zeros((3, 256), np.uint16)
    table[:, : len(colors)] = np.array(colors, np.uint16).T * 257
    with (
        write_whole(path) as part,
        TiffWriter(part, bigtiff=mask.size >= _BIG) as file,
    ):
        file.write(
            _tiles(mask),
            shape=mask.shape,
            dtype=np.uint8,
            tile=(_TILE, _TILE),
            photometric="palette",
            colormap=table,
            compression="zlib",
            metadata=None,
            extratags=tags or [],
            maxworkers=1,
        )


def geo_tags(picture: TiffWindows) -> list[Tag]:
    """Give the tags by which a GeoTIFF says where on the earth its pixels are.

    Args:
        picture: A TIFF file.

    Returns:
        Tags for `write_tiff_mask` (GeoTIFF standard, OGC 19-008r4, sections 7.1 and B.6); none
        where the file has none.
    """
    codes = (33550, 33922, 34264, 34735, 34736, 34737)
    found = (picture.page.tags.get(code) for code in codes)
    return [(tag.code, int(tag.dtype), tag.count, tag.value, True) for tag in found if tag]


def _tiles(mask: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """The tiles of a mask, row by row, all of one size."""
    for top in range(0, mask.shape[0], _TILE):
        band = np.asarray(mask[top : top + _TILE])
        for left in range(0, mask.shape[1], _TILE):
            tile = np.zeros((_TILE, _TILE), np.uint8)
            part = band[:, left : left + _TILE]
            tile[: part.shape[0], : part.shape[1]] = part
            yield tile


def _digest(predictor: Predictor) -> str:
    """Recognise a model: its weights, and what its masks depend on beside them."""
    digest = hashlib.sha256()
    for name, value in sorted(predictor.network.state_dict().items()):
        digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    card = predictor.card
    digest.update(repr((card.size, card.factor, card.threshold, predictor.precision)).encode())
    return digest.hexdigest()
