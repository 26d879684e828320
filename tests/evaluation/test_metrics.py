"""The metrics, against numbers by hand, plain loops and other libraries."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from skimage.metrics import adapted_rand_error, variation_of_information

from plainunet.evaluation.metrics import (
    ABSENT,
    BAND,
    BINS,
    OVERLAPS,
    PROTOCOL,
    TOLERANCE,
    ObjectCounts,
    boundary_scores,
    calibration,
    cluster_scores,
    compare_boundaries,
    confusion_matrix,
    count_probabilities,
    dice,
    iou,
    label_objects,
    match_objects,
    precision,
    recall,
    scores,
    summarise,
    thin_borders,
    threshold_curve,
)

Score = Callable[[NDArray[np.int64]], NDArray[np.float64]]
Mask = NDArray[np.bool_]
Labels = NDArray[np.int32]
PER_CLASS: dict[str, Score] = {"dice": dice, "iou": iou, "precision": precision, "recall": recall}


def masks(
    seed: int, num_classes: int, images: int = 1, ignored: float = 0.2, alike: float = 0.5
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Ground truth with ignored pixels and a partly correct prediction, each [n, 6, 5]."""
    random = np.random.default_rng(seed)
    # random subsets of the classes, so that some are absent from one mask or both
    true = random.choice(num_classes, size=random.integers(1, num_classes + 1), replace=False)
    found = random.choice(num_classes, size=random.integers(1, num_classes + 1), replace=False)
    shape = (images, 6, 5)
    truth = random.choice(true, shape)
    prediction = np.where(random.random(shape) < alike, truth, random.choice(found, shape))
    truth[random.random(shape) < ignored] = 255
    return truth.astype(np.uint8), prediction.astype(np.uint8)


def slow_counts(truth: NDArray[Any], prediction: NDArray[Any], k: int) -> list[list[int]]:
    pairs = Counter(zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True))
    return [[pairs[true, found] for found in range(k)] for true in range(k)]


def slow_scores(truth: NDArray[Any], prediction: NDArray[Any], k: int) -> dict[str, float]:
    """The scores of one class of one image, from the sets of its pixels."""
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


def mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None and not math.isnan(value)]
    return sum(known) / len(known) if known else None


def test_counts_by_hand() -> None:
    truth = np.array([[0, 0, 0, 1], [1, 2, 255, 2]], dtype=np.uint8)
    prediction = np.array([[0, 1, 1, 1], [0, 1, 2, 2]], dtype=np.uint8)
    counts = confusion_matrix(truth, prediction, 3)
    assert counts.dtype == np.int64
    assert counts.tolist() == [
        [1, 2, 0],
        [1, 1, 0],
        [0, 1, 1],
    ]  # rows ground truth, columns prediction


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


@given(seed=st.integers(0, 10_000), num_classes=st.integers(2, 6), images=st.integers(1, 6))
def test_scores_equal_plain_loops(seed: int, num_classes: int, images: int) -> None:
    pairs = [masks(seed + n, num_classes) for n in range(images)]
    names = [f"class {k}" for k in range(num_classes)]
    summary = summarise(np.stack([confusion_matrix(t, p, num_classes) for t, p in pairs]), names)
    pooled = tuple(np.concatenate(each) for each in zip(*pairs, strict=True))  # as one image
    for part, sets in (("pooled", [pooled]), ("per_image", pairs)):
        accuracies = [mean((t == p)[t != 255].tolist()) for t, p in sets]
        assert summary[part]["accuracy"] == pytest.approx(mean(accuracies))
    for score in PER_CLASS:
        of_set, *of_images = (
            [slow_scores(*pair, k)[score] for k in range(num_classes)] for pair in (pooled, *pairs)
        )
        found = summary["pooled"][score]
        assert found["mean_foreground"] == pytest.approx(mean(of_set[1:]))
        assert found["mean_with_background"] == pytest.approx(mean(of_set))
        assert list(found["per_class"]) == names
        assert list(found["per_class"].values()) == [pytest.approx(mean([x])) for x in of_set]
        # means over the classes in an image, then over the images
        found = summary["per_image"][score]
        foreground = mean(mean(of_image[1:]) for of_image in of_images)
        assert found["mean_foreground"] == pytest.approx(foreground)
        assert found["mean_with_background"] == pytest.approx(mean(map(mean, of_images)))
        per_class = [mean(column) for column in zip(*of_images, strict=True)]
        assert list(found["per_class"].values()) == [pytest.approx(each) for each in per_class]


