"""Images of every kind that docs/data.md names, read back."""

import errno
import os
import shlex
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageOps

from plainunet.formats.image_files import array_shape, read_array, read_mask_array
from plainunet.formats.images import (
    image_shape,
    image_size,
    match_channels,
    read_image,
    read_reduced,
    read_with_missing,
    to_unit,
)
from plainunet.formats.masks import read_mask
from plainunet.formats.problems import MOST_PIXELS, DataError

from ..folders import count_refusals

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (20, 30), dtype=np.uint8)
RGB = RANDOM.integers(0, 256, (20, 30, 3), dtype=np.uint8)
SMOOTH = np.stack([np.add.outer(np.arange(64), np.arange(96)) + c for c in (0, 40, 80)], -1)
SMOOTH = SMOOTH.astype(np.uint8)


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [
        *((suffix, "u1") for suffix in (".png", ".tif", ".bmp", ".webp")),
        (".png", "u2"),
        (".tif", "u2"),
        (".tif", "f4"),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
@settings(max_examples=10)
@given(size=st.tuples(st.integers(1, 9), st.integers(1, 9)), seed=st.integers(0, 99))
def test_any_size_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    suffix: str,
    dtype: str,
    channels: int,
    size: tuple[int, int],
    seed: int,
) -> None:
    wanted = np.random.default_rng(seed).integers(0, 256, (*size, channels)).astype(dtype)
    path = tmp_path_factory.mktemp("any") / f"image{suffix}"
    if suffix == ".tif":
        colours = "rgb" if channels == 3 else "minisblack"
        tifffile.imwrite(path, flat(wanted), photometric=colours)
    elif dtype == "u2":
        path.write_bytes(png(wanted))
    else:
        Image.fromarray(flat(wanted)).save(path, lossless=True)
    require_back(path, np.broadcast_to(wanted, (*size, 3)) if suffix == ".webp" else wanted)


# the kinds of each format, judged by another library's reading


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg(tmp_path: Path, mode: str, progressive: bool) -> None:
    path = tmp_path / "image.jpg"
    Image.fromarray(SMOOTH).convert(mode).save(path, quality=95, progressive=progressive)
    with Image.open(path) as opened:
        wanted = np.asarray(opened.convert("L" if mode == "L" else "RGB"))
    # two decoders may round differently
    require_back(path, wanted.reshape(64, 96, -1), tolerance=2)


@pytest.mark.parametrize("suffix", [".png", ".gif", ".tif", ".bmp"])
def test_a_palette_becomes_colours(tmp_path: Path, suffix: str) -> None:
    colours = RANDOM.integers(0, 256, (16, 3), dtype=np.uint8)
    indices = GREY % 16
    picture = Image.fromarray(indices, "L").convert("P")
    picture.putdata(indices.ravel().tolist())
    picture.putpalette(colours.tobytes())
    path = tmp_path / f"image{suffix}"
    picture.save(path)
    np.testing.assert_array_equal(read_image(path), colours[indices])
    assert image_shape(path) == (20, 30, 3)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".npy"])
