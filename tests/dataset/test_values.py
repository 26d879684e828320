from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plainunet.dataset.coding import Census, Meaning, find_values, list_values


def census(*masks: dict[int, int], deep: bool = False) -> Census:
    """Masks given as {value: pixels}; the first is a.png, then b.png, and so on."""
    counted = Census()
    for number, mask in enumerate(masks):
        counts = np.zeros(max(mask) + 1, np.int64)
        counts[list(mask)] = list(mask.values())
        counted.add(Path(f"{chr(97 + number)}.png"), counts, deep)
    return counted


def test_census_adds_up() -> None:
    counted = census({0: 5, 7: 1}, {0: 5}, {7: 2, 255: 3, 1: 1}, deep=True)
    assert counted.pixels[[0, 1, 7, 255]].tolist() == [10, 1, 3, 3]
    assert counted.files[[0, 1, 7, 255]].tolist() == [2, 1, 2, 1]
    assert counted.first[[0, 1, 7, 255]].tolist() == [0, 2, 0, 2]
    assert counted.distinct == [2, 1, 3]
    assert counted.with_both == 1
    assert counted.place(7) == "3 pixels in a.png and 1 more mask"
    assert counted.place(255) == "3 pixels in c.png"


@pytest.mark.parametrize(
    ("masks", "num_classes", "ignore", "wanted"),
    [
        ([{0: 9, 255: 9}], None, None, Meaning((0, 255), None, "two values")),
        ([{0: 9}, {255: 9}], None, None, Meaning((0, 255), None, "two values")),
        ([{0: 9, 1: 9}], None, None, Meaning((0, 1), None, "ids")),
        ([{0: 9, 1: 9}], 2, None, Meaning((0, 1), None, "ids")),
        ([{3: 9, 90: 9}], None, None, Meaning((3, 90), None, "two values")),
        ([{0: 9, 1: 9, 2: 9}], None, None, Meaning((0, 1, 2), None, "ids")),
        ([{0: 9, 1: 9, 2: 9, 255: 2}], None, None, Meaning((0, 1, 2), 255, "ids")),
        ([{0: 9, 1: 9, 255: 2}], None, None, Meaning((0, 1), 255, "ids")),
        ([{0: 9, 1: 9, 255: 99}], None, 255, Meaning((0, 1), 255, "ids")),
        ([{0: 9, 1: 9, 11: 2}], None, 11, Meaning((0, 1), 11, "ids")),
        ([{0: 9, 2: 9}], 3, None, Meaning((0, 1, 2), None, "ids")),
        ([{0: 9, 2: 9, 255: 1}], 3, None, Meaning((0, 1, 2), 255, "ids")),
        ([{0: 9, 1: 9, 2: 9, 3: 9}], None, 0, Meaning((1, 2, 3), 0, "ids")),
        ([dict.fromkeys(range(64), 9)], None, None, Meaning(tuple(range(64)), None, "ids")),
        ([dict.fromkeys(range(99), 9)], 99, None, Meaning(tuple(range(99)), None, "ids")),
        ([dict.fromkeys([0, 300, 70], 9)] * 30, 2, 70, Meaning((0, 300), 70, "two values")),
    ],
)
def test_meaning(
    masks: list[dict[int, int]], num_classes: int | None, ignore: int | None, wanted: Meaning
) -> None:
    assert find_values(census(*masks), num_classes, ignore) == wanted


def test_many_values_in_sixteen_bits_are_objects_and_few_are_classes() -> None:
    busy = dict.fromkeys([0, *range(20, 40)], 9)
    assert find_values(census(busy, busy, {0: 9}, deep=True), None, None).kind == "instances"
    few = dict.fromkeys(range(5), 9)
    values, ignore, kind, note = find_values(census(few, few, deep=True), None, None)
    assert (values, ignore, kind) == (tuple(range(5)), None, "ids")
    assert "16-bit masks hold 0, 1, 2, 3, 4" in note
    assert "--encoding instances" in note
    assert find_values(census(few, few, deep=True), 5, None).note == ""


@pytest.mark.parametrize("num_classes", [None, 2])
def test_many_values_in_8_bits_are_not_guessed_at(num_classes: int | None) -> None:
    masks = [dict.fromkeys(range(66), 9)]
    deep = find_values(census(*masks, deep=True), num_classes, None)
    assert deep == Meaning((0, 1), None, "instances")
    with pytest.raises(
        ValueError, match=r"66 values in 8 bits.*--encoding threshold.*--encoding instances"
    ):
        find_values(census(*masks), num_classes, None)


@given(k=st.integers(2, 64), void=st.booleans())
def test_dense_ids_mean_themselves(k: int, void: bool) -> None:
    mask = dict.fromkeys(range(k), 100) | ({255: 10} if void else {})
    meaning = find_values(census(mask), None, None)
    assert meaning == Meaning(tuple(range(k)), 255 if void else None, "ids")


