import cv2
import numpy as np
import pytest

from plainunet.doctor.alignment import (
    best_shift,
    edge_fit,
    edge_length,
    mask_edges,
    picture_edges,
    reduce_image,
    shrink_edges,
    turn_edges,
)
from plainunet.formats.encoded import turn_upright

SIZE = (60, 90)


def shape(turned: float = 30.0) -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    cv2.ellipse(mask, (40, 30), (22, 12), turned, 0, 360, 1, -1)
    return mask


def picture_of(mask: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 4, (*mask.shape, 3))
    return (60 + 120 * mask[..., None] + noise).clip(0, 255).astype(np.uint8)


def test_a_mask_fits_its_own_picture_and_no_other() -> None:
    mask = mask_edges(shape(), SIZE)
    own = edge_fit(picture_edges(picture_of(shape()), SIZE), mask)
    other = edge_fit(picture_edges(picture_of(shape(120)), SIZE), mask)
    noise = np.random.default_rng(1).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    chance = edge_fit(picture_edges(noise, SIZE), mask)
    assert own > 0.4
    assert own > 3 * other
    assert abs(chance) < 0.1


def test_brightness_does_not_matter() -> None:
    picture = picture_of(shape())
    wanted = picture_edges(picture, SIZE)
    for other in (255 - picture, picture // 2, picture.astype(np.uint16) * 257):
        assert edge_fit(picture_edges(other, SIZE), mask_edges(shape(), SIZE)) == pytest.approx(
            edge_fit(wanted, mask_edges(shape(), SIZE)), rel=0.1
        )


def test_border_length_is_that_of_the_outline() -> None:
    mask = np.zeros(SIZE, np.uint8)
    mask[10:50, 20:70] = 1
    # the blurred edge is a few pixels wide: a fixed number of times the outline
    small = np.zeros(SIZE, np.uint8)
    small[20:40, 30:55] = 1
    ratio = edge_length(mask_edges(mask, SIZE)) / edge_length(mask_edges(small, SIZE))
    assert ratio == pytest.approx(180 / 90, rel=0.1)
    assert edge_length(mask_edges(np.zeros(SIZE, np.uint8), SIZE)) == 0


def test_what_is_ignored_has_no_border() -> None:
    mask = np.zeros(SIZE, np.uint8)
    mask[:, 45:] = 255
    assert edge_length(mask_edges(mask, SIZE)) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("turn", range(1, 9))
def test_edges_turn_with_their_picture(turn: int) -> None:
    picture = picture_of(shape())
    turned = turn_upright(picture, turn)
    wanted = picture_edges(turned, turned.shape[:2])
    found = turn_edges(picture_edges(picture, SIZE), turn)
    np.testing.assert_allclose(found, wanted, atol=2e-3)


@pytest.mark.parametrize("shift", [(0, 0), (5, -3), (-4, 6)])
def test_the_shift_is_found(shift: tuple[int, int]) -> None:
    dx, dy = shift
    moved = np.roll(shape(), (-dy, -dx), axis=(0, 1))
    picture = picture_edges(picture_of(shape()), SIZE)
    (right, down), fit, _ = best_shift(picture, mask_edges(moved, SIZE), reach=8)
    assert (right, down) == pytest.approx((dx, dy), abs=0.6)
    assert fit > 0.3


def test_small_maps_say_the_same() -> None:
    picture, mask = picture_edges(picture_of(shape()), SIZE), mask_edges(shape(), SIZE)
    maps = [shrink_edges(each, 1000) for each in (picture, mask)]
    assert maps[0].dtype == np.int8
    assert maps[0].shape[0] * maps[0].shape[1] <= 1100
    assert edge_fit(*maps) == pytest.approx(edge_fit(picture, mask), rel=0.25)


def test_any_numbers_and_channels_are_reduced() -> None:
    image = np.arange(80 * 60 * 7).reshape(80, 60, 7)
    for dtype in (np.uint16, np.int32, np.float64):
        small = reduce_image(image.astype(dtype), (20, 15))
        assert (small.shape, small.dtype) == ((20, 15, 7), np.float32)
        whole = image.reshape(20, 4, 15, 4, 7).mean(axis=(1, 3))
        np.testing.assert_allclose(small, whole, rtol=1e-3, atol=1)
