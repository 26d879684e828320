import pytest

from plainunet.training.plan import choose_growth, choose_size, growth_cost, side_needed


def test_the_side_that_masks_need() -> None:
    kept = {128: 0.9, 256: 0.96, 512: 0.98}
    for lost, side in ((0.2, 64), (0.04, 256), (0.02, 512), (0.01, 1024)):
        assert side <= side_needed(kept, lost) * 1.001 <= 1.05 * side
    assert side_needed({}, 0.01) == 0


@pytest.mark.parametrize(
    ("sizes", "side", "expected"),
    [([(1280, 1918)], 512, (416, 624)), ([(100, 100)], 512, (96, 96))],
)
def test_sizes_of_other_areas(
    sizes: list[tuple[int, int]], side: int, expected: tuple[int, int]
) -> None:
    assert choose_size(sizes, side) == expected


@pytest.mark.parametrize(("side", "parts"), [(96, 2), (95, 1), (64, 1), (63, 0)])
def test_growth_begins_where_the_network_can(side: int, parts: int) -> None:
    growth, reason = choose_growth((side, 400), 32)
    assert len(growth) == parts
    assert reason


def test_what_growth_saves() -> None:
    assert growth_cost(()) == 1
    assert growth_cost(({"until": 0.5, "scale": 0.5},)) == pytest.approx(0.5 * 0.25 + 0.5)
