from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from plainunet.formats.tiff import read_tiff, tiff_shape

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (20, 30), dtype=np.uint8)
PATH = Path("some.tif")


def encode(samples: np.ndarray, **options: object) -> BytesIO:
    file = BytesIO()
    tifffile.imwrite(file, samples, **options)
    file.seek(0)
    return file


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "float32", "float64"])
@pytest.mark.parametrize("bands", [1, 2, 3, 4, 7, 32])
@pytest.mark.parametrize("layout", ["contig", "separate"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_samples_come_back(dtype: str, bands: int, layout: str, byteorder: str) -> None:
    samples = RANDOM.integers(0, 100, (20, 30, bands)).astype(dtype)
    stored = samples if layout == "contig" else np.moveaxis(samples, -1, 0)
    options = {"photometric": "minisblack", "planarconfig": layout} if bands > 1 else {}
    file = encode(stored if bands > 1 else samples[..., 0], byteorder=byteorder, **options)
    picture = read_tiff(file, PATH)
    assert picture.samples.dtype == dtype
    assert picture.samples.dtype.isnative
    np.testing.assert_array_equal(picture.samples, samples)
    assert tiff_shape(file, PATH) == (20, 30, bands, 1)


@pytest.mark.parametrize("options", [{"tile": (16, 16)}, {"rowsperstrip": 3}, {"compression": 8}])
def test_storage_does_not_matter(options: dict[str, object]) -> None:
    picture = read_tiff(encode(GREY, **options), PATH)
    np.testing.assert_array_equal(picture.samples[..., 0], GREY)


@pytest.mark.parametrize("mode", ["L", "RGB", "I;16", "F", "1"])
@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_deflate"])
def test_compression_in_common_use(mode: str, compression: str) -> None:
    array = {
        "L": GREY,
        "RGB": RANDOM.integers(0, 256, (20, 30, 3), dtype=np.uint8),
        "I;16": GREY.astype(np.uint16) * 256,
        "F": GREY.astype(np.float32) / 7,
        "1": GREY > 100,
    }[mode]
    file = BytesIO()
    Image.fromarray(array).save(file, "TIFF", compression=compression)
    picture = read_tiff(file, PATH)
    np.testing.assert_array_equal(picture.samples, array.reshape(20, 30, -1))


def test_alpha_is_split_off_and_other_bands_are_not() -> None:
    samples = RANDOM.integers(0, 256, (20, 30, 4), dtype=np.uint8)
    file = encode(samples, photometric="rgb", extrasamples=["unassalpha"])
    picture = read_tiff(file, PATH)
    np.testing.assert_array_equal(picture.samples, samples[..., :3])
    assert picture.alpha is not None
    np.testing.assert_array_equal(picture.alpha, samples[..., 3])
    assert tiff_shape(file, PATH)[2] == 3
    bands = read_tiff(encode(samples, photometric="rgb", extrasamples=["unspecified"]), PATH)
    assert bands.alpha is None
    assert bands.samples.shape[-1] == 4


def test_palette() -> None:
    colours = RANDOM.integers(0, 65536, (3, 256), dtype=np.uint16)
    file = encode(GREY, photometric="palette", colormap=colours)
    picture = read_tiff(file, PATH)
    np.testing.assert_array_equal(picture.samples[..., 0], GREY)
    assert picture.palette is not None
    np.testing.assert_array_equal(picture.palette, colours.T)
    assert tiff_shape(file, PATH)[2] == 3


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_white_is_the_larger_value_also_where_the_file_says_zero_is_white(
    compression: str | None,
) -> None:
    picture = read_tiff(encode(GREY, photometric="miniswhite"), PATH)
    np.testing.assert_array_equal(picture.samples[..., 0], 255 - GREY)
    file = BytesIO()
    Image.fromarray(GREY).save(file, "TIFF", tiffinfo={262: 0}, compression=compression)
    with Image.open(file) as opened:
        shown = np.asarray(opened)
    np.testing.assert_array_equal(read_tiff(file, PATH).samples[..., 0], shown)


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_orientation_is_told_and_not_applied(compression: str | None, orientation: int) -> None:
    file = BytesIO()
    Image.fromarray(GREY).save(file, "TIFF", compression=compression, tiffinfo={274: orientation})
    picture = read_tiff(file, PATH)
    assert picture.orientation == orientation
    np.testing.assert_array_equal(picture.samples[..., 0], GREY)
    assert tiff_shape(file, PATH) == (20, 30, 1, orientation)


def test_several_pages_are_refused_and_previews_are_not() -> None:
    pages = encode(np.zeros((5, 20, 30), np.uint8), photometric="minisblack")
    for read in (read_tiff, tiff_shape):
        with pytest.raises(ValueError, match=r"some\.tif is a stack of 5 slices of 30x20 pixels"):
            read(pages, PATH)
        with pytest.raises(ValueError, match=r"Name a slice, counted from 0: 'some\.tif\[0\]'"):
            read(pages, PATH)
        with pytest.raises(ValueError, match=r"Rename it so that it ends in \.tif"):
            read(pages, Path("some.lsm"))
    file = BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(GREY)
        writer.write(GREY[::2, ::2], subfiletype=1)
    np.testing.assert_array_equal(read_tiff(file, PATH).samples[..., 0], GREY)


@pytest.mark.parametrize("fraction", [0.6, 0.9, 0.9999])
def test_a_cut_file_is_seen_from_its_header(fraction: float) -> None:
    data = encode(np.zeros((60, 80), np.uint8)).getvalue()
    cut = BytesIO(data[: int(len(data) * fraction)])
    for read in (read_tiff, tiff_shape):
        with pytest.raises(ValueError, match=r"some\.tif is cut off"):
            read(cut, PATH)


def test_cmyk_is_refused() -> None:
    file = encode(np.zeros((20, 30, 4), np.uint8), photometric="separated")
    with pytest.raises(ValueError, match=r"cannot be read here \(SEPARATED"):
        read_tiff(file, PATH)
