"""Pictures of three classes that the tests of this room share."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def _draw(folder: Path) -> Path:
    """Ten pictures of different sizes and three classes (0, 1, 2); 255 does not count."""
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    random = np.random.default_rng(7)
    for number in range(10):
        height, width = 30 + number, 50 - 2 * number
        mask = np.zeros((height, width), np.uint8)
        mask[4:16, 3:15] = 1
        if number % 3:  # absent from every third picture
            mask[18:28, 10:25] = 2
        colours = np.array([[40, 40, 40], [40, 200, 40], [200, 200, 220]])
        noise = random.integers(-30, 30, (height, width, 3))
        image = np.clip(colours[mask] + noise, 0, 255).astype(np.uint8)
        mask[:2, :7] = 255
        Image.fromarray(image).save(folder / "images" / f"{number}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def draw() -> Callable[[Path], Path]:
    """Draw a data folder."""
    return _draw
