"""Images of every kind that docs/data.md names, read back."""

import errno
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageOps

from plainunet.formats.encoded import array_shape, read_array, read_mask_array
from plainunet.formats.images import (
    IMAGE_SUFFIXES,
    image_shape,
    image_size,
    match_channels,
    read_image,
    to_unit,
    turn_upright,
)
from plainunet.formats.masks import read_mask
from plainunet.formats.problems import MOST_PIXELS

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (20, 30), dtype=np.uint8)
RGB = RANDOM.integers(0, 256, (20, 30, 3), dtype=np.uint8)
SMOOTH = np.stack([np.add.outer(np.arange(64), np.arange(96)) + c for c in (0, 40, 80)], -1)
SMOOTH = SMOOTH.astype(np.uint8)


def shapes(channels: int | None) -> st.SearchStrategy[tuple[int, ...]]:
    side = st.integers(1, 9)
    sides = st.tuples(side, side)
    return sides if channels is None else sides.map(lambda shape: (*shape, channels))


# lossless formats: what is written is read back, bit for bit


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".webp"])
@pytest.mark.parametrize("channels", [None, 3])
@given(data=st.data())
def test_eight_bits_come_back(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, channels: int | None, data: st.DataObject
) -> None:
    image = data.draw(hnp.arrays(np.uint8, shapes(channels)))
    path = tmp_path_factory.mktemp("eight") / f"picture{suffix}"
    Image.fromarray(image).save(path, lossless=True)
    wanted = image.reshape(*image.shape[:2], -1)
    if suffix == ".webp":  # which knows no grey
        wanted = np.broadcast_to(wanted, (*image.shape[:2], 3))
    read = read_image(path)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, wanted)
    assert image_shape(path) == read.shape


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [None, 3])
@given(data=st.data())
def test_sixteen_bits_come_back(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, channels: int | None, data: st.DataObject
) -> None:
    image = data.draw(hnp.arrays(np.uint16, shapes(channels)))
    path = tmp_path_factory.mktemp("sixteen") / f"picture{suffix}"
    if suffix == ".png":
        assert cv2.imwrite(str(path), image if channels is None else image[..., ::-1])
    else:
        tifffile.imwrite(path, image, photometric="minisblack" if channels is None else "rgb")
    read = read_image(path)
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, image.reshape(*image.shape[:2], -1))
    assert image_shape(path) == read.shape


@given(image=hnp.arrays(np.float32, shapes(None), elements=st.floats(-1e6, 1e6, width=32)))
def test_floats_come_back(tmp_path_factory: pytest.TempPathFactory, image: np.ndarray) -> None:
    path = tmp_path_factory.mktemp("float") / "picture.tif"
    tifffile.imwrite(path, image)
    np.testing.assert_array_equal(read_image(path)[..., 0], image)


# the kinds of each format, judged by another library's reading


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg(tmp_path: Path, mode: str, progressive: bool) -> None:
    path = tmp_path / "picture.jpg"
    Image.fromarray(SMOOTH).convert(mode).save(path, quality=95, progressive=progressive)
    with Image.open(path) as opened:
        wanted = np.asarray(opened.convert("L" if mode == "L" else "RGB"))
    read = read_image(path)
    assert read.shape == image_shape(path) == (64, 96, 1 if mode == "L" else 3)
    assert read.dtype == np.uint8
    # two decoders may round differently
    assert np.abs(read.astype(int) - wanted.reshape(read.shape)).max() <= 2


@pytest.mark.parametrize("suffix", [".png", ".gif", ".tif", ".bmp"])
def test_a_palette_becomes_colours(tmp_path: Path, suffix: str) -> None:
    colours = RANDOM.integers(0, 256, (16, 3), dtype=np.uint8)
    indices = GREY % 16
    picture = Image.fromarray(indices, "L").convert("P")
    picture.putdata(indices.ravel().tolist())
    picture.putpalette(colours.tobytes())
    path = tmp_path / f"picture{suffix}"
    picture.save(path)
    np.testing.assert_array_equal(read_image(path), colours[indices])
    assert image_shape(path) == (20, 30, 3)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_one_bit_becomes_black_and_white(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"picture{suffix}"
    Image.fromarray(GREY > 99).save(path)
    read = read_image(path)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read[..., 0], np.where(GREY > 99, 255, 0))
    assert image_shape(path) == (20, 30, 1)


