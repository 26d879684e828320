"""Sizes through valid convolutions, against convolutions that are really run."""

import re

import pytest
import torch
from torch.nn import functional as F

from plainunet.network.unet import fitting_sides, needed_side, output_side


def really(side: int, depth: int) -> int | None:
    """What a chain of PyTorch's own operations leaves of a side; None where it does not fit."""
    feature = torch.zeros(1, 1, side, side)
    kernel = torch.zeros(1, 1, 3, 3)
    for _ in range(depth):
        if feature.shape[2] < 5:
            return None
        feature = F.conv2d(F.conv2d(feature, kernel), kernel)
        if feature.shape[2] % 2 or feature.shape[2] < 2:
            return None
        feature = F.max_pool2d(feature, 2)
    for step in range(depth + 1):
        if feature.shape[2] < 5:
            return None
        feature = F.conv2d(F.conv2d(feature, kernel), kernel)
        if step < depth:
            feature = F.interpolate(feature, scale_factor=2)
    return feature.shape[2]


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_output_side_is_what_convolutions_leave(depth: int) -> None:
    sides = range(1, 240)
    found = [output_side(side, depth) for side in sides]
    assert found == [really(side, depth) for side in sides]
    assert sum(side is not None for side in found) > 2  # some fit, or nothing was compared


def test_the_papers_sizes() -> None:
    assert output_side(572, 4) == 388
    assert needed_side(388, 4) == 572
    assert needed_side(389, 4) == 588
    assert output_side(188, 4) == 4
    assert output_side(172, 4) is None


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_needed_side_is_the_smallest(depth: int) -> None:
    for side in (1, 7, 64, 100, 389):
        needed = needed_side(side, depth)
        assert (output_side(needed, depth) or 0) >= side
        assert not any((output_side(n, depth) or 0) >= side for n in range(1, needed))


def test_fitting_sides_are_height_and_width() -> None:
    assert fitting_sides(572, 588, 4) == (388, 404)


@pytest.mark.parametrize(
    ("height", "width", "nearest"),
    [
        (573, 572, "nearest height that fits is 572 or 588"),
        (572, 580, "nearest width that fits is 572 or 588"),
        (100, 100, "nearest height that fits is 188, the smallest"),
    ],
)
def test_a_size_that_does_not_fit_names_the_nearest(height: int, width: int, nearest: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{height} x {width} pixels") + f".*{nearest}"):
        fitting_sides(height, width, 4)
