"""Masks as files that can be looked at and computed with."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from plainunet.data.images import to_unit
from plainunet.files import write_whole

Colors = Sequence[tuple[int, int, int]]
_PANEL = 480  # width of a panel in a comparison [pixels]


def write_mask(path: Path, mask: NDArray[np.uint8], colors: Colors) -> None:
    """Write a palette PNG: the pixel values are the class ids, shown in their colours.

    Args:
        path: The file to write.
        mask: [H, W] uint8, class ids.
        colors: RGB of each class, 0..255.
    """
    picture = Image.fromarray(mask).convert("L")
    picture.putpalette([value for color in colors for value in color])
    _write_png(path, picture)


def write_comparison(
    path: Path,
    image: NDArray[Any],
    truth: NDArray[np.uint8],
    prediction: NDArray[np.uint8],
    colors: Colors,
) -> None:
    """Write what `draw_comparison` draws.

    Args:
        path: The PNG to write.
        image: [H, W, C], integers or floats, as stored.
        truth: [H, W] uint8, class ids; other values do not count.
        prediction: [H, W] uint8, class ids.
        colors: RGB of each class, 0..255.
    """
    write_rgb(path, draw_comparison(image, truth, prediction, colors))


def draw_comparison(
    image: NDArray[Any],
    truth: NDArray[np.uint8],
    prediction: NDArray[np.uint8],
    colors: Colors,
) -> NDArray[np.uint8]:
    """Draw picture | true mask | predicted mask | where they differ, side by side.

    In the last panel the picture is dimmed; red is where they differ, grey is void.

    Args:
        image: [H, W, C], integers or floats, as stored.
        truth: [H, W] uint8, class ids; other values do not count.
        prediction: [H, W] uint8, class ids.
        colors: RGB of each class, 0..255.

    Returns:
        [h, w, 3] uint8; each panel is at most 480 pixels wide.
    """
    shown = as_rgb(image)
    table = np.full((256, 3), 128, np.uint8)  # void is grey
    table[: len(colors)] = colors
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


def write_rgb(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write a picture as PNG, packed less tightly than it could be: in half of the time.

    Args:
        path: The file to write.
        picture: [H, W, 3] uint8.
    """
    _write_png(path, Image.fromarray(picture), compress_level=3)


def as_rgb(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Make a picture of any dtype and number of channels visible.

    Args:
        image: [H, W, C], integers or floats.

    Returns:
        [H, W, 3] uint8: one or two channels as grey, of more the first three; floats and
        signed integers are stretched over their own range.
    """
    unit = to_unit(image)
    if image.dtype.kind in "fi":
        unit = (unit - unit.min()) / max(float(np.ptp(unit)), 1e-12)
    chosen = unit[..., :3] if unit.shape[2] >= 3 else np.repeat(unit[..., :1], 3, axis=2)
    return np.round(chosen * 255).astype(np.uint8)


def _write_png(path: Path, picture: Image.Image, **options: int) -> None:
    with write_whole(path) as file:
        picture.save(file, format="PNG", **options)
