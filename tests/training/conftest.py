"""A small dataset, a finished run on it, a recording reporter, and runs in memory."""

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from plainunet.config import Growth, TrainConfig
from plainunet.dataset.coding import Values
from plainunet.dataset.dataset import SegmentationDataset
from plainunet.dataset.pairs import find_pairs
from plainunet.dataset.samples import Samples
from plainunet.network.card import Card
from plainunet.network.unet import UNet
from plainunet.palette import default_colors
from plainunet.reporter import Reporter, StepDone, silent
from plainunet.training.run import Run, RunFolder
from plainunet.training.train import train
from plainunet.training.trainer import Trainer

from ..folders import make_pair


class PowerCut(Exception):
    """Ends a run at any point."""


class Recorder(Reporter):
    """Records all calls in order; ends the run when `until` returns true."""

    def __init__(self, until: Callable[[str, Any], bool] = lambda kind, call: False) -> None:
        self.calls: list[tuple[str, Any]] = []
        self._until = until

    def _keep(self, kind: str, call: Any) -> None:
        self.calls.append((kind, call))
        if self._until(kind, call):
            raise PowerCut

    def note(self, text: str) -> None:
        self._keep("note", text)

    def stage(self, name: str, total: int) -> None:
        self._keep("stage", (name, total))

    def advance(self, done: int) -> None:
        self._keep("advance", done)

    def step(self, done: StepDone) -> None:
        self._keep("step", done)

    def epoch(self, row: dict[str, Any], best: float | None) -> None:
        self._keep("epoch", (row, best))

    def result(self, scores: dict[str, Any]) -> None:
        self._keep("result", scores)

    def all(self, kind: str) -> list[Any]:
        """The arguments of all calls of one method: "note", "stage", ..."""
        return [call for each, call in self.calls if each == kind]


def cut_after(epoch: int) -> Recorder:
    """A reporter that ends the run after an epoch, counted from 1."""
    return Recorder(lambda kind, call: kind == "epoch" and call[0]["epoch"] == epoch)


Rows = list[dict[str, Any]]


def rows_of(run: Path, timed: bool = True) -> Rows:
    """The rows of metrics.jsonl; without times and `resumed_at`, unless `timed`."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    left_out = set() if timed else {"seconds", "images_per_second", "resumed_at"}
    return [{k: v for k, v in json.loads(line).items() if k not in left_out} for line in lines]


def same(a: Any, b: Any) -> bool:
    """Compare weights, or whole states, bit for bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


Draw = Callable[..., Path]


def _draw(folder: Path, count: int, size: tuple[int, int] = (32, 40)) -> Path:
    random = np.random.default_rng(count)
    for number in range(count):
        mask = np.zeros(size, np.uint8)
        top, left = random.integers(2, size[0] // 2, size=2)
        mask[top : top + size[0] // 3, left : left + size[1] // 3] = 255
        noise = random.integers(0, 90, size=(*size, 3))
        image = (noise + np.where(mask[..., None] > 0, 120, 30)).astype(np.uint8)
        make_pair(folder, f"{number:02d}", image, mask)
    return folder


@pytest.fixture(scope="session")
def draw() -> Draw:
    """Draw a number of RGB images with binary masks 0/255 into a new folder."""
    return _draw


@pytest.fixture(scope="session")
def tiny() -> TrainConfig:
    """Settings for epochs of a fraction of a second, reproducible bit for bit."""
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
    heard: Recorder


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny: TrainConfig) -> Finished:
    """A run of four epochs, the first at half the size, with EMA."""
    folder = tmp_path_factory.mktemp("finished")
    data = _draw(folder / "data", 20)
    settings = {"epochs": 4, "batch_size": 2, "base_channels": 4, "ema": 0.6}
    settings |= {"optimizer": "muon", "learning_rate": 3e-2}
    settings |= {"growth": (Growth(until=0.25, scale=0.5),)}
    config = tiny.model_copy(update=settings)
    heard = Recorder()
    result = train(data, folder / "run", config, heard).as_dict()
    return Finished(data, folder / "run", config, result, heard)


MakeRun = Callable[..., Run]
Fit = Callable[..., Rows]


@pytest.fixture(scope="session")
def dataset(draw: Draw, tmp_path_factory: pytest.TempPathFactory) -> SegmentationDataset:
    """Nine training images (batch size 4: three batches of 3) and four validation images."""
    folder = draw(tmp_path_factory.mktemp("fit") / "data", 13)
    pairs = [
        replace(pair, part="train" if number < 9 else "val")
        for number, pair in enumerate(find_pairs(folder))
    ]
    shapes = [(32, 40, 3)] * len(pairs)
    return SegmentationDataset(folder, pairs, Values((0, 255)), ("background", "thing"), shapes)


@pytest.fixture(scope="session")
def parts(dataset: SegmentationDataset) -> dict[str, Samples]:
    """The samples of both splits."""
    return {
        part: Samples(dataset.part(part).pairs, dataset.coding, (32, 40))
        for part in ("train", "val")
    }


@pytest.fixture
def make_run(dataset: SegmentationDataset, tiny: TrainConfig, tmp_path: Path) -> MakeRun:
    """Make a run that has not started: `make_run("name", reporter, epochs=3)`."""

    def make(name: str = "run", reporter: Reporter = silent, **settings: Any) -> Run:
        config = tiny.model_copy(update={"classes": dataset.class_names, **settings})
        return Run(RunFolder(tmp_path / name), config, dataset, reporter)

    return make


def make_trainer(run: Run, parts: dict[str, Samples]) -> Trainer:
    """A trainer of a new network."""
    config = run.config
    torch.manual_seed(config.seed)
    network = UNet(3, 2, **config.network_arguments())
    network.set_normalisation(*parts["train"].statistics())
    return Trainer(run, network, Card(config.classes, default_colors(2), config.size), parts)


@pytest.fixture
def fitted(make_run: MakeRun, parts: dict[str, Samples]) -> Fit:
    """Train with these settings from the same seed; returns the rows of metrics.jsonl."""

    def fit(name: str = "run", reporter: Reporter = silent, **settings: Any) -> Rows:
        run = make_run(name, reporter, **settings)
        make_trainer(run, parts).fit()
        return rows_of(run.folder.path)

    return fit


@pytest.fixture
def no_accounts(tmp_path: Path) -> Iterator[None]:
    """Hide the accounts and settings of trackers."""
    with mock.patch.dict(os.environ):
        ours = ("MLFLOW_", "WANDB_", "TRACKIO_", "HF_")
        for name in [name for name in os.environ if name.startswith(ours)]:
            del os.environ[name]
        os.environ["NETRC"] = str(tmp_path / "no accounts")
        os.environ["WANDB_CACHE_DIR"] = os.environ["WANDB_CONFIG_DIR"] = str(tmp_path / "wandb")
        yield


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that the test moves."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    return clock
