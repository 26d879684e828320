import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from plainunet.evaluation.metrics import BINS, calibration, count_probabilities, threshold_curve


def draw(
    seed: int, size: tuple[int, int] = (40, 50)
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    random = np.random.default_rng(seed)
    truth = (random.random(size) < 0.3).astype(np.uint8)
    p = np.clip(0.25 + 0.5 * truth + random.normal(0, 0.25, size), 0, 1)
    # away from the edges of hundredths, which rounding would move
    p = ((p * 99.99).astype(int) + 0.5) / 100
    truth[:3] = 255
    return truth, np.stack([1 - p, p]).astype(np.float32)


def dice(truth: NDArray[np.uint8], mask: NDArray[np.bool_]) -> float:
    valid = truth != 255
    inside = (truth == 1) & valid
    return float(2 * (inside & mask).sum() / (inside.sum() + (mask & valid).sum()))


def test_the_curve_is_the_dice_of_each_threshold() -> None:
    pictures = [draw(seed) for seed in range(4)]
    curve = threshold_curve(np.stack([count_probabilities(*each) for each in pictures]))
    assert len(curve["thresholds"]) == BINS - 1
    for threshold in (0.01, 0.3, 0.5, 0.77, 0.99):
        at = curve["thresholds"].index(threshold)
        masks = [p[1] >= threshold for _, p in pictures]
        scores = [dice(t, m) for (t, _), m in zip(pictures, masks, strict=True)]
        assert curve["per_image_dice"][at] == pytest.approx(np.mean(scores))
        joined = dice(np.concatenate([t for t, _ in pictures]), np.concatenate(masks).astype(bool))
        assert curve["pooled_dice"][at] == pytest.approx(joined)
    best = int(np.argmax(curve["pooled_dice"]))
    assert 0.4 < curve["thresholds"][best] < 0.7


def test_pictures_without_the_class_are_left_out_where_it_is_not_given_either() -> None:
    truth, p = draw(0)
    empty = np.zeros_like(truth)
    nothing = np.stack([np.full(truth.shape, 0.65), np.full(truth.shape, 0.35)]).astype(np.float32)
    curve = threshold_curve(
        np.stack([count_probabilities(truth, p), count_probabilities(empty, nothing)])
    )
    alone = threshold_curve(count_probabilities(truth, p)[None])
    assert curve["per_image_dice"][49] == pytest.approx(alone["per_image_dice"][49])
    assert curve["per_image_dice"][9] == pytest.approx(alone["per_image_dice"][9] / 2)


@pytest.mark.parametrize("classes", [2, 4])
def test_calibration_is_that_of_loops(classes: int) -> None:
    random = np.random.default_rng(classes)
    logits = random.normal(0, 2, (classes, 60, 70))
    p = (np.exp(logits) / np.exp(logits).sum(axis=0)).astype(np.float32)
    truth = random.integers(0, classes, (60, 70)).astype(np.uint8)
    easy = random.random(truth.shape) < 0.6
    truth[easy] = p.argmax(axis=0)[easy]
    truth[0] = 255
    found = calibration(count_probabilities(truth, p), classes)
    sure, given = p.max(axis=0)[1:].ravel(), p.argmax(axis=0)[1:].ravel()
    right = given == truth[1:].ravel()
    assert sum(found["pixels"]) == right.size
    error = 0.0
    for step in range(10):
        inside = (sure >= step / 10) & (sure < (step + 1) / 10)
        # bins of the second class's probability p hold 1 - p as well, whose edges are closed above
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
    truth, p = draw(3)
    whole = count_probabilities(truth, p)
    parts = [count_probabilities(truth[a:b], p[:, a:b]) for a, b in ((0, 7), (7, 30), (30, 40))]
    np.testing.assert_array_equal(np.sum(parts, axis=0), whole)
    assert whole.sum() == (truth != 255).sum()


def test_the_error_of_calibration_is_torchmetrics_s() -> None:
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
