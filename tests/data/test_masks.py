from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageOps

from plainunet.data.masks import MaskCoding, read_mask, understand_masks

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


# coding


def test_encode() -> None:
    coding = MaskCoding((0, 255), None, "two values")
    encoded = coding.encode(np.array([[0, 255], [255, 0]], np.uint8))
    assert encoded.dtype == np.uint8
    np.testing.assert_array_equal(encoded, [[0, 1], [1, 0]])
    assert coding.num_classes == 2


def test_encode_with_ignored_pixels() -> None:
    coding = MaskCoding((0, 1, 2), 11, "ids")
    np.testing.assert_array_equal(coding.encode(np.array([[0, 2, 11]], np.uint8)), [[0, 2, 255]])
    np.testing.assert_array_equal(coding.encode(np.array([[0, 2, 11]], np.uint16)), [[0, 2, 255]])


def test_encode_instances() -> None:
    coding = MaskCoding((0, 1), 65535, "instances")
    mask = np.array([[0, 1, 2, 300, 65535]], np.uint16)
    np.testing.assert_array_equal(coding.encode(mask), [[0, 1, 1, 1, 255]])


def test_encode_names_what_it_does_not_know() -> None:
    coding = MaskCoding((0, 255), None, "two values")
    mask = np.array([[0, 255, 7, 7]], np.uint8)
    with pytest.raises(ValueError, match=r"^a/b\.png has 2 pixels of value 7; known are 0, 255"):
        coding.encode(mask, Path("a/b.png"))
    with pytest.raises(ValueError, match=r"^the mask has 2 pixels of value 7"):
        coding.encode(mask)


@given(
    values=st.lists(st.integers(0, 65535), min_size=2, max_size=255, unique=True),
    shape=SHAPES,
    seed=st.integers(0, 99),
)
def test_encode_turns_the_nth_value_into_n(
    values: list[int], shape: tuple[int, int], seed: int
) -> None:
    ids = np.random.default_rng(seed).integers(0, len(values), shape)
    mask = np.array(values, np.uint16)[ids]
    np.testing.assert_array_equal(MaskCoding(tuple(values), None, "ids").encode(mask), ids)


def test_encode_colours() -> None:
    coding = MaskCoding((0, 1), None, "colors", ((0, 0, 0), (255, 0, 0)))
    mask = np.array([[0x000000, 0xFF0000, 0xF00505, 0x00FF00]], np.uint32)
    encoded = coding.encode(mask)
    assert encoded.dtype == np.uint8
    np.testing.assert_array_equal(encoded, [[0, 1, 1, 255]])


def test_read_is_read_mask_and_encode(tmp_path: Path) -> None:
    path = save(tmp_path / "mask.png", IDS + 10)
    coding = MaskCoding((10, 11, 12, 13), None, "ids")
    np.testing.assert_array_equal(coding.read(path), IDS)
    assert coding.read_stored(path).tolist() == read_mask(path).tolist()
    with pytest.raises(ValueError, match=r"mask\.png has .* of value 13"):
        MaskCoding((10, 11, 12), None, "ids").read(path)


# whole sets


def test_a_set_of_masks_is_understood(tmp_path: Path) -> None:
    paths = [
        save(tmp_path / "empty.png", np.zeros((4, 5), np.uint8)),
        save(tmp_path / "half.png", np.repeat(np.uint8([[0, 255]]), 10, axis=0)),
    ]
    coding, counts = understand_masks(paths)
    assert coding == MaskCoding((0, 255), None, "two values")
    assert counts.dtype == np.int64
    assert counts.tolist() == [30, 10]


def test_ignored_pixels_belong_to_no_class(tmp_path: Path) -> None:
    path = save(tmp_path / "ids.png", np.uint8([[0, 1, 2, 2, 11, 11, 11]]))
    coding, counts = understand_masks([path], ignore=11)
    assert coding == MaskCoding((0, 1, 2), 11, "ids")
    assert counts.tolist() == [1, 1, 2]


def test_numbered_objects_are_counted_as_one_class(tmp_path: Path) -> None:
    mask = np.arange(100, dtype=np.uint16).reshape(10, 10)
    coding, counts = understand_masks([save(tmp_path / "objects.png", mask)])
    assert coding == MaskCoding((0, 1), None, "instances")
    assert counts.tolist() == [1, 99]