def test_two_and_four_bit_grey_fill_the_range(tmp_path: Path) -> None:
    for bits, step in [(2, 85), (4, 17)]:
        path = tmp_path / f"{bits}.png"
        path.write_bytes(png((GREY % (1 << bits))[..., None], bits))
        np.testing.assert_array_equal(read_image(path)[..., 0], GREY % (1 << bits) * step)


@pytest.mark.parametrize(
    ("suffix", "mode"),
    # WebP knows no grey
    [(".png", "LA"), (".png", "RGBA"), (".tif", "LA"), (".tif", "RGBA"), (".webp", "RGBA")],
)
def test_alpha_is_dropped_where_opaque_and_refused_where_not(
    tmp_path: Path, suffix: str, mode: str
) -> None:
    picture = Image.fromarray(RGB).convert(mode)
    path = tmp_path / f"opaque{suffix}"
    picture.save(path, lossless=True)
    wanted = np.asarray(picture)[..., :-1]
    np.testing.assert_array_equal(read_image(path), wanted)
    assert image_shape(path) == wanted.shape
    picture.putpixel((3, 4), (*picture.getpixel((3, 4))[:-1], 254))
    path = tmp_path / f"glass{suffix}"
    picture.save(path, lossless=True, exact=True)
    with pytest.raises(ValueError, match=r"glass\.\w+ is transparent in 0\.2% of its pixels"):
        read_image(path)


def test_a_transparent_colour_counts_as_alpha(tmp_path: Path) -> None:
    for name, array, key in [
        ("grey", GREY, int(GREY[0, 0])),
        ("rgb", RGB, tuple(RGB[0, 0].tolist())),
    ]:
        path = tmp_path / f"{name}.png"
        Image.fromarray(array).save(path, transparency=key)
        with pytest.raises(ValueError, match="is transparent"):
            read_image(path)
    absent = sorted(set(range(256)) - set(GREY.ravel().tolist()))[0]
    Image.fromarray(GREY).save(tmp_path / "unused.png", transparency=absent)
    np.testing.assert_array_equal(read_image(tmp_path / "unused.png")[..., 0], GREY)


# what is refused


def test_content_counts_and_not_the_suffix(tmp_path: Path) -> None:
    path = tmp_path / "really a png.jpg"
    Image.fromarray(RGB).save(path, "PNG")
    np.testing.assert_array_equal(read_image(path), RGB)
    assert image_shape(path) == RGB.shape


@pytest.mark.parametrize("cut", [0.02, 0.3, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".gif", ".tif", ".bmp", ".webp", ".npy"])
def test_a_cut_file_is_refused_by_name(tmp_path: Path, suffix: str, cut: float) -> None:
    whole = tmp_path / f"whole{suffix}"
    np.save(whole, RGB) if suffix == ".npy" else Image.fromarray(RGB).save(whole)
    read_image(whole)
    data = whole.read_bytes()
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(data[: int(len(data) * cut)])
    with pytest.raises(ValueError, match=rf"cut\{suffix} (is|cannot)"):
        read_image(path)


def test_damage_in_the_middle_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "damaged.png"
    Image.fromarray(RGB).save(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"damaged\.png cannot be decoded"):
        read_image(path)


