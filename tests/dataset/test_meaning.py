from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageFilter

from plainunet.dataset.classes import understand_masks
from plainunet.dataset.coding import MaskCoding
from plainunet.formats.masks import read_mask
from plainunet.formats.sources import RleImage, parse_source

RANDOM = np.random.default_rng(0)
IDS = RANDOM.integers(0, 4, (20, 30), dtype=np.uint8)
SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9))


LEGEND = ((200, 0, 0), (0, 0, 0), (0, 0, 200), (250, 250, 0))


def in_colour(ids: np.ndarray) -> np.ndarray:
    return np.array(LEGEND, np.uint8)[ids]


def in_palette(ids: np.ndarray) -> Image.Image:
    """Indices in another order than the classes."""
    picture = Image.fromarray(3 - ids).convert("P")
    picture.putdata((3 - ids).ravel().tolist())
    picture.putpalette(np.array(LEGEND[::-1], np.uint8).tobytes())
    return picture


DISC = ((np.indices((200, 200)) - 100) ** 2).sum(axis=0) < 70**2


def save(path: Path, values: object) -> Path:
    Image.fromarray(np.asarray(values)).save(path)
    return path


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
    assert coding.names == ("class 0", "class 1", "class 2", "class 3")
    assert "class_dict.csv" in notes[0]


@pytest.mark.parametrize("damage", ["blur", "reduce", "jpeg 95", "jpeg 75", "jpeg 30"])
def test_smoothed_black_and_white_is_thresholded(tmp_path: Path, damage: str) -> None:
    clean = Image.fromarray(DISC.astype(np.uint8) * 255)
    path = tmp_path / "mask.png"
    if damage == "blur":
        clean.filter(ImageFilter.GaussianBlur(2)).save(path)
    elif damage == "reduce":
        clean.resize((150, 150), Image.Resampling.BICUBIC).resize((200, 200)).save(path)
    else:
        path = path.with_suffix(".jpg")
        clean.save(path, quality=int(damage.split()[1]))
    notes: list[str] = []
    coding, counts = understand_masks([path], on_note=notes.append)
    assert (coding.kind, coding.num_classes) == ("threshold", 2)
    read = coding.read(path)
    assert (read == DISC).mean() > 0.998
    assert counts.tolist() == np.bincount(read.ravel()).tolist()
    stored = read_mask(path)
    moved = ((stored > 0) & (stored < 255)).mean()
    assert notes[0].startswith(f"note: {moved:.2%} of the mask pixels lie between 0 and 255")
    assert str(path) in notes[0]


def test_thresholded_masks_may_ignore_white(tmp_path: Path) -> None:
    path = save(tmp_path / "mask.png", np.uint8([[0, 100, 127, 128, 200, 255]]))
    coding, counts = understand_masks([path], ignore=255, encoding="threshold")
    assert coding.read(path).tolist() == [[0, 0, 0, 1, 1, 255]]
    assert counts.tolist() == [3, 2]


def test_values_may_be_given(tmp_path: Path) -> None:
    path = save(tmp_path / "mask.png", np.uint8([7, 100, 9, 200])[IDS])
    coding, counts = understand_masks([path], values=(200, 7, 100), ignore=9)
    assert coding == MaskCoding((200, 7, 100), 9, "values")
    np.testing.assert_array_equal(coding.read(path), np.uint8([1, 2, 255, 0])[IDS])
    assert counts.tolist() == [(k == IDS).sum() for k in (3, 0, 1)]
    with pytest.raises(ValueError, match="--colors or by --values"):
        understand_masks([path], values=(0, 1), colors=LEGEND)
    save(path, in_colour(IDS))
    with pytest.raises(ValueError, match=r"mask\.png is coloured"):
        understand_masks([path], values=(0, 1))


def test_numbered_objects_in_8_bits_if_said(tmp_path: Path) -> None:
    path = save(tmp_path / "mask.png", np.arange(200, dtype=np.uint8).reshape(10, 20))
    coding, counts = understand_masks([path], encoding="instances")
    assert coding.kind == "instances"
    assert counts.tolist() == [1, 199]


def test_masks_that_name_their_classes(tmp_path: Path) -> None:
    for name, class_id in (("background", 0), ("road", 1), ("car", 2)):
        (tmp_path / name).mkdir()
        save(tmp_path / name / "7.png", (class_id == IDS).astype(np.uint8) * 255)
    path = parse_source(tmp_path / "{background,road,car}" / "7.png")
    coding, counts = understand_masks([path])
    assert coding.names == ("background", "road", "car")
    assert (coding.num_classes, coding.ignore) == (3, 255)
    np.testing.assert_array_equal(coding.read(path), np.where(IDS == 3, 255, IDS))
    assert counts.tolist() == [(k == IDS).sum() for k in range(3)]


def test_a_class_of_a_list_need_not_occur(tmp_path: Path) -> None:
    file = tmp_path / "masks.csv"
    file.write_text("ImageId,ClassId,EncodedPixels\ncat,3,1 2\ncat,9,\n")
    coding, counts = understand_masks([RleImage(file, "cat", 4, 3, "rows")])
    assert coding.names == ("background", "3", "9")
    assert counts.tolist() == [10, 2, 0]


def test_masks_that_name_different_classes_are_refused(tmp_path: Path) -> None:
    for name in ("road", "car", "bus"):
        (tmp_path / name).mkdir()
        save(tmp_path / name / "7.png", (IDS == 1).astype(np.uint8))
    paths = [parse_source(tmp_path / f"{{road,{name}}}" / "7.png") for name in ("car", "bus")]
    with pytest.raises(ValueError, match=r"has the classes background, road, car, .* road, bus\."):
        understand_masks(paths)
    with pytest.raises(ValueError, match="that its values say"):
        understand_masks([tmp_path / "road" / "7.png", paths[0]])
