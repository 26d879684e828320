"""The scores, against numbers written by hand and plain loops over pixels."""

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from plainunet.evaluation.metrics import (
    PROTOCOL,
    accuracy,
    confusion_matrix,
    dice,
    iou,
    precision,
    recall,
    scores,
    summarise,
)

Score = Callable[[NDArray[np.int64]], NDArray[np.float64]]
PER_CLASS: dict[str, Score] = {"dice": dice, "iou": iou, "precision": precision, "recall": recall}


def masks(
    seed: int, num_classes: int, images: int = 1, ignored: float = 0.2, alike: float = 0.5
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Truth with ignored pixels and a prediction that is partly right, each [n, 6, 5]."""
    random = np.random.default_rng(seed)
    # a random part of the classes, so that some are absent from truth, prediction or both
    true = random.choice(num_classes, size=random.integers(1, num_classes + 1), replace=False)
    found = random.choice(num_classes, size=random.integers(1, num_classes + 1), replace=False)
    shape = (images, 6, 5)
    truth = random.choice(true, shape)
    prediction = np.where(random.random(shape) < alike, truth, random.choice(found, shape))
    truth[random.random(shape) < ignored] = 255
    return truth.astype(np.uint8), prediction.astype(np.uint8)


def slow_counts(
    truth: NDArray[Any], prediction: NDArray[Any], num_classes: int, ignore_index: int = 255
) -> list[list[int]]:
    counts = [[0] * num_classes for _ in range(num_classes)]
    for true, found in zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True):
        if true != ignore_index:
            counts[true][found] += 1
    return counts


def slow_scores(truth: NDArray[Any], prediction: NDArray[Any], k: int) -> dict[str, float]:
    """The scores of one class of one picture, from the sets of its pixels."""
    pixels = list(zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True))
    true = {at for at, (t, _) in enumerate(pixels) if t == k}
    found = {at for at, (t, p) in enumerate(pixels) if p == k and t != 255}
    if not true and not found:
        return dict.fromkeys(PER_CLASS, math.nan)
    both = len(true & found)
    return {
        "dice": 2 * both / (len(true) + len(found)),
        "iou": both / len(true | found),
        "precision": both / len(found) if found else 0.0,
        "recall": both / len(true) if true else 0.0,
    }


def mean(values: list[float]) -> float | None:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else None


def test_counts_by_hand() -> None:
    truth = np.array([[0, 0, 0, 1], [1, 2, 255, 2]], dtype=np.uint8)
    prediction = np.array([[0, 1, 1, 1], [0, 1, 2, 2]], dtype=np.uint8)
    counts = confusion_matrix(truth, prediction, 3)
    assert counts.dtype == np.int64
    assert counts.tolist() == [[1, 2, 0], [1, 1, 0], [0, 1, 1]]  # rows truth, columns prediction


def test_scores_of_an_asymmetric_case_by_hand() -> None:
    # class 1: 6 pixels found, 3 false alarms, 1 missed; class 0: 90 right
    confusion = np.array([[90, 3], [1, 6]])
    assert accuracy(confusion) == pytest.approx(96 / 100)
    assert dice(confusion).tolist() == pytest.approx([180 / 184, 12 / 16])
    assert iou(confusion).tolist() == pytest.approx([90 / 94, 6 / 10])
    assert precision(confusion).tolist() == pytest.approx([90 / 91, 6 / 9])
    assert recall(confusion).tolist() == pytest.approx([90 / 93, 6 / 7])


def test_scores_of_three_classes_by_hand() -> None:
    confusion = np.array([[50, 4, 1], [2, 20, 0], [3, 5, 15]])
    assert accuracy(confusion) == pytest.approx(85 / 100)
    assert dice(confusion).tolist() == pytest.approx([100 / 110, 40 / 51, 30 / 39])
    assert iou(confusion).tolist() == pytest.approx([50 / 60, 20 / 31, 15 / 24])
    assert precision(confusion).tolist() == pytest.approx([50 / 55, 20 / 29, 15 / 16])
    assert recall(confusion).tolist() == pytest.approx([50 / 55, 20 / 22, 15 / 23])


@given(
    seed=st.integers(0, 10_000),
    num_classes=st.integers(2, 6),
    ignored=st.sampled_from([0, 0.3, 1]),
    ids=st.sampled_from([np.uint8, np.uint16, np.int32, np.int64]),
)
def test_counts_equal_plain_loops(
    seed: int, num_classes: int, ignored: float, ids: type[np.integer[Any]]
) -> None:
    truth, prediction = masks(seed, num_classes, ignored=ignored)
    counts = confusion_matrix(truth.astype(ids), prediction.astype(ids), num_classes)
    assert counts.tolist() == slow_counts(truth, prediction, num_classes)


@given(seed=st.integers(0, 10_000), num_classes=st.integers(2, 6))
def test_scores_equal_plain_loops(seed: int, num_classes: int) -> None:
    truth, prediction = masks(seed, num_classes)
    confusion = confusion_matrix(truth, prediction, num_classes)
    right = [t == p for t, p in zip(truth.flat, prediction.flat, strict=True) if t != 255]
    assert accuracy(confusion) == pytest.approx(sum(right) / len(right))
    by_loops = [slow_scores(truth, prediction, k) for k in range(num_classes)]
    for name, score in PER_CLASS.items():
        expected = [of_class[name] for of_class in by_loops]
        assert score(confusion).tolist() == pytest.approx(expected, nan_ok=True), name


@given(seed=st.integers(0, 10_000), num_classes=st.integers(2, 5), images=st.integers(1, 6))
def test_summary_equals_plain_loops(seed: int, num_classes: int, images: int) -> None:
    pairs = [masks(seed + n, num_classes) for n in range(images)]
    names = [f"class {k}" for k in range(num_classes)]
    summary = summarise(np.stack([confusion_matrix(t, p, num_classes) for t, p in pairs]), names)
    all_truth = np.concatenate([t for t, _ in pairs])
    all_prediction = np.concatenate([p for _, p in pairs])
    for score in PER_CLASS:
        # pooled: as if the set were one picture
        of_set = [slow_scores(all_truth, all_prediction, k)[score] for k in range(num_classes)]
        found = summary["pooled"][score]
        assert found["mean_foreground"] == pytest.approx(mean(of_set[1:]))
        assert found["mean_with_background"] == pytest.approx(mean(of_set))
        assert list(found["per_class"]) == names
        assert list(found["per_class"].values()) == [pytest.approx(mean([x])) for x in of_set]
        # per image: means over the classes that a picture has, then over the pictures
        of_images = [[slow_scores(t, p, k)[score] for k in range(num_classes)] for t, p in pairs]
        foreground = [mean(of_image[1:]) for of_image in of_images]
        expected = mean([math.nan if x is None else x for x in foreground])
        found = summary["per_image"][score]
        assert found["mean_foreground"] == pytest.approx(expected)
        everything = [mean(of_image) for of_image in of_images]
        expected = mean([math.nan if x is None else x for x in everything])
        assert found["mean_with_background"] == pytest.approx(expected)
        for k, name in enumerate(names):
            expected = mean([of_image[k] for of_image in of_images])
            assert found["per_class"][name] == pytest.approx(expected)


def test_pooled_and_per_image_differ_as_they_should() -> None:
    # a large picture with a good score, a small one with a bad one
    confusions = np.array([[[900, 0], [10, 90]], [[8, 1], [1, 0]]])
    summary = summarise(confusions, ["background", "car"])
    assert summary["pooled"]["accuracy"] == pytest.approx(998 / 1010)
    assert summary["pooled"]["dice"]["per_class"]["car"] == pytest.approx(180 / 192)
    assert summary["per_image"]["accuracy"] == pytest.approx((990 / 1000 + 8 / 10) / 2)
    assert summary["per_image"]["dice"]["per_class"]["car"] == pytest.approx((180 / 190 + 0) / 2)


def test_mean_of_foreground_is_without_background() -> None:
    confusion = np.array([[70, 0, 0], [10, 10, 0], [0, 0, 10]])
    found = scores(confusion, ["background", "leaf", "stone"])["dice"]
    assert found["per_class"] == pytest.approx(
        {"background": 140 / 150, "leaf": 20 / 30, "stone": 1}
    )
    assert found["mean_foreground"] == pytest.approx((20 / 30 + 1) / 2)
    assert found["mean_with_background"] == pytest.approx((140 / 150 + 20 / 30 + 1) / 3)


def test_absent_class_after_rule_four() -> None:
    confusions = np.array(
        [
            [[5, 0, 0], [0, 4, 0], [0, 0, 0]],  # class 2 absent from both: left out
            [[5, 0, 1], [0, 4, 0], [0, 0, 0]],  # class 2 predicted but not there: scores 0
            [[5, 0, 0], [0, 4, 0], [3, 0, 0]],  # class 2 there but not predicted: scores 0
            [[5, 0, 0], [0, 0, 0], [0, 0, 7]],  # class 2 found; class 1 left out
            [[5, 0, 0], [0, 4, 2], [0, 0, 0]],  # class 2 predicted but not there, again
        ]
    )
    names = ["background", "leaf", "stone"]
    assert np.isnan(dice(confusions)[0, 2])
    for name, score in PER_CLASS.items():
        assert np.isnan(score(confusions)[:, 2]).tolist() == [True, False, False, False, False], (
            name
        )
        assert score(confusions)[1:, 2].tolist() == [0, 0, 1, 0], name

    summary = summarise(confusions, names)

    assert summary["per_image"]["dice"]["per_class"]["stone"] == pytest.approx(1 / 4)
    assert summary["per_image"]["dice"]["per_class"]["leaf"] == pytest.approx((3 + 8 / 10) / 4)
    # the pictures' means: only leaf; leaf and a wrong stone, twice; only stone; two bad ones
    assert summary["per_image"]["dice"]["mean_foreground"] == pytest.approx(
        (1 + 0.5 + 0.5 + 1 + 0.4) / 5
    )
    assert summary["absent"] == {
        "background": {"left_out": 0, "scored_zero": 0},
        "leaf": {"left_out": 1, "scored_zero": 0},
        "stone": {"left_out": 1, "scored_zero": 2},
    }


def test_class_that_no_picture_has_is_none() -> None:
    summary = summarise(np.array([[[9, 0], [0, 0]]] * 2), ["background", "car"])
    for part in ("pooled", "per_image"):
        assert summary[part]["dice"]["per_class"] == {"background": 1, "car": None}
        assert summary[part]["dice"]["mean_foreground"] is None
        assert summary[part]["dice"]["mean_with_background"] == 1
        assert summary[part]["accuracy"] == 1
    assert summary["absent"]["car"] == {"left_out": 2, "scored_zero": 0}


def test_picture_that_is_ignored_whole_scores_nothing() -> None:
    void = np.full((3, 3), 255, dtype=np.uint8)
    counted = confusion_matrix(void, np.zeros_like(void), 2)
    assert counted.tolist() == [[0, 0], [0, 0]]
    summary = summarise(np.stack([counted, np.array([[8, 1], [0, 1]])]), ["background", "car"])
    assert summary["per_image"]["accuracy"] == pytest.approx(0.9)
    assert summary["absent"]["background"] == {"left_out": 1, "scored_zero": 0}
    alone = scores(counted, ["background", "car"])
    assert alone["accuracy"] is None
    assert alone["dice"]["mean_with_background"] is None


@given(seed=st.integers(0, 10_000), batch=st.integers(1, 7))
def test_batching_changes_nothing(seed: int, batch: int) -> None:
    truth, prediction = masks(seed, 4, images=7)
    names = ["background", "a", "b", "c"]
    one_by_one = np.stack(
        [confusion_matrix(t, p, 4) for t, p in zip(truth, prediction, strict=True)]
    )
    total = np.zeros((4, 4), dtype=np.int64)
    for start in range(0, 7, batch):  # the last batch is a partial one
        total += confusion_matrix(
            truth[start : start + batch], prediction[start : start + batch], 4
        )
    assert scores(total, names) == summarise(one_by_one, names)["pooled"]
    backwards = summarise(one_by_one[::-1], names)
    assert backwards["pooled"] == summarise(one_by_one, names)["pooled"]
    assert backwards["absent"] == summarise(one_by_one, names)["absent"]


@given(seed=st.integers(0, 10_000), garbage=st.integers(0, 255))
def test_ignored_pixels_are_not_counted(seed: int, garbage: int) -> None:
    truth, prediction = masks(seed, 3, ignored=0.4)
    before = confusion_matrix(truth, prediction, 3)
    prediction[truth == 255] = garbage
    assert np.array_equal(confusion_matrix(truth, prediction, 3), before)
    assert before.sum() == (truth != 255).sum()


def test_another_value_can_be_ignored() -> None:
    truth = np.array([0, 1, 2, 1], dtype=np.uint8)
    prediction = np.array([0, 1, 1, 0], dtype=np.uint8)
    assert confusion_matrix(truth, prediction, 2, ignore_index=2).tolist() == [[1, 0], [1, 1]]
    # also the id of a class: its pixels are then left out
    assert confusion_matrix(truth, prediction, 3, ignore_index=0).tolist() == [
        [0, 0, 0],
        [1, 1, 0],
        [0, 1, 0],
    ]


@pytest.mark.parametrize("num_classes", [2, 21, 64, 255])
def test_many_classes_and_large_pictures(num_classes: int) -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, num_classes, (1280, 1918), dtype=np.uint8)
    prediction = random.integers(0, num_classes, (1280, 1918), dtype=np.uint8)
    counts = confusion_matrix(truth, prediction, num_classes)
    assert counts.shape == (num_classes, num_classes)
    assert counts.sum() == truth.size
    for k in (0, num_classes - 1):
        assert counts[k, 0] == np.count_nonzero((truth == k) & (prediction == 0))
        assert counts[0, k] == np.count_nonzero((truth == 0) & (prediction == k))


def test_arguments_are_not_changed_and_views_are_taken() -> None:
    truth, prediction = masks(4, 3)
    before = truth.copy(), prediction.copy()
    flipped = confusion_matrix(truth[:, ::-1, ::2], prediction[:, ::-1, ::2], 3)
    assert flipped.tolist() == confusion_matrix(truth[:, :, ::2], prediction[:, :, ::2], 3).tolist()
    assert np.array_equal(truth, before[0])
    assert np.array_equal(prediction, before[1])


@pytest.mark.parametrize("ids", [np.uint8, np.int64])
def test_unknown_ids_are_refused(ids: type[np.integer[Any]]) -> None:
    good = np.array([[0, 1, 2, 255]], dtype=ids)
    bad = np.array([[0, 7, 7, 0]], dtype=ids)
    with pytest.raises(
        ValueError, match=r"truth has the class id 7 in 2 pixels.*3 classes.*0 to 2"
    ):
        confusion_matrix(bad, np.zeros_like(bad), 3)
    with pytest.raises(ValueError, match=r"prediction has the class id 7 in 2 pixels.*3 classes"):
        confusion_matrix(good, bad, 3)
    # the ignored value is one of the truth only
    with pytest.raises(ValueError, match="prediction has the class id 255 in 1 pixels"):
        confusion_matrix(np.zeros_like(good), good, 3)


@pytest.mark.parametrize("value", [-1, 256, 65535])
def test_ids_that_would_wrap_around_are_refused(value: int) -> None:
    odd = np.array([0, value, 1], dtype=np.int64)
    fine = np.array([0, 1, 1], dtype=np.int64)
    with pytest.raises(ValueError, match=f"truth has the class id {value} in 1 pixels"):
        confusion_matrix(odd, fine, 2)
    with pytest.raises(ValueError, match=f"prediction has the class id {value} in 1 pixels"):
        confusion_matrix(fine, odd, 2)


def test_masks_of_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[4, 6\].*\[6, 4\]"):
        confusion_matrix(np.zeros((4, 6), np.uint8), np.zeros((6, 4), np.uint8), 2)


@pytest.mark.parametrize("names", [["car"], ["car", "car"], ["a", "b", "c"]])
def test_names_that_do_not_fit_are_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match="2 classes"):
        summarise(np.array([[[1, 0], [0, 1]]]), names)
    with pytest.raises(ValueError, match="2 classes"):
        scores(np.array([[1, 0], [0, 1]]), names)


def test_no_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="0 pictures"):
        summarise(np.zeros((0, 2, 2), dtype=np.int64), ["background", "car"])


def test_summary_has_the_stated_shape_and_is_json() -> None:
    summary = summarise(np.array([[[5, 1], [0, 0]], [[4, 0], [2, 0]]]), ["background", "car"])
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert list(summary) == ["protocol", "pooled", "per_image", "absent"]
    assert summary["protocol"] == PROTOCOL
    for part in ("pooled", "per_image"):
        assert list(summary[part]) == ["accuracy", "dice", "iou", "precision", "recall"]
        for score in PER_CLASS:
            assert list(summary[part][score]) == [
                "mean_foreground",
                "mean_with_background",
                "per_class",
            ]
            assert list(summary[part][score]["per_class"]) == ["background", "car"]


def test_empty_picture_counts_nothing() -> None:
    nothing = np.zeros((0, 5), dtype=np.int64)
    assert confusion_matrix(nothing, nothing, 2).tolist() == [[0, 0], [0, 0]]


def test_pooled_scores_are_torchmetrics_s() -> None:
    from torchmetrics.functional import classification

    random = np.random.default_rng(8)
    truth, prediction = (random.integers(0, 4, (3, 40, 50)) for _ in range(2))
    easy = random.random(truth.shape) < 0.5
    prediction[easy] = truth[easy]
    truth[random.random(truth.shape) < 0.1] = 255
    counts = np.stack([confusion_matrix(t, p, 4) for t, p in zip(truth, prediction, strict=True)])
    ours = scores(counts.sum(axis=0), ("a", "b", "c", "d"))
    arguments = (torch.from_numpy(prediction), torch.from_numpy(truth))
    for name, theirs in (
        ("dice", classification.multiclass_f1_score),
        ("iou", classification.multiclass_jaccard_index),
        ("precision", classification.multiclass_precision),
        ("recall", classification.multiclass_recall),
    ):
        wanted = theirs(*arguments, num_classes=4, average=None, ignore_index=255)
        assert list(ours[name]["per_class"].values()) == pytest.approx(wanted.tolist())
