"""TIFF files, written by tifffile and by Pillow: whole, and slice by slice."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from plainunet.formats.colors import read_colors
from plainunet.formats.images import image_shape, image_size, read_image, read_with_missing
from plainunet.formats.masks import mask_size, read_mask
from plainunet.formats.sources import Page, parse_image
from plainunet.formats.tiff import find_slices, mark_nodata, read_tiff, tiff_shape

from ..folders import count_refusals

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (20, 30), dtype=np.uint8)
PATH = Path("some.tif")


def encode(samples: np.ndarray, **options: object) -> BytesIO:
    file = BytesIO()
    tifffile.imwrite(file, samples, **options)
    file.seek(0)
    return file


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_white_is_the_larger_value_also_where_the_file_says_zero_is_white(
    compression: str | None,
) -> None:
    image = read_tiff(encode(GREY, photometric="miniswhite"), PATH)
    np.testing.assert_array_equal(image.samples[..., 0], 255 - GREY)
    file = BytesIO()
    Image.fromarray(GREY).save(file, "TIFF", tiffinfo={262: 0}, compression=compression)
    with Image.open(file) as opened:
        shown = np.asarray(opened)
    np.testing.assert_array_equal(read_tiff(file, PATH).samples[..., 0], shown)


def test_several_pages_are_refused_and_previews_are_not() -> None:
    pages = encode(np.zeros((5, 20, 30), np.uint8), photometric="minisblack")
    for read in (read_tiff, tiff_shape):
        with pytest.raises(ValueError, match=r"some\.tif .*\b5\b.*\b30x20\b"):
            read(pages, PATH)
        with pytest.raises(ValueError, match=r" 'some\.tif\[0\]'"):
            read(pages, PATH)
        with pytest.raises(ValueError, match=r"some\.lsm .* \.tif"):
            read(pages, Path("some.lsm"))
    file = BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(GREY)
        writer.write(GREY[::2, ::2], subfiletype=1)
    np.testing.assert_array_equal(read_tiff(file, PATH).samples[..., 0], GREY)


DTYPES = ("uint8", "uint16", "int16", "float32")
STORED: dict[str, dict[str, Any]] = {
    "plain": {"metadata": None},
    "shaped": {},
    "shaped, one page": {"truncate": True},
    "ImageJ": {"imagej": True, "metadata": {"axes": "ZYX"}},
    "ImageJ, times": {"imagej": True, "metadata": {"axes": "TYX"}},
    "ImageJ, one page": {"imagej": True, "truncate": True, "metadata": {"axes": "ZYX"}},
    "OME": {"ome": True, "metadata": {"axes": "ZYX"}},
    "BigTIFF": {"bigtiff": True},
    "big-endian": {"byteorder": ">"},
    "big-endian BigTIFF": {"bigtiff": True, "byteorder": ">"},
    "zlib": {"compression": "zlib", "predictor": 2},
    "strips": {"rowsperstrip": 3},
    "tiled": {"tile": (16, 16)},
    "tiled, zlib": {"tile": (16, 16), "compression": "zlib"},
    "volume": {"volumetric": True},
    "volume in strips": {"volumetric": True, "rowsperstrip": 6},
    "volume, zlib": {"volumetric": True, "rowsperstrip": 6, "compression": "zlib"},
}


def stack(dtype: str, count: int = 10, height: int = 20, width: int = 30) -> np.ndarray:
    return RANDOM.integers(0, 250, (count, height, width)).astype(dtype)


def write(path: Path, slices: np.ndarray, **options: object) -> Path:
    tifffile.imwrite(path, slices, **{"photometric": "minisblack", **options})
    return path


def require_slices(path: Path, slices: np.ndarray) -> None:
    for index in RANDOM.permutation(len(slices)).tolist():
        wanted, page = slices[index].reshape(*slices.shape[1:3], -1), Page(path, index)
        read = read_image(page)
        assert read.dtype == wanted.dtype
        np.testing.assert_array_equal(read, wanted)
        assert image_shape(page) == wanted.shape


@pytest.mark.parametrize(
    ("stored", "dtype"),
    [
        (stored, dtype)
        for stored in STORED
        for dtype in DTYPES
        # predictor 2 is for integers, and ImageJ has no signed ones
        if (stored, dtype) != ("zlib", "float32") and not ("ImageJ" in stored and dtype == "int16")
    ],
)
def test_every_slice_comes_back(tmp_path: Path, stored: str, dtype: str) -> None:
    slices = stack(dtype)
    require_slices(write(tmp_path / "a.tif", slices, **STORED[stored]), slices)


@pytest.mark.parametrize("stored", ["plain", "shaped, one page", "tiled", "zlib", "BigTIFF"])
def test_slices_in_colour(tmp_path: Path, stored: str) -> None:
    slices = RANDOM.integers(0, 250, (5, 20, 30, 3), dtype=np.uint8)
    path = write(tmp_path / "a.tiff", slices, **{**STORED[stored], "photometric": "rgb"})
    require_slices(path, slices)
    read = read_colors(Page(path, 3))
    np.testing.assert_array_equal(read >> 16, slices[3, ..., 0])
    np.testing.assert_array_equal(read & 255, slices[3, ..., 2])


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "packbits", "tiff_adobe_deflate"])
@pytest.mark.parametrize("mode", ["L", "RGB", "I;16", "1", "F"])
def test_slices_that_pillow_wrote(tmp_path: Path, mode: str, compression: str | None) -> None:
    grey = stack("uint8", 6)
    slices: np.ndarray = {
        "L": grey,
        "RGB": RANDOM.integers(0, 250, (6, 20, 30, 3), dtype=np.uint8),
        "I;16": grey.astype(np.uint16) * 100,
        "1": grey > 100,
        "F": grey.astype(np.float32) / 7,
    }[mode]
    pages = [Image.fromarray(each) for each in slices]
    path = tmp_path / "a.tif"
    pages[0].save(path, save_all=True, append_images=pages[1:], compression=compression)
    if mode == "1":
        slices = slices.astype(np.uint8) * np.uint8(255)
    require_slices(path, slices)


def test_slices_with_jpeg_inside(tmp_path: Path) -> None:
    rows, columns = np.mgrid[:40, :56]
    slices = [(rows + columns + 20 * index).astype(np.uint8) for index in range(4)]
    pages = [Image.fromarray(each) for each in slices]
    path = tmp_path / "a.tif"
    pages[0].save(path, save_all=True, append_images=pages[1:], compression="jpeg", quality=95)
    for index, wanted in enumerate(slices):
        read = read_image(Page(path, index))[..., 0]
        assert np.abs(read.astype(int) - wanted).max() < 6


def test_masks_and_sizes_of_slices(tmp_path: Path) -> None:
    slices = stack("uint8") // 125
    path = write(tmp_path / "a.TIF", slices)
    np.testing.assert_array_equal(read_mask(Page(path, 7)), slices[7])
    assert mask_size(Page(path, 7)) == image_size(Page(path, 7)) == (20, 30)


def test_a_palette_and_an_orientation_go_with_the_slice(tmp_path: Path) -> None:
    slices = stack("uint8", 3)
    colours = RANDOM.integers(0, 65536, (3, 256), dtype=np.uint16)
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        for each in slices:
            writer.write(
                each, photometric="palette", colormap=colours, extratags=[(274, 3, 1, 6, True)]
            )
    upright = np.rot90(slices[1], -1)
    np.testing.assert_array_equal(read_mask(Page(path, 1)), upright)
    np.testing.assert_array_equal(read_image(Page(path, 1)), (colours >> 8).T[upright])


def test_slices_are_counted(tmp_path: Path) -> None:
    for stored, options in STORED.items():
        with write(tmp_path / "a.tif", stack("uint8", 7), **options).open("rb") as file:
            found = find_slices(file, Path("a.tif"))
        assert (found.count, found.size) == (7, (30, 20)), stored


def test_previews_are_no_slices(tmp_path: Path) -> None:
    slices = stack("uint8", 2)
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        for each in slices:
            writer.write(each, metadata=None)
            writer.write(each[::2, ::2], metadata=None, subfiletype=1)
    require_slices(path, slices)
    with pytest.raises(ValueError, match=r"\[0\] .*\[1\]"):
        read_image(Page(path, 2))


def test_a_slice_saved_alone_is_one_image_whatever_its_description(tmp_path: Path) -> None:
    image = stack("uint8", 1)[0]
    for description in ("ImageJ=1.53\nimages=30\nslices=30\n", '{"shape": [30, 20, 30]}'):
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, image, description=description, metadata=None)
        np.testing.assert_array_equal(read_image(path)[..., 0], image)
        np.testing.assert_array_equal(read_image(Page(path, 0))[..., 0], image)


def test_a_stack_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    for count in (3, 5):
        slices = stack("uint8", count)
        require_slices(write(tmp_path / "a.tif", slices), slices)


# what is refused


@pytest.mark.parametrize("index", [10, -1, 999_999_999])
def test_a_slice_that_is_not_there(tmp_path: Path, index: int) -> None:
    path = write(tmp_path / "a.tif", stack("uint8"))
    for read in (read_image, image_shape, read_mask, mask_size, read_colors):
        with pytest.raises(ValueError, match=r"a\.tif .*\b10\b.*\[0\] .*\[9\]"):
            read(Page(path, index))


@pytest.mark.parametrize("item", ["-1", "x", "", "1.0", "9" * 50, "1][2", "²"])
def test_what_is_no_number_names_no_slice(tmp_path: Path, item: str) -> None:
    path = write(tmp_path / "a.tif", stack("uint8"))
    with pytest.raises(FileNotFoundError):
        read_image(parse_image(f"{path}[{item}]"))


def test_a_slice_of_another_file(tmp_path: Path) -> None:
    Image.new("L", (9, 9)).save(tmp_path / "a.tif", "PNG")
    with pytest.raises(ValueError, match=r"a\.tif\[0\] .* PNG"):
        read_image(Page(tmp_path / "a.tif", 0))
    with pytest.raises(FileNotFoundError, match=r"gone\.tif"):
        read_image(Page(tmp_path / "gone.tif", 0))


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((2, 5), {"metadata": {"axes": "TZYX"}}, "2 times, 5 slices"),
        ((2, 5), {"imagej": True, "metadata": {"axes": "ZCYX"}}, "2 slices, 5 channels"),
        ((10,), {"imagej": True}, r"10 channels.*ZYX"),
        ((10,), {"metadata": {"axes": "CYX"}}, "10 channels"),
        ((10,), {"ome": True, "metadata": {"axes": "CYX"}}, "10 channels"),
        ((16,), {"volumetric": True, "tile": (16, 16, 16)}, " 16 "),
    ],
)
def test_other_axes_than_slices(
    tmp_path: Path, shape: tuple[int, ...], options: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "a.tif", np.zeros((*shape, 20, 30), np.uint8), **options)
    for named in (path, Page(path, 0)):
        for read in (read_image, image_shape, read_mask):
            with pytest.raises(ValueError, match=rf"a\.tif .*{message}"):
                read(named)


def test_a_transparency_mask_is_no_slice(tmp_path: Path) -> None:
    pages = [Image.fromarray(each) for each in stack("uint8", 2)]
    info = {254: 4}
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:], tiffinfo=info)
    with pytest.raises(ValueError, match=r"a\.tif .* transparency mask"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("stored", ["plain", "shaped, one page", "zlib", "tiled", "volume"])
@pytest.mark.parametrize("fraction", [0.3, 0.5, 0.9, 0.98])
def test_a_cut_stack_is_refused_by_name(tmp_path: Path, stored: str, fraction: float) -> None:
    path = write(tmp_path / "a.tif", stack("uint8"), **STORED[stored])
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * fraction)])
    for read in (read_image, read_mask, image_shape):
        with pytest.raises(ValueError, match=r"a\.tif.* \d+"):
            read(Page(path, 9))


@pytest.mark.parametrize("stored", ["plain", "tiled, zlib", "ImageJ, one page", "volume, zlib"])
def test_damage_anywhere_is_an_error_that_names_the_stack_or_none(
    tmp_path: Path, stored: str
) -> None:
    path = write(tmp_path / "a.tif", stack("uint8", 4), **STORED[stored])
    # tags lie at the beginning and, where there are several pages, at the end
    places = np.random.default_rng(0).integers(4, 700, 80) * np.tile([1, -1], 40)
    assert count_refusals(path, places.tolist(), lambda: read_image(Page(path, 2))) > 2


def test_pages_in_a_circle(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", stack("uint8", 3), metadata=None)
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        first, last = tiff.pages[0].offset, tiff.pages[2].offset
    tags = int.from_bytes(data[last : last + 2], "little")
    data[last + 2 + 12 * tags : last + 6 + 12 * tags] = first.to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.tif .*page at \d+"):
        read_image(Page(path, 0))


def test_strips_that_overlap_do_not_blow_up(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", stack("uint8", 2), metadata=None, rowsperstrip=1)
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        at = tiff.pages[0].aspage().tags[279].valueoffset
        size = tiff.pages[0].aspage().tags[279].valuebytecount // 20
    for strip in range(20):
        data[at + size * strip : at + size * (strip + 1)] = (700).to_bytes(size, "little")
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.tif .*overlap"):
        read_image(Page(path, 0))


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tag_of_nodata_is_added_to_every_page(tmp_path: Path, bigtiff: bool, order: Any) -> None:
    pages = np.random.default_rng(0).random((3, 40, 56)).astype(np.float32)
    pages[:, :9] = -9999
    path = tmp_path / "a.tif"
    options = {"description": "kept", "compression": "zlib", "metadata": None}
    with tifffile.TiffWriter(path, bigtiff=bigtiff, byteorder=order) as file:
        for page in pages:
            file.write(page, extratags=[(42112, "s", 0, "<GDALMetadata/>", True)], **options)
    path.write_bytes(mark_nodata(path, -9999))
    with tifffile.TiffFile(path) as tiff:
        assert len(tiff.pages) == 3
        for page, values in zip(tiff.pages, pages, strict=True):
            np.testing.assert_array_equal(page.asarray(), values)
            assert page.tags.valueof(42113) == "-9999"
            assert (page.description, page.tags.valueof(42112)) == ("kept", "<GDALMetadata/>")
            codes = [tag.code for tag in page.tags]
            assert codes == sorted(set(codes))
    for number in range(3):
        missing = read_with_missing(Page(path, number))[1]
        assert missing is not None
        assert missing.sum() == 9 * 56


def test_nodata_that_a_type_cannot_hold_is_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tag = (42113, "s", 0, "-3.4e+38", True)
    tifffile.imwrite(tmp_path / "a.tif", np.ones((4, 5), np.float32), extratags=[tag])
    assert read_image(tmp_path / "a.tif").shape == (4, 5, 1)
    assert caplog.text == ""
