"""Mask files that both viewers and programs can read, and overlays and comparisons."""

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tifffile import TiffFile, TiffWriter

from plainunet.errors import Error, require_choice, take_path, wrong
from plainunet.files import write_whole
from plainunet.formats.colors import IGNORED
from plainunet.formats.images import to_unit
from plainunet.palette import default_colors
from plainunet.prediction.geo import Tag, nodata_tag

Colors = Sequence[tuple[int, int, int]]
_PANEL = 480  # width of a panel in a comparison [pixels]
OPACITY = 0.45
"""Opacity of a class's colour in an overlay."""
_GREY = 40  # a colour whose channels differ by at most this counts as grey
TILE = 512
"""Side of a tile of a TIFF file [pixels]."""
_KEY = "plainunet"  # metadata key for the model and image that a mask was made from
_BIG = 2**31  # bytes from which on a TIFF file may need 64-bit offsets


def write_mask(path: Path, mask: NDArray[np.uint8], colors: Colors, key: str = "") -> None:
    """Write class ids [H, W] uint8 as a palette PNG; `key` is stored in it for `read_key`."""
    with write_whole(path) as file:
        file.write_bytes(encode_mask(mask, colors, key))


def save_mask(
    path: str | Path,
    mask: NDArray[np.integer[Any] | np.bool_],
    colors: Sequence[Sequence[int]] | NDArray[np.integer[Any]] | None = None,
) -> None:
    """Save a mask as a palette image whose pixel values are the class ids, whole or not at all.

    Args:
        path: A .png, or a .tif, which is tiled; an existing file is replaced.
        mask: [H, W] class ids in 0..255, or booleans.
        colors: RGB of each class, 0..255; 255 is grey without one. Default: black and white for
            two classes, else black and distinct hues.

    Raises:
        Error: The file name has another suffix, the mask another shape, dtype or range, or the
            colours are no RGB values or fewer than the classes.

    Example:
        ```python
        from plainunet import Predictor, save_mask

        predictor = Predictor.load("runs/first")
        mask = predictor.predict("new-images/i_1.jpg")
        save_mask("i_1.png", mask, predictor.card.colors)
        ```
    """
    file = take_path(path, "path")
    suffix = file.suffix.lower()
    require_choice(suffix, (".png", ".tif", ".tiff"), "path")
    wanted = "class ids [H, W], integers from 0 to 255"
    if not isinstance(mask, np.ndarray) or mask.ndim != 2 or mask.dtype.kind not in "uib":
        raise wrong("mask", mask, wanted)
    if not mask.size:
        raise wrong("mask", mask, wanted)
    if mask.min() < 0 or mask.max() > 255:
        raise Error(f"mask: expected {wanted}, but got {mask.min()} to {mask.max()}.", "argument")
    ids = mask.astype(np.uint8)
    classes = int(ids[ids != IGNORED].max(initial=0)) + 1
    known = default_colors(max(2, classes)) if colors is None else _take_colors(colors, classes)
    (write_mask if suffix == ".png" else write_tiff_mask)(file, ids, known)


def _take_colors(colors: Any, classes: int) -> Colors:
    """Take colours from outside, at least one of each class."""
    try:
        table = np.asarray(colors)
    except ValueError:  # of different lengths
        table = np.array("")
    is_rgb = table.ndim == 2 and table.shape[1] == 3 and table.dtype.kind in "ui"
    if not is_rgb or not classes <= len(table) <= 256 or table.min() < 0 or table.max() > 255:
        wanted = f"RGB, integers from 0 to 255, of each class; the mask's largest is {classes - 1}"
        raise wrong("colors", colors, wanted)
    return [(red, green, blue) for red, green, blue in table.tolist()]


def encode_mask(mask: NDArray[np.uint8], colors: Colors, key: str = "") -> bytes:
    """Encode class ids [H, W] uint8 as the file that `write_mask` writes."""
    is_whole = mask.max(initial=0) < len(colors)
    if is_whole and len(colors) == 2:
        return _encode_binary(mask, colors, key)
    image = Image.fromarray(mask).convert("L")
    image.putpalette(np.array(colors if is_whole else _color_table(colors)).ravel().tolist())
    info = PngInfo()
    if key:
        info.add_text(_KEY, key)
    data = BytesIO()
    # large uniform areas: run-length coding is faster and gives smaller files
    image.save(data, format="PNG", pnginfo=info, compress_level=1, compress_type=zlib.Z_RLE)
    return data.getvalue()


def _encode_binary(mask: NDArray[np.uint8], colors: Colors, key: str) -> bytes:
    """Encode a mask of two classes as a PNG of one bit per pixel.

    Pillow writes the same, but packs the bits in four times the time.
    """
    height, width = mask.shape
    rows = np.zeros((height, 1 + -(-width // 8)), np.uint8)  # each begins with its filter, 0: none
    rows[:, 1:] = np.packbits(mask, axis=1)
    # large uniform areas: run-length coding is fast and gives small files
    pack = zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_RLE)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 3, 0, 0, 0)),
        (b"PLTE", np.array(colors, np.uint8).tobytes()),
        *([(b"tEXt", f"{_KEY}\0{key}".encode("latin-1"))] if key else []),
        (b"IDAT", pack.compress(rows.tobytes()) + pack.flush()),
        (b"IEND", b""),
    ]
    data = [
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    ]
    return b"".join([b"\x89PNG\r\n\x1a\n", *data])


