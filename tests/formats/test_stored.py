from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageOps

from plainunet.formats.masks import mask_size, read_mask, stored_names
from plainunet.formats.sources import ClassFiles, CocoImage, RleImage, parse_classes, parse_source

RANDOM = np.random.default_rng(0)
IDS = RANDOM.integers(0, 4, (20, 30), dtype=np.uint8)
COLOURS = RANDOM.integers(0, 256, (256, 3), dtype=np.uint8)
SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9))


def palette(ids: np.ndarray) -> Image.Image:
    picture = Image.fromarray(ids).convert("P")
    picture.putdata(ids.ravel().tolist())
    picture.putpalette(COLOURS.tobytes())
    return picture


def save(path: Path, values: object) -> Path:
    Image.fromarray(np.asarray(values)).save(path)
    return path


# what is written is read back, bit for bit


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
@given(mask=hnp.arrays(np.uint8, SHAPES))
def test_eight_bit_masks_come_back(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, mask: np.ndarray
) -> None:
    read = read_mask(save(tmp_path_factory.mktemp("eight") / f"mask{suffix}", mask))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, mask)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@given(mask=hnp.arrays(np.uint16, SHAPES))
def test_sixteen_bit_masks_come_back(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, mask: np.ndarray
) -> None:
    read = read_mask(save(tmp_path_factory.mktemp("sixteen") / f"mask{suffix}", mask))
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, mask)


@pytest.mark.parametrize("suffix", [".png", ".gif", ".tif"])
@given(mask=hnp.arrays(np.uint8, SHAPES))
def test_palette_indices_come_back_whatever_the_colours(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, mask: np.ndarray
) -> None:
    path = tmp_path_factory.mktemp("palette") / f"mask{suffix}"
    # Pillow drops unused colours of a GIF, and with them the indices
    palette(mask).save(path, optimize=False)
    with Image.open(path) as opened:
        assert opened.mode == "P"
    np.testing.assert_array_equal(read_mask(path), mask)


def test_a_gif_as_kaggle_made_them(tmp_path: Path) -> None:
    """Two colours, black and white, at indices 0 and 1: `convert('L')` would give 255."""
    ids = IDS % 2
    picture = Image.fromarray(ids).convert("P")
    picture.putdata(ids.ravel().tolist())
    picture.putpalette(bytes([0, 0, 0, 255, 255, 255]))
    picture.save(tmp_path / "mask.gif")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.gif"), ids)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_one_bit_is_zero_and_one(tmp_path: Path, suffix: str) -> None:
    read = read_mask(save(tmp_path / f"mask{suffix}", IDS > 1))
    if suffix == ".bmp":  # a palette of black and white, or 1-bit: two values either way
        read = read > 0
    np.testing.assert_array_equal(read, IDS > 1)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_hold_ids_and_not_greys(tmp_path: Path, bits: int) -> None:
    ids = RANDOM.integers(0, 1 << bits, (7, 13), dtype=np.uint8)
    palette_png = tmp_path / "palette.png"
    palette(ids).save(palette_png, bits=bits)
    np.testing.assert_array_equal(read_mask(palette_png), ids)
    tifffile.imwrite(tmp_path / "whole.tif", ids)
    np.testing.assert_array_equal(read_mask(tmp_path / "whole.tif"), ids)


def test_grey_of_four_bits(tmp_path: Path) -> None:
    import struct
    import zlib

    def chunk(name: bytes, content: bytes) -> bytes:
        check = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)

    # two rows of the ids 0 1 2 3, two to a byte, each row after a filter byte
    rows = b"\0\x01\x23" * 2
    (tmp_path / "four.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 2, 4, 0, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    np.testing.assert_array_equal(read_mask(tmp_path / "four.png"), [[0, 1, 2, 3]] * 2)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_grey_stored_as_colour_is_grey(tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"mask{suffix}"
    Image.fromarray(IDS).convert(mode).save(path)
    np.testing.assert_array_equal(read_mask(path), IDS)


@pytest.mark.parametrize("dtype", ["int32", "uint32", "float32", "int16"])
def test_whole_numbers_in_wider_types(tmp_path: Path, dtype: str) -> None:
    tifffile.imwrite(tmp_path / "mask.tif", IDS.astype(dtype) * 300)
    read = read_mask(tmp_path / "mask.tif")
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, IDS.astype(int) * 300)


