"""Settings found on the validation part, and what they are found on."""

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
from plainunet.network.checkpoint import load_checkpoint, save_checkpoint
from plainunet.prediction.predictor import Predictor
from plainunet.training.train import train

from ..folders import make_pair
from ..models import SMALL
from .conftest import Trained

CPU: dict[str, Any] = {"device": "cpu", "precision": "fp32"}


def draw_squares(folder: Path, count: int = 12) -> Path:
    """Squares, and in all but the first five pictures specks of their colour that are none."""
    random = np.random.default_rng(1)
    for number in range(count):
        mask = np.zeros((64, 80), np.uint8)
        top, left = random.integers(2, 36, 2)
        mask[top : top + 22, left : left + 26] = 255
        image = np.where(mask > 0, 130, 70) + random.normal(0, 25, mask.shape)
        for _ in range(4 if number >= 5 else 0):
            y, x = random.integers(0, 56), random.integers(0, 72)
            image[y : y + 7, x : x + 7] = 130
        picture = np.repeat(np.clip(image, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
        make_pair(folder, f"{number:02d}", picture, mask)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("tuned")
    data = draw_squares(folder / "data")
    pairs = find_pairs(data)
    parts = ["train"] * 5 + ["val"] * 4 + ["test"] * 3
    split = [replace(pair, part=part) for pair, part in zip(pairs, parts, strict=True)]
    write_split(folder / "split.csv", split, data)
    config = TrainConfig(
        **{**SMALL, "pairs": str(folder / "split.csv"), "epochs": 6},
        **{"size": (64, 80), "batch_size": 1, "learning_rate": 2e-2},
    )
    train(data, folder / "run", config)
    return Trained(data, folder / "run" / "best.safetensors")


def test_the_best_settings_are_in_the_checkpoint(trained: Trained, heard: Any) -> None:
    network, card = load_checkpoint(trained.checkpoint)
    found = tune(trained.checkpoint, trained.data, **CPU, reporter=heard)
    again, tuned = load_checkpoint(trained.checkpoint)
    for name, value in network.state_dict().items():
        assert (again.state_dict()[name] == value).all()
    for name, value in found["after"].items():
        assert getattr(tuned, name) == value
    assert (found["part"], found["pictures"]) == ("val", 4)
    assert found["before"] == {"threshold": 0.5, "tta": "none", "min_object": 0, "fill_holes": 0}
    assert tuned.min_object in LEAST_OBJECTS[1:], "the specks are no squares"
    assert found["dice"]["after"] > found["dice"]["before"] + 0.01
    assert set(heard.stages) == {"as it was", "tta none", "tta mirror", "small objects"}
    # what is said is what prediction does from now on
    result = evaluate(trained.checkpoint, trained.data, **CPU)
    score = result["per_image"]["dice"]["mean_foreground"]
    assert score == pytest.approx(found["dice"]["after"], abs=1e-6)
    assert tuned.scores["tuned"]["after"] == found["after"]
    assert Predictor.load(trained.checkpoint).card.min_object == tuned.min_object
    # all that was tried is told
    tried = {(each["setting"], each["value"]) for each in found["tried"]}
    assert {("min_object", least) for least in LEAST_OBJECTS} < tried
    # what is better already stays
    assert tune(trained.checkpoint, trained.data, **CPU)["after"] == found["after"]
    save_checkpoint(trained.checkpoint, network, card)


def test_the_test_part_is_never_read(trained: Trained, tmp_path: Path) -> None:
    """Its masks may be anything: the same settings are found."""
    data = tmp_path / "data"
    shutil.copytree(trained.data, data)
    shutil.copytree(trained.checkpoint.parent, tmp_path / "run")
    wanted = tune(trained.checkpoint, trained.data, **CPU)
    split = read_split(tmp_path / "run" / "split.csv", data)
    for pair in split:
        if pair.part == "test":
            with Image.open(pair.mask) as mask:
                turned = 255 - np.asarray(mask)
            Image.fromarray(turned).save(pair.mask)
    found = tune(tmp_path / "run" / "best.safetensors", data, **CPU)
    assert found["tried"] == wanted["tried"]
    assert found["after"] == wanted["after"]


def test_a_folder_without_a_validation_part_is_refused(trained: Trained, tmp_path: Path) -> None:
    other = draw_squares(tmp_path / "other", 3)
    before = trained.checkpoint.read_bytes()
    with pytest.raises(ValueError, match="no picture belongs to the part 'val'"):
        tune(trained.checkpoint, other)
    assert trained.checkpoint.read_bytes() == before


def test_a_checkpoint_that_may_not_be_written_stays(trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained.checkpoint.parent, tmp_path / "run")
    path = tmp_path / "run" / "best.safetensors"
    path.chmod(0o444)
    before = path.read_bytes()
    with pytest.raises(PermissionError, match=r"chmod u\+w"):
        tune(path, trained.data)
    assert path.read_bytes() == before
