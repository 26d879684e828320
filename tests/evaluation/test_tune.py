"""Settings tuned on the validation split."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from plainunet.config import TrainConfig
from plainunet.dataset.pairs import find_pairs
from plainunet.dataset.split import read_split, write_split
from plainunet.evaluation.evaluate import evaluate
from plainunet.evaluation.tune import LEAST_OBJECTS, tune
from plainunet.network.checkpoint import load_checkpoint
from plainunet.training.train import train

from ..folders import make_pair
from ..models import SMALL
from .conftest import Trained

CPU: dict[str, Any] = {"device": "cpu", "precision": "fp32"}


def draw_squares(folder: Path, count: int = 12) -> Path:
    """Squares; all but the first five images also have background specks of the same colour."""
    random = np.random.default_rng(1)
    for number in range(count):
        mask = np.zeros((64, 80), np.uint8)
        top, left = random.integers(2, 36, 2)
        mask[top : top + 22, left : left + 26] = 255
        image = np.where(mask > 0, 130, 70) + random.normal(0, 25, mask.shape)
        for _ in range(4 if number >= 5 else 0):
            y, x = random.integers(0, 56), random.integers(0, 72)
            image[y : y + 7, x : x + 7] = 130
        rgb = np.repeat(np.clip(image, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
        make_pair(folder, f"{number:02d}", rgb, mask)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("tuned")
    data = draw_squares(folder / "data")
    pairs = find_pairs(data)
    names = ["train"] * 5 + ["val"] * 4 + ["test"] * 3
    split = [replace(pair, part=name) for pair, name in zip(pairs, names, strict=True)]
    write_split(folder / "split.csv", split, data)
    config = TrainConfig(
        **{**SMALL, "pairs": str(folder / "split.csv"), "epochs": 6},
        **{"size": (64, 80), "batch_size": 1, "learning_rate": 2e-2},
    )
    train(data, folder / "run", config)
    return Trained(data, folder / "run" / "best.safetensors")


def test_the_best_settings_are_in_a_copy(trained: Trained, heard: Any) -> None:
    before = trained.checkpoint.read_bytes()
    network, card = load_checkpoint(trained.checkpoint)
    found = tune(trained.checkpoint, trained.data, **CPU, reporter=heard)
    assert trained.checkpoint.read_bytes() == before
    copy = Path(found["checkpoint"])
    assert copy == trained.checkpoint.with_name("best-tuned.safetensors")
    copied, tuned = load_checkpoint(copy)
    for name, value in network.state_dict().items():
        assert (copied.state_dict()[name] == value).all()
    for name, value in found["after"].items():
        assert getattr(tuned, name) == value
    assert (found["part"], found["pictures"]) == ("val", 4)
    assert found["before"] == {name: getattr(card, name) for name in found["after"]}
    assert found["before"] == {"threshold": 0.5, "tta": "none", "min_object": 0, "fill_holes": 0}
    assert tuned.min_object in LEAST_OBJECTS[1:], "specks are background"
    assert found["dice"]["after"] > found["dice"]["before"] + 0.01
    assert set(heard.stages) == {"baseline", "tta none", "tta mirror", "small objects"}
    result = evaluate(copy, trained.data, **CPU)
    assert result.dice == pytest.approx(found["dice"]["after"], abs=1e-6)
    assert tuned.scores["tuned"]["after"] == found["after"]
    tried = {(each["setting"], each["value"]) for each in found["tried"]}
    assert {("min_object", least) for least in LEAST_OBJECTS} < tried
    # an earlier copy is replaced; tuned settings stay if nothing is better
    assert tune(trained.checkpoint, trained.data, **CPU)["after"] == found["after"]
    again = tune(copy, trained.data, **CPU)
    assert again["checkpoint"] == str(copy.with_name("best-tuned-tuned.safetensors"))
    assert again["before"] == again["after"] == found["after"]


def test_the_test_split_is_never_read(trained: Trained, tmp_path: Path) -> None:
    """Whatever its masks are, the same settings are found."""
    data = shutil.copytree(trained.data, tmp_path / "data")
    shutil.copytree(trained.checkpoint.parent, tmp_path / "run")
    expected = tune(trained.checkpoint, trained.data, **CPU)
    split = read_split(tmp_path / "run" / "split.csv", data)
    for pair in split:
        if pair.part == "test":
            with Image.open(pair.mask) as mask:
                inverted = 255 - np.asarray(mask)
            Image.fromarray(inverted).save(pair.mask)
    found = tune(tmp_path / "run" / "best.safetensors", data, **CPU)
    assert found["tried"] == expected["tried"]
    assert found["after"] == expected["after"]


def test_nothing_is_written_on_an_error(trained: Trained, tmp_path: Path) -> None:
    run = shutil.copytree(trained.checkpoint.parent, tmp_path / "run")
    copy = run / "best-tuned.safetensors"
    copy.unlink(missing_ok=True)
    with pytest.raises(ValueError, match="'val'"):
        tune(run / "best.safetensors", draw_squares(tmp_path / "other", 3))
    assert not copy.exists()
    shutil.copy(run / "best.safetensors", copy)
    before = copy.read_bytes()
    with pytest.raises(ValueError, match=re.escape(str(copy))):
        tune(run / "best.safetensors", trained.data)
    assert copy.read_bytes() == before
