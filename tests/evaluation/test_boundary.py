import math
import warnings

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from plainunet.evaluation.metrics import BAND, NOTHING, TOLERANCE, boundary_scores, compare

Mask = NDArray[np.bool_]


def blobs(seed: int, size: tuple[int, int] = (60, 83)) -> Mask:
    noise = np.random.default_rng(seed).random(size)
    return ndimage.gaussian_filter(noise, 4) > 0.5


def outline(mask: Mask) -> list[tuple[int, int]]:
    """By its definition, pixel by pixel."""
    found = []
    for y, x in zip(*np.nonzero(mask), strict=True):
        beside = ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1))
        inside = [0 <= a < mask.shape[0] and 0 <= b < mask.shape[1] for a, b in beside]
        if not all(ok and mask[at] for ok, at in zip(inside, beside, strict=True)):
            found.append((int(y), int(x)))
    return found


def nearest(points: list[tuple[int, int]], others: list[tuple[int, int]]) -> NDArray[np.float64]:
    return np.array([min(math.dist(point, other) for other in others) for point in points])


def band(mask: Mask, depth: int) -> Mask:
    padded = np.pad(mask, depth)
    inner = np.ones_like(mask)
    for dy in range(2 * depth + 1):
        for dx in range(2 * depth + 1):
            inner &= padded[dy : dy + mask.shape[0], dx : dx + mask.shape[1]]
    return mask & ~inner


@pytest.mark.parametrize("seed", range(4))
def test_scores_are_those_of_a_brute_force_loop(seed: int) -> None:
    truth, prediction = blobs(seed), blobs(seed + 100)
    found = compare(truth, prediction)
    first, second = outline(truth), outline(prediction)
    there, back = nearest(first, second), nearest(second, first)
    both = np.concatenate([there, back])
    assert found.hd95 == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)))
    assert found.distance == pytest.approx(both.mean())
    assert found.surface_dice == pytest.approx((both <= TOLERANCE).mean())
    depth = round(BAND * math.hypot(*truth.shape))
    assert depth == 2
    a, b = band(truth, depth), band(prediction, depth)
    assert found.boundary_iou == pytest.approx((a & b).sum() / (a | b).sum())
    assert 0 < found.surface_dice < 1


@pytest.mark.parametrize("seed", range(3))
def test_distances_are_scipy_s(seed: int) -> None:
    truth, prediction = blobs(seed, (200, 150)), blobs(seed + 9, (200, 150))
    edges = [mask & ~ndimage.binary_erosion(mask) for mask in (truth, prediction)]
    to = [ndimage.distance_transform_edt(~edge) for edge in edges]
    there, back = to[1][edges[0]], to[0][edges[1]]
    found = compare(truth, prediction)
    assert found.hd95 == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)))
    assert found.distance == pytest.approx(np.concatenate([there, back]).mean())


def test_known_figures() -> None:
    square = np.zeros((100, 100), bool)
    square[20:60, 20:60] = True
    same = compare(square, square)
    assert same == (0.0, 0.0, 1.0, 1.0)
    moved = compare(square, np.roll(square, 3, axis=1))
    assert moved.hd95 == 3.0
    # two of four sides are 3 pixels off; the others lie on each other but for their ends
    assert 1.2 < moved.distance < 1.8
    assert 0.45 < moved.surface_dice < 0.55
    by_two = compare(square, np.roll(square, 2, axis=1))
    assert by_two.surface_dice == 1.0
    assert by_two.boundary_iou < 1.0


def test_a_class_in_one_mask_alone_is_as_far_as_the_picture_is_across() -> None:
    square = np.zeros((30, 40), bool)
    nothing = square.copy()
    square[5:9, 5:9] = True
    assert compare(square, nothing) == (50.0, 50.0, 0.0, 0.0)
    assert compare(nothing, square) == (50.0, 50.0, 0.0, 0.0)
    assert all(map(math.isnan, compare(nothing, nothing)))


def test_each_class_but_the_first_and_ignored_pixels_are_in_none() -> None:
    truth = np.zeros((40, 50), np.uint8)
    truth[5:15, 5:15], truth[20:30, 20:35] = 1, 2
    prediction = truth.copy()
    truth[:, 40:] = 255
    prediction[3:33, 41:49] = 1  # does not count
    assert boundary_scores(truth, prediction, 4) == [
        (0.0, 0.0, 1.0, 1.0),
        (0.0, 0.0, 1.0, 1.0),
        NOTHING,
    ]
    prediction[20:30, 20:35] = 3
    one, two, three = boundary_scores(truth, prediction, 4)
    assert one == (0.0, 0.0, 1.0, 1.0)
    assert two == three == (math.hypot(40, 50), math.hypot(40, 50), 0.0, 0.0)


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (30, 1), (3, 4)])
def test_the_smallest_pictures(shape: tuple[int, int]) -> None:
    whole = np.ones(shape, bool)
    assert compare(whole, whole) == (0.0, 0.0, 1.0, 1.0)


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_monai_s(seed: int) -> None:
    with warnings.catch_warnings(action="ignore"):
        from monai.metrics import (
            compute_average_surface_distance,
            compute_hausdorff_distance,
            compute_surface_dice,
        )

        truth, prediction = blobs(seed, (90, 120)), blobs(seed + 7, (90, 120))
        # [N, classes, H, W], the background first
        one, two = (
            torch.from_numpy(np.stack([~mask, mask])[None]).float() for mask in (prediction, truth)
        )
        hd95 = compute_hausdorff_distance(one, two, percentile=95)
        distance = compute_average_surface_distance(one, two, symmetric=True)
        surface_dice = compute_surface_dice(one, two, [TOLERANCE])
    found = compare(truth, prediction)
    assert found.hd95 == pytest.approx(hd95.item(), rel=1e-5)
    assert found.distance == pytest.approx(distance.item(), rel=1e-5)
    assert found.surface_dice == pytest.approx(surface_dice.item(), rel=1e-5)
