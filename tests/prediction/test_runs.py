import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from plainunet.prediction.outputs import coco_counts, find_runs, write_runs


def decode(code: str, height: int, width: int, by_columns: bool) -> NDArray[np.bool_]:
    """Paint pixel after pixel, from the rule alone."""
    painted = np.zeros((height, width), bool)
    numbers = [int(word) for word in code.split()]
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        for number in range(start - 1, start - 1 + length):
            place = (
                (number % height, number // height)
                if by_columns
                else (number // width, number % width)
            )
            painted[place] = True
    return painted


@pytest.mark.parametrize("by_columns", [False, True])
@given(data=st.data())
def test_decoded_it_is_the_mask(by_columns: bool, data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6))
    bits = data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    pixels = np.array(bits).reshape(height, width)
    code = write_runs(find_runs(pixels, by_columns=by_columns))
    assert np.array_equal(decode(code, height, width, by_columns), pixels)
    runs = [int(word) for word in code.split()]
    ends = [start + length for start, length in zip(runs[::2], runs[1::2], strict=True)]
    assert all(end < start for end, start in zip(ends, runs[2::2], strict=False)), "not joined"


def test_first_and_last_pixels() -> None:
    pixels = np.array([[True, False, True], [False, False, True]])
    assert write_runs(find_runs(pixels, by_columns=False)) == "1 1 3 1 6 1"
    assert write_runs(find_runs(pixels, by_columns=True)) == "1 1 5 2"
    assert write_runs(find_runs(np.ones((4, 5), bool), by_columns=True)) == "1 20"
    assert write_runs(find_runs(np.zeros((4, 5), bool), by_columns=True)) == ""


@given(bits=st.lists(st.booleans(), min_size=12, max_size=12))
def test_counts_of_coco(bits: list[bool]) -> None:
    pixels = np.array(bits).reshape(4, 3)
    counts = coco_counts(find_runs(pixels, by_columns=True), 12)
    assert sum(counts) == 12
    values = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    assert np.array_equal(values.reshape(3, 4).T, pixels)
    assert all(count > 0 for count in counts[1:])
