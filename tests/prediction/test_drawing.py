"""Mask files, overlays and comparisons."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from plainunet.dataset.coding import read_mask
from plainunet.formats.colors import IGNORED
from plainunet.palette import default_colors
from plainunet.prediction.drawing import (
    as_rgb,
    draw_overlay,
    encode_layer,
    find_edges,
    reduced_rgb,
    write_comparison,
    write_mask,
    write_tiff_mask,
)

from .conftest import COLORS

GAP = 4


def read(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as file:
        assert file.format == "PNG"
        return np.asarray(file.convert("RGB"))


def panels(path: Path) -> list[NDArray[np.uint8]]:
    """Split a comparison into its panels."""
    row = read(path)
    width = (row.shape[1] - 3 * GAP) / 4
    assert width == int(width)
    starts = [number * (int(width) + GAP) for number in range(4)]
    for start in starts[1:]:
        assert (row[:, start - GAP : start] == 255).all()
    return [row[:, start : start + int(width)] for start in starts]


@pytest.mark.parametrize("num_classes", [2, 3, 4, 5, 16, 17, 256])
@pytest.mark.parametrize("shape", [(23, 31), (1, 1), (1, 9), (9, 1)])
def test_mask_holds_ids_and_colours(
    tmp_path: Path, num_classes: int, shape: tuple[int, int]
) -> None:
    colors = default_colors(num_classes)
    for most in (num_classes, 1):  # all classes, or background alone
        mask = np.random.default_rng(0).integers(0, most, shape).astype(np.uint8)
        path = tmp_path / "new" / "mask.png"
        write_mask(path, mask, colors)
        with Image.open(path) as file:
            assert (file.format, file.mode) == ("PNG", "P")
            assert np.array_equal(np.asarray(file), mask)
            palette = np.reshape(file.getpalette(), (-1, 3))
        assert np.array_equal(palette[:num_classes], colors)
        assert np.array_equal(read_mask(path), mask)
        assert list(path.parent.iterdir()) == [path]


def test_the_mask_is_a_tiled_palette_tiff(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).integers(0, 3, (700, 1100), dtype=np.uint8)
    write_tiff_mask(tmp_path / "m.tif", mask, COLORS)
    with Image.open(tmp_path / "m.tif") as file:
        assert file.mode == "P"
        assert np.array_equal(np.asarray(file), mask)
        assert np.array_equal(np.asarray(file.convert("RGB")), np.array(COLORS)[mask])
    with tifffile.TiffFile(tmp_path / "m.tif") as file:
        assert file.pages.first.is_tiled
        assert file.filehandle.size < mask.size / 2


def test_comparison_panels(tmp_path: Path) -> None:
    image = np.full((20, 30, 3), (90, 120, 150), np.uint8)
    truth = np.zeros((20, 30), np.uint8)
    truth[:, 10:20] = 1
    truth[15:] = 255
    prediction = np.zeros((20, 30), np.uint8)
    prediction[:, 12:20] = 2
    write_comparison(tmp_path / "a.png", image, truth, prediction, COLORS)
    shown, true, predicted, differ = panels(tmp_path / "a.png")
    table = np.full((256, 3), 128, np.uint8)
    table[:3] = COLORS
    assert np.array_equal(shown, image)
    assert np.array_equal(true, table[truth])
    assert np.array_equal(predicted, table[prediction])
    wrong = (truth != prediction) & (truth != 255)
    assert wrong.sum() == 10 * 15
    assert (differ[wrong] == (255, 40, 40)).all()
    assert (differ[truth == 255] == 128).all()
    assert (differ[(truth == prediction)] == (30, 40, 50)).all()


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ((60, 90), (60, 90)),
        ((600, 960), (300, 480)),
        ((40, 4000), (5, 480)),
        ((1, 2000), (1, 480)),
        ((900, 30), (900, 30)),
        ((1, 1), (1, 1)),
        ((481, 481), (480, 480)),
    ],
    ids=["unchanged", "reduced", "wide", "line", "tall", "tiny", "odd"],
)
def test_sizes_of_the_panels(
    tmp_path: Path, size: tuple[int, int], wanted: tuple[int, int]
) -> None:
    image = np.zeros((*size, 3), np.uint8)
    mask = np.zeros(size, np.uint8)
    write_comparison(tmp_path / "a.png", image, mask, mask, COLORS)
    assert [panel.shape[:2] for panel in panels(tmp_path / "a.png")] == [wanted] * 4


@pytest.mark.parametrize(
    ("channels", "dtype"),
    [(1, np.uint8), (3, np.uint16), (1, np.uint16), (3, np.float32), (2, np.uint8), (6, np.uint8)],
)
def test_comparison_of_any_image(tmp_path: Path, channels: int, dtype: Any) -> None:
    image = np.zeros((12, 16, channels), dtype)
    top = 1 if dtype == np.float32 else np.iinfo(dtype).max
    image[:, 8:] = top
    mask = np.zeros((12, 16), np.uint8)
    write_comparison(tmp_path / "a.png", image, mask, mask, COLORS)
    shown = panels(tmp_path / "a.png")[0]
    assert (shown[:, :8] == 0).all()
    assert (shown[:, 8:] == 255).all()


def test_integers_are_not_stretched() -> None:
    image = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    assert np.array_equal(as_rgb(image), image)
    assert np.array_equal(as_rgb(image.astype(np.uint16) * np.uint16(257)), image)


@pytest.mark.parametrize(("channels", "shown"), [(1, [0] * 3), (2, [0] * 3), (7, [0, 1, 2])])
def test_one_or_two_channels_become_grey_and_of_more_the_first_three_are_used(
    channels: int, shown: list[int]
) -> None:
    image = np.full((2, 2, channels), range(channels), np.uint8)
    assert (as_rgb(image) == shown).all()


def test_floats_are_stretched() -> None:
    image = np.array([[-1000, 0, 3000]], np.float32)[..., None]
    assert as_rgb(image)[0, :, 0].tolist() == [0, 64, 255]
    flat = as_rgb(np.full((2, 2, 1), 5, np.float32))
    assert np.ptp(flat) == 0


def test_negative_integers_keep_their_order() -> None:
    image = np.array([[-1000, -1, 0, 5000, 32767]], np.int16)[..., None]
    shown = as_rgb(image)[0, :, 0].astype(int)
    assert (np.diff(shown) >= 0).all()


def test_failure_leaves_nothing(tmp_path: Path) -> None:
    mask = np.zeros((4, 4), np.uint8)
    with pytest.raises(Exception):  # noqa: B017, PT011 -- the type depends on the library
        write_mask(tmp_path / "mask.png", mask, [("red", "green", "blue")])  # type: ignore[list-item]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("color", [(255, 255, 255), (0, 0, 0), (128, 130, 120)])
def test_a_class_in_white_grey_or_black_is_visible_in_overlays(
    color: tuple[int, int, int],
) -> None:
    image = np.full((40, 40, 3), color, np.uint8)
    mask = np.zeros((40, 40), np.uint8)
    mask[10:30, 10:30] = 1
    shown = draw_overlay(image, mask, ((0, 0, 0), color)).astype(int)
    assert np.abs(shown[20, 20] - image[20, 20]).max() > 50
    assert np.abs(shown[10, 20] - image[10, 20]).max() > 100
    assert np.array_equal(shown[5, 5], image[5, 5])


def test_opacity_of_an_overlay_and_its_edges() -> None:
    colors = ((0, 0, 0), (200, 20, 40))
    image = np.full((40, 40, 3), 90, np.uint8)
    mask = np.zeros((40, 40), np.uint8)
    mask[10:30, 10:30] = 1
    mask[:5] = IGNORED
    for opacity, expected in ((0.0, (90, 90, 90)), (1.0, colors[1])):
        shown = draw_overlay(image, mask, colors, opacity)
        assert tuple(shown[20, 20]) == expected
        assert tuple(shown[10, 20]) == colors[1]
        assert np.array_equal(shown[:9], image[:9])
    edges = find_edges(mask)
    assert edges[10, 20] == 1
    assert edges[20, 20] == edges[2, 2] == edges[5, 5] == 0


def test_layer_is_transparent_but_for_objects() -> None:
    mask = np.array([[0, 1, 2, IGNORED]], np.uint8)
    colors = ((1, 2, 3), (200, 20, 40), (20, 200, 40))
    layer = np.array(Image.open(BytesIO(encode_layer(mask, colors))).convert("RGBA"))[0]
    assert layer[:, 3].tolist() == [0, 255, 255, 0]
    assert layer[1:3, :3].tolist() == [[200, 20, 40], [20, 200, 40]]


def test_a_large_image_is_reduced() -> None:
    image = np.zeros((50, 4001, 1), np.uint16)
    image[:, 2000:] = 65535
    shown = reduced_rgb(image, 100)
    assert shown.shape == (1, 100, 3)
    assert shown[0, 10].tolist() == [0, 0, 0]
    assert shown[0, 90].tolist() == [255, 255, 255]
    assert reduced_rgb(image[:, :90], 100).shape == (50, 90, 3)