def test_absent_classes_follow_rule_four() -> None:
    confusions = np.array(
        [
            [[5, 0, 0], [0, 4, 0], [0, 0, 0]],  # class 2 absent from both: skipped
            [[5, 0, 1], [0, 4, 0], [0, 0, 0]],  # class 2 in the prediction alone: scores 0
            [[5, 0, 0], [0, 4, 0], [3, 0, 0]],  # class 2 in the ground truth alone: scores 0
            [[5, 0, 0], [0, 0, 0], [0, 0, 7]],  # class 2 found; class 1 skipped
            [[5, 0, 0], [0, 4, 2], [0, 0, 0]],  # class 2 in the prediction alone, again
        ]
    )
    names = ["background", "leaf", "stone"]
    for score in PER_CLASS.values():
        np.testing.assert_array_equal(score(confusions)[:, 2], [np.nan, 0, 0, 1, 0])
    summary = summarise(confusions, names)
    found = summary["per_image"]["dice"]
    assert found["per_class"]["stone"] == pytest.approx(1 / 4)
    assert found["per_class"]["leaf"] == pytest.approx((3 + 8 / 10) / 4)
    # the images' means: only leaf; leaf and a wrong stone, twice; only stone; two bad ones
    assert found["mean_foreground"] == pytest.approx((1 + 0.5 + 0.5 + 1 + 0.4) / 5)
    assert summary["absent"] == {
        "background": {"left_out": 0, "scored_zero": 0},
        "leaf": {"left_out": 1, "scored_zero": 0},
        "stone": {"left_out": 1, "scored_zero": 2},
    }


def test_an_entirely_ignored_image_has_no_score() -> None:
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
    counts = np.stack([confusion_matrix(t, p, 4) for t, p in zip(truth, prediction, strict=True)])
    batches = [slice(start, start + batch) for start in range(0, 7, batch)]  # the last is partial
    total = np.sum([confusion_matrix(truth[b], prediction[b], 4) for b in batches], axis=0)
    forwards, backwards = summarise(counts, names), summarise(counts[::-1], names)
    assert scores(total, names) == forwards["pooled"] == backwards["pooled"]
    assert backwards["absent"] == forwards["absent"]


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
    # also a class id, whose pixels are then excluded
    ignoring = confusion_matrix(truth, prediction, 3, ignore_index=0)
    assert ignoring.tolist() == [[0, 0, 0], [1, 1, 0], [0, 1, 0]]


@pytest.mark.parametrize("ignored", [-1, -100, 1000, 255])
def test_ignored_values_need_not_fit_in_a_byte(ignored: int) -> None:
    truth, prediction = np.array([0, 1, ignored, 1]), np.array([0, 1, -1, 0])
    counts = confusion_matrix(truth, prediction, 2, ignore_index=ignored)
    assert counts.tolist() == [[1, 0], [1, 1]]
    with pytest.raises(ValueError, match="prediction has the class id -1 in 1 "):
        confusion_matrix(truth, prediction[::-1], 2, ignore_index=ignored)


