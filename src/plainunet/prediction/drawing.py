"""Masks as files that can be looked at and computed with, and drawings of them."""

import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tifffile import TiffFile, TiffWriter

from plainunet.files import write_whole
from plainunet.formats.colors import IGNORED
from plainunet.formats.images import to_unit
from plainunet.palette import default_colors
from plainunet.prediction.geo import Tag, nodata_tag

Colors = Sequence[tuple[int, int, int]]
_PANEL = 480  # width of a panel in a comparison [pixels]
_OPACITY = 0.45  # of a class's colour in an overlay
_GREY = 40  # colours whose channels differ by no more are no hue
TILE = 512
"""Side of a tile of a TIFF file [pixels]."""
_KEY = "plainunet"  # under which a mask says what it was made from
_BIG = 2**31  # bytes from which on a TIFF file may need 64-bit offsets


def write_mask(path: Path, mask: NDArray[np.uint8], colors: Colors, key: str = "") -> None:
    """Write class ids [H, W] uint8 as a palette PNG; `key` is kept in the file for `read_key`."""
    image = Image.fromarray(mask).convert("L")
    is_whole = mask.max(initial=0) < len(colors)
    image.putpalette(np.array(colors if is_whole else _color_table(colors)).ravel().tolist())
    info = PngInfo()
    if key:
        info.add_text(_KEY, key)
    # for areas of one value, run-length codes are faster and make smaller files
    _save_png(path, image, pnginfo=info, compress_level=1, compress_type=zlib.Z_RLE)


def read_key(path: Path) -> str:
    """Read the text that is kept in a mask; "" where there is none, or the file is another."""
    try:
        if path.suffix == ".tif":
            with TiffFile(path) as file:
                text = file.pages.first.description
        else:
            with Image.open(path) as image:
                text = f"{_KEY} {image.info.get(_KEY, '')}"
    except (OSError, ValueError):
        return ""
    return text.removeprefix(f"{_KEY} ") if text.startswith(f"{_KEY} ") else ""


def write_tiff_mask(
    path: Path,
    mask: NDArray[np.uint8],
    colors: Colors,
    tags: Sequence[Tag] | None = None,
    key: str = "",
) -> None:
    """Write a palette TIFF, in tiles, deflate-compressed: the pixel values are the class ids.

    There may be more tags, as by `find_geo`, and a text that is kept for `read_key`; 255, where the
    image has no pixel, is named as nodata.
    """
    bands = (mask[top : top + TILE] for top in range(0, len(mask), TILE))
    write_tiff_bands(path, (mask.shape[0], mask.shape[1]), bands, colors, tags, key)


def write_tiff_bands(
    path: Path,
    size: tuple[int, int],
    bands: Iterable[NDArray[np.uint8]],
    colors: Colors,
    tags: Sequence[Tag] | None = None,
    key: str = "",
) -> None:
    """Write such a file of a mask that is not in memory.

    Its bands are [TILE, W] uint8, from top to bottom; the last may have fewer rows.
    """
    table = _color_table(colors).T.astype(np.uint16) * 257
    with (
        write_whole(path) as part,
        TiffWriter(part, bigtiff=size[0] * size[1] >= _BIG) as file,
    ):
        file.write(
            _tiles(bands, size[1]),
            shape=size,
            dtype=np.uint8,
            tile=(TILE, TILE),
            photometric="palette",
            colormap=table,
            compression="zlib",
            metadata=None,
            description=f"{_KEY} {key}" if key else None,
            extratags=[*(tags or []), nodata_tag(IGNORED)],
            maxworkers=1,
        )


def _color_table(colors: Colors) -> NDArray[np.uint8]:
    """The colour of each class id, [256, 3]; what is ignored is grey."""
    table = np.full((256, 3), 128, np.uint8)
    table[: len(colors)] = colors
    return table


