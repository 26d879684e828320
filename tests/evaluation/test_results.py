import json
from pathlib import Path

import numpy as np
import pytest

from plainunet.dataset.pairs import Pair
from plainunet.evaluation.measure import THRESHOLDS, Measured, Objects, put_together
from plainunet.evaluation.metrics import Boundary, Found, Together, dice
from plainunet.evaluation.statistics import Resampling

NAMES = ("no", "yes")


def make(count: int, classes: int = 2) -> tuple[list[Measured], list[Pair]]:
    random = np.random.default_rng(count)
    measured, pairs = [], []
    for number in range(count):
        boundary = [Boundary(*random.random(4)) for _ in range(classes - 1)]
        found = Found(np.sort(random.integers(0, 5, 10))[::-1].astype(np.int64), 6, 7)
        times = len(THRESHOLDS) if classes == 2 else 1
        together = [Together(*random.random(2)) for _ in range(times)]
        measured.append(
            Measured(
                random.integers(1, 100, (classes, classes)),
                random.integers(0, 9, (2, 100)),
                (10 + number, 20),
                boundary,
                [Objects(found, together)] * (classes - 1),
            )
        )
        pairs.append(Pair(Path(f"a/{number}.png"), Path("m"), f"group {number // 2}", None))
    return measured, pairs


def test_a_result_of_one_picture_is_its_scores() -> None:
    pair = Pair(Path("a/b.png"), Path("m/b.png"), "b", None)
    counts = np.array([[50, 5], [10, 35]])
    measured = Measured(counts, np.zeros((2, 100), np.int64), (10, 10))
    result = put_together([measured], [pair], NAMES)
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
    result = put_together(measured, pairs, names)
    assert result["intervals"]["groups"] == 20
    seen = 0
    for way in ("pooled", "per_image"):
        scores, bounds = result[way], result["intervals"][way]
        assert bounds["accuracy"][0] < scores["accuracy"] < bounds["accuracy"][1]
        for name in ("dice", "iou", "precision", "recall"):
            for key in ("mean_foreground", "mean_with_background"):
                assert bounds[name][key][0] < scores[name][key] < bounds[name][key][1]
            for class_name in names:
                low, high = bounds[name]["per_class"][class_name]
                assert low < scores[name]["per_class"][class_name] < high
                seen += 1
    assert seen == 24
    drawn = Resampling([pair.group for pair in pairs])
    counts = np.stack([each.counts for each in measured])
    wanted = drawn.of_mean(dice(counts))[:, 2]
    assert result["intervals"]["per_image"]["dice"]["per_class"]["c"] == pytest.approx(wanted)
    for name in names[1:]:
        for field, (low, high) in result["boundary"]["intervals"][name].items():
            assert low < result["boundary"]["per_class"][name][field] < high
    assert result["confusion"] == counts.sum(axis=0).tolist()
    assert "threshold_curve" not in result
    json.dumps(result, allow_nan=False)


def test_objects_are_pooled_and_per_image() -> None:
    measured, pairs = make(4)
    result = put_together(measured, pairs, NAMES, threshold=0.3)
    said = result["objects"]["per_class"]["yes"]
    found = [each.objects[0].found for each in measured if each.objects]
    hits = sum(each.hits[0] for each in found)
    assert (said["true"], said["predicted"]) == (24, 28)
    assert said["f1"]["pooled"] == pytest.approx(2 * hits / 52)
    assert said["f1"]["per_image"] == pytest.approx(np.mean([each.f1 for each in found]))
    at = said["together"]
    assert at["chosen"] == result["threshold_curve"]["chosen"] == 0.3
    rand = [[t.rand for t in each.objects[0].together] for each in measured if each.objects]
    assert at["rand"] == pytest.approx(np.mean(rand, axis=0).tolist())
    best = max(result["threshold_curve"]["pooled_dice"])
    assert said["pixel_error"] == pytest.approx(1 - best)
    json.dumps(result, allow_nan=False)


def test_what_no_picture_has_is_none() -> None:
    measured, pairs = make(4)
    nothing = Boundary(*[float("nan")] * 4)
    measured = [each._replace(boundary=[nothing]) for each in measured]
    result = put_together(measured, pairs, NAMES)
    assert set(result["boundary"]["per_class"]["yes"].values()) == {None}
    assert set(result["boundary"]["intervals"]["yes"].values()) == {None}
