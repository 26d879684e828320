import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from plainunet.formats.images import (
    IMAGE_SUFFIXES,
    image_shape,
    image_size,
    match_channels,
    read_image,
    to_unit,
)

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
        path.write_bytes(png_of_few_bits(GREY % (1 << bits), bits))
        np.testing.assert_array_equal(read_image(path)[..., 0], GREY % (1 << bits) * step)


def png_of_few_bits(values: np.ndarray, bits: int) -> bytes:
    """A grey PNG of 1, 2 or 4 bits, written by hand since no library at hand writes one."""
    import struct
    import zlib

    def chunk(name: bytes, content: bytes) -> bytes:
        size, check = struct.pack(">I", len(content)), struct.pack(">I", zlib.crc32(name + content))
        return size + name + content + check

    height, width = values.shape
    digits = np.unpackbits(values.astype(np.uint8)[..., None], axis=-1)[..., 8 - bits :]
    rows = np.packbits(digits.reshape(height, -1), axis=-1)
    packed = b"".join(b"\0" + row.tobytes() for row in rows)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(packed))
        + chunk(b"IEND", b"")
    )


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
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".gif", ".tif", ".bmp", ".webp"])
def test_a_cut_file_is_refused_by_name(tmp_path: Path, suffix: str, cut: float) -> None:
    whole = tmp_path / f"whole{suffix}"
    Image.fromarray(RGB).save(whole)
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


def test_what_is_no_picture_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    for name in ("text.png", "empty.png", "folder.jpg"):
        for read in (read_image, image_shape):
            with pytest.raises(ValueError, match=name.replace(".", r"\.")):
                read(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"gone\.png does not exist"):
        read_image(tmp_path / "gone.png")


def test_animations_and_stacks_are_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.roll(RGB, step)) for step in range(3)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=r"moving\.gif is an animation of 3 frames"):
        read_image(tmp_path / "moving.gif")
    tifffile.imwrite(
        tmp_path / "stack.tif", np.zeros((3, 9, 9), np.uint8), photometric="minisblack"
    )
    with pytest.raises(ValueError, match=r"stack\.tif is a stack of 3 slices of 9x9"):
        read_image(tmp_path / "stack.tif")


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


def test_a_dark_picture_stays_dark() -> None:
    assert to_unit(np.ones((2, 2, 1), np.uint8)).max() == np.float32(1 / 255)


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