def test_one_bit_becomes_black_and_white(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image{suffix}"
    np.save(path, GREY > 99) if suffix == ".npy" else Image.fromarray(GREY > 99).save(path)
    require_back(path, np.where(GREY > 99, np.uint8(255), np.uint8(0))[..., None])


@pytest.mark.parametrize(("bits", "step"), [(1, 255), (2, 85), (4, 17)])
def test_grey_of_few_bits_fills_the_range_and_is_ids_in_masks(
    tmp_path: Path, bits: int, step: int
) -> None:
    path, stored = tmp_path / "a.png", GREY % (1 << bits)
    path.write_bytes(png(stored[..., None], bits))
    require_back(path, (stored * step)[..., None])
    np.testing.assert_array_equal(read_mask(path), stored)


@pytest.mark.parametrize(
    ("suffix", "channels", "dtype"),
    [
        *((suffix, channels, "uint8") for suffix in (".png", ".tif") for channels in (1, 3)),
        (".webp", 3, "uint8"),  # which knows no grey
        *((".png", channels, "uint16") for channels in (1, 3)),
    ],
)
def test_alpha_is_dropped_where_opaque_and_refused_where_not(
    tmp_path: Path, suffix: str, channels: int, dtype: str
) -> None:
    def write(alpha: np.ndarray) -> Path:
        samples = np.concatenate([wanted, alpha], axis=-1)
        path = tmp_path / f"a{suffix}"
        if dtype == "uint8":
            Image.fromarray(samples).save(path, lossless=True, exact=True)
        else:
            path.write_bytes(png(samples))
        return path

    wanted = scene(dtype, channels)
    alpha = np.full((HEIGHT, WIDTH, 1), np.iinfo(dtype).max, dtype)
    require_back(write(alpha), wanted)
    alpha[:4, :14] -= 1  # 56 of 2,240
    with pytest.raises(DataError, match=r"a\.\w+ .*2\.5%") as raised:
        read_image(write(alpha))
    assert raised.value.code == "transparent"


@pytest.mark.parametrize("channels", [1, 3])
def test_transparent_pixels_of_tiff_do_not_exist(tmp_path: Path, channels: int) -> None:
    wanted, gone = scene("uint8", channels), np.zeros((HEIGHT, WIDTH), bool)
    gone[:4, :14] = True
    alpha = np.where(gone, 0, 255).astype(np.uint8)[..., None]
    Image.fromarray(np.concatenate([wanted, alpha], axis=-1)).save(tmp_path / "a.tif")
    image, missing = read_with_missing(tmp_path / "a.tif")
    np.testing.assert_array_equal(missing, gone)
    np.testing.assert_array_equal(image[~gone], wanted[~gone])


def test_a_transparent_colour_counts_as_alpha(tmp_path: Path) -> None:
    path, stored = tmp_path / "a.png", GREY // 2
    for array, key in ((stored, int(stored[0, 0])), (RGB, tuple(RGB[0, 0].tolist()))):
        Image.fromarray(array).save(path, transparency=key)
        with pytest.raises(DataError) as raised:
            read_image(path)
        assert raised.value.code == "transparent"
    Image.fromarray(stored).save(path, transparency=200)  # which is nowhere
    require_back(path, stored[..., None])


# what is refused


@pytest.mark.parametrize("cut", [0.02, 0.3, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".npy"])
def test_a_cut_file_is_refused_by_name(tmp_path: Path, suffix: str, cut: float) -> None:
    path = tmp_path / f"cut{suffix}"
    np.save(path, RGB) if suffix == ".npy" else Image.fromarray(RGB).save(path)
    read_image(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * cut)])
    # what holds no end mark is judged by its size
    for read in (read_image, read_mask, *([image_shape] if suffix in (".tif", ".npy") else [])):
        with pytest.raises(ValueError, match=rf"cut\{suffix} "):
            read(path)


@pytest.mark.parametrize("suffix", [".png", ".gif", ".tif", ".bmp"])
def test_a_hundred_million_pixels_are_read_without_a_warning(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    width, height = 10_000, 9_000
    if suffix != ".png":  # of so many in one format; in the others Pillow warns earlier here
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 80)
        width, height = 10, 9
    assert (Image.MAX_IMAGE_PIXELS or 0) < width * height
    path = tmp_path / f"large{suffix}"
    options = {"compression": "group4"} if suffix == ".tif" else {}
    Image.new("1", (width, height), 1).save(path, **options)
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:  # warnings are errors here
        assert set(pool.map(image_size, [path] * 8)) == {(height, width)}
    assert warnings.filters == before
    read = read_image(path)
    assert read.shape == image_shape(path)
    assert read.min() == 255
    with pytest.raises(Image.DecompressionBombWarning):  # for others, Pillow still warns
        Image.open(path)


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_floats_must_be_finite(tmp_path: Path, value: float) -> None:
    image = np.ones((4, 5), np.float32)
    image[1, 2] = value
    tifffile.imwrite(tmp_path / "odd.tif", image)
    with pytest.raises(ValueError, match=r"odd\.tif.*\b1\b.*\b20\b"):
        read_image(tmp_path / "odd.tif")
    with pytest.raises(ValueError, match=r"\b1\b.*\b20\b"):
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
        with pytest.raises(ValueError, match=rf"\b{image.shape[2]}\b.*\b{channels}\b"):
            match_channels(image, channels)


def test_a_real_photograph_cut_anywhere_is_refused(data_root: Path, tmp_path: Path) -> None:
    data = next(iter(sorted((data_root / "carvana/train").glob("*.jpg")))).read_bytes()
    path = tmp_path / "cut.jpg"
    for size in np.linspace(1, len(data) - 1, 40).astype(int):
        path.write_bytes(data[:size])
        with pytest.raises(DataError, match=r"cut\.jpg ") as raised:
            read_image(path)
        assert raised.value.code in ("cut-off", "not-an-image")
    path.write_bytes(data)
    assert read_image(path).shape == (1280, 1918, 3)


