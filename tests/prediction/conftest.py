"""What the tests of prediction share: a network that gives every class, and images of noise."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from plainunet.network.checkpoint import Card
from plainunet.network.unet import UNet
from plainunet.prediction.predictor import Predictor
from plainunet.reporter import Reporter

Draw = Callable[..., Path]
Make = Callable[..., Predictor]
COLORS = ((0, 0, 0), (255, 10, 20), (30, 40, 250))


class Recorder(Reporter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.progress: list[tuple[str, int, int]] = []
        """Name of the stage, how much of it is done, and how much there is."""

    def note(self, text: str) -> None:
        self.notes.append(text)

    def stage(self, name: str, total: int) -> None:
        self._stage = name, total

    def advance(self, done: int) -> None:
        name, total = self._stage
        self.progress.append((name, done, total))


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(scope="session")
def make_predictor() -> Make:
    """Make the same network of three classes each time, with other settings of its card."""
    torch.manual_seed(0)
    network = UNet(num_classes=3, base_channels=2, depth=2)
    with torch.no_grad():
        std, mean = torch.std_mean(network.eval()(torch.rand(2, 3, 32, 32)), dim=(0, 2, 3))
        network.head.weight /= std[:, None, None, None]  # so that every class occurs
        network.head.bias.copy_((network.head.bias - mean) / std)

    def make(**settings: Any) -> Predictor:
        card = Card(("ground", "leaf", "stone"), COLORS, **{"size": (32, 32), **settings})
        return Predictor(network, card, device="cpu", precision="fp32")

    return make


@pytest.fixture(scope="session")
def predictor(make_predictor: Make) -> Predictor:
    return make_predictor()


@pytest.fixture
def draw(tmp_path: Path) -> Draw:
    """Write an image of noise below the test's folder."""

    def write(name: str, height: int = 20, width: int = 30) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(len(name)).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(noise).save(path)
        return path

    return write
