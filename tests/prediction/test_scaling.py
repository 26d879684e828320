"""Bands of rows against whole pictures and whole logits."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from torch.nn import functional as F

from plainunet.dataset.resize import resize
from plainunet.formats.images import to_unit
from plainunet.formats.windows import ArrayWindows, open_windows
from plainunet.prediction import views as scaling
from plainunet.prediction.views import Reduced, enlarged, row_above

RNG = np.random.default_rng(0)
CPU = torch.device("cpu")


@pytest.mark.parametrize("size", [(97, 130), (50, 61), (13, 17), (96, 130), (1, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_reduced_by_parts_it_is_the_picture_reduced(
    tmp_path: Path, size: tuple[int, int], dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = RNG.integers(0, np.iinfo(dtype).max, (97, 130, 5), dtype=dtype)
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(32, 32), planarconfig="contig")
    monkeypatch.setattr(scaling, "_AT_ONCE", 4 * 130 * 5 * 7)  # seven rows at a time
    expected = resize(to_unit(image), size)
    with open_windows(tmp_path / "a.tif", most=0) as windows:
        reduced = Reduced(windows, size, (size[0] + 3, size[1] + 9), CPU)
        padded = np.pad(expected, ((0, 3), (0, 9), (0, 0)), mode="edge")
        places = [(0, 0, *reduced.size), (0, 0, 1, 1), (size[0], size[1], 3, 9)]
        places += [(size[0] // 2, size[1] // 3, 3, 9), (size[0] - 1, 0, 2, size[1] + 9)]
        for top, left, height, width in places:
            part = reduced.read(top, left, height, width)
            assert part.dtype == torch.float32
            wanted = padded[top : top + height, left : left + width].transpose(2, 0, 1)
            np.testing.assert_allclose(part, wanted, atol=2e-6)


def test_in_memory_it_is_reduced_as_ever() -> None:
    image = RNG.integers(0, 256, (97, 130, 3), dtype=np.uint8)
    part = Reduced(ArrayWindows(image), (40, 50), (40, 50), CPU).read(3, 5, 20, 30)
    expected = to_unit(resize(image, (40, 50)))[3:23, 5:35].transpose(2, 0, 1)
    np.testing.assert_allclose(part, expected, atol=2e-6)
    assert part.permute(1, 2, 0).is_contiguous()


@pytest.mark.parametrize("wanted", [(97, 130), (300, 131), (50, 61), (97, 200), (1, 1), (96, 3)])
@pytest.mark.parametrize("bands", [[97], [1] * 97, [40, 1, 50, 6]])
@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_enlarged_by_bands_they_are_the_logits_enlarged(
    wanted: tuple[int, int], bands: list[int], at_once: int
) -> None:
    logits = torch.randn(3, 97, 130)
    starts = np.cumsum([0, *bands[:-1]]).tolist()
    numbered = list(zip(starts, logits.split(bands, dim=1), strict=True))
    parts = list(enlarged(numbered, (97, 130), wanted, at_once))
    if wanted != (97, 130):
        assert max(part.shape[1] for part in parts) <= at_once
    expected = F.interpolate(logits[None], size=wanted, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, rtol=1e-4, atol=1e-4)
    first = wanted[0] // 2
    needed = row_above(first, 97, wanted[0])
    later = [(top, band) for top, band in numbered if top + band.shape[1] > needed]
    rest = torch.cat(list(enlarged(later, (97, 130), wanted, at_once, first)), dim=1)
    torch.testing.assert_close(rest, torch.cat(parts, dim=1)[:, first:], rtol=1e-5, atol=1e-5)