@pytest.mark.parametrize(
    ("suffix", "orientation"),
    [
        *(
            (suffix, n)
            for suffix in (".jpg", ".png", ".webp", ".tif", ".lzw.tif")
            for n in range(1, 9)
        ),
        # which makes no sense, and is none
        *((suffix, 77) for suffix in (".jpg", ".png", ".webp", ".tif")),
    ],
)
def test_exif_orientation_is_applied(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = tmp_path / f"image{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"lossless": True}
    if suffix == ".jpg":
        options = {"quality": 100, "subsampling": 0}
    elif suffix == ".lzw.tif":
        options = {"compression": "tiff_lzw"}
    Image.fromarray(SMOOTH).save(path, exif=exif, **options)
    with Image.open(path) as opened:
        wanted = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    assert wanted.shape == ((96, 64, 3) if 4 < orientation < 9 else (64, 96, 3))
    require_back(path, wanted, tolerance=2 if suffix == ".jpg" else 0)
    assert image_size(path) == wanted.shape[:2]
    assert read_image(path).flags.c_contiguous


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


def png(samples: np.ndarray, bits: int = 8) -> bytes:
    """By hand, since no library at hand writes grey in few bits, or with alpha in 16."""

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


@pytest.mark.parametrize(("suffix", "mode"), [(".bmp", "RGBA"), (".gif", "L"), (".gif", "P")])
def test_bmp_and_gif(tmp_path: Path, suffix: str, mode: str) -> None:
    path = tmp_path / f"a{suffix}"
    wanted = scene("uint8", 3 if mode == "RGBA" else 1)
    Image.fromarray(flat(wanted)).convert(mode).save(path)
    # the greys of a GIF are colours of a palette
    require_back(path, np.broadcast_to(wanted, (*wanted.shape[:2], 3)))


@pytest.mark.parametrize("most", [20, 255, 1023, 65535])
@pytest.mark.parametrize("channels", [1, 3])
def test_pgm_and_ppm_keep_their_values(tmp_path: Path, most: int, channels: int) -> None:
    wanted = RANDOM.integers(0, most + 1, (6, 5, channels), np.uint8 if most < 256 else np.uint16)
    path = tmp_path / "a.pnm"
    head = b"P%d\n# a comment\n5 6\n%d\n" % (5 if channels == 1 else 6, most)
    path.write_bytes(head + wanted.astype(wanted.dtype.newbyteorder(">")).tobytes())
    require_back(path, wanted)
    if channels == 1:
        assert (read_mask(path) == wanted[..., 0]).all()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"a\.pnm ") as raised:
        read_image(path)
    assert raised.value.code == "cut-off"


def test_pbm(tmp_path: Path) -> None:
    Image.fromarray(GREY > 127).save(tmp_path / "a.pbm")
    require_back(tmp_path / "a.pbm", np.uint8(255) * (GREY > 127)[..., None])
    assert (read_mask(tmp_path / "a.pbm") == (GREY > 127)).all()


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


# what is refused


def tiff_of(bits: int) -> bytes:
    """A grey TIFF of so many bits, all black, by hand."""
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
        with pytest.raises(ValueError, match=rf"odd\.tif .*\b{bits} bits"):
            read(tmp_path / "odd.tif")


