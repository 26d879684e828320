"""Where a picture is seen again at full size: cells, and the windows around them.

A picture is laid out in cells. Of each that is looked at again, a network sees the window around
it, and gives the cell alone, so that what it computes at the window's edges is not used. Training
sees windows of the same size.
"""

import numpy as np
from numpy.typing import NDArray

CELL, MARGIN = 64, 16
"""Side of a cell, and what a window shows beyond it on each side [pixels]."""
WINDOW = CELL + 2 * MARGIN
"""Side of a window [pixels]."""
NEAR = 8
"""A cell is looked at again when so near to it a class is unsure [pixels]."""
SIDE = 128
"""Side of the windows that are kept for training, which cuts smaller ones out of them [pixels]."""
_ALL, _EACH = 4096, 64


def cells_near(unsure: NDArray[np.bool_], first: int) -> NDArray[np.intp]:
    """Choose the cells of a row of them.

    Args:
        unsure: [n, W] bool, the pixels of the rows that the cells lie in, with those above and
            below that are near, as far as the picture has them.
        first: How many rows lie above the cells.

    Returns:
        The columns where the cells begin that are looked at again [pixels].
    """
    rows = unsure[max(0, first - NEAR) : first + CELL + NEAR]
    column = np.flatnonzero(rows.any(axis=0))
    cells = np.concatenate([(column - NEAR) // CELL, (column + NEAR) // CELL])
    inside = (cells >= 0) & (cells * CELL < unsure.shape[1])
    return np.unique(cells[inside]) * CELL


def window_at(cell: int, side: int) -> int:
    """Say where a window begins.

    Args:
        cell: Where its cell does [pixels].
        side: The picture's side [pixels].

    Returns:
        The place that has the cell in its middle, or else the nearest in the picture.
    """
    return max(0, min(cell - MARGIN, side - WINDOW))


def place_windows(
    unsure: NDArray[np.bool_], count: int, side: int, random: np.random.Generator
) -> list[tuple[int, int]]:
    """Choose windows to learn from, where classes are unsure.

    Args:
        unsure: [H, W] bool.
        count: How many windows.
        side: Height and width of each [pixels].
        random: What draws.

    Returns:
        Their first rows and columns. Each has an unsure pixel in its middle that lies in the
        inner half of none before; when these are used up, they lie anywhere.
    """
    height, width = unsure.shape
    highest = max(0, height - side), max(0, width - side)
    pixels = np.argwhere(unsure)
    places = []
    for _ in range(count):
        if len(pixels):
            middle = pixels[random.integers(len(pixels))]
            pixels = pixels[(abs(pixels - middle) > side // 4).any(axis=1)]
        else:
            middle = random.integers(0, (height, width))
        top, left = np.clip(middle - side // 2, 0, highest).tolist()
        places.append((top, left))
    return places


def windows_each(pictures: int, share: float = 1.0) -> int:
    """Say how many windows of each picture are kept for training.

    Args:
        pictures: How many pictures there are.
        share: Of so many windows as training takes.

    Returns:
        At most 64, at least one, and some thousands of all pictures together.
    """
    return max(1, min(_EACH, round(share * _ALL / pictures)))