@pytest.mark.parametrize("num_classes", [2, 21, 64, 255])
def test_many_classes_and_large_images(num_classes: int) -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, num_classes, (1280, 1918), dtype=np.uint8)
    prediction = random.integers(0, num_classes, (1280, 1918), dtype=np.uint8)
    counts = confusion_matrix(truth, prediction, num_classes)
    assert counts.shape == (num_classes, num_classes)
    assert counts.sum() == truth.size
    for k in (0, num_classes - 1):
        assert counts[k, 0] == np.count_nonzero((truth == k) & (prediction == 0))
        assert counts[0, k] == np.count_nonzero((truth == 0) & (prediction == k))


def test_arguments_stay_unchanged_and_may_be_views() -> None:
    truth, prediction = masks(4, 3)
    before = truth.copy(), prediction.copy()
    flipped = confusion_matrix(truth[:, ::-1, ::2], prediction[:, ::-1, ::2], 3)
    assert flipped.tolist() == confusion_matrix(truth[:, :, ::2], prediction[:, :, ::2], 3).tolist()
    assert np.array_equal(truth, before[0])
    assert np.array_equal(prediction, before[1])


@pytest.mark.parametrize(
    ("value", "ids"),
    [(7, np.uint8), (7, np.int64), (-1, np.int64), (256, np.int64), (65535, np.int64)],
)
def test_unknown_ids_are_errors(value: int, ids: type[np.integer[Any]]) -> None:
    odd, fine = np.array([0, value, value], ids), np.array([0, 1, 1], ids)
    for name, pair in (("truth", (odd, fine)), ("prediction", (fine, odd))):
        with pytest.raises(ValueError, match=rf"{name} .* {value} .*\b2\b.*\b2\b"):
            confusion_matrix(*pair, 2)
    # only the ground truth has an ignore index
    with pytest.raises(ValueError, match=r"prediction\b.*\b255\b.*\b1\b"):
        confusion_matrix(fine, np.array([0, 1, 255], ids), 3)


def test_probabilities_are_no_class_ids() -> None:
    ids = np.array([0, 1, 1], np.uint8)
    for odd in (np.array([0.2, 0.9, np.nan]), np.array([0, 1, 1], np.float32)):
        for name, pair in (("truth", (odd, ids)), ("prediction", (ids, odd))):
            with pytest.raises(ValueError, match=f"{name} .*float"):
                confusion_matrix(*pair, 2)
    assert confusion_matrix(ids > 0, ids, 2).tolist() == [[1, 0], [0, 2]]


def test_masks_and_names_that_do_not_fit_are_errors() -> None:
    with pytest.raises(ValueError, match=r"\[4, 6\].*\[6, 4\]"):
        confusion_matrix(np.zeros((4, 6), np.uint8), np.zeros((6, 4), np.uint8), 2)
    for names in (["car"], ["car", "car"], ["a", "b", "c"]):
        with pytest.raises(ValueError, match=r"\b2\b"):
            summarise(np.array([[[1, 0], [0, 1]]]), names)
        with pytest.raises(ValueError, match=r"\b2\b"):
            scores(np.array([[1, 0], [0, 1]]), names)


def test_nothing_to_count() -> None:
    nothing = np.zeros((0, 5), dtype=np.int64)
    assert confusion_matrix(nothing, nothing, 2).tolist() == [[0, 0], [0, 0]]
    with pytest.raises(ValueError, match=r"\b0\b"):
        summarise(np.zeros((0, 2, 2), dtype=np.int64), ["background", "car"])


def test_the_summary_has_its_keys_and_is_json() -> None:
    summary = summarise(np.array([[[5, 1], [0, 0]], [[4, 0], [2, 0]]]), ["background", "car"])
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert list(summary) == ["protocol", "pooled", "per_image", "absent"]
    assert summary["protocol"] == PROTOCOL
    for part in ("pooled", "per_image"):
        assert list(summary[part]) == ["accuracy", *PER_CLASS]
        for score in PER_CLASS:
            keys = ["mean_foreground", "mean_with_background", "per_class"]
            assert list(summary[part][score]) == keys


def test_pooled_scores_are_those_of_torchmetrics() -> None:
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


