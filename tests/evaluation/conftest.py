"""Images of three classes, networks and a reporter that the tests of evaluation share."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from plainunet.network.unet import UNet
from plainunet.reporter import Collected


def _draw(folder: Path) -> Path:
    """Ten images of different sizes and three classes (0, 1, 2); 255 is ignored."""
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
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
        Image.fromarray(image).save(folder / "images" / f"{number}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def draw() -> Callable[[Path], Path]:
    """Draw a data folder."""
    return _draw


def _make_network(classes: int, seed: int) -> UNet:
    """A small network that has learnt nothing, but predicts each class somewhere."""
    torch.manual_seed(seed)
    network = UNet(3, classes, base_channels=4, depth=2)
    with torch.no_grad():
        for _ in range(10):
            network(torch.rand(2, 3, 32, 48))
        std, mean = torch.std_mean(network.eval()(torch.rand(2, 3, 32, 48)), dim=(0, 2, 3))
        network.head.weight *= 2 / std[:, None, None, None]
        network.head.bias.copy_((network.head.bias - mean) * 2 / std)
    return network


@pytest.fixture(scope="session")
def make_network() -> Callable[[int, int], UNet]:
    """Make a network, of a number of classes and a seed."""
    return _make_network


class Heard(Collected):
    """Keeps the stages with what was done of each, and the notes."""

    def __init__(self) -> None:
        super().__init__()
        self.stages: dict[str, list[int]] = {}

    def stage(self, name: str, total: int) -> None:
        self.stages[name] = self._done = []

    def advance(self, done: int) -> None:
        self._done.append(done)


@pytest.fixture
def heard() -> Heard:
    """A reporter that keeps what it hears."""
    return Heard()