@pytest.mark.parametrize("value", [-1, 0.5, 70000])
def test_other_numbers_are_refused_by_name(tmp_path: Path, value: float) -> None:
    mask = IDS.astype(np.float32)
    mask[0, 0] = value
    tifffile.imwrite(tmp_path / "mask.tif", mask)
    with pytest.raises(ValueError, match=r"mask\.tif holds float32 values from .* to"):
        read_mask(tmp_path / "mask.tif")


def test_colours_are_no_values(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"mask\.png is coloured \(3 channels that differ\)"):
        read_mask(save(tmp_path / "mask.png", COLOURS[IDS]))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "mask.png"
    Image.fromarray(IDS).save(path, exif=exif)
    with Image.open(path) as opened:
        wanted = np.asarray(ImageOps.exif_transpose(opened))
    np.testing.assert_array_equal(read_mask(path), wanted)


@pytest.mark.parametrize("suffix", [".png", ".gif", ".tif"])
@pytest.mark.parametrize("cut", [0.02, 0.5, 0.99])
def test_a_cut_mask_is_refused_by_name(tmp_path: Path, suffix: str, cut: float) -> None:
    path = tmp_path / f"cut{suffix}"
    palette(IDS).save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * cut)])
    with pytest.raises(ValueError, match=rf"cut\{suffix} (is|cannot)"):
        read_mask(path)


def test_a_size_is_read_without_pixels_and_a_cut_file_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "mask.png", IDS)
    assert mask_size(path) == IDS.shape
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"mask\.png is cut off"):
        mask_size(path)


def test_a_file_for_each_class(tmp_path: Path) -> None:
    for name, class_id in (("road", 1), ("car", 2)):
        (tmp_path / name).mkdir()
        save(tmp_path / name / "7.png", (class_id == IDS).astype(np.uint8) * 255)
    path = parse_source(tmp_path / "{road,car}" / "7.png")
    np.testing.assert_array_equal(read_mask(path), np.where(IDS == 3, 0, IDS))
    assert mask_size(path) == IDS.shape
    assert stored_names(path) == ("background", "road", "car")


def test_a_file_with_braces_in_its_name_is_a_file(tmp_path: Path) -> None:
    path = save(tmp_path / "{road,car}.png", IDS)
    np.testing.assert_array_equal(read_mask(path), IDS)
    assert mask_size(path) == IDS.shape
    assert stored_names(path) == ()
    assert parse_source(path) == path
    assert isinstance(parse_classes(str(path)), ClassFiles)


def test_an_item_of_a_list(tmp_path: Path) -> None:
    file = tmp_path / "masks.csv"
    file.write_text("ImageId,EncodedPixels\ncat,1 2 9 1\n")
    path = RleImage(file, "cat", 4, 3, "columns")
    np.testing.assert_array_equal(read_mask(path), [[1, 0, 1], [1, 0, 0], [0, 0, 0], [0, 0, 0]])
    assert mask_size(path) == (4, 3)
    assert stored_names(path) == ()


def test_an_image_of_a_coco_file(tmp_path: Path) -> None:
    file = tmp_path / "all.json"
    file.write_text(
        '{"images": [{"id": 5, "file_name": "a.png", "height": 4, "width": 6}],'
        '"categories": [{"id": 3, "name": "leaf"}],'
        '"annotations": [{"id": 1, "image_id": 5, "category_id": 3, "iscrowd": 0,'
        '"segmentation": [[1, 1, 4, 1, 4, 3, 1, 3]]}]}'
    )
    path = CocoImage(file, 5)
    wanted = np.zeros((4, 6), np.uint8)
    wanted[1:3, 1:4] = 1
    np.testing.assert_array_equal(read_mask(path), wanted)
    assert mask_size(path) == (4, 6)
    assert stored_names(path) == ("background", "leaf")