def probable(
    seed: int, size: tuple[int, int] = (40, 50)
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    random = np.random.default_rng(seed)
    truth = (random.random(size) < 0.3).astype(np.uint8)
    p = np.clip(0.25 + 0.5 * truth + random.normal(0, 0.25, size), 0, 1)
    # away from the edges of hundredths, which rounding would move
    p = ((p * 99.99).astype(int) + 0.5) / 100
    truth[:3] = 255
    return truth, np.stack([1 - p, p]).astype(np.float32)


def dice_at(truth: NDArray[np.uint8], mask: NDArray[np.bool_]) -> float:
    valid = truth != 255
    inside = (truth == 1) & valid
    return float(2 * (inside & mask).sum() / (inside.sum() + (mask & valid).sum()))


def test_the_curve_is_the_dice_at_each_threshold() -> None:
    images = [probable(seed) for seed in range(4)]
    curve = threshold_curve(np.stack([count_probabilities(*each) for each in images]))
    assert len(curve["thresholds"]) == BINS - 1
    for threshold in (0.01, 0.3, 0.5, 0.77, 0.99):
        at = curve["thresholds"].index(threshold)
        masks = [p[1] >= threshold for _, p in images]
        scores = [dice_at(t, m) for (t, _), m in zip(images, masks, strict=True)]
        assert curve["per_image_dice"][at] == pytest.approx(np.mean(scores))
        joined = dice_at(np.concatenate([t for t, _ in images]), np.concatenate(masks))
        assert curve["pooled_dice"][at] == pytest.approx(joined)
    best = int(np.argmax(curve["pooled_dice"]))
    assert 0.4 < curve["thresholds"][best] < 0.7


def test_images_without_the_class_in_both_masks_are_skipped() -> None:
    truth, p = probable(0)
    empty = np.zeros_like(truth)
    nothing = np.stack([np.full(truth.shape, 0.65), np.full(truth.shape, 0.35)]).astype(np.float32)
    curve = threshold_curve(
        np.stack([count_probabilities(truth, p), count_probabilities(empty, nothing)])
    )
    alone = threshold_curve(count_probabilities(truth, p)[None])
    assert curve["per_image_dice"][49] == pytest.approx(alone["per_image_dice"][49])
    assert curve["per_image_dice"][9] == pytest.approx(alone["per_image_dice"][9] / 2)


@pytest.mark.parametrize("classes", [2, 4])
def test_calibration_equals_plain_loops(classes: int) -> None:
    random = np.random.default_rng(classes)
    logits = random.normal(0, 2, (classes, 60, 70))
    p = (np.exp(logits) / np.exp(logits).sum(axis=0)).astype(np.float32)
    truth = random.integers(0, classes, (60, 70)).astype(np.uint8)
    easy = random.random(truth.shape) < 0.6
    truth[easy] = p.argmax(axis=0)[easy]
    truth[0] = 255
    found = calibration(count_probabilities(truth, p), classes)
    sure, predicted = p.max(axis=0)[1:].ravel(), p.argmax(axis=0)[1:].ravel()
    right = predicted == truth[1:].ravel()
    assert sum(found["pixels"]) == right.size
    error = 0.0
    for step in range(10):
        inside = (sure >= step / 10) & (sure < (step + 1) / 10)
        # bins of the probability p of class 1 also hold 1 - p, whose edges are closed above
        assert found["pixels"][step] == pytest.approx(inside.sum(), abs=2)
        if not inside.any():
            assert found["accuracy"][step] is None
            continue
        assert found["accuracy"][step] == pytest.approx(right[inside].mean(), abs=0.01)
        assert found["confidence"][step] == pytest.approx(sure[inside].mean(), abs=0.006)
        error += inside.mean() * abs(right[inside].mean() - sure[inside].mean())
    assert found["error"] == pytest.approx(error, abs=0.006)
    assert found["error"] > 0.05


def test_bands_of_rows_add_up() -> None:
    truth, p = probable(3)
    whole = count_probabilities(truth, p)
    parts = [count_probabilities(truth[a:b], p[:, a:b]) for a, b in ((0, 7), (7, 30), (30, 40))]
    np.testing.assert_array_equal(np.sum(parts, axis=0), whole)
    assert whole.sum() == (truth != 255).sum()


def test_the_calibration_error_is_that_of_torchmetrics() -> None:
    from torchmetrics.functional.classification import multiclass_calibration_error

    random = np.random.default_rng(2)
    logits = random.normal(0, 2, (3, 80, 90))
    p = (np.exp(logits) / np.exp(logits).sum(axis=0)).astype(np.float32)
    truth = np.where(random.random((80, 90)) < 0.7, p.argmax(axis=0), 0).astype(np.uint8)
    wanted = multiclass_calibration_error(
        torch.from_numpy(p)[None], torch.from_numpy(truth.astype(np.int64))[None], 3, n_bins=10
    )
    found = calibration(count_probabilities(truth, p), 3)
    assert found["error"] == pytest.approx(wanted.item(), abs=0.005)  # our bins are hundredths
    assert found["error"] > 0.02


def blobs(seed: int, size: tuple[int, int] = (60, 83)) -> Mask:
    noise = np.random.default_rng(seed).random(size)
    return ndimage.gaussian_filter(noise, 4) > 0.5


@pytest.mark.parametrize("seed", range(4))
def test_boundary_scores_match_scipy(seed: int) -> None:
    truth, prediction = blobs(seed, (200, 150)), blobs(seed + 9, (200, 150))
    found = compare_boundaries(truth, prediction)
    edges = [mask & ~ndimage.binary_erosion(mask) for mask in (truth, prediction)]
    to = [ndimage.distance_transform_edt(~edge) for edge in edges]
    there, back = to[1][edges[0]], to[0][edges[1]]
    both = np.concatenate([there, back])
    assert found.hd95 == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)))
    assert found.distance == pytest.approx(both.mean())
    assert found.surface_dice == pytest.approx((both <= TOLERANCE).mean())
    depth = round(BAND * math.hypot(*truth.shape))
    assert depth == 5
    square = np.ones((2 * depth + 1, 2 * depth + 1))
    a, b = (mask & ~ndimage.binary_erosion(mask, square) for mask in (truth, prediction))
    assert found.boundary_iou == pytest.approx((a & b).sum() / (a | b).sum())
    assert 0 < found.surface_dice < 1


