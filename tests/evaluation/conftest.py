"""Images of three classes and a reporter, shared by the tests of evaluation."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from plainunet.reporter import Collected

from ..folders import make_pair


def _draw(folder: Path) -> Path:
    """Ten images of different sizes and three classes (0, 1, 2); 255 is ignored."""
    random = np.random.default_rng(7)
    for number in range(10):
        height, width = 30 + number, 50 - 2 * number
        mask = np.zeros((height, width), np.uint8)
        mask[4:16, 3:15] = 1
        if number % 3:  # absent from every third image
            mask[18:28, 10:25] = 2
        colours = np.array([[40, 40, 40], [40, 200, 40], [200, 200, 220]])
        noise = random.integers(-30, 30, (height, width, 3))
        image = np.clip(colours[mask] + noise, 0, 255).astype(np.uint8)
        mask[:2, :7] = 255
        make_pair(folder, str(number), image, mask)
    return folder


@pytest.fixture(scope="session")
def draw() -> Callable[[Path], Path]:
    """A function that draws a data folder."""
    return _draw


class Trained(NamedTuple):
    """A model and its training folder."""

    data: Path
    checkpoint: Path


class Heard(Collected):
    """Records the stages with their progress, and the notes."""

    def __init__(self) -> None:
        super().__init__()
        self.stages: dict[str, list[int]] = {}

    def stage(self, name: str, total: int) -> None:
        self.stages[name] = self._done = []

    def advance(self, done: int) -> None:
        self._done.append(done)


@pytest.fixture
def heard() -> Heard:
    """A reporter that records everything."""
    return Heard()
