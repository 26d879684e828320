"""Objects of a mask; removal of small objects and filling of holes."""

import numpy as np
import pytest
from numpy.typing import NDArray

from plainunet.prediction.objects import fill_holes, find_objects, remove_small


def read(text: str) -> NDArray[np.uint8]:
    """A mask from digits; "." is 0."""
    lines = text.split()
    return np.array([[int(c) for c in line.replace(".", "0")] for line in lines], np.uint8)


MASK = read(
    """
    11...2
    11..2.
    ..1...
    .....1
    222..1
    2.2...
    222...
    """
)


def test_objects_touch_along_a_side_or_at_a_corner() -> None:
    labels, objects = find_objects(MASK)
    assert [(each.class_id, each.area) for each in objects] == [(1, 5), (1, 2), (2, 2), (2, 8)]
    assert [each.number for each in objects] == [1, 2, 3, 4]
    assert objects[0].box == (0, 0, 3, 3)
    assert objects[3].centroid == (1, 5)
    for each in objects:
        own = labels == each.number
        assert own.sum() == each.area
        assert (MASK[own] == each.class_id).all()
    assert ((labels == 0) == (MASK == 0)).all()


def test_a_mask_without_objects() -> None:
    labels, objects = find_objects(np.zeros((3, 4), np.uint8))
    assert objects == []
    assert not labels.any()


def test_small_objects_get_the_class_around_them() -> None:
    mask = np.zeros((9, 12), np.uint8)
    mask[:, 6:] = 2
    mask[1:3, 1:3] = 1  # in background
    mask[4:6, 8:10] = 1  # in class 2
    mask[0, 11] = 3  # at the edge
    wanted = np.zeros((9, 12), np.uint8)
    wanted[:, 6:] = 2
    assert np.array_equal(remove_small(mask, 5), wanted)
    wanted[1:3, 1:3] = wanted[4:6, 8:10] = 1
    assert np.array_equal(remove_small(mask, 4), wanted)
    assert np.array_equal(remove_small(mask, 1), mask)


def test_a_small_object_that_fills_the_mask_becomes_background() -> None:
    assert not remove_small(np.ones((2, 2), np.uint8), 5).any()


def test_holes_get_the_class_around_them() -> None:
    filled = fill_holes(MASK, 1)
    assert filled[5, 1] == 2
    assert (filled != MASK).sum() == 1


@pytest.mark.parametrize(
    ("text", "most", "is_filled"),
    [
        ("111111 1....1 1....1 111111", 7, False),
        ("111111 1....1 1....1 111111", 8, True),
        ("111 1.1 1.1", 100, False),  # it reaches the edge
        ("1111 1.11 11.1 1111", 1, True),  # two holes: holes are 4-connected
    ],
)
def test_definition_of_a_hole(text: str, most: int, is_filled: bool) -> None:
    mask = read(text)
    assert np.array_equal(fill_holes(mask, most), np.ones_like(mask) if is_filled else mask)


@pytest.mark.parametrize("seed", range(3))
def test_exactly_the_small_objects_are_removed(seed: int) -> None:
    mask = (np.random.default_rng(seed).random((60, 70)) < 0.3).astype(np.uint8)
    labels, objects = find_objects(mask)
    cleaned = remove_small(mask, 6)
    for each in objects:
        assert cleaned[labels == each.number].all() == (each.area >= 6)
    assert not cleaned[mask == 0].any()


@pytest.mark.parametrize("seed", range(4))
def test_no_small_object_of_any_class_is_left(seed: int) -> None:
    mask = np.random.default_rng(seed).integers(0, 4, (40, 50), np.uint8)
    cleaned = remove_small(mask, 12)
    assert all(each.area >= 12 for each in find_objects(cleaned)[1])
    assert (cleaned > 0).mean() > 0.3