def test_boundaries_of_known_distance() -> None:
    square = np.zeros((100, 100), bool)
    square[20:60, 20:60] = True
    same = compare_boundaries(square, square)
    assert same == (0.0, 0.0, 1.0, 1.0)
    moved = compare_boundaries(square, np.roll(square, 3, axis=1))
    assert moved.hd95 == 3.0
    # two of four sides are 3 pixels off; the others coincide except at their ends
    assert 1.2 < moved.distance < 1.8
    assert 0.45 < moved.surface_dice < 0.55
    by_two = compare_boundaries(square, np.roll(square, 2, axis=1))
    assert by_two.surface_dice == 1.0
    assert by_two.boundary_iou < 1.0


def test_a_class_in_one_mask_is_a_diagonal_away() -> None:
    square = np.zeros((30, 40), bool)
    nothing = square.copy()
    square[5:9, 5:9] = True
    assert compare_boundaries(square, nothing) == (50.0, 50.0, 0.0, 0.0)
    assert compare_boundaries(nothing, square) == (50.0, 50.0, 0.0, 0.0)
    assert all(map(math.isnan, compare_boundaries(nothing, nothing)))


def test_boundaries_of_each_class_without_ignored_pixels() -> None:
    truth = np.zeros((40, 50), np.uint8)
    truth[5:15, 5:15], truth[20:30, 20:35] = 1, 2
    prediction = truth.copy()
    truth[:, 40:] = 255
    prediction[3:33, 41:49] = 1  # ignored
    assert boundary_scores(truth, prediction, 4) == [
        (0.0, 0.0, 1.0, 1.0),
        (0.0, 0.0, 1.0, 1.0),
        ABSENT,
    ]
    prediction[20:30, 20:35] = 3
    one, two, three = boundary_scores(truth, prediction, 4)
    assert one == (0.0, 0.0, 1.0, 1.0)
    assert two == three == (math.hypot(40, 50), math.hypot(40, 50), 0.0, 0.0)


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (30, 1), (3, 4)])
def test_boundaries_of_the_smallest_images(shape: tuple[int, int]) -> None:
    whole = np.ones(shape, bool)
    assert compare_boundaries(whole, whole) == (0.0, 0.0, 1.0, 1.0)