@pytest.mark.parametrize("suffix", [".png", ".gif", ".tif", ".bmp"])
def test_a_hundred_million_pixels_are_read_without_a_warning(tmp_path: Path, suffix: str) -> None:
    assert (Image.MAX_IMAGE_PIXELS or 0) < 10_000 * 9_000
    path = tmp_path / f"large{suffix}"
    options = {"compression": "group4"} if suffix == ".tif" else {}
    Image.new("1", (10_000, 9_000), 1).save(path, **options)
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:  # warnings are errors here
        assert set(pool.map(image_size, [path] * 8)) == {(9_000, 10_000)}
    assert warnings.filters == before
    read = read_image(path)
    assert read.shape == image_shape(path)
    assert read.min() == 255
    with pytest.raises(Image.DecompressionBombWarning):  # for others, Pillow still warns
        Image.open(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_floats_must_be_finite(tmp_path: Path, value: float) -> None:
    image = np.ones((4, 5), np.float32)
    image[1, 2] = value
    tifffile.imwrite(tmp_path / "odd.tif", image)
    with pytest.raises(ValueError, match=r"odd\.tif: 1 of 20 values are infinite or not a number"):
        read_image(tmp_path / "odd.tif")
    with pytest.raises(ValueError, match="1 of 20 values"):
        to_unit(image)


# numbers


@pytest.mark.parametrize(
    ("dtype", "most"), [("uint8", 255), ("uint16", 65535), ("uint32", 2**32 - 1)]
)
def test_integers_are_divided_by_the_most_that_they_can_hold(dtype: str, most: int) -> None:
    unit = to_unit(np.array([0, 1, most // 2, most], dtype))
    assert unit.dtype == np.float32
    np.testing.assert_allclose(unit, [0, 1 / most, 0.5, 1], atol=1 / most)
    assert unit[-1] == 1


def test_floats_and_bools_are_left_as_they_are() -> None:
    np.testing.assert_array_equal(to_unit(np.array([-3.5, 700.0])), np.float32([-3.5, 700]))
    np.testing.assert_array_equal(to_unit(np.array([False, True])), np.float32([0, 1]))
    with pytest.raises(ValueError, match="complex"):
        to_unit(np.array([1j]))


def test_grey_is_shown_as_rgb_and_nothing_else_is_converted() -> None:
    assert match_channels(RGB, 3) is RGB
    shown = match_channels(GREY[..., None], 3)
    assert shown.shape == (20, 30, 3)
    assert all((shown[..., channel] == GREY).all() for channel in range(3))
    for image, channels in [(RGB, 1), (RGB, 4), (np.zeros((4, 5, 2)), 3)]:
        with pytest.raises(ValueError, match=f"has {image.shape[2]} channels, {channels} are"):
            match_channels(image, channels)


# real pictures


@pytest.mark.parametrize(
    ("pattern", "shape"),
    [
        ("carvana/train/*.jpg", (1280, 1918, 3)),
        ("isbi2012/images/*.png", (512, 512, 1)),
        ("camvid/images/train/*.jpg", (360, 480, 3)),
        ("carrotweed/images/*.jpg", (816, 1088, 3)),
        ("chasedb1/images/*.jpg", (960, 999, 3)),
    ],
)
def test_real_pictures_have_the_published_size(
    data_root: Path, pattern: str, shape: tuple[int, int, int]
) -> None:
    paths = sorted(data_root.glob(pattern))
    assert {image_shape(path) for path in paths} == {shape}
    for path in paths[:3]:
        with Image.open(path) as opened:
            wanted = np.asarray(opened).reshape(shape)
        assert np.abs(read_image(path).astype(int) - wanted).max() <= 2


def test_grey_and_rgb_in_one_real_set(data_root: Path) -> None:
    channels = [image_shape(path)[2] for path in sorted((data_root / "dsb2018/images").iterdir())]
    assert channels.count(1) == 251
    assert channels.count(3) == 49


def test_a_real_photograph_cut_anywhere_is_refused(data_root: Path, tmp_path: Path) -> None:
    data = next(iter(sorted((data_root / "carvana/train").glob("*.jpg")))).read_bytes()
    path = tmp_path / "cut.jpg"
    for size in np.linspace(1, len(data) - 1, 40).astype(int):
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"cut\.jpg is (cut off|not a picture)"):
            read_image(path)
    path.write_bytes(data)
    assert read_image(path).shape == (1280, 1918, 3)


def test_suffixes_are_lower_case_and_readable() -> None:
    assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in IMAGE_SUFFIXES)
    known = Image.registered_extensions()
    assert all(suffix in known for suffix in IMAGE_SUFFIXES - {".npy"})


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


HEIGHT, WIDTH = 40, 56  # no multiples of a tile, a strip or a byte's eight pixels
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH]
# a disk of class 1 and a bar of class 2 on class 0


CLASSES = np.where(np.hypot(ROWS - 15, COLUMNS - 20) < 9, 1, 0).astype(np.uint8)
CLASSES[28:35, 9:50] = 2
BANDS = np.stack([CLASSES * 70 + ROWS // (band + 1) + COLUMNS for band in range(32)], axis=-1)


def scene(dtype: str, channels: int) -> np.ndarray:
    """[40, 56, channels]: integers over the whole range of their type, floats around 0."""
    bands = BANDS[..., :channels].astype(np.float64)
    bands /= bands.max()
    if np.dtype(dtype).kind == "f":
        return (bands * 700 - 350).astype(dtype)
    return (bands * np.iinfo(dtype).max).astype(dtype)


def flat(image: np.ndarray) -> np.ndarray:
    """Grey as [H, W], for writers that know no channel axis of 1."""
    return image[..., 0] if image.shape[-1] == 1 else image


def require_back(path: Path, wanted: np.ndarray, tolerance: float = 0) -> None:
    read = read_image(path)
    assert read.dtype == (np.float32 if wanted.dtype.kind == "f" else wanted.dtype)
    assert read.shape == image_shape(path) == wanted.shape
    error = np.abs(read.astype(np.float64) - wanted.astype(read.dtype))
    assert error.max() <= tolerance


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("alpha", [False, True])
def test_png(tmp_path: Path, dtype: str, channels: int, alpha: bool) -> None:
    wanted = scene(dtype, channels)
    opaque = np.full((HEIGHT, WIDTH, 1), np.iinfo(dtype).max, dtype)
    path = tmp_path / "a.png"
    path.write_bytes(png(np.concatenate([wanted, opaque], axis=-1) if alpha else wanted))
    require_back(path, wanted)
    if alpha:
        opaque[3, 4] = 0
        path.write_bytes(png(np.concatenate([wanted, opaque], axis=-1)))
        with pytest.raises(ValueError, match=r"a\.png is transparent"):
            read_image(path)


def png(samples: np.ndarray, bits: int = 8) -> bytes:
    """By hand, since no library at hand writes grey in few bits, or with alpha in 16."""
    import struct
    import zlib

    def chunk(name: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    height, width, channels = samples.shape
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    bits = bits * samples.itemsize
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    rows = samples.astype(samples.dtype.newbyteorder(">")).reshape(height, -1)
    if bits < 8:
        digits = np.unpackbits(rows[..., None], axis=-1)[..., 8 - bits :]
        rows = np.packbits(digits.reshape(height, -1), axis=-1)
    content = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = (b"IHDR", header), (b"IDAT", content), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [
        *((".bmp", mode) for mode in ("L", "RGB", "RGBA")),
        *((".webp", mode) for mode in ("RGB", "RGBA")),
        *((".gif", mode) for mode in ("L", "P")),
    ],
)
def test_bmp_webp_and_gif(tmp_path: Path, suffix: str, mode: str) -> None:
    path = tmp_path / f"a{suffix}"
    wanted = scene("uint8", 3 if mode.startswith("RGB") else 1)
    Image.fromarray(flat(wanted)).convert(mode).save(path, lossless=True)
    if suffix == ".gif":  # whose greys are colours of a palette
        wanted = np.repeat(wanted, 3, axis=2)
    require_back(path, wanted)


INTEGERS = ["uint8", "int8", "uint16", "int16", "uint32", "int32"]


@pytest.mark.parametrize("dtype", [*INTEGERS, "float16", "float32", "float64"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 8, 32])
@pytest.mark.parametrize("compression", [None, "adobe_deflate"])
def test_tiff(tmp_path: Path, dtype: str, channels: int, compression: str | None) -> None:
    path = tmp_path / "a.tif"
    wanted = scene(dtype, channels)
    storages: list[dict[str, Any]] = [{"byteorder": ">"}, {"tile": (16, 32)}, {"rowsperstrip": 7}]
    if channels > 1:
        storages = [{"planarconfig": "contig", **storage} for storage in storages]
        storages.append({"planarconfig": "separate"})
    for storage in storages:
        apart = storage.get("planarconfig") == "separate"
        stored = np.moveaxis(wanted, -1, 0) if apart else flat(wanted)
        colours = "rgb" if channels == 3 else "minisblack"
        tifffile.imwrite(path, stored, photometric=colours, compression=compression, **storage)
        require_back(path, wanted)


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate"])
@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "int32", "float32"])
@pytest.mark.parametrize("predictor", [1, 2])
def test_tiff_as_pillow_writes_it(
    tmp_path: Path, compression: str, dtype: str, predictor: int
) -> None:
    if predictor == 2 and (dtype in ("bool", "float32") or compression == "packbits"):
        return  # there is no such TIFF
    for channels in (1, 3) if dtype == "uint8" else (1,):
        wanted = CLASSES[..., None] > 0 if dtype == "bool" else scene(dtype, channels)
        path = tmp_path / "a.tif"
        picture = Image.fromarray(flat(wanted))
        picture.save(path, compression=compression, tiffinfo={317: predictor})
        require_back(path, wanted * np.uint8(255) if dtype == "bool" else wanted)


@pytest.mark.parametrize("channels", [1, 3])
def test_tiff_with_jpeg_inside(tmp_path: Path, channels: int) -> None:
    path = tmp_path / "a.tif"
    wanted = scene("uint8", channels)
    Image.fromarray(flat(wanted)).save(path, compression="jpeg", quality=98)
    require_back(path, wanted, tolerance=40)  # of 255; colours are halved in resolution


@pytest.mark.parametrize("dtype", [*INTEGERS, "float16", "float32", "float64"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 8, 32])
def test_npy(tmp_path: Path, dtype: str, channels: int) -> None:
    wanted = scene(dtype, channels)
    np.save(tmp_path / "a.npy", wanted)
    require_back(tmp_path / "a.npy", wanted)
    np.save(tmp_path / "grey.npy", wanted[..., 0])
    require_back(tmp_path / "grey.npy", wanted[..., :1])


def test_truth_values_become_black_and_white(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", CLASSES > 0)
    require_back(tmp_path / "a.npy", np.where(CLASSES > 0, 255, 0).astype(np.uint8)[..., None])


# what is refused


def tiff_of(bits: int) -> bytes:
    """A grey TIFF of so many bits, all black, by hand."""
    import struct

    content = bytes((WIDTH * bits + 7) // 8 * HEIGHT)
    tags = [(256, WIDTH), (257, HEIGHT), (258, bits), (259, 1), (262, 1), (273, 8), (277, 1)]
    tags += [(278, HEIGHT), (279, len(content))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return (
        b"II*\0" + struct.pack("<I", 8 + len(content)) + content
        + struct.pack("<H", len(tags)) + entries + bytes(4)
    )  # fmt: skip


@pytest.mark.parametrize("bits", [2, 4, 12, 24])
def test_tiff_of_odd_bits(tmp_path: Path, bits: int) -> None:
    (tmp_path / "odd.tif").write_bytes(tiff_of(bits))
    for read in (read_image, read_mask):
        with pytest.raises(ValueError, match=rf"odd\.tif stores .* {bits} bits\)\. Save it as 8"):
            read(tmp_path / "odd.tif")


@pytest.mark.parametrize(
    ("array", "options", "message"),
    [
        (np.zeros((9, 9), np.float32), {"photometric": "miniswhite"}, "says that 0 is white"),
        (np.zeros((9, 9, 3), np.uint8), {"photometric": "cielab"}, "cannot be read here .CIELAB"),
        (np.zeros((9, 9), np.complex64), {}, "complex64 is not a kind of number.*Save"),
        (np.zeros((9, 9), np.int64), {}, "holds int64 values.*Save it as uint8"),
        (np.zeros((9, 9), np.uint64), {}, "holds uint64 values.*Save it as uint8"),
        (np.full((9, 9), 1e300), {}, "81 of 81 values are infinite"),
    ],
)
def test_numbers_without_a_meaning(
    tmp_path: Path, array: np.ndarray, options: dict[str, object], message: str
) -> None:
    tifffile.imwrite(tmp_path / "odd.tif", array, **options)
    with pytest.raises(ValueError, match=rf"odd\.tif.*{message}"):
        read_image(tmp_path / "odd.tif")


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_animations_are_seen_from_the_header(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"moving{suffix}"
    frames = [Image.fromarray(np.roll(scene("uint8", 3), step)) for step in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=r"moving\.\w+ is an animation of 3 frames.*Save each"):
        image_shape(path)


def test_too_large_to_be_true(tmp_path: Path) -> None:
    """30,000 x 30,000 pixels in a few bytes; `MOST_PIXELS` is Pillow's limit."""
    assert 2 * (Image.MAX_IMAGE_PIXELS or 0) == MOST_PIXELS
    whole = bytearray(png(np.zeros((1, 1, 1), np.uint8)))
    whole[16:25] = (30_000).to_bytes(4, "big") * 2 + b"\x01"
    import zlib

    whole[29:33] = zlib.crc32(whole[12:29]).to_bytes(4, "big")
    (tmp_path / "bomb.png").write_bytes(whole)
    file = BytesIO()
    tifffile.imwrite(file, np.zeros((16, 16), np.uint8), compression="adobe_deflate")
    data = file.getvalue()
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        for tag in (256, 257):
            at = tiff.pages[0].tags[tag].valueoffset
            assert tiff.pages[0].tags[tag].dtype in (3, 4)
            data = data[:at] + (30_000).to_bytes(2, "little") + data[at + 2 :]
    (tmp_path / "bomb.tif").write_bytes(data)
    for name in ("bomb.png", "bomb.tif"):
        for read in (read_image, image_shape, read_mask):
            with pytest.raises(ValueError, match=rf"{name} is too large.*178956970.*Cut it"):
                read(tmp_path / name)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_damage_anywhere_is_an_error_that_names_the_file_or_none(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"damaged{suffix}"
    if suffix == ".png":
        Image.fromarray(scene("uint8", 3)).save(path)
    else:
        tifffile.imwrite(path, scene("uint8", 3), compression="adobe_deflate", tile=(16, 16))
    data = path.read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(data)
        damaged[random.integers(8, len(data))] = random.integers(256)
        path.write_bytes(damaged)
        try:
            read_image(path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017
            refused += 1
    assert refused > 20


def test_links_that_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "loop.png").symlink_to("loop.png")
    with pytest.raises(ValueError, match=r"loop\.png is a link that leads back to itself\. Remove"):
        read_image(tmp_path / "loop.png")
    (tmp_path / "stale.png").symlink_to("gone.png")
    with pytest.raises(FileNotFoundError, match=r"stale\.png is a link to gone\.png, which does"):
        image_shape(tmp_path / "stale.png")


@pytest.mark.usefixtures("file_modes")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    Image.fromarray(CLASSES).save(path)
    path.chmod(0)
    with pytest.raises(ValueError, match=r"secret\.png cannot be opened.*Check its permissions"):
        read_image(path)


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    try:
        path.touch()
    except OSError as error:
        if error.errno in (errno.EILSEQ, errno.EINVAL):
            pytest.skip("this file system takes only names that are text")
        raise
    with pytest.raises(ValueError, match=r"caf.\.png is empty"):
        read_image(path)
    Image.fromarray(CLASSES).save(path)
    require_back(path, CLASSES[..., None])


NPY = Path("some.npy")
TYPES = ["?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"]


def as_npy(array: np.ndarray, **options: object) -> BytesIO:
    file = BytesIO()
    np.save(file, array, **options)
    file.seek(0)
    return file


@given(data=st.data())
@pytest.mark.parametrize("dtype", TYPES)
def test_arrays_come_back(dtype: str, data: st.DataObject) -> None:
    side = st.integers(1, 9)
    shape = data.draw(st.tuples(side, side) | st.tuples(st.just(9), side, side))
    order = data.draw(st.sampled_from("<>"))
    array = data.draw(hnp.arrays(np.dtype(dtype).newbyteorder(order), shape))
    if data.draw(st.booleans()):
        array = np.asfortranarray(array)
    read = read_array(as_npy(array), NPY)
    assert read.dtype == np.dtype(dtype)
    assert read.dtype.isnative
    assert read.flags.c_contiguous
    np.testing.assert_array_equal(read, array.reshape(*shape[:2], -1))
    assert array_shape(as_npy(array), NPY) == read.shape


def test_the_shape_is_read_from_the_header_of_a_large_file(tmp_path: Path) -> None:
    path = tmp_path / "large.npy"
    shape = (100_000, 100_000, 3)
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 3 * 10**10)  # a hole, which takes no room on the disk
    assert image_shape(path) == shape


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([[None, {}]]), r"holds Python objects, not plain numbers.*astype\(np\.uint8\)"),
        (np.zeros((4, 5), np.complex64), "holds values of type complex64"),
        (np.full((4, 5), "car"), "holds values of type <U3"),
        (np.zeros((4, 5), [("a", "u1"), ("b", "u1")]), "holds values of type"),
        (np.array(3), r"has 0 axes, \[\]; a picture has \[H, W\]"),
        (np.zeros(7), r"has 1 axes, \[7\]"),
        (np.zeros((2, 4, 5, 3)), r"has 4 axes, \[2, 4, 5, 3\].*an array of its own"),
        (np.zeros((0, 5)), r"is empty, \[0, 5\]"),
        (np.zeros((3, 40, 50)), r"is \[3, 40, 50\], which looks like \[C, H, W\].*np\.moveaxis"),
        (np.zeros((1, 40, 50)), r".*looks like \[C, H, W\]"),
        (np.zeros((32, 40, 50)), r".*looks like \[C, H, W\]"),
    ],
)
def test_arrays_that_are_no_pictures(array: np.ndarray, message: str) -> None:
    for read in (read_array, array_shape, read_mask_array):
        with pytest.raises(ValueError, match=rf"some\.npy {message}"):
            read(as_npy(array), NPY)


@pytest.mark.parametrize("shape", [(33, 40, 50), (20, 30, 3), (3, 40, 3), (8, 8, 8), (2, 2)])
def test_what_may_be_a_picture_is_none_of_that(shape: tuple[int, ...]) -> None:
    assert array_shape(as_npy(np.zeros(shape)), NPY)[:2] == shape[:2]


def test_objects_are_never_unpickled() -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
            return pytest.fail, ("the file was executed",)

    with pytest.raises(ValueError, match="Python objects"):
        read_array(as_npy(np.array([[Trap()]], object), allow_pickle=True), NPY)


@pytest.mark.parametrize(
    ("old", "new"), [(b"{", b"("), (b"}", b" "), (b"'shape'", b"'shapf'"), (b"|u1", b"|q9")]
)
def test_a_damaged_header_is_refused_by_name(tmp_path: Path, old: bytes, new: bytes) -> None:
    path = tmp_path / "damaged.npy"
    path.write_bytes(as_npy(GREY).getvalue().replace(old, new, 1))
    for read in (read_image, image_shape):
        with pytest.raises(ValueError, match=r"damaged\.npy cannot be decoded"):
            read(path)


def test_another_version_is_refused_by_name() -> None:
    file = BytesIO()
    np.lib.format.write_array(file, GREY, version=(2, 0))
    np.testing.assert_array_equal(read_array(file, NPY)[..., 0], GREY)
    file = BytesIO()
    np.lib.format.write_array(file, np.zeros((2, 2), [("é", "u1")]), version=(3, 0))
    with pytest.raises(ValueError, match=r"some\.npy is a \.npy file of version 3\.0"):
        read_array(file, NPY)


def test_a_mask_has_one_channel() -> None:
    for array in (GREY, GREY[..., None]):
        np.testing.assert_array_equal(read_mask_array(as_npy(array), NPY), GREY)
    with pytest.raises(ValueError, match=r"some\.npy has 2 channels.*np\.argmax"):
        read_mask_array(as_npy(np.stack([GREY, GREY], -1)), NPY)