def read_key(path: Path) -> str:
    """Read the key stored in a mask; "" if there is none or the file cannot be read."""
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
    """Write a tiled, deflate-compressed palette TIFF; its pixel values are the class ids.

    `tags` are further TIFF tags, as by `find_geo`; `key` is stored in the file for `read_key`. 255,
    for pixels missing from the image, is the nodata value.
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
    """Like `write_tiff_mask`, for a mask that is not in memory as a whole.

    `bands` are [TILE, W] uint8, from top to bottom; the last may have fewer rows.
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
    """The colour of each class id, [256, 3]; ignored values are grey."""
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
    """Write the result of `draw_comparison` as a PNG."""
    write_rgb(path, draw_comparison(image, truth, prediction, colors))


def draw_comparison(
    image: NDArray[Any],
    truth: NDArray[np.uint8],
    prediction: NDArray[np.uint8],
    colors: Colors,
) -> NDArray[np.uint8]:
    """Draw image | ground truth | prediction | errors, side by side, as RGB uint8.

    The last panel is the dimmed image, with errors in red and ignored pixels in grey. The image is
    [H, W, C] as stored, masks are [H, W] uint8 class ids; other values in the ground truth are
    ignored. Each panel is at most 480 pixels wide.
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
    """Write an image [H, W, 3] uint8 as PNG: lighter compression, in half the time."""
    _save_png(path, Image.fromarray(image), compress_level=3)


def write_png(path: Path, values: NDArray[Any]) -> None:
    """Write [H, W] uint8 or uint16, or [H, W, 3] uint8, as PNG: grey, 16-bit grey, or RGB."""
    _save_png(path, Image.fromarray(values))


def encode_png(values: NDArray[Any]) -> bytes:
    """Encode values as the file that `write_png` writes."""
    data = BytesIO()
    Image.fromarray(values).save(data, format="PNG")
    return data.getvalue()


def draw_overlay(
    image: NDArray[Any], mask: NDArray[np.uint8], colors: Colors, opacity: float = OPACITY
) -> NDArray[np.uint8]:
    """Overlay a mask on its image [H, W, C]: classes in their `overlay_colors`, with contours.

    The background stays clear.
    """
    shown = as_rgb(image)
    colored = _color_table(overlay_colors(colors))[mask]
    mixed = cv2.addWeighted(shown, 1 - opacity, colored, opacity, 0)
    drawn = _is_object(mask)
    result = np.where(drawn[..., None], mixed, shown)
    edge = find_edges(mask) > 0
    result[edge] = colored[edge]
    return result


def overlay_colors(colors: Colors) -> Colors:
    """The colours of classes in an overlay: a hue in place of white, grey and black.

    These are invisible on some images.
    """
    hues = default_colors(max(3, len(colors)))
    return [own if max(own) - min(own) > _GREY else hues[k] for k, own in enumerate(colors)]


def find_edges(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Class ids [H, W] of the pixels along the edges of objects, 0 elsewhere."""
    edge = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    return np.where(edge & _is_object(mask), mask, np.uint8(0))


def _is_object(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return np.asarray((mask > 0) & (mask != IGNORED))


def encode_layer(mask: NDArray[np.uint8], colors: Colors) -> bytes:
    """Encode class ids as a PNG to lay over an image: transparent where there is no object."""
    image = Image.fromarray(mask).convert("L")
    image.putpalette(_color_table(overlay_colors(colors)).ravel().tolist())
    data = BytesIO()
    clear = bytes([0] + [255] * (IGNORED - 1) + [0])
    image.save(data, format="PNG", transparency=clear, compress_level=1, compress_type=zlib.Z_RLE)
    return data.getvalue()


def as_rgb(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Convert an image [H, W, C] of any dtype and number of channels to RGB [H, W, 3] uint8.

    One or two channels become grey; of more, the first three are used. Floats and signed integers
    are stretched from their minimum to their maximum.
    """
    unit = to_unit(image)
    if image.dtype.kind in "fi":
        unit = (unit - unit.min()) / max(float(np.ptp(unit)), 1e-12)
    chosen = unit[..., :3] if unit.shape[2] >= 3 else np.repeat(unit[..., :1], 3, axis=2)
    return np.round(chosen * 255).astype(np.uint8)


def reduced_rgb(image: NDArray[Any], longest: int) -> NDArray[np.uint8]:
    """Convert an image as `as_rgb`, reduced to at most `longest` pixels on its longer side."""
    side = max(image.shape[:2])
    # a large image is thinned first: converting all of it would take its memory several times
    step = max(1, side // (2 * longest))
    shown = as_rgb(image[::step, ::step])
    scale = longest / max(shown.shape[:2])
    if scale >= 1:
        return shown
    size = [max(1, round(length * scale)) for length in shown.shape[1::-1]]
    return np.asarray(cv2.resize(shown, size, interpolation=cv2.INTER_AREA), np.uint8)


def _tiles(bands: Iterable[NDArray[np.uint8]], width: int) -> Iterator[NDArray[np.uint8]]:
    """The tiles of a mask, row by row, padded to one size."""
    for band in bands:
        for left in range(0, width, TILE):
            tile = np.zeros((TILE, TILE), np.uint8)
            part = band[:, left : left + TILE]
            tile[: part.shape[0], : part.shape[1]] = part
            yield tile


def _save_png(path: Path, image: Image.Image, **options: Any) -> None:
    with write_whole(path) as file:
        image.save(file, format="PNG", **options)
