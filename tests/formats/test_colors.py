from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from plainunet.formats.colors import (
    ColorCensus,
    count_colors,
    encode_colors,
    find_meaning,
    match_colors,
    pack,
    read_colors,
    unpack,
    write_color,
)

RANDOM = np.random.default_rng(0)
PICTURE = RANDOM.integers(0, 256, (7, 9, 3), dtype=np.uint8)
PACKED = [[pack(pixel) for pixel in row] for row in PICTURE.tolist()]
LEGEND = ((0, 0, 0), (200, 0, 0), (240, 0, 0))


@given(st.integers(0, 0xFFFFFF))
def test_pack_and_unpack(color: int) -> None:
    assert pack(unpack(color)) == color
    assert int(write_color(color), 16) == color
    assert pack((0x84, 0x29, 0xF6)) == 0x8429F6  # red first


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


@pytest.mark.parametrize(
    ("shape", "dtype", "options", "message"),
    [
        ((4, 5), np.uint16, {}, r"\b8\b"),
        ((4, 5, 3), np.uint16, {}, r"\b8\b"),
        (
            (20, 30, 4),
            np.uint8,
            {"photometric": "rgb", "extrasamples": ["unspecified"]},
            r"\b4\b",
        ),
    ],
)
def test_what_holds_no_colours_is_refused_by_name(
    tmp_path: Path, shape: tuple[int, ...], dtype: Any, options: dict[str, Any], message: str
) -> None:
    tifffile.imwrite(tmp_path / "mask.tif", np.zeros(shape, dtype), **options)
    with pytest.raises(ValueError, match=rf"mask\.tif .*{message}"):
        read_colors(tmp_path / "mask.tif")
    if len(shape) == 2:
        Image.fromarray(np.zeros(shape, dtype)).save(tmp_path / "mask.png")
        with pytest.raises(ValueError, match=rf"mask\.png .*{message}"):
            read_colors(tmp_path / "mask.png")
    np.save(tmp_path / "mask.npy", np.zeros(shape, np.uint8))
    with pytest.raises(ValueError, match=r"mask\.npy"):
        read_colors(tmp_path / "mask.npy")


def test_counts_are_those_of_numpy(tmp_path: Path) -> None:
    Image.fromarray(PICTURE // 128 * 128).save(tmp_path / "mask.png")
    colors = read_colors(tmp_path / "mask.png")
    found, pixels, edge = count_colors(tmp_path / "mask.png")
    wanted = np.unique(colors, return_counts=True)
    np.testing.assert_array_equal((found, pixels), wanted)
    inside = [int((colors[1:-1, 1:-1] == color).sum()) for color in found]
    np.testing.assert_array_equal(edge, pixels - inside)


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
        (0x000000, 0, False),
        (0x200020, 0, True),
        (0x210000, 255, False),
        (0xC80000, 1, False),
        (0xBE000A, 1, True),
        (0xDC0000, 255, False),  # between two of the legend
        (0xFF0000, 2, True),
        (0x00FF00, 255, False),
        (0x070707, 255, False),  # ignored, though near black
    ],
)
def test_match(color: int, class_id: int, is_moved: bool) -> None:
    packed = np.full((2, 3), color, np.uint32)
    ids, moved = match_colors(packed.ravel(), LEGEND, ignore=7)
    assert (ids[0], moved[0]) == (class_id, is_moved)
    if color != 0x070707:
        assert (encode_colors(packed, LEGEND) == np.full((2, 3), class_id)).all()


BLACK_RED = ((0, 0, 0), (255, 0, 0))


def census(folder: Path, pixels: dict[int, int]) -> ColorCensus:
    counted = ColorCensus()
    found = np.array(list(pixels), np.uint32)
    blocks = np.array([[unpack(color) for color in pixels]], np.uint8)
    path = folder / "masks" / "a.png"
    Image.fromarray(blocks.repeat(4, axis=0).repeat(4, axis=1)).save(path)
    counted.add(path, found, np.array(list(pixels.values())))
    return counted


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "masks").mkdir()
    return tmp_path


def test_given_colours_and_what_is_said(folder: Path) -> None:
    counted = census(folder, {0: 900, 0xFF0000: 80, 0xF00000: 15, 0x00FF00: 4, 0x0000FF: 1})
    colors, pixels, notes, *_ = find_meaning(counted, BLACK_RED, None, None)
    assert colors == BLACK_RED
    assert pixels.tolist() == [900, 95]
    assert len(notes) == 2
    assert "1.50% of the mask pixels" in notes[0]
    assert "0.50% of the mask pixels" in notes[1]
    assert "00FF00: 4 pixels, first in" in notes[1]


def test_a_class_without_pixels_is_noted(folder: Path) -> None:
    colors = (*BLACK_RED, (9, 200, 9))
    _, pixels, notes, *_ = find_meaning(census(folder, {0: 9, 0xFF0000: 9}), colors, 3, None)
    assert pixels.tolist() == [9, 9, 0]
    assert len(notes) == 1
    assert "2 (09C809)" in notes[0]


def test_few_colours_are_found(folder: Path) -> None:
    found = {(k // 16 << 22) + (k // 4 % 4 << 14) + (k % 4 << 6): 9 for k in range(64)}
    colors, _, notes, *_ = find_meaning(census(folder, found), (), None, None)
    assert len(colors) == 64
    assert "--colors" in notes[0]
    with pytest.raises(ValueError, match=r"\b65\b"):
        find_meaning(census(folder, found | {0xFFFFFF: 9}), (), None, None)


def test_alike_colours_are_not_found(folder: Path) -> None:
    """Such as those of class ids in grey, with one coloured mask."""
    with pytest.raises(ValueError, match=r"--colors 000000 00FF00\b"):
        find_meaning(census(folder, {0: 9, 0x010101: 8, 0x00FF00: 9}), (), None, None)


def test_rare_colours_are_refused_with_a_fix(folder: Path) -> None:
    counted = census(folder, {0: 90000, 0xFF0000: 20000, 0xFA0000: 100, 0x123456: 1})
    with pytest.raises(ValueError, match=r"\b123456\b.*--colors 000000 FF0000\b"):
        find_meaning(counted, (), None, None)


@pytest.mark.parametrize(
    ("colors", "num_classes", "message"),
    [
        (BLACK_RED, 3, "3 .*2 .*--colors"),
        ((*BLACK_RED, (0, 0, 0)), None, "000000, FF0000, 000000"),
        (((0, 0, 0), (256, 0, 0)), None, "256.*0 .*255"),
        (BLACK_RED[:1], None, r"\b1\b.*--colors"),
        (((0, 99, 0), (0, 0, 99)), None, "0 = 006300"),
    ],
)
def test_a_legend_that_does_not_fit(
    folder: Path, colors: tuple[tuple[int, int, int], ...], num_classes: int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        find_meaning(census(folder, {0: 9, 0xFF0000: 9}), colors, num_classes, None)


def test_class_ids_are_no_colours(folder: Path) -> None:
    counted = census(folder, {0: 9, 0x010101: 9, 0x020202: 9})
    with pytest.raises(ValueError, match=r"\b3\b.*--colors"):
        find_meaning(counted, BLACK_RED, None, None)
