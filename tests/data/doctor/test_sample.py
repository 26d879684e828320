from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plainunet.data.doctor.alignment import edge_evidence
from plainunet.data.doctor.sample import SIZES, Fit, draw_sample, measure_fits
from plainunet.data.images import read_image
from plainunet.data.masks import MaskCoding
from plainunet.data.meaning import understand_masks
from plainunet.data.pairing import Pair, find_pairs


def test_a_sample_is_drawn_by_its_seed() -> None:
    pairs = [Pair(Path(f"{n}.png"), Path(f"{n}_m.png"), str(n), None) for n in range(1000)]
    chosen = draw_sample(pairs, seed=3)
    assert len(set(chosen)) == 64
    assert chosen == sorted(chosen) == draw_sample(pairs, seed=3)
    assert chosen != draw_sample(pairs, seed=4)
    assert draw_sample(pairs[:5]) == [0, 1, 2, 3, 4]
    assert len(draw_sample(pairs, area=1918 * 1280)) == 44
    assert len(draw_sample(pairs, area=1e9)) == 24


def test_evidence_comes_back_as_it_was(scenes: Path) -> None:
    pairs = find_pairs(scenes)
    coding, _ = understand_masks([pair.mask for pair in pairs])
    for _ in range(2):  # measured, then remembered
        for pair, fit in zip(pairs, measure_fits(pairs, coding), strict=True):
            assert isinstance(fit, Fit)
            wanted = edge_evidence(read_image(pair.image), coding.read(pair.mask))
            for one, other in zip(fit.evidence, wanted, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-6)
            assert fit.appearance is not None


def half(folder: Path, height: int, width: int) -> tuple[Pair, MaskCoding]:
    mask = np.zeros((height, width), np.uint8)
    mask[:, : width // 2] = 1
    for name in ("a.png", "a_mask.png"):
        Image.fromarray(mask).save(folder / name)
    return Pair(folder / "a.png", folder / "a_mask.png", "a", None), MaskCoding((0, 1), None, "ids")


def test_what_smaller_sizes_keep(tmp_path: Path) -> None:
    pair, coding = half(tmp_path, 512, 512)
    (fit,) = measure_fits([pair], coding)
    assert isinstance(fit, Fit)
    # a straight border between two working pixels is kept whole
    assert fit.ceiling == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("size", [(100, 100), (300, 200)])
def test_pictures_are_not_enlarged(tmp_path: Path, size: tuple[int, int]) -> None:
    pair, coding = half(tmp_path, *size)
    (fit,) = measure_fits([pair], coding)
    assert isinstance(fit, Fit)
    assert fit.ceiling is not None
    assert fit.ceiling[-1] == 1.0


def test_a_mask_without_foreground_has_no_ceiling(tmp_path: Path) -> None:
    pair, coding = half(tmp_path, 60, 60)
    Image.new("L", (60, 60)).save(pair.mask)
    (fit,) = measure_fits([pair], coding)
    assert isinstance(fit, Fit)
    assert fit.ceiling is None


def test_the_ceiling_of_real_cars(data_root: Path) -> None:
    """A known figure: 0.9983 at 160 x 240 and 0.9994 at 320 x 480, soft and brought back."""
    pairs = find_pairs(data_root / "carvana")[::190]
    coding, _ = understand_masks([pair.mask for pair in pairs])
    fits = [fit.ceiling for fit in measure_fits(pairs, coding) if isinstance(fit, Fit)]
    means = dict(zip(SIZES, np.mean(fits, axis=0).tolist(), strict=True))
    assert 0.996 < means[128] < 0.9983 < means[256] < 0.9994 < means[512] < 1