def cells(seed: int, size: tuple[int, int] = (80, 110), level: float = 0.52) -> Labels:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random(size), 3)
    return label_objects(noise > level, corners=False)


def disturbed(labels: Labels, seed: int) -> Labels:
    """Remove, merge and move some objects, and add one."""
    random = np.random.default_rng(seed)
    changed = labels.copy()
    changed[:, :60] = np.roll(labels, 1, axis=0)[:, :60]
    changed[np.isin(changed, random.choice(labels.max(), 3) + 1)] = 0
    changed[changed == 2] = 1
    changed[-6:, -9:] = labels.max() + 5
    return changed


def by_loops(truth: Labels, prediction: Labels) -> ObjectCounts:
    """Count object by object, as in Kaggle's Data Science Bowl 2018."""
    true, predicted = (sorted(set(each[each > 0].tolist())) for each in (truth, prediction))
    hits = []
    for threshold in OVERLAPS:
        found = 0
        for number in true:
            for other in predicted:
                a, b = truth == number, prediction == other
                found += (a & b).sum() / (a | b).sum() > threshold
        hits.append(found)
    return ObjectCounts(np.array(hits), len(true), len(predicted))


@pytest.mark.parametrize("seed", range(5))
def test_matches_equal_loops_over_all_objects(seed: int) -> None:
    truth = cells(seed)
    prediction = disturbed(truth, seed)
    found, wanted = match_objects(truth, prediction), by_loops(truth, prediction)
    assert found.hits.tolist() == wanted.hits.tolist()
    assert (found.true, found.predicted) == (wanted.true, wanted.predicted)
    assert 0 < found.hits[-1] < found.hits[0] < found.true
    missed, extra = found.true - found.hits, found.predicted - found.hits
    assert found.f1 == pytest.approx(2 * found.hits[0] / (2 * found.hits[0] + missed[0] + extra[0]))
    assert found.average_precision == pytest.approx(
        np.mean(found.hits / (found.hits + missed + extra))
    )


def test_an_iou_of_exactly_the_threshold_is_no_match() -> None:
    truth, prediction = np.zeros((4, 8), np.int32), np.zeros((4, 8), np.int32)
    truth[0, :4], prediction[0, :2] = 1, 7
    assert match_objects(truth, prediction).hits.tolist() == [0] * 10
    prediction[0, 2] = 7  # three of four
    assert match_objects(truth, prediction).hits.tolist() == [1] * 5 + [0] * 5


def test_object_counts_add_up_and_none_is_nan() -> None:
    truth = cells(0)
    nothing = np.zeros_like(truth)
    empty = match_objects(nothing, nothing)
    assert (empty.true, empty.predicted) == (0, 0)
    assert math.isnan(empty.f1)
    assert math.isnan(empty.average_precision)
    all_right, all_missed = match_objects(truth, truth), match_objects(truth, nothing)
    assert all_right.f1 == all_right.average_precision == 1.0
    assert all_missed.f1 == all_missed.average_precision == 0.0
    both = all_right + all_missed + empty
    count = all_right.true
    assert (both.true, both.predicted) == (2 * count, count)
    assert both.f1 == pytest.approx(2 / 3)
    assert both.average_precision == pytest.approx(0.5)


