"""Draw the synthetic images of these pages: `python docs/figures.py`.

In: nothing. Out, next to this file: border-weights.png (cells, their border weights and elastic
deformations), and synthetic-NAME.png, images above their masks, as the guides show them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from plainunet.dataset.augment import Augment
from plainunet.dataset.borders import border_weights, part_objects
from plainunet.palette import default_colors

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.colors import ListedColormap

Scene = tuple[NDArray[np.uint8], NDArray[Any]]
"""Image [H, W, 3] and mask [H, W]."""
SIZE = 192
WEIGHT, SIGMA, ELASTIC = 10.0, 5.0, 10.0
COLOURS = ["#6c9fd8", "#e0a458", "#7fb77e", "#c97b84", "#9d8ec7", "#5fb3b3", "#d9c75b"]
COLOURS += ["#3f6f9f", "#a0714f"]


def draw_cells(random: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Draw crowded cells.

    Args:
        random: Random number generator.

    Returns:
        Image [H, W, 3] uint8, and labels [H, W] uint16; cells that touch share a boundary.
    """
    rows, columns = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    places: list[tuple[float, float, float]] = []
    for _ in range(4000):
        row, column, radius = *random.uniform(0, SIZE, 2), random.uniform(17, 27)
        if all(np.hypot(row - r, column - c) > 0.88 * (radius + other) for r, c, other in places):
            places.append((row, column, radius))
    depths = []
    for row, column, radius in places:
        angle = np.arctan2(rows - row, columns - column)
        wobble = sum(
            random.normal(0, 0.05) * np.cos(n * angle + random.uniform(0, 6.3)) for n in (2, 3, 4)
        )
        depths.append(1 - np.hypot(rows - row, columns - column) / radius / (1 + wobble))
    depth = np.max(depths, axis=0)
    labels = np.where(depth > 0, 1 + np.argmax(depths, axis=0), 0).astype(np.uint16)

    shades = np.concatenate([[0], random.uniform(-14, 14, len(places))])[labels]
    bright = np.where(depth > 0, 118 + shades + 55 * np.sqrt(np.maximum(depth, 0)), 72)
    bright = bright + 9 * texture(random, 2.5) + 5 * texture(random, 0.8)
    grey = cv2.GaussianBlur(bright, (0, 0), 0.9).clip(0, 255).astype(np.uint8)
    return np.stack([grey] * 3, axis=2), labels


def texture(random: np.random.Generator, blur: float) -> NDArray[Any]:
    """Draw smooth noise [H, W] of mean 0 and standard deviation 1."""
    grain = cv2.GaussianBlur(random.normal(0, 1, (SIZE, SIZE)), (0, 0), blur)
    return grain / grain.std()


def shade(
    random: np.random.Generator, colours: NDArray[Any], grain: float, blur: float = 0.8
) -> NDArray[np.uint8]:
    """Make an image [H, W, 3] uint8 of flat colours by noise and a lens blur."""
    noise = grain * (texture(random, 3.0) + texture(random, 0.8))[..., None]
    return cv2.GaussianBlur(colours + noise, (0, 0), blur).clip(0, 255).astype(np.uint8)


def draw_membranes(random: np.random.Generator) -> Scene:
    """Draw an electron micrograph of cells: membrane is class 0, cell is class 1."""
    sites = random.uniform(0, SIZE, (45, 2))
    rows, columns = np.mgrid[:SIZE, :SIZE] + 5 * np.stack([texture(random, 9) for _ in range(2)])
    distances = np.hypot(rows[..., None] - sites[:, 0], columns[..., None] - sites[:, 1])
    distances.sort(axis=2)
    cell = distances[..., 1] - distances[..., 0] > 5
    grey = np.where(cell, 168, 74) - 40 * (cell & (texture(random, 4) > 1.9))
    return shade(random, np.stack([grey] * 3, axis=2), 9), cell.astype(np.uint8)