def test_a_stray_value_is_named_with_its_file(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{n}.png", np.uint8([[0, 255, 0, 255]])) for n in range(5)]
    save(paths[3], np.uint8([[0, 255, 7, 7]]))
    with pytest.raises(
        ValueError, match=r"Value 7 does not fit beside 0, 255: 2 pixels in .*3\.png"
    ):
        understand_masks(paths)


def test_a_damaged_mask_ends_the_census(tmp_path: Path) -> None:
    good = save(tmp_path / "good.png", IDS)
    (tmp_path / "bad.png").write_bytes(good.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"bad\.png is cut off"):
        understand_masks([good, tmp_path / "bad.png", good])


@given(mask=hnp.arrays(np.uint8, SHAPES, elements=st.integers(0, 3)))
def test_counts_are_those_of_numpy(
    tmp_path_factory: pytest.TempPathFactory, mask: np.ndarray
) -> None:
    path = save(tmp_path_factory.mktemp("counts") / "mask.png", mask)
    all_four = save(path.with_name("four.png"), np.uint8([[0, 1, 2, 3]]))
    _, counts = understand_masks([path, all_four])
    assert counts.tolist() == [int((mask == value).sum()) + 1 for value in range(4)]


# sets of masks that name classes by colour


LEGEND = ((200, 0, 0), (0, 0, 0), (0, 0, 200), (250, 250, 0))


def in_colour(ids: np.ndarray) -> np.ndarray:
    return np.array(LEGEND, np.uint8)[ids]


def in_palette(ids: np.ndarray) -> Image.Image:
    """Indices in another order than the classes."""
    picture = Image.fromarray(3 - ids).convert("P")
    picture.putdata((3 - ids).ravel().tolist())
    picture.putpalette(np.array(LEGEND[::-1], np.uint8).tobytes())
    return picture


def test_rgb_and_palette_masks_are_read_by_one_legend(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.png", "b.png", "c.tif", "d.gif", "e.png", "f.tif")]
    Image.fromarray(in_colour(IDS)).save(paths[0])
    in_palette(IDS).save(paths[1])
    Image.fromarray(in_colour(IDS)).convert("RGBA").save(paths[2])
    in_palette(IDS).save(paths[3])
    in_palette(IDS).save(paths[4], transparency=bytes([255, 0, 99]))
    in_palette(IDS).save(paths[5])
    notes: list[str] = []
    coding, counts = understand_masks(paths, colors=LEGEND, on_note=notes.append)
    assert coding == MaskCoding((0, 1, 2, 3), None, "colors", LEGEND)
    assert counts.tolist() == (6 * np.bincount(IDS.ravel())).tolist()
    assert notes == []
    for path in paths:
        np.testing.assert_array_equal(coding.read(path), IDS, err_msg=path.name)


def test_without_a_legend_colours_are_sorted_and_said(tmp_path: Path) -> None:
    """One RGB mask is enough for palettes to be read by their colours."""
    in_palette(IDS).save(tmp_path / "a.png")
    save(tmp_path / "b.png", in_colour(IDS))
    notes: list[str] = []
    coding, _ = understand_masks([tmp_path / "a.png", tmp_path / "b.png"], on_note=notes.append)
    assert coding.colors == tuple(sorted(LEGEND))
    assert [note.split(": ")[-1] for note in notes] == [
        "0 = 000000, 1 = 0000C8, 2 = C80000, 3 = FAFA00"
    ]
    order = np.array([2, 0, 1, 3])
    for name in ("a.png", "b.png"):
        np.testing.assert_array_equal(coding.read(tmp_path / name), order[IDS])


def test_palettes_alone_are_indices_unless_colours_are_given(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    in_palette(IDS).save(path)
    assert understand_masks([path])[0] == MaskCoding((0, 1, 2, 3), None, "ids")
    np.testing.assert_array_equal(understand_masks([path], colors=LEGEND)[0].read(path), IDS)


def test_jpeg_is_mended_and_said(tmp_path: Path) -> None:
    ids = np.repeat(np.repeat(IDS, 16, axis=0), 16, axis=1)[3:, 5:]
    path = tmp_path / "mask.jpg"
    Image.fromarray(in_colour(ids)).save(path, quality=90, subsampling=0)
    notes: list[str] = []
    coding, counts = understand_masks([path], colors=LEGEND, on_note=notes.append)
    read = coding.read(path)
    known = read < 255
    assert known.mean() > 0.95
    assert (read[known] == ids[known]).mean() > 0.99
    assert counts.tolist() == np.bincount(read[known]).tolist()
    assert "are taken for it" in notes[0]
    with pytest.raises(ValueError, match="--colors 000000 0100C8 C80000 FAFB00; others"):
        understand_masks([path])


def test_ignored_grey_in_colour(tmp_path: Path) -> None:
    path = save(tmp_path / "mask.png", in_colour(IDS))
    coding, counts = understand_masks([path], ignore=0)
    assert coding.colors == ((0, 0, 200), (200, 0, 0), (250, 250, 0))
    np.testing.assert_array_equal(coding.read(path) == 255, IDS == 1)
    assert counts.sum() == (IDS != 1).sum()


def test_a_legend_file_gives_the_order(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    path = save(tmp_path / "masks" / "1.png", in_colour(IDS))
    rows = [f"class {k},{r},{g},{b}" for k, (r, g, b) in enumerate(LEGEND)]
    (tmp_path / "class_dict.csv").write_text("\n".join(["name,r,g,b", *rows]))
    notes: list[str] = []
    coding, _ = understand_masks([path], on_note=notes.append)
    assert coding.colors == LEGEND
    assert "class_dict.csv" in notes[0]


# real sets, beside figures from plain Pillow and numpy


@pytest.mark.parametrize(
    ("pattern", "count", "ignore", "values", "kind"),
    [
        ("isbi2012/masks/*", 20, None, (0, 255), "two values"),
        ("dsb2018/masks/*", 300, None, (0, 1), "instances"),
        ("camvid/masks/*/*", 468, 11, tuple(range(11)), "ids"),
        ("dubai_aerial/masks/*", 54, None, tuple(range(6)), "ids"),
        ("carrotweed/masks/*", 30, None, (0, 1, 2), "ids"),
        ("chasedb1/masks/*", 20, None, (0, 1), "ids"),
    ],
)
def test_real_sets(
    data_root: Path,
    pattern: str,
    count: int,
    ignore: int | None,
    values: tuple[int, ...],
    kind: str,
) -> None:
    paths = sorted(data_root.glob(pattern))
    assert len(paths) == count
    coding, counts = understand_masks(paths, ignore=ignore)
    assert coding == MaskCoding(values, ignore, kind)
    wanted = np.zeros(len(values), np.int64)
    for path in paths:
        with Image.open(path) as opened:
            stored = np.asarray(opened).astype(int)
        if kind == "instances":
            stored = (stored > 0).astype(int)
        wanted += [(stored == value).sum() for value in values]
    assert counts.tolist() == wanted.tolist()


def test_real_carvana(data_root: Path) -> None:
    paths = sorted((data_root / "carvana/train_masks").glob("*_05_mask.gif"))
    assert len(paths) == 48 - 1 + (data_root / "carvana/train/bf92e198d9b6_05.jpg").is_file()
    coding, counts = understand_masks(paths)
    assert coding == MaskCoding((0, 1), None, "ids")
    white = 0
    for path in paths:
        with Image.open(path) as opened:
            white += int((np.asarray(opened.convert("L")) == 255).sum())
    assert counts.tolist() == [1918 * 1280 * len(paths) - white, white]


def test_real_colour_masks_are_read_by_their_legend(data_root: Path) -> None:
    paths = sorted((data_root / "dubai_aerial/masks_color").iterdir())
    legend = ["9B9B9B", "E2A929", "8429F6", "6EC1E4", "3C1098", "FEDD3A"]
    colors = tuple((r, g, b) for r, g, b in map(bytes.fromhex, legend))
    notes: list[str] = []
    coding, counts = understand_masks(paths, colors=colors, on_note=notes.append)
    outside = 0
    for path in paths:
        read, ids = coding.read(path), read_mask(path.parents[1] / "masks" / path.name)
        np.testing.assert_array_equal(read[read < 255], ids[read < 255])
        outside += int((read == 255).sum())
        with Image.open(path) as opened:
            wanted = (np.asarray(opened.convert("RGB")) == 0).all(axis=2)
        np.testing.assert_array_equal(read == 255, wanted)
    assert outside == 1675
    assert [note for note in notes if "outside the legend" in note and "000000: 1675 p" in note]
    assert counts.tolist() == [248391, 11413607, 14351827, 2819345, 4366211, 3516601]
