"""A small data set, and one finished run on it, that the tests of this room share."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from plainunet.training.events import Event

from plainunet.config import Growth, TrainConfig
from plainunet.dataset.coding import Values
from plainunet.dataset.pairs import find_pairs
from plainunet.dataset.samples import Samples
from plainunet.network.checkpoint import Card
from plainunet.network.unet import UNet
from plainunet.palette import default_colors
from plainunet.training.run import METRICS_FILE
from plainunet.training.train import train
from plainunet.training.trainer import fit


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Decoded pictures stay out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLAINUNET_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


Draw = Callable[..., Path]


def _draw(folder: Path, pictures: int, size: tuple[int, int] = (32, 40)) -> Path:
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    random = np.random.default_rng(pictures)
    for number in range(pictures):
        mask = np.zeros(size, np.uint8)
        top, left = random.integers(2, size[0] // 2, size=2)
        mask[top : top + size[0] // 3, left : left + size[1] // 3] = 255
        noise = random.integers(0, 90, size=(*size, 3))
        image = (noise + np.where(mask[..., None] > 0, 120, 30)).astype(np.uint8)
        Image.fromarray(image).save(folder / "images" / f"{number:02d}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="session")
def draw() -> Draw:
    """Draw so many RGB pictures with binary masks 0/255 into a new folder."""
    return _draw


@pytest.fixture(scope="session")
def tiny() -> TrainConfig:
    """Settings under which an epoch takes a fraction of a second, bit for bit repeatable."""
    return TrainConfig(
        epochs=2,
        size=(32, 40),
        batch_size=4,
        learning_rate=2e-2,
        base_channels=2,
        depth=2,
        augment="flip",
        seed=1,
        precision="fp32",
        device="cpu",
        workers=0,
    )


@dataclass
class Finished:
    data: Path
    out: Path
    config: TrainConfig
    result: dict[str, Any]
    events: list[Event]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny: TrainConfig) -> Finished:
    """A run of four epochs, the first at half the size, with averaged weights."""
    folder = tmp_path_factory.mktemp("finished")
    data = _draw(folder / "data", 20)
    config = tiny.model_copy(
        update={
            "epochs": 4,
            "batch_size": 2,
            "base_channels": 4,
            "optimizer": "muon",
            "learning_rate": 3e-2,
            "growth": (Growth(until=0.25, scale=0.5),),
            "ema": 0.6,
        }
    )
    events: list[Event] = []
    result = train(data, folder / "run", config, events.append)
    return Finished(data, folder / "run", config, result, events)


Rows = list[dict[str, Any]]
Fit = Callable[..., Rows]


@pytest.fixture(scope="session")
def parts(draw: Draw, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Samples]:
    """Nine pictures to train (with a batch of 4: three batches of 3) and four to validate."""
    pairs = find_pairs(draw(tmp_path_factory.mktemp("fit") / "data", 13))
    coding = Values((0, 255))
    return {
        "train": Samples(pairs[:9], coding, (32, 40)),
        "val": Samples(pairs[9:], coding, (32, 40)),
    }


def _fit_in(folder: Path, parts: dict[str, Samples], tiny: TrainConfig) -> Fit:
    def run(name: str = "run", events: list[Event] | None = None, **settings: Any) -> Rows:
        config = tiny.model_copy(update=settings)
        torch.manual_seed(config.seed)
        network = UNet(3, 2, config.base_channels, config.depth)
        network.set_normalisation(*parts["train"].statistics())
        card = Card(("background", "thing"), default_colors(2), config.size)
        tell = (lambda event: None) if events is None else events.append
        fit(network, card, parts, config, folder, folder / name, None, tell)
        lines = (folder / name / METRICS_FILE).read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    return run


@pytest.fixture
def fitted(parts: dict[str, Samples], tiny: TrainConfig, tmp_path: Path) -> Fit:
    """Train with these settings from the same start; gives the rows of metrics.jsonl."""
    return _fit_in(tmp_path, parts, tiny)


@pytest.fixture(scope="session")
def plain_loss(
    parts: dict[str, Samples], tiny: TrainConfig, tmp_path_factory: pytest.TempPathFactory
) -> float:
    """Loss of one epoch with nothing changed."""
    return _fit_in(tmp_path_factory.mktemp("plain"), parts, tiny)(epochs=1)[0]["loss"]
