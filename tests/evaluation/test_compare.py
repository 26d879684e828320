"""Comparison of two models, and its paired intervals."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from plainunet.evaluation.compare import _differences, compare
from plainunet.evaluation.evaluate import evaluate
from plainunet.evaluation.measure import Measurement
from plainunet.evaluation.metrics import PER_CLASS
from plainunet.evaluation.scores import Bootstrap
from plainunet.network.card import Card
from plainunet.network.checkpoint import save_checkpoint
from plainunet.palette import default_colors

from ..models import make_network

NAMES = ("background", "leaf", "stone")


def save_model(path: Path, seed: int, names: tuple[str, ...] = NAMES) -> Path:
    masks = {"values": (0, 1, 2), "ignore": 255, "kind": "ids"}
    card = Card(names, default_colors(len(names)), None, masks=masks)
    save_checkpoint(path, make_network(len(names), seed), card)
    return path


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path]:
    return save_model(tmp_path / "a.safetensors", 1), save_model(tmp_path / "b.safetensors", 2)


@pytest.fixture
def data(draw: Callable[[Path], Path], tmp_path: Path) -> Path:
    return draw(tmp_path / "data")


def test_differences_match_both_evaluations(
    models: tuple[Path, Path], data: Path, heard: Any
) -> None:
    result = compare(*models, data, device="cpu", reporter=heard).as_dict()
    one, two = (evaluate(each, data, device="cpu").as_dict() for each in models)
    assert heard.stages == {str(model): [*range(1, 11)] for model in models}
    assert (result["pictures"], result["groups"], result["split"]) == (10, 10, "all")
    for key in ("pooled", "per_image"):
        for name in ("dice", "iou", "precision", "recall"):
            entry = result["scores"][key][name]
            assert entry["first"] == pytest.approx(one[key][name]["mean_foreground"])
            assert entry["second"] == pytest.approx(two[key][name]["mean_foreground"])
            assert entry["difference"] == pytest.approx(entry["second"] - entry["first"])
            low, high = entry["interval"]
            assert low < entry["difference"] < high
            assert 0 <= entry["better"] <= 1
        assert result["scores"][key]["accuracy"]["first"] == pytest.approx(one[key]["accuracy"])
    by_image = {each["image"]: each["dice"]["mean_foreground"] for each in one["images"]}
    assert all(each["first"] == by_image[each["image"]] for each in result["images"])
    differences = [abs(each["difference"]) for each in result["images"]]
    assert differences == sorted(differences, reverse=True)
    # paired: narrower than the intervals of the two scores together
    low, high = result["scores"]["per_image"]["dice"]["interval"]
    bounds = [each["intervals"]["per_image"]["dice"]["mean_foreground"] for each in (one, two)]
    assert 0 < high - low < sum(upper - lower for lower, upper in bounds)


def test_an_image_with_a_score_of_one_model_alone() -> None:
    """Half of the images are empty; the first model sees specks in them."""
    found, specks = np.array([[80, 5], [5, 10]]), np.array([[95, 5], [0, 0]])
    empty = np.array([[100, 0], [0, 0]])
    measured = [
        [Measurement(each, each, (10, 10)) for each in [found] * 8 + [last] * 8]
        for last in (specks, empty)
    ]
    entry = _differences(measured, Bootstrap([str(n) for n in range(16)]), dict(PER_CLASS))
    dice = entry["per_image"]["dice"]
    low, high = dice["interval"]
    assert low < dice["difference"] < high
    assert dice["better"] == 1


def test_a_model_compared_with_itself(models: tuple[Path, Path], data: Path) -> None:
    scores = compare(models[0], models[0], data, device="cpu").content["scores"]
    for metrics in scores.values():
        for each in metrics.values():
            assert (each["difference"], each["interval"], each["better"]) == (0, [0, 0], 0)


def test_the_largest_differences_are_drawn(
    models: tuple[Path, Path], data: Path, tmp_path: Path, heard: Any
) -> None:
    out = tmp_path / "out"
    result = compare(*models, data, out=out, device="cpu", reporter=heard).as_dict()
    assert heard.stages["drawing"] == [*range(1, 11)]
    with (out / "images.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [each["image"] for each in result["images"]]
    files = sorted(out.glob("*.png"))
    assert [file.name[3:-4] for file in files] == [Path(row["image"]).stem for row in rows]
    drawn = np.asarray(Image.open(files[0]))
    half = (drawn.shape[0] - 8) // 2
    assert drawn.shape[0] == 2 * half + 8
    upper, lower = drawn[:half], drawn[half + 8 :]
    panel = (drawn.shape[1] - 12) // 4
    np.testing.assert_array_equal(upper[:, :panel], lower[:, :panel])  # the image itself
    assert (upper[:, 2 * panel + 8 :] != lower[:, 2 * panel + 8 :]).any()
    with pytest.raises(ValueError, match="--out"):
        compare(*models, data, out=out)


def test_models_that_cannot_be_compared_are_errors(
    models: tuple[Path, Path], data: Path, tmp_path: Path
) -> None:
    other = save_model(tmp_path / "c.safetensors", 3, ("background", "leaf", "rock"))
    with pytest.raises(ValueError, match=r"a\.safetensors\W+background, leaf, stone"):
        compare(models[0], other, data)
    shutil.rmtree(data / "masks")
    with pytest.raises(FileNotFoundError):
        compare(*models, data)
