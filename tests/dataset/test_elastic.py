from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from plainunet.dataset.augment import Elastic, displacements


def maps(elastic: Elastic, shape: tuple[int, ...], seed: int) -> dict[str, NDArray[np.float32]]:
    elastic.set_random_seed(seed)
    return elastic.get_params_dependent_on_data({"shape": shape}, {})


@pytest.mark.parametrize("size", [(41, 61), (101, 7), (3, 3)])
def test_nodes_have_what_was_drawn(size: tuple[int, int]) -> None:
    nodes = np.random.default_rng(0).normal(0, 10, (3, 3))
    field = displacements(nodes, size)
    assert field.shape == size
    assert field.dtype == np.float32
    rows, columns = (np.arange(3) * (side - 1) // 2 for side in size)
    assert np.allclose(field[np.ix_(rows, columns)], nodes, atol=1e-4)


def test_equal_displacements_shift_the_whole_picture() -> None:
    assert np.allclose(displacements(np.full((3, 3), 4.5), (20, 31)), 4.5)
    for size in [(1, 1), (1, 9), (2, 2)]:
        assert np.isfinite(displacements(np.ones((3, 3)), size)).all()


def test_bicubic_between_nodes() -> None:
    """Against SciPy's convolution of the same nodes with Keys' kernel, sampled finely."""
    nodes = np.random.default_rng(1).normal(0, 10, (3, 3))
    steps = 16
    t = np.abs(np.arange(-2 * steps, 2 * steps + 1) / steps)
    kernel = np.where(t < 1, 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2)
    padded = np.pad(nodes, 3, mode="edge")
    sparse = np.zeros([steps * (side - 1) + 1 for side in padded.shape])
    sparse[::steps, ::steps] = padded
    smooth = ndimage.convolve1d(ndimage.convolve1d(sparse, kernel, axis=0), kernel, axis=1)
    inner = smooth[3 * steps : -3 * steps, 3 * steps : -3 * steps]
    assert np.allclose(displacements(nodes, (33, 33)), inner, atol=1e-4)


def test_field_is_smooth() -> None:
    field = displacements(np.random.default_rng(2).normal(0, 10, (3, 3)), (257, 257))
    span = 2 * np.abs(field).max()
    for axis in (0, 1):
        slope = np.diff(field, axis=axis)
        # between nodes 128 pixels apart; no step, and no kink at the middle node either
        assert np.abs(slope).max() < 2 * span / 128
        assert np.abs(np.diff(slope, axis=axis)).max() < 12 * span / 128**2


def test_nothing_folds_where_the_deviation_is_small_beside_the_picture() -> None:
    """A sixteenth of the side; docs/borders.md says a twelfth, where one in 200 may."""
    elastic = Elastic(4, cv2.INTER_LINEAR)
    for seed in range(100):
        field = maps(elastic, (64, 64, 3), seed)
        (x_down, x_across), (y_down, y_across) = map(np.gradient, field.values())
        assert (x_across * y_down - x_down * y_across).min() > 0


def test_displacements_have_the_deviation_asked_for() -> None:
    elastic = Elastic(10, cv2.INTER_LINEAR)
    drawn = []
    for seed in range(600):
        field = maps(elastic, (9, 13, 3), seed)
        x, y = field["map_x"] - np.arange(13), field["map_y"] - np.arange(9)[:, None]
        drawn.append([x[::4, ::6], y[::4, ::6]])
    nodes = np.array(drawn)  # [600, 2, 3, 3]
    # 600 draws: a standard error of 3 % each, 0.7 % over all 18
    assert np.abs(nodes.std(axis=0) - 10).max() < 1.2
    assert abs(nodes.std() - 10) < 0.3
    assert np.abs(nodes.mean(axis=0)).max() < 1.7
    # each drawn on its own
    correlation = np.corrcoef(nodes.reshape(600, 18).T) - np.eye(18)
    assert np.abs(correlation).max() < 0.2


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_image_and_mask_move_alike(channels: int, dtype: Any) -> None:
    random = np.random.default_rng(0)
    image = random.random((40, 56, channels)) * (255 if dtype == np.uint8 else 1)
    image = cv2.GaussianBlur(image, (0, 0), 2).reshape(image.shape).astype(dtype)
    compose = A.Compose([Elastic(6, cv2.INTER_LINEAR)])
    compose.set_random_seed(3)
    changed = compose(image=image, mask=image)
    assert (changed["image"].shape, changed["image"].dtype) == (image.shape, dtype)
    assert np.array_equal(changed["image"], changed["mask"])
    assert not np.array_equal(changed["image"], image)


def test_pixels_come_from_where_the_maps_say() -> None:
    rows, columns = np.mgrid[:64, :80].astype(np.float32)
    image = np.stack([rows, columns], axis=2) / 100
    elastic = Elastic(3, cv2.INTER_LINEAR)
    where = maps(elastic, image.shape, 5)
    elastic.set_random_seed(5)
    moved = elastic(image=image)["image"] * 100
    inside = (
        (where["map_x"] >= 0)
        & (where["map_x"] <= 79)
        & (where["map_y"] >= 0)
        & (where["map_y"] <= 63)
    )
    assert inside.mean() > 0.8
    # OpenCV reads between pixels in steps of 1/32
    assert np.abs(moved[..., 0] - where["map_y"])[inside].max() < 0.04
    assert np.abs(moved[..., 1] - where["map_x"])[inside].max() < 0.04
    # beyond the outline the picture is mirrored about its outermost pixels
    above = where["map_y"] < 0
    assert above.any() or (where["map_y"] > 63).any() or (where["map_x"] < 0).any()
    assert np.abs(moved[..., 0] - np.abs(where["map_y"]))[above].max(initial=0) < 0.04


def test_numbers_of_objects_are_not_mixed() -> None:
    labels = np.zeros((40, 56, 1), np.uint16)
    labels[5:20, 5:20], labels[20:33, 20:50] = 300, 65535
    for seed in range(10):
        elastic = Elastic(8, cv2.INTER_NEAREST)
        elastic.set_random_seed(seed)
        moved = elastic(image=np.zeros((40, 56, 1), np.uint8), mask=labels)["mask"]
        assert moved.dtype == np.uint16
        assert set(np.unique(moved)) <= {0, 300, 65535}