@pytest.mark.parametrize(
    ("masks", "num_classes", "ignore", "message"),
    [
        ([{0: 9}, {0: 9}], None, None, r"All 2 masks hold only the value 0, .* a\.png"),
        ([{11: 9}], None, 11, "only the ignored value 11"),
        ([], None, None, "There are no masks"),
        ([{0: 9, 255: 9}, {0: 9, 255: 9, 7: 3}], None, None, r"7 .* 0, 255: 3 pixels in b\.png"),
        ([{0: 9, 1: 9}, {0: 9, 1: 9, 7: 3}], None, None, r"7 .* 0, 1: 3 pixels in b\.png\."),
        ([{0: 9, 1: 9, 3: 9}], None, None, r"3 does not fit beside 0, 1.*--classes"),
        ([{0: 9, 1: 9, 2: 9}], 2, None, r"2 does not fit beside 0, 1:"),
        ([{0: 9, 1: 9, 2: 9, 7: 4}], 3, None, r"7 does not fit beside 0, 1, 2:"),
        ([{0: 9, 128: 4, 255: 9}], None, None, r"128 does not fit beside 0, 255"),
        ([{0: 90, 1: 2, 3: 1, 255: 50}], None, None, "3 does not fit beside 0, 255"),
        ([{1: 9, 2: 9, 3: 9}], None, None, "does not fit beside"),
        ([{0: 9, 255: 9}], 3, None, "255 does not fit beside 0, 1, 2"),
        ([{0: 9, 1: 9, 2: 9, 255: 9}], None, 99, "255 does not fit beside 0, 1, 2"),
        ([dict.fromkeys(range(300), 9)], None, 0, "299 classes, and at most 255"),
        ([{0: 9, 1: 9}], 1, None, "num_classes is 1; it must be from 2 to 255"),
        ([{0: 9, 1: 9}], 256, None, "num_classes is 256"),
    ],
)
def test_nonsense_is_named(
    masks: list[dict[int, int]], num_classes: int | None, ignore: int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        find_values(census(*masks), num_classes, ignore)


@pytest.mark.parametrize("num_classes", [None, 2])
@pytest.mark.parametrize(
    "masks",
    [
        # the foreground is 1 in one mask and 255 in the other
        [{0: 90, 1: 20}, {0: 90, 255: 10}],
        # one pixel of 1 astray in masks of 0 and 255
        [{0: 90, 255: 50}, {0: 90, 255: 50, 1: 1}],
    ],
)
def test_255_is_not_ignored_where_it_may_be_the_foreground(
    masks: list[dict[int, int]], num_classes: int | None
) -> None:
    with pytest.raises(ValueError, match="not clear whether 255 is to be ignored"):
        find_values(census(*masks), num_classes, None)


SMOOTHED = dict.fromkeys(range(256), 1) | {0: 9000, 255: 9000}


@pytest.mark.parametrize("num_classes", [None, 2])
def test_smoothed_masks_are_thresholded_and_said(num_classes: int | None) -> None:
    values, ignore, kind, note = find_values(census(SMOOTHED), num_classes, None)
    assert (values, ignore, kind) == ((0, 255), None, "threshold")
    assert note.startswith("note: 1.39% of the mask pixels lie between 0 and 255")
    assert "value 1: 1 pixels in a.png" in note


@pytest.mark.parametrize(
    "mask",
    [
        # nine class ids, 255 beside them
        dict.fromkeys(range(9), 10) | {0: 5000, 255: 5000},
        # a grey picture
        dict.fromkeys(range(256), 10),
        # as much grey as white
        dict.fromkeys(range(256), 10) | {0: 90000, 255: 1000},
        # a trimap
        {0: 900, 128: 50, 255: 50},
    ],
)
def test_other_masks_are_not_thresholded_unless_asked(mask: dict[int, int]) -> None:
    try:
        kind = find_values(census(mask), None, None).kind
    except ValueError:
        kind = "ids"
    assert kind == "ids"
    assert find_values(census(mask), None, None, encoding="threshold").kind == "threshold"


def test_the_encoding_may_be_said() -> None:
    busy = dict.fromkeys([0, *range(20, 40)], 9)
    found = find_values(census(busy), 2, 7, encoding="instances")
    assert found == Meaning((0, 1), 7, "instances")
    ids = dict.fromkeys(range(9), 9)
    assert find_values(census(ids, deep=True), None, None).kind == "instances"
    assert find_values(census(ids, deep=True), None, None, encoding="ids").kind == "ids"
    with pytest.raises(ValueError, match=r"--encoding threshold tells .* but 3 classes"):
        find_values(census(SMOOTHED), 3, None, encoding="threshold")
    with pytest.raises(ValueError, match=r"both sides of 128.*0, 1, 2"):
        find_values(census({0: 9, 1: 9, 2: 9}), None, None, encoding="threshold")


def test_given_values() -> None:
    masks = census({0: 9, 128: 4, 255: 9})
    assert find_values(masks, None, None, (0, 128, 255)) == Meaning((0, 128, 255), None, "values")
    assert find_values(masks, None, 0, (255, 128)) == Meaning((255, 128), 0, "two values")
    assert find_values(masks, 3, None, (128, 255, 0)).values == (128, 255, 0)
    assert find_values(census({0: 9, 1: 3}), None, None, (0, 1, 2)).kind == "ids"
    with pytest.raises(
        ValueError, match=r"128 is no class's \(they are 0, 255\): 4 pixels in a\.png"
    ):
        find_values(masks, None, None, (0, 255))
    with pytest.raises(ValueError, match="2 classes are named, but 3 values"):
        find_values(masks, 2, None, (0, 128, 255))
    with pytest.raises(ValueError, match="all different"):
        find_values(masks, None, None, (0, 0))


def test_list_values() -> None:
    assert list_values([0, 255]) == "0, 255"
    assert list_values(range(41)) == "0, 1, 2 ... 40"
