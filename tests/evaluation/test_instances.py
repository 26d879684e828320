import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from skimage.metrics import adapted_rand_error, variation_of_information

from plainunet.evaluation.metrics import (
    THRESHOLDS,
    Found,
    keep_together,
    match_objects,
    number_objects,
    thin_borders,
)

Labels = NDArray[np.int32]


def cells(seed: int, size: tuple[int, int] = (80, 110), level: float = 0.52) -> Labels:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random(size), 3)
    return number_objects(noise > level, corners=False)


def disturbed(labels: Labels, seed: int) -> Labels:
    """Some objects gone, some merged, some moved, and one more."""
    random = np.random.default_rng(seed)
    changed = labels.copy()
    changed[:, :60] = np.roll(labels, 1, axis=0)[:, :60]
    changed[np.isin(changed, random.choice(labels.max(), 3) + 1)] = 0
    changed[changed == 2] = 1
    changed[-6:, -9:] = labels.max() + 5
    return changed


def by_loops(truth: Labels, prediction: Labels) -> Found:
    """As Kaggle's Data Science Bowl 2018 counts: object by object."""
    numbers, others = (sorted(set(each[each > 0].tolist())) for each in (truth, prediction))
    hits = []
    for threshold in THRESHOLDS:
        found = 0
        for number in numbers:
            for other in others:
                a, b = truth == number, prediction == other
                found += (a & b).sum() / (a | b).sum() > threshold
        hits.append(found)
    return Found(np.array(hits), len(numbers), len(others))


@pytest.mark.parametrize("seed", range(5))
def test_matches_are_those_of_loops_over_all_objects(seed: int) -> None:
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


def test_an_overlap_of_exactly_the_threshold_is_not_enough() -> None:
    truth, prediction = np.zeros((4, 8), np.int32), np.zeros((4, 8), np.int32)
    truth[0, :4], prediction[0, :2] = 1, 7
    assert match_objects(truth, prediction).hits.tolist() == [0] * 10
    prediction[0, 2] = 7  # three of four
    assert match_objects(truth, prediction).hits.tolist() == [1] * 5 + [0] * 5


def test_pictures_add_up_and_nothing_is_no_score() -> None:
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


def test_numbers_may_have_gaps_and_be_large() -> None:
    truth = cells(1)
    prediction = disturbed(truth, 1)
    found = match_objects(truth * 5000, np.where(prediction, prediction + 60_000, 0))
    assert found.hits.tolist() == match_objects(truth, prediction).hits.tolist()


@pytest.mark.parametrize("seed", range(6))
def test_staying_together_is_what_scikit_image_says(seed: int) -> None:
    truth = cells(seed, (160, 220))
    prediction = thin_borders(disturbed(truth, seed))
    found = keep_together(truth, prediction)
    error, _, _ = adapted_rand_error(truth, prediction, ignore_labels=(0,))
    # scikit-image draws two different pixels, the challenge two that may be the same
    assert found.rand == pytest.approx(1 - error, abs=1e-3)
    inside = truth > 0
    # the entropies of each, given the other
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


def test_rand_s_score_is_that_of_all_pairs_of_pixels() -> None:
    truth = cells(2, (12, 14), 0.5)
    prediction = thin_borders(number_objects(cells(3, (12, 14), 0.5) > 0))
    t, p = truth[truth > 0], prediction[truth > 0]
    same_true, same_predicted = t[:, None] == t[None], p[:, None] == p[None]
    assert 0 < same_true.mean() < 1
    recall = (same_true & same_predicted).sum() / same_true.sum()
    precision = (same_true & same_predicted).sum() / same_predicted.sum()
    wanted = 2 * precision * recall / (precision + recall)
    assert keep_together(truth, prediction).rand == pytest.approx(wanted)


def test_known_figures_of_staying_together() -> None:
    truth = np.repeat(np.array([[1, 2]], np.int32), 50, axis=1)  # halves
    assert keep_together(truth, truth) == pytest.approx((1, 1))
    merged = keep_together(truth, np.ones_like(truth))
    assert merged.rand == pytest.approx(2 * 0.5 / (0.5 + 1.0))
    assert merged.information == pytest.approx(0, abs=1e-9)
    one = np.ones_like(truth)
    assert keep_together(one, one) == pytest.approx((1, 1))
    assert keep_together(one, np.zeros_like(one)) == pytest.approx((1, 1))  # all in one, if in none
    assert all(map(math.isnan, keep_together(np.zeros_like(one), one)))


def test_borders_go_to_the_nearest_object() -> None:
    labels = np.zeros((20, 31), np.int32)
    labels[:, :10], labels[:, 20:] = 3, 8
    thinned = thin_borders(labels)
    assert (thinned[:, :14] == 3).all()
    assert (thinned[:, 16:] == 8).all()
    assert set(np.unique(thinned)) == {3, 8}
    assert not thin_borders(np.zeros((3, 4), np.int32)).any()
    # a border twice as wide costs nothing
    truth = cells(3)
    narrow = np.where(ndimage.binary_erosion(truth > 0), truth, 0)
    assert keep_together(truth, narrow).rand > 0.98


def test_cells_that_touch_at_corners_are_two_or_one() -> None:
    mask = np.array([[1, 0], [0, 1]], bool)
    assert number_objects(mask).max() == 1
    assert number_objects(mask, corners=False).max() == 2
