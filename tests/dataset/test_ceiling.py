from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from plainunet.dataset.classes import find_coding
from plainunet.dataset.pairs import find_pairs
from plainunet.dataset.resize import SIZES, measure_ceiling


def half(height: int, width: int) -> NDArray[np.uint8]:
    mask = np.zeros((height, width), np.uint8)
    mask[:, : width // 2] = 1
    return mask


def test_what_smaller_sizes_keep() -> None:
    # a straight border between two working pixels is kept whole
    assert measure_ceiling(half(512, 512), 2) == [1.0, 1.0, 1.0]
    stripes = np.repeat(np.arange(512) % 2, 512).reshape(512, 512).astype(np.uint8)
    kept = measure_ceiling(stripes, 2)
    assert kept is not None
    assert kept[0] < 0.8
    assert kept[2] == 1.0


@pytest.mark.parametrize("size", [(100, 100), (300, 200)])
def test_pictures_are_not_enlarged(size: tuple[int, int]) -> None:
    kept = measure_ceiling(half(*size), 2)
    assert kept is not None
    assert kept[-1] == 1.0


def test_a_mask_without_foreground_has_no_ceiling() -> None:
    assert measure_ceiling(np.zeros((60, 60), np.uint8), 2) is None
    assert measure_ceiling(np.full((60, 60), 255, np.uint8), 2) is None


def test_the_ceiling_of_real_cars(data_root: Path) -> None:
    """A known figure: 0.9983 at 160 x 240 and 0.9994 at 320 x 480, soft and brought back."""
    pairs = find_pairs(data_root / "carvana")[::190]
    coding, _ = find_coding([pair.mask for pair in pairs])
    kept = [measure_ceiling(coding.read(pair.mask), 2) for pair in pairs]
    means = dict(zip(SIZES, np.mean([each for each in kept if each], axis=0).tolist(), strict=True))
    assert 0.996 < means[128] < 0.9983 < means[256] < 0.9994 < means[512] < 1
