"""Shared fixtures of the prediction tests: a network that predicts every class, noise images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from plainunet.network.card import Card
from plainunet.prediction.predictor import Predictor
from plainunet.reporter import Collected

from ..models import as_predictor, make_network

Draw = Callable[..., Path]
Make = Callable[..., Predictor]
COLORS = ((0, 0, 0), (255, 10, 20), (30, 40, 250))


class Recorder(Collected):
    """Keeps all notes and progress."""

    def __init__(self) -> None:
        super().__init__()
        self.progress: list[tuple[str, int, int]] = []
        """Name of the stage, amount done, and total."""

    def stage(self, name: str, total: int) -> None:
        self._stage = name, total

    def advance(self, done: int) -> None:
        name, total = self._stage
        self.progress.append((name, done, total))


def film(path: Path, frames: NDArray[np.uint8], rate: float = 10) -> Path:
    """Write a lossless video, of frames [N, H, W, 3] uint8."""
    code, size = cv2.VideoWriter.fourcc(*"FFV1"), frames.shape[2:0:-1]
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, rate, size)
    for frame in frames:
        writer.write(frame[..., ::-1])
    writer.release()
    return path


def noise(*shape: int) -> NDArray[np.uint8]:
    """Random values, which cannot be compressed."""
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(scope="session")
def make_predictor() -> Make:
    """Make predictors with the same three-class network and varying card settings."""
    network = make_network(base_channels=2)

    def make(**settings: Any) -> Predictor:
        card = Card(("ground", "leaf", "stone"), COLORS, **{"size": (32, 32), **settings})
        return as_predictor(network, card)

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