def draw_vessels(random: np.random.Generator) -> Scene:
    """Draw the fundus of an eye: vessel is class 1."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    tips = [(96.0, 20.0, angle, 6.0) for angle in (-0.9, -0.3, 0.35, 0.9)]
    while tips:
        row, column, angle, width = tips.pop()
        for _ in range(30):
            start = (round(column), round(row))
            angle += random.normal(0, 0.12)
            row, column = row + 4 * np.sin(angle), column + 4 * np.cos(angle)
            cv2.line(mask, start, (round(column), round(row)), 1, max(1, round(width)))
            width *= 0.985
            if width > 1.2 and random.random() < 0.09:
                tips.append((row, column, angle + random.choice([-0.6, 0.6]), 0.7 * width))
    rows, columns = np.mgrid[:SIZE, :SIZE]
    light = 1 - 0.35 * (np.hypot(rows - 96, columns - 96) / 136) ** 2
    colours = np.where(mask[..., None] > 0, (120, 34, 26), (196, 92, 52)) * light[..., None]
    cv2.circle(colours, (20, 96), 13, (240, 196, 130), -1)
    mask[np.hypot(rows - 96, columns - 20) < 13] = 0
    return shade(random, colours, 5), mask


def draw_street(random: np.random.Generator) -> Scene:
    """Draw a street: sky, building, tree, road, pavement and car are classes 0 to 5."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    for left in range(0, SIZE, 32):
        top = int(random.integers(20, 70))
        cv2.rectangle(mask, (left, top), (left + int(random.integers(20, 32)), 110), 1, -1)
    for column in (14, 62, 150, 178):
        cv2.circle(mask, (column, 88), int(random.integers(10, 17)), 2, -1)
    mask[104:] = 4
    cv2.fillPoly(mask, [np.array([[82, 104], [110, 104], [186, 191], [6, 191]])], 3)
    for column, row, width in ((66, 142, 34), (112, 124, 20), (98, 108, 9)):
        cv2.rectangle(mask, (column, row - width // 2), (column + width, row), 5, -1)
        cv2.rectangle(
            mask, (column + width // 5, row - width), (column + width * 4 // 5, row), 5, -1
        )
    colours = np.array(
        [
            (158, 190, 222),
            (150, 118, 100),
            (70, 104, 58),
            (92, 92, 98),
            (150, 146, 140),
            (160, 44, 46),
        ]
    )[mask].astype(float)
    colours += (
        14 * (mask == 1)[..., None] * (np.mgrid[:SIZE, :SIZE].sum(axis=0) % 12 < 5)[..., None]
    )
    return shade(random, colours, 6), mask


def draw_crops(random: np.random.Generator) -> Scene:
    """Draw a field from above: soil, weed and crop are classes 0 to 2."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    plants = [(row, column, 2) for row in (40, 96, 152) for column in range(18, SIZE, 39)]
    plants += [(*random.uniform(8, SIZE - 8, 2), 1) for _ in range(14)]
    for row, column, kind in plants:
        count, length, width = (7, 15, 5) if kind == 2 else (5, 8, 2)
        turn, grown = random.uniform(0, 6.3), random.uniform(0.8, 1.25)
        for leaf in range(count):
            angle = turn + leaf * 2 * np.pi / count + random.normal(0, 0.15)
            reach = grown * length
            centre = (column + reach * np.cos(angle) / 2, row + reach * np.sin(angle) / 2)
            size = (reach, grown * width)
            cv2.ellipse(mask, (centre, size, float(np.degrees(angle))), kind, -1)
    colours = np.array([(118, 90, 66), (92, 136, 60), (70, 148, 78)])[mask].astype(float)
    return shade(random, colours, 11), mask


SCENES: dict[str, list[tuple[str, Callable[[np.random.Generator], Scene]]]] = {
    "biomedical": [("cells", draw_cells), ("membranes", draw_membranes), ("vessels", draw_vessels)],
    "street": [("a street, six classes", draw_street)],
    "crops": [("crop and weed, three classes", draw_crops)],
}


def draw_scenes(name: str, path: Path) -> None:
    """Draw synthetic images next to their masks.

    Args:
        name: One of `SCENES`.
        path: The file to write.
    """
    scenes = SCENES[name]
    figure, axes = plt.subplots(len(scenes), 2, figsize=(5, 2.6 * len(scenes)), squeeze=False)
    for (title, draw), row in zip(scenes, axes, strict=True):
        image, mask = draw(np.random.default_rng(5))
        classes = (mask > 0).astype(np.uint8) if mask.dtype == np.uint16 else mask
        colours = np.array(default_colors(int(classes.max()) + 1), np.uint8)
        for axis, panel, text in zip(
            row, (image, colours[classes]), (title, "ground truth"), strict=True
        ):
            axis.imshow(panel)
            axis.set_title(text, fontsize=10)
            axis.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None}, pil_kwargs={"optimize": True})
    plt.close(figure)


def draw_border_weights(path: Path) -> None:
    """Draw cells, their objects, the border weights, and two elastic deformations.

    Args:
        path: The file to write.
    """
    image, labels = draw_cells(np.random.default_rng(5))
    shares = np.stack([labels == 0, labels > 0], axis=2).astype(np.uint8) * np.uint8(255)
    parted, _ = part_objects(labels, shares)
    weights = border_weights(parted, WEIGHT, SIGMA)
    gridded = image.copy()
    for place in range(12, SIZE, 24):
        gridded[place], gridded[:, place] = (240, 200, 60), (240, 200, 60)
    augment = Augment("none", ELASTIC)
    deformed = [augment(gridded, shares, (0, 0, number))[0] for number in (1, 2)]

    figure, axes = plt.subplots(2, 3, figsize=(8, 5.7), layout="constrained")
    colours = ListedColormap(["#ffffff", *COLOURS * 9][: int(labels.max()) + 1])
    panels: list[tuple[str, NDArray[Any], dict[str, Any]]] = [
        ("synthetic cells", image, {}),
        ("their objects, separated", parted, {"cmap": colours, "interpolation": "nearest"}),
        ("border weights", weights, {"cmap": "magma", "vmin": 0, "vmax": WEIGHT}),
        ("the image and a grid", gridded, {}),
        ("deformed once", deformed[0], {}),
        ("deformed again", deformed[1], {}),
    ]
    for axis, (title, panel, settings) in zip(axes.flat, panels, strict=True):
        shown = axis.imshow(panel, **settings)
        axis.set_title(title, fontsize=12)
        axis.set_xticks([])
        axis.set_yticks([])
        if title == "border weights":
            bar = figure.colorbar(shown, ax=axis, shrink=0.9, pad=0.02)
            bar.ax.tick_params(labelsize=10)
    figure.savefig(path, dpi=110, metadata={"Software": None}, pil_kwargs={"optimize": True})
    plt.close(figure)


if __name__ == "__main__":
    draw_border_weights(Path(__file__).with_name("border-weights.png"))
    for name in SCENES:
        draw_scenes(name, Path(__file__).with_name(f"synthetic-{name}.png"))
