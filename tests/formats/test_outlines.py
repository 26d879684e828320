from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from plainunet.formats.coco import Labelled, paint_ids, read_outline

NAMES = ("background", "cell", "wall", "dust")


def box(left: float, top: float, right: float, bottom: float) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def paint(size: tuple[int, int], *objects: tuple[int, Any]) -> np.ndarray:
    labelled = [
        Labelled(f"annotation {n}", class_id, read_outline(raw, *size))
        for n, (class_id, raw) in enumerate(objects)
    ]
    return paint_ids(labelled, *size, NAMES)


def run_lengths(mask: np.ndarray) -> list[int]:
    """Column by column, the first run outside; written without pycocotools."""
    counts, inside = [0], False
    for pixel in mask.T.ravel().tolist():
        if pixel != inside:
            counts.append(0)
            inside = pixel
        counts[-1] += 1
    return counts


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.floats(0, 1),
    st.integers(0, 2**32 - 1),
)
def test_run_lengths_are_read_back(size: tuple[int, int], share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # runs of all lengths: noise on a few long stripes
    mask = (rng.random(size) < share) ^ (np.arange(size[1]) // 7 % 2 == 1)
    compressed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    for counts in (run_lengths(mask), compressed):
        ids = paint(size, (2, {"size": list(size), "counts": counts}))
        assert ids.dtype == np.uint8
        assert ids.shape == size
        assert (ids == 2 * mask).all()


def test_long_run_lengths_are_read_back() -> None:
    mask = np.zeros((3000, 2000), bool)
    mask[100:2900, 50] = mask[5, 1000:] = mask[-1, -1] = True
    code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert (paint(mask.shape, (1, {"size": [3000, 2000], "counts": code})) == mask).all()


def test_a_rectangle_covers_the_pixels_between_its_corners() -> None:
    expected = np.zeros((20, 30), np.uint8)
    expected[5:15, 10:20] = 1
    expected[0:4, 25:30] = 1  # a second polygon of the object, up to the picture's edge
    assert (paint((20, 30), (1, [box(10, 5, 20, 15), box(25, 0, 30, 4)])) == expected).all()


def test_a_polygon_is_filled_as_its_outline_says() -> None:
    corners = np.array([[50, 5], [95, 50], [50, 95], [5, 50]])
    y, x = np.mgrid[:100, :100] + 0.5
    inside = abs(x - 50) + abs(y - 50) < 45
    ids = paint((100, 100), (3, [corners.ravel().tolist()]))
    assert abs(int((ids == 3).sum()) - 2 * 45**2) < 100  # 180 pixels lie on the outline
    assert not (ids[abs(abs(x - 50) + abs(y - 50) - 45) > 1.5] == 3)[
        ~inside[abs(abs(x - 50) + abs(y - 50) - 45) > 1.5]
    ].any()
    assert (ids[abs(x - 50) + abs(y - 50) < 43.5] == 3).all()


def test_what_lies_outside_of_the_picture_is_cut_off() -> None:
    expected = np.zeros((20, 30), np.uint8)
    expected[:5, 20:] = 1
    assert (paint((20, 30), (1, [box(20, -8, 44, 5)])) == expected).all()


def test_objects_of_one_class_may_overlap() -> None:
    ids = paint((20, 30), (1, [box(0, 0, 20, 10)]), (1, [box(10, 0, 30, 10)]))
    assert (ids[:10] == 1).all()
    assert not ids[10:].any()


@pytest.mark.parametrize("order", [1, -1])
def test_where_neighbours_share_an_outline_the_smaller_lies_on_top(order: int) -> None:
    # a strip of 2 pixels is 10 % of the labelled ones, and does not count
    objects = [(1, [box(0, 0, 14, 20)]), (2, [box(12, 0, 20, 20)])]
    ids = paint((20, 30), *objects[::order])
    assert (ids[:, :12] == 1).all()
    assert (ids[:, 12:20] == 2).all()
    assert not ids[:, 20:].any()


def test_of_equal_objects_the_later_lies_on_top() -> None:
    ids = paint((20, 20), (1, [box(0, 0, 10, 20)]), (2, [box(8, 0, 18, 20)]))
    assert (ids[0] == [1] * 8 + [2] * 10 + [0] * 2).all()


def test_up_to_a_hundredth_may_overlap_more() -> None:
    wall = (2, [box(0, 0, 100, 50)])
    assert (paint((100, 100), wall, (1, [box(0, 0, 10, 5)])) == 1).sum() == 50
    with pytest.raises(ValueError, match=r"1\.2% .*at most 1%.* 60 pixels are both 'cell' and 'w"):
        paint((100, 100), wall, (1, [box(0, 0, 10, 6)]))


def test_classes_that_overlap_are_refused_with_those_most_involved() -> None:
    objects = [(1, box(0, 0, 50, 50)), (2, box(40, 0, 90, 50)), (3, box(10, 40, 20, 60))]
    with pytest.raises(ValueError, match=r"13\.0% of .* 500 pixels are both 'cell' and 'wall'"):
        paint((100, 100), *((class_id, [polygon]) for class_id, polygon in objects))


def test_an_outlined_background_counts_as_a_class() -> None:
    assert not paint((20, 20), (0, [box(0, 0, 20, 20)])).any()
    with pytest.raises(ValueError, match="both 'background' and 'cell'"):
        paint((20, 20), (0, [box(0, 0, 20, 20)]), (1, [box(0, 0, 9, 9)]))


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        ([[1, 2, 3, 4]], "polygon of 4 coordinates"),
        ([[1, 2, 3, 4, 5, 6, 7]], "polygon of 7 coordinates"),
        ([[]], "polygon of 0 coordinates"),
        ([1, 2, 3, 4, 5, 6], "neither a list of polygons"),
        ([["1", "2", "3", "4", "5", "6"]], "neither a list of polygons"),
        ([[1, 2, 3, 4, 5, None]], "neither a list of polygons"),
        ([[[1, 2], [3, 4], [5, 6]]], "neither a list of polygons"),
        ([[1, 2, 3, [4, 5], 6, 7]], "neither a list of polygons"),
        ([[1, 2, 3, 4, 5, 10**400]], "neither a list of polygons"),
        ("outline", "neither a list of polygons"),
        (7, "neither a list of polygons"),
        ([[1, 2, 3, 4, 5, float("nan")]], "coordinates from nan"),
        ([[1, 2, 3, 4, 5, float("inf")]], "to inf"),
        ([[1, 2, 3, 4, 5, 1e300]], r"to 1e\+300"),
        ([box(-1e9, 0, 5, 5)], "coordinates from -1e"),
        ([box(31, 0, 35, 5)], "outside of the picture: x from 31 to 35"),
        ([box(0, -9, 5, -2)], "outside of the picture"),
        ({"size": [30, 20], "counts": [600]}, r"size \[30, 20\], its image has \[20, 30\]"),
        ({"counts": [600]}, "size None"),
        ({"size": "big", "counts": [600]}, "size 'big'"),
        ({"size": [20, 30]}, "neither plain text nor a list"),
        ({"size": [20, 30], "counts": [1.5, 2]}, "neither plain text nor a list"),
        ({"size": [20, 30], "counts": "ü"}, "neither plain text nor a list"),
        ({"size": [20, 30], "counts": []}, "neither plain text nor a list"),
        ({"size": [20, 30], "counts": [100, 20]}, "for 120 pixels, .* 600"),
        ({"size": [20, 30], "counts": [700, -100]}, "run below 0"),
        ({"size": [20, 30], "counts": [2**62, 2**62, 2**62, 2**62, 600]}, "longer than"),
        ({"size": [20, 30], "counts": ""}, "damaged or cut off"),
        ({"size": [20, 30], "counts": "a b"}, "damaged or cut off"),
        ({"size": [20, 30], "counts": "PPPo"}, "damaged or cut off"),
        ({"size": [20, 30], "counts": "o" * 100 + "0"}, "too large"),
    ],
)
def test_a_wrong_outline_is_refused(raw: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        paint((20, 30), (1, raw))


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=60))
def test_any_text_is_read_or_refused(code: str) -> None:
    try:
        ids = paint((20, 30), (1, {"size": [20, 30], "counts": code}))
    except ValueError:
        return
    again = coco_mask.decode({"size": [20, 30], "counts": code.encode()})
    assert (ids == again).all()
