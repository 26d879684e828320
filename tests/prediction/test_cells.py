import numpy as np
import pytest

from plainunet.prediction.cells import (
    CELL,
    NEAR,
    SIDE,
    WINDOW,
    cells_near,
    place_windows,
    window_at,
    windows_each,
)


def brute_force(unsure: np.ndarray, first: int) -> list[int]:
    """Cells with an unsure pixel in them, or at most NEAR away along rows and columns."""
    chosen = []
    for left in range(0, unsure.shape[1], CELL):
        rows = slice(max(0, first - NEAR), first + CELL + NEAR)
        if unsure[rows, max(0, left - NEAR) : left + CELL + NEAR].any():
            chosen.append(left)
    return chosen


@pytest.mark.parametrize("width", [1, 60, 64, 65, 200, 319, 320])
@pytest.mark.parametrize("first", [0, 3, 16, 40])
def test_cells_are_those_near_unsure_pixels(width: int, first: int) -> None:
    random = np.random.default_rng(width + first)
    found = set()
    for share in (0.0, 0.0005, 0.002, 0.02):
        unsure = random.random((CELL + first + 16, width)) < share
        cells = cells_near(unsure, first).tolist()
        assert cells == brute_force(unsure, first)
        found.add(len(cells))
    assert 0 in found


@pytest.mark.parametrize("away", [NEAR, NEAR + 1])
def test_how_near(away: int) -> None:
    unsure = np.zeros((CELL + 2 * NEAR + 2, 3 * CELL), bool)
    unsure[NEAR + 1 + CELL - 1 + away, CELL + 9] = True  # below the cells
    assert cells_near(unsure, NEAR + 1).tolist() == ([CELL] if away == NEAR else [])
    unsure[:] = False
    unsure[NEAR + 1, 2 * CELL - 1 + away] = True  # right of the middle one
    assert cells_near(unsure, NEAR + 1).tolist() == ([CELL] if away == NEAR else []) + [2 * CELL]


def test_a_window_stays_in_the_picture() -> None:
    assert [window_at(cell, 300) for cell in (0, 64, 128, 192, 256)] == [0, 48, 112, 176, 204]
    assert window_at(64, 70) == 0 == window_at(0, WINDOW)
    for side in range(WINDOW, 400, 7):
        for cell in range(0, side, CELL):
            begin = window_at(cell, side)
            assert 0 <= begin <= cell
            assert min(cell + CELL, side) <= begin + WINDOW <= side


def test_windows_to_learn_from_are_where_it_is_unsure() -> None:
    unsure = np.zeros((500, 700), bool)
    unsure[100:102, 50:650] = True
    places = place_windows(unsure, 8, SIDE, np.random.default_rng(0))
    assert len(places) == len(set(places)) == 8
    for top, left in places[:3]:
        assert (top, left) == (
            100 - SIDE // 2 + (unsure[101, left + SIDE // 2] and top == 101 - SIDE // 2),
            left,
        )
        assert unsure[top + SIDE // 2, left + SIDE // 2]
    middles = [left for top, left in places if abs(top + SIDE // 2 - 101) <= 1]
    apart = np.abs(np.subtract.outer(middles, middles))[~np.eye(len(middles), dtype=bool)]
    assert (apart > SIDE // 4).sum() >= len(apart) - 4
    assert places == place_windows(unsure, 8, SIDE, np.random.default_rng(0))


def test_windows_lie_anywhere_where_nothing_is_unsure_and_inside_always() -> None:
    random = np.random.default_rng(1)
    places = place_windows(np.zeros((300, 400), bool), 40, SIDE, random)
    assert len({top for top, _ in places}) > 10
    assert len({left for _, left in places}) > 10
    for shape in ((300, 400), (128, 129), (100, 400), (5, 7)):
        for top, left in place_windows(random.random(shape) < 0.5, 30, SIDE, random):
            assert 0 <= top <= max(0, shape[0] - SIDE)
            assert 0 <= left <= max(0, shape[1] - SIDE)


def test_few_pictures_give_many_windows_each() -> None:
    assert [windows_each(count) for count in (1, 20, 64, 100, 636, 100_000)] == [
        64,
        64,
        64,
        41,
        6,
        1,
    ]
    assert windows_each(100, 1 / 8) == 5
