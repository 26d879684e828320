"""Draw the pictures of these pages that are made by code: `python docs/figures.py`.

In: nothing. Out: border-weights.png beside this file. The cells are drawn, not photographed.
"""

from pathlib import Path
from typing import Any

import cv2
import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from plainunet.dataset.augment import Augment
from plainunet.dataset.borders import border_weights, part_objects

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.colors import ListedColormap

SIZE = 192
WEIGHT, SIGMA, ELASTIC = 10.0, 5.0, 10.0
COLOURS = ["#6c9fd8", "#e0a458", "#7fb77e", "#c97b84", "#9d8ec7", "#5fb3b3", "#d9c75b"]
COLOURS += ["#3f6f9f", "#a0714f"]


def draw_cells(random: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Draw crowded cells.

    Args:
        random: Where all chance comes from.

    Returns:
        Image [H, W, 3] uint8, and labels [H, W] uint16; cells that meet share an outline.
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

    def texture(blur: float) -> NDArray[Any]:
        grain = cv2.GaussianBlur(random.normal(0, 1, (SIZE, SIZE)), (0, 0), blur)
        return grain / grain.std()

    shades = np.concatenate([[0], random.uniform(-14, 14, len(places))])[labels]
    bright = np.where(depth > 0, 118 + shades + 55 * np.sqrt(np.maximum(depth, 0)), 72)
    bright = bright + 9 * texture(2.5) + 5 * texture(0.8)
    grey = cv2.GaussianBlur(bright, (0, 0), 0.9).clip(0, 255).astype(np.uint8)
    return np.stack([grey] * 3, axis=2), labels


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
        ("drawn cells", image, {}),
        ("their objects, parted", parted, {"cmap": colours, "interpolation": "nearest"}),
        ("border weights", weights, {"cmap": "magma", "vmin": 0, "vmax": WEIGHT}),
        ("the picture and a grid", gridded, {}),
        ("deformed once", deformed[0], {}),
        ("and once more", deformed[1], {}),
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
