"""Codings inferred from the values or colours of a set of masks, and dataset.toml."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFilter

from plainunet.config import DataConfig
from plainunet.dataset.census import Census
from plainunet.dataset.classes import (
    coding_of_values,
    describe,
    find_coding,
)
from plainunet.dataset.coding import Coding, Colors, Instances, Threshold, Values
from plainunet.dataset.pairs import find_pairs
from plainunet.doctor.diagnose import write_understood
from plainunet.formats.masks import read_mask
from plainunet.formats.problems import DataError
from plainunet.formats.sources import RleImage, parse_source
from plainunet.reporter import Collected
from plainunet.settings import read_dataset, with_dataset

from ..folders import save

RANDOM = np.random.default_rng(0)
IDS = RANDOM.integers(0, 4, (20, 30), dtype=np.uint8)
LEGEND = ((200, 0, 0), (0, 0, 0), (0, 0, 200), (250, 250, 0))


def in_colour(ids: np.ndarray) -> np.ndarray:
    return np.array(LEGEND, np.uint8)[ids]


def in_palette(ids: np.ndarray) -> Image.Image:
    """Indices in another order than classes."""
    image = Image.fromarray(3 - ids).convert("P")
    image.putdata((3 - ids).ravel().tolist())
    image.putpalette(np.array(LEGEND[::-1], np.uint8).tobytes())
    return image


HEX = tuple(bytes(color).hex() for color in LEGEND)
DISC = ((np.indices((200, 200)) - 100) ** 2).sum(axis=0) < 70**2


@pytest.mark.parametrize(
    ("masks", "known", "coding", "counts"),
    [
        ([np.zeros((4, 5), np.uint8), np.uint8([[0, 255]])], {}, Values((0, 255)), [21, 1]),
        ([np.uint8([[0, 1, 2, 2, 11, 11, 11]])], {"ignore": 11}, Values((0, 1, 2), 11), [1, 1, 2]),
        ([np.arange(100, dtype=np.uint16).reshape(10, 10)], {}, Instances(), [1, 99]),
        (
            [np.arange(200, dtype=np.uint8).reshape(10, 20)],
            {"encoding": "instances"},
            Instances(),
            [1, 199],
        ),
        ([IDS], {}, Values((0, 1, 2, 3)), np.bincount(IDS.ravel()).tolist()),
        (
            [np.uint8([[7, 100, 9, 200, 7]])],
            {"values": (200, 7, 100), "ignore": 9},
            Values((200, 7, 100), 9),
            [1, 2, 1],
        ),
        (
            [np.uint8([[0, 100, 127, 128, 200, 255]])],
            {"ignore": 255, "encoding": "threshold"},
            Threshold(255),
            [3, 2],
        ),
    ],
)
def test_the_coding_of_a_set_of_masks(
    tmp_path: Path,
    masks: list[np.ndarray],
    known: dict[str, Any],
    coding: Coding,
    counts: list[int],
) -> None:
    paths = [save(tmp_path / f"{number}.png", mask) for number, mask in enumerate(masks)]
    found, pixels = find_coding(paths, DataConfig(**known))
    assert found == coding
    assert pixels.dtype == np.int64
    assert pixels.tolist() == counts


def test_an_unexpected_value_or_a_damaged_mask_is_named(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{n}.png", np.uint8([[0, 255, 0, 255]])) for n in range(5)]
    save(paths[3], np.uint8([[0, 255, 7, 7]]))
    with pytest.raises(DataError, match=r"\b7\b.*\b2\b.*3\.png") as raised:
        find_coding(paths)
    assert raised.value.code == "stray-value"
    paths[1].write_bytes(paths[1].read_bytes()[:-15])
    with pytest.raises(DataError, match=r"1\.png") as raised:
        find_coding(paths)
    assert raised.value.code == "cut-off"


def test_rgb_and_palette_masks_are_read_by_one_legend(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.png", "b.png", "c.tif", "d.gif", "e.png", "f.tif")]
    Image.fromarray(in_colour(IDS)).save(paths[0])
    in_palette(IDS).save(paths[1])
    Image.fromarray(in_colour(IDS)).convert("RGBA").save(paths[2])
    in_palette(IDS).save(paths[3])
    in_palette(IDS).save(paths[4], transparency=bytes([255, 0, 99]))
    in_palette(IDS).save(paths[5])
    heard = Collected()
    coding, counts = find_coding(paths, DataConfig(colors=HEX), heard)
    assert coding == Colors(LEGEND)
    assert counts.tolist() == (6 * np.bincount(IDS.ravel())).tolist()
    assert heard.notes == []
    for path in paths:
        np.testing.assert_array_equal(coding.read(path), IDS, err_msg=path.name)


def test_without_a_legend_colours_are_sorted_and_noted(tmp_path: Path) -> None:
    """With one RGB mask, palettes are read by colour."""
    in_palette(IDS).save(tmp_path / "a.png")
    save(tmp_path / "b.png", in_colour(IDS))
    heard = Collected()
    coding, _ = find_coding([tmp_path / "a.png", tmp_path / "b.png"], None, heard)
    assert coding.colors == tuple(sorted(LEGEND))
    assert [note.split(": ")[-1] for note in heard.notes] == [
        "0 = 000000, 1 = 0000C8, 2 = C80000, 3 = FAFA00"
    ]
    order = np.array([2, 0, 1, 3])
    for name in ("a.png", "b.png"):
        np.testing.assert_array_equal(coding.read(tmp_path / name), order[IDS])


def test_palettes_alone_are_indices_unless_colours_are_given(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    in_palette(IDS).save(path)
    assert find_coding([path])[0] == Values((0, 1, 2, 3))
    np.testing.assert_array_equal(find_coding([path], DataConfig(colors=HEX))[0].read(path), IDS)


def test_jpeg_colours_are_matched_with_a_note(tmp_path: Path) -> None:
    ids = np.repeat(np.repeat(IDS, 16, axis=0), 16, axis=1)[3:, 5:]
    path = tmp_path / "mask.jpg"
    Image.fromarray(in_colour(ids)).save(path, quality=90, subsampling=0)
    heard = Collected()
    coding, counts = find_coding([path], DataConfig(colors=HEX), heard)
    read = coding.read(path)
    known = read < 255
    assert known.mean() > 0.95
    assert (read[known] == ids[known]).mean() > 0.99
    assert counts.tolist() == np.bincount(read[known]).tolist()
    assert "% of the mask pixels" in heard.notes[0]
    with pytest.raises(ValueError, match="--colors 000000 0100C8 C80000 FAFB00"):
        find_coding([path])


def test_ignored_grey_in_colour(tmp_path: Path) -> None:
    ids = np.where(np.indices(IDS.shape)[0] % 2, IDS, 2)  # mostly blue
    path = save(tmp_path / "mask.png", in_colour(ids))
    coding, counts = find_coding([path], DataConfig(ignore=0))
    assert coding.colors == ((0, 0, 200), (200, 0, 0), (250, 250, 0))
    np.testing.assert_array_equal(coding.read(path) == 255, ids == 1)
    assert counts.sum() == (ids != 1).sum()


def test_a_legend_file_gives_the_order(tmp_path: Path) -> None:
    path = save(tmp_path / "masks" / "1.png", in_colour(IDS))
    rows = [f"class {k},{r},{g},{b}" for k, (r, g, b) in enumerate(LEGEND)]
    (tmp_path / "class_dict.csv").write_text("\n".join(["name,r,g,b", *rows]))
    heard = Collected()
    coding, _ = find_coding([path], None, heard)
    assert coding.colors == LEGEND
    assert coding.names == ("class 0", "class 1", "class 2", "class 3")
    assert "class_dict.csv" in heard.notes[0]


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
    heard = Collected()
    coding, counts = find_coding([path], None, heard)
    assert (coding.kind, coding.num_classes) == ("threshold", 2)
    read = coding.read(path)
    assert (read == DISC).mean() > 0.998
    assert counts.tolist() == np.bincount(read.ravel()).tolist()
    stored = read_mask(path)
    moved = ((stored > 0) & (stored < 255)).mean()
    assert heard.notes[0].startswith(f"note: {moved:.2%} of ")
    assert str(path) in heard.notes[0]


def test_white_may_have_lost_a_level(tmp_path: Path) -> None:
    """A blur in float32, cut to 8 bits, leaves 254 where all is white, and 255 in places."""
    soft = np.where(DISC, 254, 0).astype(np.uint8)
    soft = cv2.GaussianBlur(soft, (0, 0), 1)
    soft[95:105, 90:110] = 255
    assert find_coding([save(tmp_path / "mask.png", soft)])[0].kind == "threshold"


def test_values_and_colours_exclude_each_other(tmp_path: Path) -> None:
    path = save(tmp_path / "mask.png", in_colour(IDS))
    with pytest.raises(ValueError, match=r"--colors .*--values"):
        find_coding([path], DataConfig(values=(0, 1), colors=HEX))
    with pytest.raises(ValueError, match=r"mask\.png "):
        find_coding([path], DataConfig(values=(0, 1)))


def test_masks_that_name_their_classes(tmp_path: Path) -> None:
    for name, class_id in (("background", 0), ("road", 1), ("car", 2)):
        save(tmp_path / name / "7.png", (class_id == IDS).astype(np.uint8) * 255)
    path = parse_source(tmp_path / "{background,road,car}" / "7.png")
    coding, counts = find_coding([path])
    assert coding.names == ("background", "road", "car")
    assert (coding.num_classes, coding.ignore) == (3, 255)
    np.testing.assert_array_equal(coding.read(path), np.where(IDS == 3, 255, IDS))
    assert counts.tolist() == [(k == IDS).sum() for k in range(3)]


def test_a_class_of_a_list_need_not_occur(tmp_path: Path) -> None:
    file = tmp_path / "masks.csv"
    file.write_text("ImageId,ClassId,EncodedPixels\ncat,3,1 2\ncat,9,\n")
    coding, counts = find_coding([RleImage(file, "cat", 4, 3, "rows")])
    assert coding.names == ("background", "3", "9")
    assert counts.tolist() == [10, 2, 0]


def test_masks_that_name_different_classes_are_refused(tmp_path: Path) -> None:
    for name in ("road", "car", "bus"):
        save(tmp_path / name / "7.png", (IDS == 1).astype(np.uint8))
    paths = [parse_source(tmp_path / f"{{road,{name}}}" / "7.png") for name in ("car", "bus")]
    with pytest.raises(ValueError, match=r"background, road, car\b.*background, road, bus\b"):
        find_coding(paths)
    with pytest.raises(ValueError, match="background, road, car"):
        find_coding([tmp_path / "road" / "7.png", paths[0]])


# counts of values


def known(num_classes: int | None = None, ignore: int | None = None, **more: object) -> DataConfig:
    names = tuple(f"class {k}" for k in range(num_classes or 0))
    return DataConfig(classes=names, ignore=ignore, **more)


def census(*masks: dict[int, int], deep: bool = False) -> Census:
    """Masks given as {value: pixels}; the first is a.png, then b.png, and so on."""
    counted = Census()
    for number, mask in enumerate(masks):
        counts = np.zeros(max(mask) + 1, np.int64)
        counts[list(mask)] = list(mask.values())
        counted.add(Path(f"{chr(97 + number)}.png"), counts, deep)
    return counted


def test_census_adds_up() -> None:
    counted = census({0: 5, 7: 1}, {0: 5}, {7: 2, 255: 3, 1: 1}, deep=True)
    assert counted.pixels[[0, 1, 7, 255]].tolist() == [10, 1, 3, 3]
    assert counted.files[[0, 1, 7, 255]].tolist() == [2, 1, 2, 1]
    assert counted.first[[0, 1, 7, 255]].tolist() == [0, 2, 0, 2]
    assert counted.distinct == [2, 1, 3]
    assert counted.with_both == 1
    assert counted.place(7) == "3 pixels in a.png and 1 more mask"
    assert counted.place(255) == "3 pixels in c.png"


@pytest.mark.parametrize(
    ("masks", "num_classes", "ignore", "wanted"),
    [
        ([{0: 9, 255: 9}], None, None, Values((0, 255))),
        ([{0: 9}, {255: 9}], None, None, Values((0, 255))),
        ([{0: 9, 1: 9}], None, None, Values((0, 1))),
        ([{0: 9, 1: 9}], 2, None, Values((0, 1))),
        ([{3: 9, 90: 9}], None, None, Values((3, 90))),
        ([{0: 9, 1: 9, 2: 9}], None, None, Values((0, 1, 2))),
        ([{0: 9, 1: 9, 2: 9, 255: 2}], None, None, Values((0, 1, 2), 255)),
        ([{0: 9, 1: 9, 255: 2}], None, None, Values((0, 1), 255)),
        ([{0: 9, 1: 9, 255: 99}], None, 255, Values((0, 1), 255)),
        ([{0: 9, 1: 9, 11: 2}], None, 11, Values((0, 1), 11)),
        ([{0: 9, 2: 9}], 3, None, Values((0, 1, 2))),
        ([{0: 9, 2: 9, 255: 1}], 3, None, Values((0, 1, 2), 255)),
        ([{0: 9, 1: 9, 2: 9, 3: 9}], None, 0, Values((1, 2, 3), 0)),
        ([dict.fromkeys(range(64), 9)], None, None, Values(tuple(range(64)))),
        ([dict.fromkeys(range(99), 9)], 99, None, Values(tuple(range(99)))),
        ([dict.fromkeys([0, 300, 70], 9)] * 30, 2, 70, Values((0, 300), 70)),
    ],
)
def test_meaning(
    masks: list[dict[int, int]], num_classes: int | None, ignore: int | None, wanted: Values
) -> None:
    assert coding_of_values(census(*masks), known(num_classes, ignore)) == wanted


def test_many_values_in_sixteen_bits_are_objects_and_few_are_classes() -> None:
    busy = dict.fromkeys([0, *range(20, 40)], 9)
    assert coding_of_values(census(busy, busy, {0: 9}, deep=True), known()).kind == "instances"
    few = dict.fromkeys(range(5), 9)
    heard = Collected()
    found = coding_of_values(census(few, few, deep=True), known(), heard)
    assert found == Values(tuple(range(5)))
    assert "--encoding instances" in heard.notes[0]
    assert coding_of_values(census(few, few, deep=True), known(5), heard) == found
    assert len(heard.notes) == 1


@pytest.mark.parametrize("num_classes", [None, 2])
def test_many_values_in_8_bits_are_refused(num_classes: int | None) -> None:
    masks = [dict.fromkeys(range(66), 9)]
    deep = coding_of_values(census(*masks, deep=True), known(num_classes))
    assert deep == Instances()
    with pytest.raises(DataError, match=r"\b66 values\b") as caught:
        coding_of_values(census(*masks), known(num_classes))
    assert [*caught.value.choices.values()] == [{"encoding": "instances"}, {"encoding": "ids"}]
    with pytest.raises(DataError) as caught:
        coding_of_values(census(dict.fromkeys(range(0, 256, 3), 9)), known(num_classes))
    answers = [{"encoding": "threshold"}, {"encoding": "instances"}]
    assert [*caught.value.choices.values()] == answers


@pytest.mark.parametrize(
    ("masks", "num_classes", "ignore", "message"),
    [
        ([{0: 9}, {0: 9}], None, None, r"\b2\b.*\b0\b.*\ba\.png"),
        ([{11: 9}], None, 11, r"\b11\b"),
        ([], None, None, "masks"),
        ([{0: 9, 255: 9}, {0: 9, 255: 9, 7: 3}], None, None, r"7 .* 0, 255\b.*\b3\b.*b\.png"),
        ([{0: 9, 1: 9}, {0: 9, 1: 9, 7: 3}], None, None, r"7 .* 0, 1\b.*\b3\b.*b\.png"),
        ([{0: 9, 1: 9, 3: 9}], None, None, r"3 .* 0, 1\b.*--classes"),
        ([{0: 9, 1: 9, 2: 9}], 2, None, r"2 .* 0, 1\b"),
        ([{0: 9, 1: 9, 2: 9, 7: 4}], 3, None, r"7 .* 0, 1, 2\b"),
        ([{0: 9, 128: 4, 255: 9}], None, None, r"128 .* 0, 255\b"),
        ([{0: 90, 1: 2, 3: 1, 255: 50}], None, None, r"3 .* 0, 255\b"),
        ([{1: 9, 2: 9, 3: 9}], None, None, r"\b3\b"),
        ([{0: 9, 255: 9}], 3, None, r"255 .* 0, 1, 2\b"),
        ([{0: 9, 1: 9, 2: 9, 255: 9}], None, 99, r"255 .* 0, 1, 2\b"),
        ([dict.fromkeys(range(300), 9)], None, 0, "299 .* 255"),
        ([{0: 9, 1: 9}], 1, None, r"num_classes .*\b1\b.* 2 .*255"),
        ([{0: 9, 1: 9}], 256, None, "num_classes .*256"),
        # 255 is not ignored if it may be the foreground: 1 is in another mask, or unexpected
        ([{0: 90, 1: 20}, {0: 90, 255: 10}], None, None, "--ignore 255"),
        ([{0: 90, 1: 20}, {0: 90, 255: 10}], 2, None, "--ignore 255"),
        ([{0: 90, 255: 50}, {0: 90, 255: 50, 1: 1}], None, None, "--ignore 255"),
        ([{0: 90, 255: 50}, {0: 90, 255: 50, 1: 1}], 2, None, "--ignore 255"),
    ],
)
def test_unreadable_values_are_refused(
    masks: list[dict[int, int]], num_classes: int | None, ignore: int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        coding_of_values(census(*masks), known(num_classes, ignore))


SMOOTHED = dict.fromkeys(range(256), 1) | {0: 9000, 255: 9000}


@pytest.mark.parametrize("num_classes", [None, 2])
def test_smoothed_masks_are_thresholded_with_a_note(num_classes: int | None) -> None:
    heard = Collected()
    assert coding_of_values(census(SMOOTHED), known(num_classes), heard) == Threshold()
    (note,) = heard.notes
    assert note.startswith("note: 1.39% of ")
    assert "value 1: 1 pixels in a.png" in note


@pytest.mark.parametrize(
    "mask",
    [
        dict.fromkeys(range(9), 10) | {0: 5000, 255: 5000},  # nine class ids with 255
        dict.fromkeys(range(256), 10),  # a grey image
        dict.fromkeys(range(256), 10) | {0: 90000, 255: 1000},  # as much grey as white
        {0: 900, 128: 50, 255: 50},  # a trimap
    ],
)
def test_other_masks_are_not_thresholded_unless_asked(mask: dict[int, int]) -> None:
    try:
        kind = coding_of_values(census(mask), known()).kind
    except ValueError:
        kind = "ids"
    assert kind == "ids"
    assert coding_of_values(census(mask), known(encoding="threshold")).kind == "threshold"


def test_a_given_encoding_is_used() -> None:
    busy, ids = dict.fromkeys([0, *range(20, 40)], 9), dict.fromkeys(range(9), 9)
    found = coding_of_values(census(busy), known(2, ignore=7, encoding="instances"))
    assert found == Instances(7)
    assert coding_of_values(census(ids, deep=True), known()).kind == "instances"
    assert coding_of_values(census(ids, deep=True), known(encoding="ids")).kind == "ids"
    with pytest.raises(ValueError, match=r"--encoding threshold .*\b3\b"):
        coding_of_values(census(SMOOTHED), known(3, encoding="threshold"))
    with pytest.raises(ValueError, match=r"\b128\b.*0, 1, 2"):
        coding_of_values(census({0: 9, 1: 9, 2: 9}), known(encoding="threshold"))


def test_given_values() -> None:
    masks = census({0: 9, 128: 4, 255: 9})
    assert coding_of_values(masks, known(values=(0, 128, 255))) == Values((0, 128, 255))
    assert coding_of_values(masks, known(ignore=0, values=(255, 128))) == Values((255, 128), 0)
    assert coding_of_values(masks, known(3, values=(128, 255, 0))).values == (128, 255, 0)
    assert coding_of_values(census({0: 9, 1: 3}), known(values=(0, 1, 2))).kind == "ids"
    with pytest.raises(ValueError, match=r"128 .* 0, 255\b.*\b4\b.*a\.png"):
        coding_of_values(masks, known(values=(0, 255)))
    with pytest.raises(ValueError, match=r"\b2\b.*\b3\b"):
        coding_of_values(masks, known(2, values=(0, 128, 255)))
    with pytest.raises(ValueError, match=r"--values 7: .*255"):
        coding_of_values(masks, known(values=(7,)))


# dataset.toml


@pytest.mark.parametrize(
    ("coding", "known"),
    [
        (Values((0, 255)), {"values": (0, 255)}),
        (Values((0, 1, 2), 9), {"values": (0, 1, 2), "ignore": 9}),
        (Instances(), {"encoding": "instances"}),
        (Threshold(), {"encoding": "threshold"}),
        (
            Colors(((0, 0, 0), (255, 0, 16))),
            {"colors": ("000000", "ff0010")},
        ),
    ],
)
def test_codings_as_settings(coding: Coding, known: dict[str, object]) -> None:
    assert describe(coding, ("a", "b")) == DataConfig(
        pairs="split.csv", classes=("a", "b"), **known
    )


def test_settings_are_written_into_a_folder(small_data: Path) -> None:
    pairs = find_pairs(small_data)
    settings = describe(Values((0, 255)), ("ground", "box"))
    files = write_understood(small_data, pairs[1:], settings)
    assert [file.name for file in files] == ["split.csv", "dataset.toml"]
    config = with_dataset(DataConfig(), small_data)
    assert (config.classes, config.values) == (("ground", "box"), (0, 255))
    again = find_pairs(small_data, DataConfig(**config.folder_arguments()))
    assert [(pair.image, pair.mask, pair.group) for pair in again] == [
        (pair.image, pair.mask, pair.group) for pair in pairs[1:]
    ]
    assert {pair.part for pair in again} == {None}


def test_existing_files_are_kept(small_data: Path) -> None:
    settings = describe(Values((0, 255)), ())
    pairs = find_pairs(small_data)
    (small_data / "dataset.toml").write_text('classes = ["mine", "yours"]\n')
    for number, text in enumerate(("first", "second", "second", "third")):
        (small_data / "split.csv").write_text(text)
        write_understood(small_data, pairs[number:], settings)
    assert "mine" in (small_data / "dataset.toml.bak").read_text()
    assert "classes" not in read_dataset(small_data)
    copies = sorted(small_data.glob("split.csv.bak*"))
    assert [copy.read_text() for copy in copies] == ["first", "second", "third"]
