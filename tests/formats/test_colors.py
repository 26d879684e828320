from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from plainunet.formats.colors import (
    ColorCensus,
    count_colors,
    count_runs,
    encode_colors,
    match_colors,
    pack,
    read_colors,
    unpack,
)

RANDOM = np.random.default_rng(0)
PICTURE = RANDOM.integers(0, 256, (7, 9, 3), dtype=np.uint8)
PACKED = [[pack(pixel) for pixel in row] for row in PICTURE.tolist()]
LEGEND = ((0, 0, 0), (200, 0, 0), (240, 0, 0))


@given(st.integers(0, 0xFFFFFF))
def test_pack_and_unpack(color: int) -> None:
    assert pack(unpack(color)) == color


def test_pack_sorts_by_red_first() -> None:
    assert pack((0x84, 0x29, 0xF6)) == 0x8429F6


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_come_back(tmp_path: Path, suffix: str, mode: str) -> None:
    path = tmp_path / f"mask{suffix}"
    picture = Image.fromarray(PICTURE).convert(mode)
    if mode == "RGBA":
        picture.putalpha(99)
    picture.save(path)
    colors = read_colors(path)
    assert colors.dtype == np.uint32
    np.testing.assert_array_equal(colors, PACKED)


@pytest.mark.parametrize(("mode", "white"), [("L", 7), ("1", 255), ("LA", 7)])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_grey_is_a_colour(tmp_path: Path, mode: str, white: int, suffix: str) -> None:
    grey = Image.fromarray(np.uint8([[0, white]])).convert(mode)
    grey.save(tmp_path / f"mask{suffix}")
    assert read_colors(tmp_path / f"mask{suffix}").tolist() == [[0, white * 0x010101]]


def test_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(PICTURE).save(tmp_path / "mask.png", exif=exif)
    np.testing.assert_array_equal(read_colors(tmp_path / "mask.png"), np.rot90(PACKED, 2))


@pytest.mark.parametrize("mask", [np.zeros((4, 5), np.uint16), np.zeros((4, 5, 3), np.uint16)])
def test_sixteen_bits_are_refused_by_name(tmp_path: Path, mask: np.ndarray) -> None:
    tifffile.imwrite(tmp_path / "mask.tif", mask)
    with pytest.raises(ValueError, match=r"mask\.tif holds more than 8 bits"):
        read_colors(tmp_path / "mask.tif")
    if mask.ndim == 2:
        Image.fromarray(mask).save(tmp_path / "mask.png")
        with pytest.raises(ValueError, match=r"mask\.png holds more than 8 bits"):
            read_colors(tmp_path / "mask.png")


def test_four_bands_are_no_colours(tmp_path: Path) -> None:
    bands = np.zeros((20, 30, 4), np.uint8)
    options = {"photometric": "rgb", "extrasamples": ["unspecified"]}
    tifffile.imwrite(tmp_path / "mask.tif", bands, **options)
    with pytest.raises(ValueError, match=r"mask\.tif has 4 channels"):
        read_colors(tmp_path / "mask.tif")


@given(
    mask=hnp.arrays(
        np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 2)
    )
)
def test_runs_make_the_array_again(mask: np.ndarray) -> None:
    values, lengths = count_runs(mask)
    np.testing.assert_array_equal(np.repeat(values, lengths), mask.ravel())
    assert (values[1:] != values[:-1]).all()


def test_counts_are_those_of_numpy(tmp_path: Path) -> None:
    Image.fromarray(PICTURE // 128 * 128).save(tmp_path / "mask.png")
    found, counts = count_colors(tmp_path / "mask.png")
    wanted = np.unique(read_colors(tmp_path / "mask.png"), return_counts=True)
    np.testing.assert_array_equal(found, wanted[0])
    np.testing.assert_array_equal(counts, wanted[1])


def test_census_adds_up() -> None:
    census = ColorCensus()
    census.add(Path("a.png"), np.uint32([0, 5]), np.array([7, 1]))
    census.add(Path("b.png"), np.uint32([5, 0xFFFFFF]), np.array([2, 3]))
    assert census.pixels[[0, 5, 0xFFFFFF]].tolist() == [7, 3, 3]
    assert census.place(5) == "3 pixels, first in a.png"
    assert census.place(0xFFFFFF) == "3 pixels, first in b.png"


@pytest.mark.parametrize(
    ("color", "class_id", "is_moved"),
    [
        ((0, 0, 0), 0, False),
        ((32, 0, 32), 0, True),
        ((33, 0, 0), 255, False),
        ((200, 0, 0), 1, False),
        ((190, 0, 10), 1, True),
        ((220, 0, 0), 255, False),  # between two of the legend
        ((255, 0, 0), 2, True),
        ((0, 255, 0), 255, False),
        ((7, 7, 7), 255, False),  # ignored, though near black
    ],
)
def test_match(color: tuple[int, int, int], class_id: int, is_moved: bool) -> None:
    ids, moved = match_colors(np.array([pack(color)], np.uint32), LEGEND, ignore=7)
    assert (ids[0], moved[0]) == (class_id, is_moved)


def test_encode_keeps_the_shape() -> None:
    packed = np.uint32([[0, 0, 0xC80000], [0xF00000, 0xC80001, 0x00FF00]])
    assert encode_colors(packed, LEGEND).tolist() == [[0, 0, 1], [2, 1, 255]]


def test_colors_are_not_read_from_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match=r"a\.npy: colours are not read from \.npy"):
        read_colors(tmp_path / "a.npy")
