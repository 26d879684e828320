"""Tiles against one pass, with trained networks on a mosaic of real pictures."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from plainunet.config import TrainConfig
from plainunet.formats.images import read_image
from plainunet.network.checkpoint import load_checkpoint
from plainunet.prediction.predictor import Predictor
from plainunet.training.train import train


@pytest.fixture(scope="module", params=["batch", "none"])
def checkpoint(
    request: pytest.FixtureRequest, data_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A network that has learnt membranes at full resolution, as far as it can in seconds."""
    run = tmp_path_factory.mktemp("membranes") / "run"
    config = TrainConfig(
        classes=("membrane", "cell"), patch=(96, 96), base_channels=8, epochs=1,
        learning_rate=3e-3, normalisation=request.param, precision="fp32", device="cpu",
    )  # fmt: skip
    train(data_root / "isbi2012", run, config)
    return run / "best.safetensors"


def mosaic(folder: Path, side: int) -> NDArray[np.uint8]:
    """Slices side by side, cut to a square."""
    slices = [read_image(path) for path in sorted(folder.glob("*.png"))]
    count = -(-side // 512)
    rows = [
        np.concatenate([slices[(row * count + n) % len(slices)] for n in range(count)], axis=1)
        for row in range(count)
    ]
    return np.concatenate(rows)[:side, :side]


@pytest.mark.parametrize(
    ("side", "rooms"),
    [(900, (5e7, 1.5e8)), pytest.param(3000, (2e8, 1e9), marks=pytest.mark.slow)],
)
def test_tiles_agree_with_one_pass(
    checkpoint: Path, data_root: Path, side: int, rooms: tuple[float, ...]
) -> None:
    network, card = load_checkpoint(checkpoint)
    picture = mosaic(data_root / "isbi2012" / "images", side)
    assert picture.shape[:2] == (side, side)
    whole = Predictor(network, card, device="cpu", precision="fp32", memory=1e12)
    wanted = whole.probabilities(picture)[1]
    assert 0.2 < (wanted > 0.5).mean() < 0.98
    for room in rooms:
        tiled = Predictor(network, card, device="cpu", precision="fp32", memory=room)
        change = np.abs(tiled.probabilities(picture)[1] - wanted)
        other = ((wanted > 0.5) != (tiled.predict(picture) == 1)).mean()
        assert 0 < change.max() < 0.25, "in tiles, and not torn apart"
        assert change.mean() < 4e-4
        assert other < 4e-4