@pytest.mark.parametrize(
    ("array", "options", "message"),
    [
        (np.zeros((9, 9), np.float32), {"photometric": "miniswhite"}, "MINISBLACK"),
        (np.zeros((9, 9, 3), np.uint8), {"photometric": "cielab"}, "CIELAB"),
        (np.zeros((9, 9, 4), np.uint8), {"photometric": "separated"}, "SEPARATED"),
        (np.zeros((9, 9), np.complex64), {}, "complex64"),
        (np.zeros((9, 9), np.int64), {}, " int64 .*uint8"),
        (np.zeros((9, 9), np.uint64), {}, " uint64 .*uint8"),
        (np.full((9, 9), 1e300), {}, "81 .*81"),
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
    with pytest.raises(ValueError, match=r"moving\.\w+ .*\b3\b"):
        image_shape(path)


def test_too_large_to_be_true(tmp_path: Path) -> None:
    # 30,000 x 30,000 pixels in a few bytes; `MOST_PIXELS` is the limit of Pillow
    assert 2 * (Image.MAX_IMAGE_PIXELS or 0) == MOST_PIXELS
    whole = bytearray(png(np.zeros((1, 1, 1), np.uint8)))
    whole[16:25] = (30_000).to_bytes(4, "big") * 2 + b"\x01"
    whole[29:33] = zlib.crc32(whole[12:29]).to_bytes(4, "big")
    (tmp_path / "bomb.png").write_bytes(whole)
    tifffile.imwrite(tmp_path / "bomb.tif", np.zeros((16, 16), np.uint8), compression="zlib")
    with tifffile.TiffFile(tmp_path / "bomb.tif", mode="r+b") as tiff:
        for tag in ("ImageWidth", "ImageLength"):
            tiff.pages.first.tags[tag].overwrite(30_000)
    for name in ("bomb.png", "bomb.tif"):
        for read in (read_image, image_shape, read_mask):
            with pytest.raises(DataError, match=name) as raised:
                read(tmp_path / name)
            assert raised.value.code == "too-large"


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_damage_anywhere_is_an_error_that_names_the_file_or_none(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"damaged{suffix}"
    if suffix == ".png":
        Image.fromarray(scene("uint8", 3)).save(path)
    else:
        tifffile.imwrite(path, scene("uint8", 3), compression="adobe_deflate", tile=(16, 16))
    places = np.random.default_rng(0).integers(8, path.stat().st_size, 150)
    assert count_refusals(path, places.tolist(), lambda: read_image(path)) > 20


@pytest.mark.usefixtures("file_modes")
def test_what_cannot_be_opened_has_a_code(tmp_path: Path) -> None:
    (tmp_path / "loop.png").symlink_to("loop.png")
    Image.fromarray(CLASSES).save(tmp_path / "secret.png")
    (tmp_path / "secret.png").chmod(0)
    for name, code in (("loop.png", "link-loop"), ("secret.png", "not-readable")):
        with pytest.raises(DataError, match=name) as raised:
            read_image(tmp_path / name)
        assert raised.value.code == code
    (tmp_path / "stale.png").symlink_to("gone.png")
    with pytest.raises(FileNotFoundError, match=r"stale\.png .*gone\.png"):
        image_shape(tmp_path / "stale.png")


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    try:
        path.touch()
    except OSError as error:
        if error.errno in (errno.EILSEQ, errno.EINVAL):
            pytest.skip("this file system takes only names that are text")
        raise
    with pytest.raises(DataError, match=r"caf.\.png ") as raised:
        read_image(path)
    assert raised.value.code == "empty-file"
    Image.fromarray(CLASSES).save(path)
    require_back(path, CLASSES[..., None])


NPY = Path("some.npy")
TYPES = ["?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"]


def as_npy(array: np.ndarray, **options: object) -> BytesIO:
    file = BytesIO()
    np.save(file, array, **options)
    file.seek(0)
    return file


@settings(max_examples=10)
@given(data=st.data())
@pytest.mark.parametrize("dtype", TYPES)
def test_arrays_come_back(dtype: str, data: st.DataObject) -> None:
    side = st.integers(1, 9)
    shape = data.draw(st.tuples(side, side) | st.tuples(st.just(9), side, side))
    order = data.draw(st.sampled_from("<>"))
    # floats from their bits: Hypothesis draws those of 16 bits by throwing most draws away
    bits = data.draw(hnp.arrays(np.dtype(dtype.replace("f", "u")).newbyteorder(order), shape))
    array = bits.view(np.dtype(dtype).newbyteorder(order))
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
        (np.array([[None, {}]]), r".*astype\(np\.uint8\)"),
        (np.zeros((4, 5), np.complex64), ".* complex64"),
        (np.full((4, 5), "car"), ".* <U3"),
        (np.zeros((4, 5), [("a", "u1"), ("b", "u1")]), ".*'a', "),
        (np.array(3), r".*\b0\b.*\[\].* \[H, W\]"),
        (np.zeros(7), r".*\[7\]"),
        (np.zeros((2, 4, 5, 3)), r".*\[2, 4, 5, 3\]"),
        (np.zeros((0, 5)), r".*\[0, 5\]"),
        (np.zeros((3, 40, 50)), r".*\[3, 40, 50\].*\[C, H, W\].*np\.moveaxis"),
        (np.zeros((1, 40, 50)), r".*\[C, H, W\]"),
        (np.zeros((32, 40, 50)), r".*\[C, H, W\]"),
    ],
)
def test_arrays_that_are_not_images(array: np.ndarray, message: str) -> None:
    for read in (read_array, array_shape, read_mask_array):
        with pytest.raises(ValueError, match=rf"some\.npy {message}"):
            read(as_npy(array), NPY)


@pytest.mark.parametrize("shape", [(33, 40, 50), (20, 30, 3), (3, 40, 3), (8, 8, 8), (2, 2)])
def test_arrays_that_may_be_images(shape: tuple[int, ...]) -> None:
    assert array_shape(as_npy(np.zeros(shape)), NPY)[:2] == shape[:2]


def test_masks_of_cellpose_are_exported_by_the_command_of_the_error(tmp_path: Path) -> None:
    masks = np.arange(12, dtype=np.uint16).reshape(3, 4) * 100
    np.save(tmp_path / "a_seg.npy", np.array({"masks": masks}), allow_pickle=True)
    with pytest.raises(DataError, match="Cellpose") as raised:
        read_image(tmp_path / "a_seg.npy")
    assert isinstance(raised.value.fix, str)
    subprocess.run([sys.executable, *shlex.split(raised.value.fix)[1:]], check=True)
    np.testing.assert_array_equal(read_image(tmp_path / "a_cp_masks.png")[..., 0], masks)


def test_objects_are_never_unpickled() -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
            return pytest.fail, ("the file was executed",)

    with pytest.raises(ValueError, match=r"some\.npy "):
        read_array(as_npy(np.array([[Trap()]], object), allow_pickle=True), NPY)


@pytest.mark.parametrize(
    ("old", "new"), [(b"{", b"("), (b"}", b" "), (b"'shape'", b"'shapf'"), (b"|u1", b"|q9")]
)
def test_a_damaged_header_is_refused_by_name(tmp_path: Path, old: bytes, new: bytes) -> None:
    path = tmp_path / "damaged.npy"
    path.write_bytes(as_npy(GREY).getvalue().replace(old, new, 1))
    for read in (read_image, image_shape):
        with pytest.raises(DataError, match=r"damaged\.npy ") as raised:
            read(path)
        assert raised.value.code == "damaged"


def test_another_version_is_refused_by_name() -> None:
    file = BytesIO()
    np.lib.format.write_array(file, GREY, version=(2, 0))
    np.testing.assert_array_equal(read_array(file, NPY)[..., 0], GREY)
    file = BytesIO()
    np.lib.format.write_array(file, np.zeros((2, 2), [("é", "u1")]), version=(3, 0))
    with pytest.raises(ValueError, match=r"some\.npy .* 3\.0"):
        read_array(file, NPY)


def test_a_mask_has_one_channel() -> None:
    for array in (GREY, GREY[..., None]):
        np.testing.assert_array_equal(read_mask_array(as_npy(array), NPY), GREY)
    with pytest.raises(ValueError, match=r"some\.npy .*\b2\b.*np\.argmax"):
        read_mask_array(as_npy(np.stack([GREY, GREY], -1)), NPY)


def save_jpeg(path: Path, image: Image.Image, orientation: int = 1) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, quality=95, exif=exif)


