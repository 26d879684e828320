"""Measurements of each image, and the scores computed from them."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from plainunet.dataset.coding import Instances, Values
from plainunet.dataset.dataset import SegmentationDataset
from plainunet.dataset.pairs import Pair
from plainunet.evaluation.measure import (
    THRESHOLDS,
    Measurement,
    ObjectScores,
    PredictedImage,
    measure,
    predict_images,
    score_images,
)
from plainunet.evaluation.metrics import (
    Boundary,
    ClusterScores,
    ObjectCounts,
    boundary_scores,
    cluster_scores,
    confusion_matrix,
    dice,
    label_objects,
    match_objects,
)
from plainunet.evaluation.scores import Bootstrap

from ..models import make_predictor

NAMES = ("no", "yes")


def one_image(folder: Path, image: Any, mask: Any, coding: Any) -> SegmentationDataset:
    Image.fromarray(image).save(folder / "image.png")
    Image.fromarray(mask).save(folder / "mask.png")
    pair = Pair(folder / "image.png", folder / "mask.png", "image", None)
    return SegmentationDataset(folder, [pair], coding, NAMES, [image.shape])


def test_images_are_predicted_in_order_and_a_failure_is_named(
    draw: Callable[[Path], Path], tmp_path: Path
) -> None:
    predictor = make_predictor()
    dataset = SegmentationDataset.open(draw(tmp_path / "data"))
    for pair, each in zip(dataset.pairs, predict_images(predictor, dataset), strict=True):
        assert (each.image == np.asarray(Image.open(pair.image))).all()
        assert (each.truth == np.asarray(Image.open(pair.mask))).all()
        assert (each.prediction == predictor.predict(each.image)).mean() > 0.99
        assert each.histogram.sum() == (each.truth != 255).sum()
    deep = tmp_path / "five_channels.tif"
    tifffile.imwrite(deep, np.zeros((30, 50, 5), np.uint8), photometric="minisblack")
    first, second, third, *_ = dataset.pairs
    odd = replace(dataset, pairs=[second, replace(first, image=deep), third])
    with pytest.raises(ValueError, match=r"five_channels\.tif"):
        list(predict_images(predictor, odd))


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[PredictedImage]:
    """The predictions inside `measure`; a second one could differ near a threshold."""
    kept: list[PredictedImage] = []

    def keep(*arguments: Any) -> Iterator[PredictedImage]:
        for each in predict_images(*arguments):
            kept.append(each)
            yield each

    monkeypatch.setattr("plainunet.evaluation.measure.predict_images", keep)
    return kept


def test_each_image_is_measured(
    draw: Callable[[Path], Path],
    tmp_path: Path,
    kept: list[PredictedImage],
) -> None:
    predictor = make_predictor()
    dataset = SegmentationDataset.open(draw(tmp_path / "data"))
    measured = list(measure(predictor, dataset, objects=True))
    assert len(measured) == 10
    for each, predicted in zip(measured, kept, strict=True):
        truth, prediction = predicted.truth, predicted.prediction
        assert each.size == truth.shape
        np.testing.assert_array_equal(each.counts, confusion_matrix(truth, prediction, 3))
        np.testing.assert_array_equal(each.histogram, predicted.histogram)
        assert each.boundary is not None
        wanted = boundary_scores(truth, prediction, 3)
        np.testing.assert_allclose(each.boundary, wanted, rtol=1e-5)
        assert each.objects is not None
        for number, objects in enumerate(each.objects, 1):
            found = label_objects((prediction == number) & (truth != 255))
            counts = match_objects(label_objects(truth == number), found)
            assert objects.counts.hits.tolist() == counts.hits.tolist()
            assert len(objects.clusters) == 1
    quick = next(measure(predictor, dataset, boundary=False))
    assert (quick.boundary, quick.objects) == (None, None)


def test_cells_are_scored_at_each_threshold(tmp_path: Path, kept: list[PredictedImage]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    mask = np.ones((48, 64), np.uint8)
    mask[::12], mask[:, ::16] = 0, 0
    predictor = make_predictor(2)
    dataset = one_image(tmp_path, image, mask, Values((0, 1)))
    (each,) = measure(predictor, dataset, objects=True)
    assert each.objects is not None
    (objects,) = each.objects
    assert objects.counts.true == label_objects(mask == 1, corners=True).max() == 16
    (predicted,) = kept
    assert predicted.probabilities is not None
    foreground = predicted.probabilities[1]
    np.testing.assert_allclose(foreground, predictor.probabilities(image)[1], atol=1e-5)
    truth = label_objects(mask == 1, corners=False)
    masks = [label_objects(foreground >= t, corners=False) for t in THRESHOLDS]
    wanted = [cluster_scores(truth, mask) for mask in masks]
    np.testing.assert_allclose(objects.clusters, wanted)
    assert len({each.rand for each in wanted}) > 5


def test_touching_instances_are_two_objects(tmp_path: Path) -> None:
    mask = np.zeros((32, 48), np.uint16)
    mask[4:20, 4:12], mask[4:20, 12:20] = 300, 7
    dataset = one_image(tmp_path, np.zeros((32, 48, 3), np.uint8), mask, Instances())
    (each,) = measure(make_predictor(2), dataset, objects=True)
    assert each.objects is not None
    assert each.objects[0].counts.true == 2


def make(count: int, classes: int = 2) -> tuple[list[Measurement], list[Pair]]:
    random = np.random.default_rng(count)
    measured, pairs = [], []
    for number in range(count):
        boundary = [Boundary(*random.random(4)) for _ in range(classes - 1)]
        hits = np.sort(random.integers(0, 5, 10))[::-1].astype(np.int64)
        times = len(THRESHOLDS) if classes == 2 else 1
        clusters = [ClusterScores(*random.random(2)) for _ in range(times)]
        objects = ObjectScores(ObjectCounts(hits, 6, 7), clusters)
        counts = random.integers(1, 100, (classes, classes))
        histogram, size = random.integers(0, 9, (2, 100)), (10 + number, 20)
        each = Measurement(counts, histogram, size, boundary, [objects] * (classes - 1))
        measured.append(each)
        pairs.append(Pair(Path(f"a/{number}.png"), Path("m"), f"group {number // 2}", None))
    return measured, pairs


def test_the_result_of_one_image_is_its_scores() -> None:
    pair = Pair(Path("a/b.png"), Path("m/b.png"), "b", None)
    counts = np.array([[50, 5], [10, 35]])
    measured = Measurement(counts, np.zeros((2, 100), np.int64), (10, 10))
    result = score_images([measured], [pair], NAMES)
    (entry,) = result["images"]
    assert (entry["image"], entry["group"], entry["size"]) == ("a/b.png", "b", [10, 10])
    assert entry["areas"] == {"no": 55, "yes": 45}
    assert entry["dice"]["mean_foreground"] == pytest.approx(70 / 85)
    assert entry["dice"] == result["pooled"]["dice"] == result["per_image"]["dice"]
    assert result["intervals"]["groups"] == 1
    assert result["intervals"]["per_image"]["dice"]["per_class"]["yes"] is None
    assert not {"boundary", "objects"} & set(result)


def test_every_score_lies_in_its_interval() -> None:
    measured, pairs = make(40, 3)
    names = ("a", "b", "c")
    result = score_images(measured, pairs, names)
    assert result["intervals"]["groups"] == 20
    for key in ("pooled", "per_image"):
        scores, bounds = result[key], result["intervals"][key]
        assert bounds["accuracy"][0] < scores["accuracy"] < bounds["accuracy"][1]
        for name in ("dice", "iou", "precision", "recall"):
            for mean in ("mean_foreground", "mean_with_background"):
                assert bounds[name][mean][0] < scores[name][mean] < bounds[name][mean][1]
            assert list(bounds[name]["per_class"]) == list(names)
            for class_name, (low, high) in bounds[name]["per_class"].items():
                assert low < scores[name]["per_class"][class_name] < high
    bootstrap = Bootstrap([pair.group for pair in pairs])
    counts = np.stack([each.counts for each in measured])
    wanted = bootstrap.mean_interval(dice(counts))[:, 2]
    assert result["intervals"]["per_image"]["dice"]["per_class"]["c"] == pytest.approx(wanted)
    for name in names[1:]:
        for field, (low, high) in result["boundary"]["intervals"][name].items():
            assert low < result["boundary"]["per_class"][name][field] < high
    assert result["confusion"] == counts.sum(axis=0).tolist()
    assert "threshold_curve" not in result
    json.dumps(result, allow_nan=False)


def test_object_scores_are_pooled_and_per_image() -> None:
    measured, pairs = make(4)
    result = score_images(measured, pairs, NAMES, threshold=0.3)
    found = result["objects"]["per_class"]["yes"]
    objects = [each.objects[0] for each in measured if each.objects]
    hits = sum(each.counts.hits[0] for each in objects)
    assert (found["true"], found["predicted"]) == (24, 28)
    assert found["f1"]["pooled"] == pytest.approx(2 * hits / 52)
    assert found["f1"]["per_image"] == pytest.approx(np.mean([each.counts.f1 for each in objects]))
    curve = found["together"]
    assert curve["chosen"] == result["threshold_curve"]["chosen"] == 0.3
    rand = [[scores.rand for scores in each.clusters] for each in objects]
    assert curve["rand"] == pytest.approx(np.mean(rand, axis=0).tolist())
    best = max(result["threshold_curve"]["pooled_dice"])
    assert found["pixel_error"] == pytest.approx(1 - best)
    json.dumps(result, allow_nan=False)


def test_scores_of_an_absent_class_are_none() -> None:
    measured, pairs = make(4)
    nothing = Boundary(*[float("nan")] * 4)
    result = score_images([each._replace(boundary=[nothing]) for each in measured], pairs, NAMES)
    assert set(result["boundary"]["per_class"]["yes"].values()) == {None}
    assert set(result["boundary"]["intervals"]["yes"].values()) == {None}
