"""Masks: the values that are stored, and one file for each class."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

from plainunet.formats.colors import ColoredMaskError
from plainunet.formats.masks import (
    class_file_names,
    mask_size,
    read_class_files,
    read_mask,
    stored_names,
)
from plainunet.formats.problems import DataError
from plainunet.formats.sources import HERE, ClassFiles, parse_classes, parse_source

from ..folders import save

RANDOM = np.random.default_rng(0)
IDS = RANDOM.integers(0, 4, (20, 30), dtype=np.uint8)
COLOURS = RANDOM.integers(0, 256, (256, 3), dtype=np.uint8)
SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9))


def palette(ids: np.ndarray) -> Image.Image:
    picture = Image.fromarray(ids).convert("P")
    picture.putdata(ids.ravel().tolist())
    picture.putpalette(COLOURS.tobytes())
    return picture


# what is written is read back, bit for bit


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [
        *((suffix, "u1") for suffix in (".png", ".tif", ".bmp", ".npy")),
        *((suffix, "u2") for suffix in (".png", ".tif", ".npy")),
    ],
)
@given(data=st.data())
def test_masks_come_back(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, dtype: str, data: st.DataObject
) -> None:
    mask = data.draw(hnp.arrays(dtype, SHAPES))
    read = read_mask(save(tmp_path_factory.mktemp("masks") / f"mask{suffix}", mask))
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, mask)


@pytest.mark.parametrize("suffix", [".png", ".gif", ".tif"])
@given(mask=hnp.arrays(np.uint8, SHAPES))
def test_palette_indices_come_back_whatever_the_colours(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, mask: np.ndarray
) -> None:
    path = tmp_path_factory.mktemp("palette") / f"mask{suffix}"
    # Pillow drops unused colours of a GIF, and with them the indices
    palette(mask).save(path, optimize=False)
    np.testing.assert_array_equal(read_mask(path), mask)
    if suffix == ".png":
        palette(mask % 4).save(path, bits=2)
        np.testing.assert_array_equal(read_mask(path), mask % 4)


def test_a_gif_as_kaggle_made_them(tmp_path: Path) -> None:
    """Two colours, black and white, at indices 0 and 1: `convert('L')` would give 255."""
    ids = IDS % 2
    picture = Image.fromarray(ids).convert("P")
    picture.putdata(ids.ravel().tolist())
    picture.putpalette(bytes([0, 0, 0, 255, 255, 255]))
    picture.save(tmp_path / "mask.gif")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.gif"), ids)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".npy"])
def test_one_bit_is_zero_and_one(tmp_path: Path, suffix: str) -> None:
    read = read_mask(save(tmp_path / f"mask{suffix}", IDS > 1))
    if suffix == ".bmp":  # a palette of black and white, or 1-bit: two values either way
        read = read > 0
    np.testing.assert_array_equal(read, IDS > 1)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_grey_stored_as_colour_is_grey(tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"mask{suffix}"
    Image.fromarray(IDS).convert(mode).save(path)
    np.testing.assert_array_equal(read_mask(path), IDS)


@pytest.mark.parametrize("dtype", ["int32", "uint32", "float32", "int16", "int64", "uint64"])
def test_whole_numbers_in_wider_types(tmp_path: Path, dtype: str) -> None:
    tifffile.imwrite(tmp_path / "mask.tif", IDS.astype(dtype) * 300)
    save(tmp_path / "mask.npy", IDS.astype(dtype) * 300)
    for name in ("mask.npy", *(["mask.tif"] if "64" not in dtype else [])):
        read = read_mask(tmp_path / name)
        assert read.dtype == np.uint16
        np.testing.assert_array_equal(read, IDS.astype(int) * 300)


@pytest.mark.parametrize("value", [-2, 0.5, 70000])
def test_other_numbers_are_refused_by_name(tmp_path: Path, value: float) -> None:
    mask = IDS.astype(np.float32)
    mask[0, 0] = value
    tifffile.imwrite(tmp_path / "mask.tif", mask)
    with pytest.raises(ValueError, match=r"mask\.tif .*float32"):
        read_mask(tmp_path / "mask.tif")


def test_colours_are_no_values(tmp_path: Path) -> None:
    with pytest.raises(ColoredMaskError, match=r"mask\.png "):
        read_mask(save(tmp_path / "mask.png", COLOURS[IDS]))


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(IDS).save(tmp_path / "mask.png", exif=exif)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), np.rot90(IDS, -1))
    assert mask_size(tmp_path / "mask.png") == (30, 20)


def test_a_size_is_read_without_pixels_and_a_cut_file_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "mask.png", IDS)
    assert mask_size(path) == IDS.shape
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"mask\.png ") as raised:
        mask_size(path)
    assert raised.value.code == "cut-off"


def test_a_file_with_braces_in_its_name_is_a_file(tmp_path: Path) -> None:
    path = save(tmp_path / "{road,car}.png", IDS)
    np.testing.assert_array_equal(read_mask(path), IDS)
    assert mask_size(path) == IDS.shape
    assert stored_names(path) == ()
    assert parse_source(path) == path
    assert isinstance(parse_classes(str(path)), ClassFiles)


def grey(*rows: list[int], dtype: Any = np.uint8) -> NDArray[Any]:
    return np.array(rows, dtype)


# reading


@given(
    ids=hnp.arrays(np.uint8, (5, 7), elements=st.integers(0, 3)),
    inside=st.sampled_from([1, 255, 7, 65535]),
)
def test_what_is_cut_into_classes_is_joined_again(
    ids: NDArray[np.uint8], inside: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("classes")
    dtype = np.uint16 if inside > 255 else np.uint8
    for number, name in enumerate(("road", "car", "bike"), 1):
        if number == 1 or (ids == number).any():
            save(folder / name / "7.png", (ids == number).astype(dtype) * dtype(inside))
    path = parse_source(folder / "{road,car,bike}" / "7.png")
    found = read_mask(path)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, ids)
    assert mask_size(path) == (5, 7)
    assert stored_names(path) == ("background", "road", "car", "bike")


def test_where_a_background_is_given_the_rest_is_ignored(tmp_path: Path) -> None:
    save(tmp_path / "1_car.png", grey([255, 0, 0]))
    save(tmp_path / "1_Background.png", grey([0, 255, 0]))
    for classes in ("car,Background", "Background,car"):
        path = parse_source(tmp_path / f"1_{{{classes}}}.png")
        assert read_mask(path).tolist() == [[1, 0, 255]]
        assert stored_names(path) == ("Background", "car")
    save(tmp_path / "2_car.png", grey([255, 0, 0]))
    assert read_mask(parse_source(tmp_path / "2_{car,Background}.png")).tolist() == [[1, 255, 255]]


def test_smoothed_edges_are_cut_at_128(tmp_path: Path) -> None:
    save(tmp_path / "1_a.png", grey([0, 3, 127, 128, 250, 255, 255]))
    save(tmp_path / "1_b.png", grey([0, 0, 0, 0, 0, 0, 0]))
    save(tmp_path / "2_a.png", grey([0, 300, 1], dtype=np.uint16))
    assert read_mask(parse_source(tmp_path / "1_{a,b}.png")).tolist() == [[0, 0, 0, 1, 1, 1, 1]]
    assert read_mask(parse_source(tmp_path / "2_{a,b}.png")).tolist() == [[0, 1, 1]]


@pytest.mark.parametrize(
    "values",
    [[[0, 1, 2, 3]], [[0, 60, 120, 180, 240]], [[0, 1, 255]], [[1, 2]], [[[90, 0, 0]]]],
)
def test_files_that_show_more_than_one_class(tmp_path: Path, values: list[Any]) -> None:
    save(tmp_path / "a.png", np.array(values, np.uint8))
    with pytest.raises(DataError, match=r"a\.png ") as error:
        read_mask(parse_source(tmp_path / "{a,b}.png"))
    # what colours stand for is asked where masks are coloured, not here
    assert type(error.value) is DataError
    assert error.value.code == ("stray-value" if np.ndim(values) == 2 else "not-a-mask")


def test_classes_that_overlap_are_refused_with_their_share(tmp_path: Path) -> None:
    save(tmp_path / "road.png", grey([255, 255, 0, 0, 0]))
    save(tmp_path / "car.png", grey([0, 255, 255, 255, 0]))
    message = r"\{road,car\}.*20\.00% .*25\.00% .*'road' .*'car'"
    with pytest.raises(ValueError, match=message):
        read_mask(parse_source(tmp_path / "{road,car}.png"))


def test_files_that_cannot_be_joined(tmp_path: Path) -> None:
    """At least one must exist; a link that leads nowhere is no absent class; sizes must agree."""

    def refused(message: str) -> None:
        for read in (read_mask, mask_size):
            with pytest.raises((ValueError, FileNotFoundError), match=message):
                read(parse_source(tmp_path / "{road,car}.png"))

    refused("2 .*road, car")
    save(tmp_path / "road.png", np.zeros((2, 3), np.uint8))
    (tmp_path / "car.png").symlink_to(tmp_path / "gone.png")
    refused(r"car\.png .*gone\.png")
    save(tmp_path / "gone.png", np.zeros((3, 2), np.uint8))
    refused(r"car\.png .*2x3.*road\.png .*3x2")
    with pytest.raises(ValueError, match=r"a{500}"):
        read_class_files(ClassFiles(str(tmp_path / f"{HERE}{'a' * 500}"), ("a", "b")), read_mask)


def test_names_of_classes() -> None:
    assert class_file_names(()) == ()
    assert class_file_names(("b", "a")) == ("background", "b", "a")
    assert class_file_names(("b", "BACKGROUND", "a")) == ("BACKGROUND", "b", "a")
    for wrong in (("a", ""), ("a", "background", "Background"), ("background",)):
        with pytest.raises(ValueError, match=r"\{road,car\}/7\.png"):
            class_file_names(wrong)
    many = tuple(map(str, range(255)))
    assert len(class_file_names(many[1:])) == 255
    with pytest.raises(ValueError, match=r"\b255\b.*\b254\b"):
        read_class_files(ClassFiles(HERE, many), read_mask)