def half(size: tuple[int, int]) -> tuple[int, int]:
    return size[0] // 4, size[1] // 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_reduced_jpeg_is_the_image_averaged(tmp_path: Path, mode: str, orientation: int) -> None:
    path = tmp_path / "a.jpg"
    save_jpeg(path, Image.fromarray(SMOOTH).convert(mode), orientation)
    whole = read_image(path)
    for factor in (2, 4, 8):
        found = read_reduced(
            path, lambda size, n=factor: (size[0] // (2 * n), size[1] // (2 * n)), whole.shape[2]
        )
        assert found is not None
        image, size = found
        assert (size, image.dtype) == (whole.shape[:2], np.uint8)
        height, width = size[0] // factor, size[1] // factor
        assert image.shape == (height, width, whole.shape[2])
        mean = whole.reshape(height, factor, width, factor, -1).mean(axis=(1, 3))
        assert np.abs(image - mean).max() < 8


def test_images_that_are_not_reduced(tmp_path: Path) -> None:
    image = Image.fromarray(SMOOTH)
    save_jpeg(tmp_path / "a.jpg", image)
    assert read_reduced(tmp_path / "a.jpg", lambda size: size, 3) is None
    assert read_reduced(tmp_path / "a.jpg", half, 1) is None
    save_jpeg(tmp_path / "odd.jpg", image.crop((0, 0, 95, 64)))
    assert read_reduced(tmp_path / "odd.jpg", half, 3) is None
    image.convert("CMYK").save(tmp_path / "cmyk.jpg")
    assert read_reduced(tmp_path / "cmyk.jpg", half, 3) is None
    image.save(tmp_path / "a.png")
    assert read_reduced(tmp_path / "a.png", half, 3) is None
    with pytest.raises(FileNotFoundError):
        read_reduced(tmp_path / "none.jpg", half, 3)
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError):
        read_reduced(tmp_path / "cut.jpg", half, 3)
