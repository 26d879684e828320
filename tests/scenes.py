"""Synthetic scenes: houses and a few pools, with masks of pixels or of polygons."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

LEFT, TOP, PIXEL = 500_000.0, 5_000_000.0, 0.5
UTM, DEGREES = "EPSG:32632", "EPSG:4326"
NAMES = ("background", "house", "pool")


class Drawn(NamedTuple):
    """A drawn scene."""

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    boxes: list[tuple[int, int, int, int, int]]
    """Left, top, right and bottom in pixels, and class id."""


def draw_scene(side: int, seed: int = 0, houses: int = 30, pools: int = 1) -> Drawn:
    """Draw boxes that do not overlap in a noisy scene, on a grid of 40 pixels."""
    random = np.random.default_rng(seed)
    image = random.normal(90, 12, (side, side, 3)).clip(1, 254).astype(np.uint8)
    mask = np.zeros((side, side), np.uint8)
    cells = random.permutation((side // 40) ** 2)[: houses + pools]
    boxes = []
    for number, cell in enumerate(cells.tolist()):
        top, left = (40 * each + int(random.integers(1, 9)) for each in divmod(cell, side // 40))
        height, width = random.integers(14, 30, 2).tolist()
        class_id = 2 if number < pools else 1
        mask[top : top + height, left : left + width] = class_id
        color = (20, 40, 220) if class_id == 2 else (220, 60, 40)
        image[top : top + height, left : left + width] = color
        boxes.append((left, top, left + width, top + height, class_id))
    return Drawn(image, mask, boxes)


def write_raster(
    path: Path, values: NDArray[Any], nodata: int | None = None, shift: tuple[int, int] = (0, 0)
) -> Path:
    """Write a tiled GeoTIFF, moved to the right and down by some pixels."""
    import rasterio

    path.parent.mkdir(parents=True, exist_ok=True)
    bands = np.moveaxis(values.reshape(*values.shape[:2], -1), 2, 0)
    place = (PIXEL, 0, LEFT + shift[0] * PIXEL, 0, -PIXEL, TOP - shift[1] * PIXEL)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=values.shape[0],
        width=values.shape[1],
        count=len(bands),
        dtype=values.dtype,
        crs=UTM,
        transform=rasterio.Affine(*place),
        nodata=nodata,
        compress="deflate",
        tiled=True,
        blockxsize=128,
        blockysize=128,
    ) as file:
        file.write(bands)
    return path


def write_boxes(
    path: Path,
    boxes: Sequence[tuple[int, int, int, int, int]],
    column: str | None = "kind",
    crs: str = UTM,
) -> Path:
    """Write boxes as polygons, with their class in a column, and another column."""
    import pyogrio
    import shapely
    from rasterio.warp import transform

    path.parent.mkdir(parents=True, exist_ok=True)
    left, top, right, bottom, ids = np.array(boxes).T
    shapes = shapely.box(
        LEFT + left * PIXEL, TOP - bottom * PIXEL, LEFT + right * PIXEL, TOP - top * PIXEL
    )
    if crs != UTM:
        shapes = shapely.transform(shapes, lambda at: np.column_stack(transform(UTM, crs, *at.T)))
    names = np.array([NAMES[number] for number in ids], object)
    source = np.array([f"survey {number % 3}" for number in range(len(ids))], object)
    pyogrio.raw.write(
        path,
        shapely.to_wkb(shapes),
        [names, source] if column else [],
        [column, "source"] if column else [],
        geometry_type="Polygon",
        crs=crs,
    )
    return path
