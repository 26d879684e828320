"""A metric of the user's own: from one function to console, JSON, report, CSV and trackers."""

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from plainunet import TrainConfig, compare, evaluate
from plainunet.__main__ import _run
from plainunet.evaluation.metrics import OwnMetric
from plainunet.parts import PartError, given_part
from plainunet.training.trackers import _scores
from plainunet.training.train import resume, train

from .conftest import Draw, PowerCut, cut_after, rows_of

MODULE = """
import numpy as np

def specificity(confusion):
    total = confusion.sum((-2, -1))[..., None]
    predicted, true = confusion.sum(-2), confusion.sum(-1)
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    return (total - predicted - true + hits) / (total - true)
"""
FLAGS = (
    *("--epochs", "1", "--size", "32", "40", "--batch-size", "4", "--base-channels", "2"),
    *("--depth", "2", "--device", "cpu", "--workers", "0", "--precision", "fp32"),
)


def distance(truth: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> float:
    """How far the areas are apart [pixels]; nan if the class is not in the ground truth."""
    return abs(float(truth.sum()) - prediction.sum()) if truth.any() else float("nan")


def missed(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Fraction of each class that was missed."""
    hits, true = np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(axis=-1)
    return 1 - hits / true


def test_one_function_shows_up_everywhere(
    draw: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(tmp_path / "data", 8)
    (tmp_path / "my_metrics.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def plainunet(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["plainunet", *words])
        return _run()

    own = ("--metrics", "my_metrics:specificity")
    assert plainunet("train", "data", "--out", "run", *own, *FLAGS) == 0
    assert "specificity" in capsys.readouterr().out
    assert "specificity" in (tmp_path / "run" / "report.html").read_text()
    (row,) = rows_of(tmp_path / "run")
    logged = row["validation"]["per_image"]["specificity"]["mean_foreground"]
    with (tmp_path / "run" / "metrics.csv").open() as file:
        (line,) = csv.DictReader(file)
    assert float(line["per_image_specificity"]) == logged
    assert float(line["per_image_dice"]) >= 0
    tracked = _scores("val", row["validation"])
    assert tracked["val/per_image_specificity/mean_foreground"] == logged
    assert plainunet("train", "--resume", "run") == 2
    assert plainunet("train", "--resume", "run", *own) == 0
    capsys.readouterr()
    words = ("run/best.safetensors", "data", "--json", "scores.json", "--html", "report.html")
    assert plainunet("evaluate", *words, *own) == 0
    assert "specificity" in capsys.readouterr().out
    found = json.loads((tmp_path / "scores.json").read_text())
    (true, wrong), _ = found["confusion"]
    assert found["pooled"]["specificity"]["per_class"]["foreground"] == true / (true + wrong)
    assert found["intervals"]["per_image"]["specificity"]["per_class"]["foreground"]
    assert all("specificity" in image for image in found["images"])
    assert "specificity" in (tmp_path / "report.html").read_text()
    assert "--metrics my_metrics:specificity" in (tmp_path / "report.html").read_text()
    words = ("compare", "run", "run", "data", "--json", "both.json")
    assert plainunet(*words, *own) == 0
    assert "specificity" in capsys.readouterr().out
    both = json.loads((tmp_path / "both.json").read_text())["scores"]
    assert both["pooled"]["specificity"]["difference"] == 0
    assert both["pooled"]["specificity"]["better"] is None
    assert both["pooled"]["dice"]["better"] is not None
    sys.modules.pop("my_metrics")


def test_a_metric_of_two_masks_is_one_of_each_image(
    draw: Draw, tiny: TrainConfig, tmp_path: Path
) -> None:
    data, whole, cut = draw(tmp_path / "data", 8), tmp_path / "whole", tmp_path / "cut"
    result = train(data, whole, tiny, metrics=[missed, distance])
    assert result.score("distance", "pooled") is None
    assert result.score("missed", "pooled") is not None
    rows = [image["distance"]["per_class"]["foreground"] for image in result.content["images"]]
    known = [row for row in rows if row is not None]
    mean = result.score("distance", class_name="foreground")
    assert mean == pytest.approx(np.mean(known))
    bounds = result.interval("distance", class_name="foreground")
    assert bounds is not None
    assert bounds[0] <= mean <= bounds[1]
    with pytest.raises(PowerCut):
        train(data, cut, tiny, cut_after(1), metrics=[missed, distance])
    with pytest.raises(PartError):
        resume(cut, metrics=missed)
    assert resume(cut, metrics=[missed, distance]).of_images() == result.of_images()
    assert rows_of(cut, timed=False) == rows_of(whole, timed=False)
    both = compare(whole, cut, data, metrics=distance).content["scores"]
    assert both["per_image"]["distance"]["first"] == pytest.approx(mean)
    assert both["per_image"]["distance"]["difference"] == 0
    assert "distance" not in both["pooled"]


def test_ignored_pixels_are_in_no_mask() -> None:
    seen = []

    def half(truth: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> float:
        seen.append((int(truth.sum()), int(prediction.sum())))
        return 0.5

    truth = np.array([[0, 1, 255, 255]], np.uint8)
    scores = OwnMetric(given_part(half)).score_masks(truth, np.array([[0, 0, 1, 255]]), 3)
    assert seen == [(1, 2), (1, 0)]
    assert scores[:2].tolist() == [0.5, 0.5]
    assert np.isnan(scores[2])


def test_from_python_and_undefined_values_are_left_out(
    draw: Draw, tiny: TrainConfig, tmp_path: Path
) -> None:
    data, out = draw(tmp_path / "data", 8), tmp_path / "run"
    result = train(data, out, tiny, metrics=missed)
    pooled = result.content["pooled"]
    assert pooled["missed"]["per_class"]["foreground"] == pytest.approx(
        1 - pooled["recall"]["per_class"]["foreground"]
    )
    with pytest.raises(PartError):
        resume(out)
    with pytest.raises(PartError):
        resume(out, metrics=np.trace)
    again = resume(out, metrics=[missed])
    assert again.content["per_image"]["missed"] == result.content["per_image"]["missed"]
    assert "missed" not in evaluate(out / "best.safetensors", data).content["pooled"]


BAD: dict[str, Callable[..., Any]] = {
    "scalar": lambda confusion: confusion.sum() / 2,
    "of images": lambda confusion: confusion.sum((-2, -1)) / 2,
    "text": lambda confusion: [["good"] * 2] * 2,
    "fails": lambda confusion: confusion.no_such_thing,
    "vector of masks": lambda truth, prediction: truth.sum(axis=0),
    "fails for masks": lambda truth, prediction: truth.no_such_thing,
    "fails without a prediction": lambda truth, prediction: np.argwhere(prediction)[0, 0],
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_metric_is_refused(
    name: str, draw: Draw, tiny: TrainConfig, tmp_path: Path
) -> None:
    data, bad = draw(tmp_path / "data", 8), BAD[name]
    bad.__qualname__ = "bad"
    with pytest.raises(PartError) as caught:
        train(data, tmp_path / "run", tiny, metrics=bad)
    assert str(caught.value).startswith("--metrics ")
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "run" / "config.toml").exists()


def test_built_in_names_and_nameless_functions_are_refused(
    draw: Draw, tiny: TrainConfig, tmp_path: Path
) -> None:
    data = draw(tmp_path / "data", 8)

    def dice(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
        return missed(confusion)

    def size(confusion: NDArray[np.int64]) -> NDArray[np.float64]:  # a key of the results
        return missed(confusion)

    for metric in (dice, size, lambda confusion: missed(confusion), 3):
        with pytest.raises(PartError):
            train(data, tmp_path / "run", tiny, metrics=metric)