def write_comparison(
    path: Path,
    image: NDArray[Any],
    truth: NDArray[np.uint8],
    prediction: NDArray[np.uint8],
    colors: Colors,
) -> None:
    """Write what `draw_comparison` draws as a PNG."""
    write_rgb(path, draw_comparison(image, truth, prediction, colors))


def draw_comparison(
    image: NDArray[Any],
    truth: NDArray[np.uint8],
    prediction: NDArray[np.uint8],
    colors: Colors,
) -> NDArray[np.uint8]:
    """Draw image | true mask | predicted mask | where they differ, side by side, as RGB uint8.

    In the last panel the image is dimmed; red is where they differ, grey is ignored. The image is
    [H, W, C] as stored, masks are [H, W] uint8 class ids; other values of the truth are ignored.
    Each panel is at most 480 pixels wide.
    """
    shown = as_rgb(image)
    table = _color_table(colors)
    valid = truth < len(colors)
    differ = shown // 3
    differ[valid & (truth != prediction)] = (255, 40, 40)
    differ[~valid] = 128

    height, width = truth.shape
    scale = min(1.0, _PANEL / width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    panels = [
        cv2.resize(panel, size, interpolation=cv2.INTER_AREA)
        for panel in (shown, table[truth], table[prediction], differ)
    ]
    gap = np.full((size[1], 4, 3), 255, np.uint8)
    row = [part for panel in panels for part in (gap, panel)][1:]
    return np.concatenate(row, axis=1)


def write_rgb(path: Path, image: NDArray[np.uint8]) -> None:
    """Write an image [H, W, 3] uint8 as PNG, compressed less than possible, in half of the time."""
    _save_png(path, Image.fromarray(image), compress_level=3)


def write_png(path: Path, values: NDArray[Any]) -> None:
    """Write [H, W] uint8 or uint16, or [H, W, 3] uint8, as PNG: grey, 16-bit grey, or RGB."""
    _save_png(path, Image.fromarray(values))


def draw_overlay(image: NDArray[Any], mask: NDArray[np.uint8], colors: Colors) -> NDArray[np.uint8]:
    """Lay a mask over its image [H, W, 3]: classes in their colours, with their outlines.

    The background is left clear. Instead of white, grey and black, which are not seen on every
    image, classes get a hue.
    """
    shown = as_rgb(image)
    hues = default_colors(max(3, len(colors)))
    seen = [own if max(own) - min(own) > _GREY else hues[k] for k, own in enumerate(colors)]
    colored = _color_table(seen)[mask]
    mixed = cv2.addWeighted(shown, 1 - _OPACITY, colored, _OPACITY, 0)
    edge = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    drawn = (mask > 0) & (mask != IGNORED)
    result = np.where(drawn[..., None], mixed, shown)
    result[drawn & edge] = colored[drawn & edge]
    return result


def as_rgb(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Make an image [H, W, C] of any dtype and number of channels visible: [H, W, 3] uint8.

    One or two channels become grey, of more the first three count; floats and signed integers are
    stretched over their own range.
    """
    unit = to_unit(image)
    if image.dtype.kind in "fi":
        unit = (unit - unit.min()) / max(float(np.ptp(unit)), 1e-12)
    chosen = unit[..., :3] if unit.shape[2] >= 3 else np.repeat(unit[..., :1], 3, axis=2)
    return np.round(chosen * 255).astype(np.uint8)


def _tiles(bands: Iterable[NDArray[np.uint8]], width: int) -> Iterator[NDArray[np.uint8]]:
    """The tiles of a mask, row by row, all of one size."""
    for band in bands:
        for left in range(0, width, TILE):
            tile = np.zeros((TILE, TILE), np.uint8)
            part = band[:, left : left + TILE]
            tile[: part.shape[0], : part.shape[1]] = part
            yield tile


def _save_png(path: Path, image: Image.Image, **options: Any) -> None:
    with write_whole(path) as file:
        image.save(file, format="PNG", **options)