def test_object_ids_may_have_gaps_and_be_large() -> None:
    truth = cells(1)
    prediction = disturbed(truth, 1)
    found = match_objects(truth * 5000, np.where(prediction, prediction + 60_000, 0))
    assert found.hits.tolist() == match_objects(truth, prediction).hits.tolist()


@pytest.mark.parametrize("seed", range(6))
def test_cluster_scores_match_scikit_image(seed: int) -> None:
    truth = cells(seed, (160, 220))
    prediction = thin_borders(disturbed(truth, seed))
    found = cluster_scores(truth, prediction)
    error, _, _ = adapted_rand_error(truth, prediction, ignore_labels=(0,))
    # scikit-image draws two pixels without replacement, the challenge with it
    assert found.rand == pytest.approx(1 - error, abs=1e-3)
    inside = truth > 0
    # conditional entropies
    split, merged = variation_of_information(truth, prediction, ignore_labels=(0,))
    of_truth, of_prediction = (
        -sum(p * np.log2(p) for p in np.bincount(each[inside])[1:] / inside.sum() if p)
        for each in (truth, prediction)
    )
    mutual = of_truth - merged
    assert mutual == pytest.approx(of_prediction - split)
    assert found.information == pytest.approx(2 * mutual / (of_truth + of_prediction))
    assert 0.5 < found.rand < 1
    assert 0.5 < found.information < 1


def test_the_rand_score_equals_loops_over_pairs_of_pixels() -> None:
    truth = cells(2, (12, 14), 0.5)
    prediction = thin_borders(label_objects(cells(3, (12, 14), 0.5) > 0))
    t, p = truth[truth > 0], prediction[truth > 0]
    same_true, same_predicted = t[:, None] == t[None], p[:, None] == p[None]
    assert 0 < same_true.mean() < 1
    recall = (same_true & same_predicted).sum() / same_true.sum()
    precision = (same_true & same_predicted).sum() / same_predicted.sum()
    wanted = 2 * precision * recall / (precision + recall)
    assert cluster_scores(truth, prediction).rand == pytest.approx(wanted)


def test_known_cluster_scores() -> None:
    truth = np.repeat(np.array([[1, 2]], np.int32), 50, axis=1)  # halves
    assert cluster_scores(truth, truth) == pytest.approx((1, 1))
    merged = cluster_scores(truth, np.ones_like(truth))
    assert merged.rand == pytest.approx(2 * 0.5 / (0.5 + 1.0))
    assert merged.information == pytest.approx(0, abs=1e-9)
    one = np.ones_like(truth)
    assert cluster_scores(one, one) == pytest.approx((1, 1))
    # no object is one object
    assert cluster_scores(one, np.zeros_like(one)) == pytest.approx((1, 1))
    assert all(map(math.isnan, cluster_scores(np.zeros_like(one), one)))


def test_borders_go_to_the_nearest_object() -> None:
    labels = np.zeros((20, 31), np.int32)
    labels[:, :10], labels[:, 20:] = 3, 8
    thinned = thin_borders(labels)
    assert (thinned[:, :14] == 3).all()
    assert (thinned[:, 16:] == 8).all()
    assert set(np.unique(thinned)) == {3, 8}
    assert not thin_borders(np.zeros((3, 4), np.int32)).any()
    # wider borders cost almost nothing
    truth = cells(3)
    narrow = np.where(ndimage.binary_erosion(truth > 0), truth, 0)
    assert cluster_scores(truth, narrow).rand > 0.98


def test_cells_that_touch_at_corners() -> None:
    mask = np.array([[1, 0], [0, 1]], bool)
    assert label_objects(mask).max() == 1
    assert label_objects(mask, corners=False).max() == 2
