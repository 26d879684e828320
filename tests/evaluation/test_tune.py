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
from plainunet.evaluation.metrics import confusion_matrix, dice, label_objects, match_objects
from plainunet.evaluation.tune import (
    LEAST_COUNTED,
    LEAST_OBJECTS,
    MOST_HOLES,
    score_sizes,
    tune,
)
from plainunet.network.checkpoint import load_checkpoint, save_checkpoint
from plainunet.prediction.objects import remove_small
from plainunet.prediction.predictor import Predictor
from plainunet.training.train import train

from ..folders import make_pair
from ..models import SMALL, make_card, make_network
from .conftest import Trained

CPU: dict[str, Any] = {"device": "cpu", "precision": "fp32"}


def draw_squares(folder: Path, count: int = 12, numbered: bool = False) -> Path:
    """Squares; all but the first five images also have background specks of the same colour.

    If `numbered`, they are the split "val", the halves of a square are two objects, and its centre
    has the colour of the background.
    """
    random = np.random.default_rng(1)
    for number in range(count):
        mask = np.zeros((64, 80), np.uint8)
        top, left = random.integers(2, 36, 2)
        mask[top : top + 22, left : left + 26] = 255
        image = np.where(mask > 0, 130, 70) + random.normal(0, 25, mask.shape)
        for _ in range(4 if number >= 5 else 0):
            y, x = random.integers(0, 56), random.integers(0, 72)
            image[y : y + 7, x : x + 7] = 130
        if numbered:
            image[top + 7 : top + 15, left + 8 : left + 16] = 70
            mask = (mask > 0) * np.where(np.arange(80) < left + 10, 1, 2).astype(np.uint16)
        rgb = np.repeat(np.clip(image, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
        make_pair(folder, f"val/{number:02d}" if numbered else f"{number:02d}", rgb, mask)
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
    assert (found["part"], found["pictures"]) == ("val", 4)
    for settings, model in ((found["after"], tuned), (found["before"], card)):
        for name in ("threshold", "tta", "min_object", "fill_holes"):
            assert getattr(model, name) == settings[name]
        assert model.scales == (1.0,)
        assert settings["scales"] == "1"
    defaults = {"threshold": 0.5, "tta": "none", "min_object": 0, "fill_holes": 0}
    assert found["before"] == defaults | {"scales": "1"}
    assert tuned.min_object in LEAST_OBJECTS[1:], "specks are background"
    assert found["dice"]["after"] > found["dice"]["before"] + 0.01
    assert set(heard.stages) == {"baseline", "none", "mirror", "small objects"}
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


def require_scores(found: dict[str, Any], data: Path) -> None:
    """The copy is better at objects, and has the scores that `tune` states."""
    assert set(found["before"]) == set(found["after"])
    scores = evaluate(found["checkpoint"], data, split="val", objects=True, **CPU)
    assert scores.dice == pytest.approx(found["dice"]["after"], abs=1e-6)
    means = [
        [entry["f1"] for entry in image["objects"].values() if entry["f1"] is not None]
        for image in scores.as_dict()["images"]
    ]
    f1 = np.mean([np.mean(each) for each in means if each])
    assert f1 == pytest.approx(found["f1"]["after"], abs=1e-6)
    assert found["f1"]["after"] > found["f1"]["before"] + 0.01
    before, after = (found["dice"][key] + found["f1"][key] for key in ("before", "after"))
    assert after > before
    assert max(each["dice"] + each["f1"] for each in found["tried"]) == pytest.approx(after)


def test_objects_are_tuned_if_they_count(trained: Trained) -> None:
    assert "f1" not in tune(trained.checkpoint, trained.data, **CPU)
    found = tune(trained.checkpoint, trained.data, objects=True, **CPU)
    require_scores(found, trained.data)
    tried = {(each["setting"], each["value"]) for each in found["tried"]}
    assert {("min_object", least) for least in LEAST_COUNTED} < tried
    assert {("fill_holes", most) for most in MOST_HOLES} < tried
    assert any("mirror at scales 0.8 1 1.25" in str(value) for _, value in tried)


def test_instance_masks_are_tuned_by_objects(trained: Trained, tmp_path: Path) -> None:
    data = draw_squares(tmp_path / "data", 6, numbered=True)
    (data / "dataset.toml").write_text('encoding = "instances"\n')
    checkpoint = tmp_path / "best.safetensors"
    shutil.copy(trained.checkpoint, checkpoint)
    found = tune(checkpoint, data, **CPU)
    require_scores(found, data)
    assert found["after"]["fill_holes"] in MOST_HOLES[1:]
    assert found["after"]["min_object"] in LEAST_COUNTED[1:]


def test_objects_of_several_classes_are_tuned(tmp_path: Path) -> None:
    """The masks are predictions without their small objects."""
    random = np.random.default_rng(5)
    data, checkpoint = tmp_path / "data", tmp_path / "best.safetensors"
    save_checkpoint(checkpoint, make_network(3), make_card(3))
    cleaned = Predictor.load(checkpoint, min_object=40, **CPU)
    for number in range(3):
        blocks = np.kron(random.integers(0, 200, (5, 6, 3)), np.ones((12, 12, 1)))
        image = (blocks + random.integers(0, 56, blocks.shape)).astype(np.uint8)
        make_pair(data, f"val/{number}", image, cleaned.predict(image))
    found = tune(checkpoint, data, objects=True, **CPU)
    require_scores(found, data)
    assert (found["dice"]["after"], found["f1"]["after"]) == (1, 1)
    assert found["after"]["threshold"] == found["before"]["threshold"]


@pytest.mark.parametrize("ignored", [0, 0.05])
def test_sizes_are_scored_as_without_the_objects_below(ignored: float) -> None:
    random = np.random.default_rng(3)
    field = np.kron(random.random((12, 16)), np.ones((4, 4))) + random.normal(0, 0.25, (48, 64))
    mask = (field > 0.6).astype(np.uint8)
    truth = (field + random.normal(0, 0.1, mask.shape) > 0.62).astype(np.uint8)
    truth[random.random(mask.shape) < ignored] = 255
    objects = label_objects(truth == 1)
    found = score_sizes(truth, mask, objects, LEAST_COUNTED)
    wanted = []
    for least in LEAST_COUNTED:
        left = remove_small(mask, least)
        counts = match_objects(objects, label_objects((left == 1) & (truth < 2)))
        wanted.append([dice(confusion_matrix(truth, left, 2))[1], counts.f1])
    np.testing.assert_allclose(found.T, wanted)
    assert len(np.unique(found[1])) > 4
    assert np.isnan(score_sizes(truth * 0, mask * 0, objects * 0, (0, 5))).all()


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
