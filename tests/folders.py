"""Folders of images and masks, as tests need them."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from plainunet.dataset.lists import Pair
from plainunet.dataset.split import name_below
from plainunet.reporter import Reporter

Row = tuple[str, str, str, str | None]


def touch(root: Path, *names: str) -> Path:
    """Make empty files: what only looks at names opens none."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def save(path: Path, values: Any) -> Path:
    """Write an array as an image or as .npy, and the folder it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        Image.fromarray(np.asarray(values)).save(path)
    return path


def rows(pairs: Sequence[Any], root: Path) -> list[Row]:
    """Image, mask, group and part of each pair, as split.csv has them."""
    return [
        (name_below(each.image, root), name_below(each.mask, root), each.group, each.part)
        for each in pairs
    ]


def make_pair(root: Path, stem: str, image: Any, mask: Any, part: str | None = None) -> Pair:
    """Write an image and its mask as PNG files."""
    images, masks = root / "images", root / "masks"
    return Pair(save(images / f"{stem}.png", image), save(masks / f"{stem}.png", mask), stem, part)


def count_refusals(path: Path, places: Iterable[int], read: Callable[[], object]) -> int:
    """Set a single byte at a time to chance, and read: how often that was refused, by name."""
    data, random = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for place in places:
        damaged = bytearray(data)
        damaged[place] = random.integers(256)
        path.write_bytes(damaged)
        try:
            read()
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017
            refused += 1
    return refused


class Stages(Reporter):
    """Keeps the stages: their names, how much there was to do, and each report of what was done."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int, list[int]]] = []

    def stage(self, name: str, total: int) -> None:
        self.stages.append((name, total, []))

    def advance(self, done: int) -> None:
        self.stages[-1][2].append(done)


def draw_rectangles(folder: Path, images: int = 8, size: tuple[int, int] = (48, 64)) -> Path:
    """`images/` + `masks/`: RGB images and binary masks 0/255.

    A bright rectangle on a dark, noisy ground, so that a small network learns it in seconds.
    """
    random = np.random.default_rng(0)
    for number in range(images):
        mask = np.zeros(size, np.uint8)
        top, left = random.integers(4, 20, size=2)
        mask[top : top + 16, left : left + 28] = 255
        noise = random.integers(0, 60, size=(*size, 3))
        image = (noise + np.where(mask[..., None] > 0, 150, 30)).astype(np.uint8)
        make_pair(folder, str(number), image, mask)
    return folder


def write_tiff(path: Path, values: NDArray[Any], nodata: str | None = None, **options: Any) -> Path:
    """Write a TIFF file with GDAL's tag of nodata, if there is any."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tags = [] if nodata is None else [(42113, "s", 0, nodata, True)]
    kind = "rgb" if values.shape[-1] == 3 else "minisblack"
    tifffile.imwrite(path, values, photometric=kind, metadata=None, extratags=tags, **options)
    return path


def draw_scenes(
    folder: Path, images: int, dtype: str = "float32", tag: str | None = None, value: float = -1
) -> Path:
    """`images/` + `masks/`: TIFF images of noise with discs and squares, classes 1 and 2.

    With a `value` other than -1, every fourth image holds it in a corner of 30 x 40 pixels.
    """
    for number in range(images):
        random = np.random.default_rng(number)
        mask = np.zeros((96, 112), np.uint8)
        for class_id in (1, 2, 1, 2):
            y, x = (int(random.integers(14, side - 14)) for side in mask.shape)
            if class_id == 1:
                cv2.circle(mask, (x, y), int(random.integers(7, 12)), 1, -1)
            else:
                mask[y - 7 : y + 7, x - 8 : x + 8] = 2
        levels = np.array([[40, 50, 45], [130, 90, 60], [70, 150, 170]], np.float32)
        image = np.clip(levels[mask] + random.normal(0, 12, (*mask.shape, 3)), 1, 255)
        image *= {"uint8": 1.0, "uint16": 257.0}.get(dtype, 0.3 / 255)
        image = image.astype(dtype)
        if value != -1 and number % 4 == 0:
            image[:30, :40] = value
        write_tiff(folder / "images" / f"{number}.tif", image, tag)
        write_tiff(folder / "masks" / f"{number}.tif", mask)
    return folder
