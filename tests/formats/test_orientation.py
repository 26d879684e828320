from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from plainunet.formats.images import image_shape, image_size, read_image, turn_upright

RANDOM = np.random.default_rng(0)
RGB = RANDOM.integers(0, 256, (20, 30, 3), dtype=np.uint8)
SMOOTH = np.stack([np.add.outer(np.arange(64), np.arange(96)) + c for c in (0, 40, 80)], -1)
SMOOTH = SMOOTH.astype(np.uint8)


# upright


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_exif_orientation_is_applied(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = tmp_path / f"picture{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if suffix == ".jpg" else {"lossless": True}
    Image.fromarray(SMOOTH).save(path, exif=exif, **options)
    with Image.open(path) as opened:
        wanted = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    assert wanted.shape == ((96, 64, 3) if orientation > 4 else (64, 96, 3))
    read = read_image(path)
    assert read.shape == image_shape(path) == wanted.shape
    assert image_size(path) == wanted.shape[:2]
    assert np.abs(read.astype(int) - wanted).max() <= (2 if suffix == ".jpg" else 0)
    assert read.flags.c_contiguous


def test_orientation_that_makes_no_sense_is_none(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 77
    Image.fromarray(RGB).save(tmp_path / "picture.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "picture.png"), RGB)


@given(orientation=st.integers(1, 8))
def test_turning_four_corners(orientation: int) -> None:
    """EXIF 2.32, tag 274: where the stored row 0 and column 0 are seen."""
    corners = np.array([["first", "row"], ["column", "last"]])
    upright = turn_upright(corners, orientation)
    row_side = {1: 0, 2: 0, 3: 1, 4: 1}  # stored row 0 is the upright picture's top, or bottom
    if orientation <= 4:
        assert set(upright[row_side[orientation]]) == {"first", "row"}
    else:
        assert set(upright[:, {5: 0, 8: 0, 6: 1, 7: 1}[orientation]]) == {"first", "row"}
