"""One labelled scene in every format that docs/data.md claims, read back."""

import errno
import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from plainunet.dataset.classes import understand_masks
from plainunet.dataset.coding import read_mask
from plainunet.formats.encoded import MOST_PIXELS
from plainunet.formats.images import image_shape, read_image
from plainunet.formats.sources import Page

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


# pictures


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg(tmp_path: Path, mode: str, progressive: bool) -> None:
    path = tmp_path / "a.jpg"
    picture = Image.fromarray(flat(scene("uint8", 1 if mode == "L" else 3))).convert(mode)
    picture.save(path, quality=98, subsampling=0, progressive=progressive)
    wanted = np.asarray(picture.convert("L" if mode == "L" else "RGB"))
    # of 255, at quality 98, around the scene's sharp outlines
    require_back(path, wanted.reshape(HEIGHT, WIDTH, -1), tolerance=12)


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


def png(samples: np.ndarray) -> bytes:
    """Written by hand, since no library at hand writes grey with alpha in 16 bits."""
    import struct
    import zlib

    def chunk(name: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    height, width, channels = samples.shape
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 8 * samples.itemsize, colour_type, 0, 0, 0)
    rows = samples.astype(samples.dtype.newbyteorder(">")).reshape(height, -1)
    content = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = (b"IHDR", header), (b"IDAT", content), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_one_bit(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(CLASSES > 0).save(path)
    require_back(path, np.where(CLASSES > 0, 255, 0).astype(np.uint8)[..., None])


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".gif"])
def test_palette(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    palette(CLASSES).save(path)
    require_back(path, COLOURS[CLASSES])


COLOURS = np.array([[20, 30, 200], [250, 240, 0], [0, 128, 64]], np.uint8)


def palette(ids: np.ndarray) -> Image.Image:
    picture = Image.new("P", ids.shape[::-1])
    picture.putdata(ids.ravel().tolist())
    picture.putpalette(COLOURS.tobytes())
    return picture


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
    storages: list[dict[str, Any]] = [{}, {"tile": (16, 32)}, {"rowsperstrip": 7}]
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
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32"])
@pytest.mark.parametrize("predictor", [1, 2])
def test_tiff_as_pillow_writes_it(
    tmp_path: Path, compression: str, dtype: str, predictor: int
) -> None:
    if predictor == 2 and (dtype == "float32" or compression == "packbits"):
        return  # there is no such TIFF
    for channels in (1, 3) if dtype == "uint8" else (1,):
        wanted = scene(dtype, channels)
        path = tmp_path / "a.tif"
        picture = Image.fromarray(flat(wanted))
        picture.save(path, compression=compression, tiffinfo={317: predictor})
        require_back(path, wanted)


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


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_orientation(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = tmp_path / f"a{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(scene("uint8", 3))
    options = {"quality": 98, "subsampling": 0} if suffix == ".jpg" else {"lossless": True}
    picture.save(path, exif=exif, **options)
    picture.getexif()[0x0112] = orientation
    wanted = np.asarray(ImageOps.exif_transpose(picture))
    require_back(path, wanted, tolerance=12 if suffix == ".jpg" else 0)


# masks


def save(suffix: str, **options: object) -> Callable[[Path, np.ndarray], Path]:
    def to(folder: Path, mask: np.ndarray) -> Path:
        path = folder / f"mask{suffix}"
        if suffix == ".npy":
            np.save(path, mask)
        else:
            Image.fromarray(mask).save(path, **options)
        return path

    return to


def save_palette(suffix: str) -> Callable[[Path, np.ndarray], Path]:
    def to(folder: Path, mask: np.ndarray) -> Path:
        palette(mask).save(folder / f"mask{suffix}")
        return folder / f"mask{suffix}"

    return to


INSTANCES = np.where(CLASSES > 0, 1 + COLUMNS // 4, 0)
TWO = (CLASSES > 0).astype(np.uint8)
VOID = np.where(CLASSES == 2, 255, CLASSES).astype(np.uint8)
LOSSLESS = [save(".png"), save(".bmp"), save(".tif"), save(".tif", compression="tiff_lzw")]


@pytest.mark.parametrize(
    ("write", "stored", "wanted", "kind"),
    [
        *((write, CLASSES, CLASSES, "ids") for write in [*LOSSLESS, save(".npy")]),
        *((write, TWO, TWO, "ids") for write in [*LOSSLESS, save(".npy")]),
        *((write, TWO * 255, TWO, "two values") for write in [*LOSSLESS, save(".npy")]),
        *((write, TWO * 60 + 40, TWO, "two values") for write in [*LOSSLESS, save(".npy")]),
        *((save_palette(suffix), CLASSES, CLASSES, "ids") for suffix in (".png", ".gif", ".tif")),
        *((save(suffix), TWO > 0, TWO, "ids") for suffix in (".png", ".tif", ".npy")),
        *((save(suffix), INSTANCES.astype("u2"), TWO, "instances") for suffix in (".png", ".tif")),
        *((save(".npy"), INSTANCES.astype(dtype), TWO, "instances") for dtype in ("u2", "u4")),
        *((save(".npy"), CLASSES.astype(dtype), CLASSES, "ids") for dtype in ("i8", "u8", "f4")),
        *((save(suffix), VOID, VOID, "ids") for suffix in (".png", ".npy")),
    ],
)
def test_masks(
    tmp_path: Path,
    write: Callable[[Path, np.ndarray], Path],
    stored: np.ndarray,
    wanted: np.ndarray,
    kind: str,
) -> None:
    path = write(tmp_path, stored)
    coding, pixels = understand_masks([path], ignore=255 if wanted is VOID else None)
    assert coding.kind == kind
    encoded = coding.encode(read_mask(path), path)
    assert encoded.dtype == np.uint8
    np.testing.assert_array_equal(encoded, wanted)
    classes = wanted[wanted < 255]
    np.testing.assert_array_equal(pixels, np.bincount(classes))


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
    "options",
    [
        {},
        {"truncate": True},
        {"truncate": True, "imagej": True, "metadata": {"axes": "ZYX"}},
        {"volumetric": True},
    ],
)
def test_a_volume_is_read_slice_by_slice_and_not_taken_for_a_picture(
    tmp_path: Path, options: dict[str, object]
) -> None:
    volume = np.stack([np.roll(CLASSES, step) for step in range(16)])
    path = tmp_path / "volume.tif"
    tifffile.imwrite(path, volume, photometric="minisblack", **options)
    for read in (read_image, image_shape, read_mask):
        with pytest.raises(ValueError, match=r"volume\.tif is a stack of 16 slices.*tif\[0\]'"):
            read(path)
    for index, wanted in enumerate(volume):
        require_back(Page(tmp_path / "volume.tif", index), wanted[..., None])
        np.testing.assert_array_equal(read_mask(Page(tmp_path / "volume.tif", index)), wanted)


def test_a_volume_in_blocks_is_refused(tmp_path: Path) -> None:
    volume = np.zeros((16, 40, 56), np.uint8)
    tifffile.imwrite(tmp_path / "volume.tif", volume, volumetric=True, tile=(16, 16, 16))
    for read in (read_image, image_shape, read_mask):
        with pytest.raises(ValueError, match=r"volume\.tif is a volume of 16 slices.*a page for"):
            read(tmp_path / "volume.tif")


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


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    Image.fromarray(CLASSES).save(path)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user (root?) may read every file")
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
