"""Layouts of tools and datasets are paired without flags, or with one question."""

import json
import re
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any
from unicodedata import normalize

import cv2
import numpy as np
import pytest
from PIL import Image

from plainunet.config import DataConfig
from plainunet.dataset.classes import find_coding
from plainunet.dataset.coding import Instances
from plainunet.dataset.couples import find_couples
from plainunet.dataset.dataset import SegmentationDataset
from plainunet.dataset.lists import Pair
from plainunet.dataset.pairs import find_pairs
from plainunet.dataset.split import write_split
from plainunet.formats.problems import Change, DataError
from plainunet.formats.sources import files_of, parse_source, path_of
from plainunet.reporter import Collected

from ..folders import Row, rows, save, touch, write_tiff

SIZE = (24, 32)
Draw = Callable[[Path], None]
CountCalls = Callable[[Callable[[], object]], int]


def image(path: Path) -> Path:
    """Noise, with more values than a mask."""
    noise = np.random.default_rng(len(path.name)).integers(0, 256, (*SIZE, 3), np.uint8)
    return save(path, noise)


def mask(path: Path, *boxes: tuple[int, int], value: int = 1) -> Path:
    """A square of 4 x 4 pixels at each position, by default at the top left."""
    values = np.zeros(SIZE, np.uint8)
    for top, left in boxes or ((0, 0),):
        values[top : top + 4, left : left + 4] = value
    return save(path, values)


def pairs_of(folder: Path, **known: Any) -> list[Row]:
    return rows(find_pairs(folder, DataConfig(**known)), folder)


def shares(pairs: list[Pair]) -> list[int]:
    return find_coding([pair.mask for pair in pairs], DataConfig())[1].tolist()


def voc(root: Path) -> None:
    for n in range(5):
        image(root / f"JPEGImages/{n}.jpg")
    for n in range(4):
        for folder in ("SegmentationClass", "SegmentationObject"):
            mask(root / folder / f"{n}.png", value=n + 1)
    sets = root / "ImageSets/Segmentation"
    sets.mkdir(parents=True)
    for name, listed in (("train", "0\n1\n"), ("val", "3\r\n"), ("trainval", "0\n1\n3")):
        (sets / f"{name}.txt").write_text(listed)


def labelme2voc(root: Path) -> None:
    for name in ("a", "b"):
        image(root / f"JPEGImages/{name}.jpg")
        mask(root / f"SegmentationClassPNG/{name}.png")
        image(root / f"SegmentationClassVisualization/{name}.jpg")
        (root / "SegmentationClass").mkdir(exist_ok=True)
        np.save(root / f"SegmentationClass/{name}.npy", np.zeros(SIZE, np.int64))


def cvat(root: Path) -> None:
    for n in range(3):
        image(root / f"JPEGImages/f{n}.jpg")
        mask(root / f"SegmentationClass/f{n}.png")
        mask(root / f"SegmentationObject/f{n}.png")
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/default.txt").write_text("f0\nf2\n")
    (root / "ImageSets/Segmentation/._default.txt").write_bytes(b"\0\5\x16\7")  # of a Mac


def cityscapes(root: Path) -> None:
    for part, city, kinds in (
        ("train", "ulm", ("labelIds", "labelTrainIds", "color", "instanceIds")),
        ("val", "bonn", ("labelIds", "labelTrainIds", "color", "instanceIds")),
        ("test", "kiel", ("labelIds", "color")),
    ):
        for n in range(2):
            image(root / f"leftImg8bit/{part}/{city}/{city}_{n}_leftImg8bit.png")
            for kind in kinds:
                mask(root / f"gtFine/{part}/{city}/{city}_{n}_gtFine_{kind}.png")


def pets(root: Path) -> None:
    for name in ("cat_1", "dog_1"):
        image(root / f"images/{name}.jpg")
        mask(root / f"annotations/trimaps/{name}.png")
        (root / f"annotations/trimaps/._{name}.png").write_bytes(b"\0\5\x16\7")
        (root / "annotations/xmls").mkdir(exist_ok=True)
        (root / f"annotations/xmls/{name}.xml").touch()


def nnunet(root: Path) -> None:
    for folder, names in (("Tr", "ab"), ("Ts", "c")):
        for name in names:
            image(root / f"Dataset001_X/images{folder}/x_{name}_0000.png")
            mask(root / f"Dataset001_X/labels{folder}/x_{name}.png")


def loveda(root: Path) -> None:
    for where in ("Train/Urban", "Train/Rural", "Val/Urban"):
        image(root / where / "images_png/0.png")
        mask(root / where / "masks_png/0.png")
    image(root / "Test/Urban/images_png/9.png")


def potsdam(root: Path) -> None:
    for n in (10, 11):
        image(root / f"2_Ortho_RGB/top_potsdam_2_{n}_RGB.tif")
        mask(root / f"5_Labels_all/top_potsdam_2_{n}_label.tif")


def cellpose(root: Path) -> None:
    for n in range(3):
        image(root / f"train/{n:03}.png")
        save(root / f"train/{n:03}_cp_masks.png", np.eye(*SIZE, dtype=np.uint16) * 300)
        image(root / f"train/{n:03}_cp_outlines.png")
        np.save(root / f"train/{n:03}_seg.npy", np.array({}, object))


def labelme_folders(root: Path) -> None:
    for n in range(3):
        for name in ("img", "label_viz"):
            image(root / f"{n}_json/{name}.png")
        mask(root / f"{n}_json/label.png")


def same_names(root: Path) -> None:
    for n in range(3):
        image(root / f"{n}.jpg")
        mask(root / f"{n}.png")


def synology(root: Path) -> None:
    for name in ("a", "b"):
        image(root / f"images/{name}.jpg")
        mask(root / f"masks/{name}.png")
        image(root / f"images/@eaDir/{name}.jpg/SYNOPHOTO_THUMB_M.jpg")
        image(root / f"masks/@eaDir/{name}.png/SYNOPHOTO_THUMB_M.png")


@pytest.mark.parametrize(
    ("draw", "expected"),
    [
        (
            voc,
            [
                ("JPEGImages/0.jpg", "SegmentationClass/0.png", "0", "train"),
                ("JPEGImages/1.jpg", "SegmentationClass/1.png", "1", "train"),
                ("JPEGImages/3.jpg", "SegmentationClass/3.png", "3", "val"),
            ],
        ),
        (
            labelme2voc,
            [
                ("JPEGImages/a.jpg", "SegmentationClassPNG/a.png", "a", None),
                ("JPEGImages/b.jpg", "SegmentationClassPNG/b.png", "b", None),
            ],
        ),
        (
            cvat,
            [
                ("JPEGImages/f0.jpg", "SegmentationClass/f0.png", "f0", None),
                ("JPEGImages/f2.jpg", "SegmentationClass/f2.png", "f2", None),
            ],
        ),
        (
            cityscapes,
            [
                (
                    f"leftImg8bit/{part}/{city}/{city}_{n}_leftImg8bit.png",
                    f"gtFine/{part}/{city}/{city}_{n}_gtFine_labelTrainIds.png",
                    f"{part}/{city}/{city}_{n}_leftImg8bit",
                    part,
                )
                for part, city in (("train", "ulm"), ("val", "bonn"))
                for n in range(2)
            ],
        ),
        (
            pets,
            [
                ("images/cat_1.jpg", "annotations/trimaps/cat_1.png", "cat_1", None),
                ("images/dog_1.jpg", "annotations/trimaps/dog_1.png", "dog_1", None),
            ],
        ),
        (
            nnunet,
            [
                (
                    f"Dataset001_X/images{part}/x_{name}_0000.png",
                    f"Dataset001_X/labels{part}/x_{name}.png",
                )
                for part, name in (("Tr", "a"), ("Tr", "b"), ("Ts", "c"))
            ],
        ),
        (
            loveda,
            [
                (f"{where}/images_png/0.png", f"{where}/masks_png/0.png", f"{where}/0", part)
                for where, part in (
                    ("Train/Rural", "train"),
                    ("Train/Urban", "train"),
                    ("Val/Urban", "val"),
                )
            ],
        ),
        (
            potsdam,
            [
                (
                    f"2_Ortho_RGB/top_potsdam_2_{n}_RGB.tif",
                    f"5_Labels_all/top_potsdam_2_{n}_label.tif",
                )
                for n in (10, 11)
            ],
        ),
        (cellpose, [(f"train/{n:03}.png", f"train/{n:03}_cp_masks.png") for n in range(3)]),
        (labelme_folders, [(f"{n}_json/img.png", f"{n}_json/label.png") for n in range(3)]),
        (same_names, [(f"{n}.jpg", f"{n}.png") for n in range(3)]),
        (synology, [(f"images/{n}.jpg", f"masks/{n}.png") for n in "ab"]),
    ],
)
def test_layouts_without_a_flag(
    tmp_path: Path, draw: Draw, expected: list[tuple[Any, ...]]
) -> None:
    draw(tmp_path)
    width = len(expected[0])
    assert [row[:width] for row in sorted(pairs_of(tmp_path))] == sorted(expected)


def test_splits_of_nnunet(tmp_path: Path) -> None:
    nnunet(tmp_path)
    assert [row[3] for row in pairs_of(tmp_path)] == ["train", "train", "test"]


def test_channels_in_separate_files_are_asked_about(tmp_path: Path) -> None:
    for name in "ab":
        for channel in range(2):
            image(tmp_path / f"imagesTr/{name}_{channel:04}.png")
        mask(tmp_path / f"labelsTr/{name}.png")
    heard = Collected()
    find_pairs(tmp_path, reporter=heard, at_least=0)
    problems = [each for each in heard.problems if isinstance(each, DataError)]
    assert [each.code for each in problems] == ["several-channels"] * 2
    assert [[path.name for path in each.files] for each in problems] == [
        [f"{name}_0000.png", f"{name}_0001.png"] for name in "ab"
    ]
    assert len(pairs_of(tmp_path, pairs="imagesTr/*_0000.png:labelsTr/*.png")) == 2


def busi(root: Path) -> None:
    for n in range(3):
        image(root / f"benign/benign ({n}).png")
        mask(root / f"benign/benign ({n})_mask.png", (0, 0), value=255)
    mask(root / "benign/benign (1)_mask_1.png", (10, 10), value=255)
    mask(root / "benign/benign (1)_mask_2.png", (2, 2), value=255)


def dsb2018(root: Path) -> None:
    for n, objects in enumerate((1, 3, 2)):
        name = f"{n}f" * 8
        image(root / f"stage1_train/{name}/images/{name}.png")
        for k in range(objects):
            mask(root / f"stage1_train/{name}/masks/{n}{k}{'ab' * 8}.png", (5 * k, 0), value=255)
    image(root / "stage1_test/aa/images/aa.png")


def folders_of_objects(root: Path) -> None:
    for n, objects in enumerate((1, 3, 2)):
        image(root / f"images/{n}.png")
        for k in range(objects):
            mask(root / f"masks/{n}/{k}.png", (5 * k, 0), value=255)


@pytest.mark.parametrize(
    ("draw", "foreground"),
    [(busi, 3 * 16 + 16 + 12), (dsb2018, 6 * 16), (folders_of_objects, 6 * 16)],
)
def test_several_masks_of_one_image_are_joined(tmp_path: Path, draw: Draw, foreground: int) -> None:
    draw(tmp_path)
    found = find_pairs(tmp_path)
    assert len(found) == 3
    assert shares(found) == [3 * 24 * 32 - foreground, foreground]
    assert all(parse_source(str(pair.mask)) == pair.mask for pair in found)
    assert {pair.part for pair in found} <= {None, "train"}


def test_the_same_numbers_everywhere_may_be_classes(tmp_path: Path) -> None:
    for n in range(3):
        image(tmp_path / f"images/{n}.png")
        for k in (1, 2):
            mask(tmp_path / f"masks/{n}_mask_{k}.png", (8 * k, 0))
    with pytest.raises(DataError) as raised:
        find_pairs(tmp_path)
    assert raised.value.code == "several-masks"
    by_class, joined = re.findall(r"--pairs '(.*?)'", str(raised.value))
    found = find_pairs(tmp_path, DataConfig(pairs=joined))
    assert shares(found) == [3 * (768 - 32), 3 * 32]
    braces = find_pairs(tmp_path, DataConfig(pairs=by_class))
    assert shares(braces) == [3 * (768 - 32), 3 * 16, 3 * 16]


def test_a_further_mask_of_every_image_is_no_mask_of_the_first(tmp_path: Path) -> None:
    """All have 7_mask and 7_mask_1: as many as 7 and 7_mask."""
    for n in range(4):
        image(tmp_path / f"{n}.png")
        for k in range(3 if n else 2):
            mask(tmp_path / f"{n}_mask{f'_{k}' * bool(k)}.png", (5 * k, 0), value=255)
    found = find_pairs(tmp_path)
    assert [path_of(pair.image).name for pair in found] == [f"{n}.png" for n in range(4)]
    assert shares(found) == [4 * 768 - 11 * 16, 11 * 16]


@pytest.mark.parametrize("numbers", [("", "_1"), ("_1", "_2"), ("_1", "_2", "_3", "_4", "_5")])
def test_the_same_numbers_next_to_the_images(tmp_path: Path, numbers: Sequence[str]) -> None:
    for n in range(3):
        image(tmp_path / f"case {n}.png")
        for k, number in enumerate(numbers):
            mask(tmp_path / f"case {n}_mask{number}.png", (4 * k, 0), value=255)
    with pytest.raises(DataError) as raised:
        find_pairs(tmp_path)
    by_class, joined = (DataConfig(**flags) for flags in raised.value.choices.values())
    assert shares(find_pairs(tmp_path, joined))[1] == 3 * 16 * len(numbers)
    assert shares(find_pairs(tmp_path, by_class))[1:] == [3 * 16] * len(numbers)


def test_the_same_names_in_the_folder_of_each_image(tmp_path: Path) -> None:
    for n in range(3):
        image(tmp_path / f"images/{n}.jpg")
        for k, name in enumerate(("road", "car"), 1):
            mask(tmp_path / f"masks/{n}/{name}.png", (8 * k, 0))
    with pytest.raises(DataError) as raised:
        find_pairs(tmp_path)
    assert raised.value.code == "several-masks"
    by_class, joined = re.findall(r"--pairs '(.*?)'", str(raised.value))
    assert shares(find_pairs(tmp_path, DataConfig(pairs=joined))) == [3 * (768 - 32), 3 * 32]
    found = find_pairs(tmp_path, DataConfig(pairs=by_class))
    assert shares(found) == [3 * (768 - 32), 3 * 16, 3 * 16]


@pytest.mark.parametrize("path", ["masks/{}_mask_{}.png", "masks/{}/{}.png"])
def test_the_same_names_in_a_folder_of_a_folder(tmp_path: Path, path: str) -> None:
    for n, k in product(range(3), (1, 2)):
        image(tmp_path / f"set/images/{n}.png")
        mask(tmp_path / "set" / path.format(n, k), (8 * k, 0))
    with pytest.raises(DataError) as raised:
        find_pairs(tmp_path)
    by_class, joined = (DataConfig(**flags) for flags in raised.value.choices.values())
    assert shares(find_pairs(tmp_path, by_class)) == [3 * (768 - 32), 3 * 16, 3 * 16]
    assert shares(find_pairs(tmp_path, joined)) == [3 * (768 - 32), 3 * 32]


def test_folders_of_many_images_are_not_of_one(tmp_path: Path) -> None:
    """CelebAMask-HQ: folder 0/ holds the masks of images 0 to 1999."""
    for n in range(6):
        image(tmp_path / f"CelebA-HQ-img/{n}.jpg")
        for name in ("hair", "nose"):
            mask(tmp_path / f"CelebAMask-HQ-mask-anno/{n // 3}/0000{n}_{name}.png")
    with pytest.raises(DataError) as raised:
        find_pairs(tmp_path)
    assert raised.value.code == "no-mask"
    assert "{" not in str(raised.value).replace("{road,car}", "")
    assert "CSV" in str(raised.value)


@pytest.mark.parametrize("name", ["{}", "{}_car"])
def test_folders_of_objects_of_some_images(tmp_path: Path, name: str) -> None:
    for n in range(6):
        image(tmp_path / f"images/{n}.png")
        for k in range(1, n + 1 if n < 3 else 0):
            mask(tmp_path / f"masks/{n}/{name.format(k)}.png", (5 * k, 0))
    found = find_pairs(tmp_path, DataConfig(skip_unlabelled=True))
    assert [(pair.group, len(files_of(pair.mask))) for pair in found] == [("1", 1), ("2", 2)]


def test_numbered_folders_of_classes_are_not_of_one_image(tmp_path: Path) -> None:
    for n in range(4):
        image(tmp_path / f"images/{n}.png")
        for k in (1, 2):
            mask(tmp_path / f"masks/{k}/{n}.png", (5 * k, 0))
    assert shares(find_pairs(tmp_path)) == [4 * (768 - 32), 4 * 16, 4 * 16]


def test_photos_of_two_suffixes_beside_their_masks(tmp_path: Path) -> None:
    for n, suffix in enumerate((".jpg", ".jpg", ".jpeg")):
        image(tmp_path / f"{n}{suffix}")
        mask(tmp_path / f"{n}.png")
    rows = pairs_of(tmp_path)
    assert [Path(row[0]).name for row in rows] == ["0.jpg", "1.jpg", "2.jpeg"]


def test_augmented_copies_in_two_splits_are_of_one_group(tmp_path: Path) -> None:
    for part, code in (("train", "a1"), ("train", "b2"), ("valid", "c3")):
        image(tmp_path / f"{part}/IMG_1_jpg.rf.{code}.jpg")
        mask(tmp_path / f"{part}/IMG_1_jpg.rf.{code}_mask.png")
    assert {pair.group for pair in find_pairs(tmp_path)} == {"IMG_1_jpg"}


def test_two_kinds_of_files_in_the_folders_of_splits(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for n in range(3):
            image(tmp_path / f"{part}/{n}.tif")
            mask(tmp_path / f"{part}/{n}.png")
    with pytest.raises(DataError) as raised:
        find_pairs(tmp_path)
    patterns = re.findall(r"--pairs (\S+)", str(raised.value))
    assert len(patterns) == 2
    for pattern in patterns:
        assert len(find_pairs(tmp_path, DataConfig(pairs=shlex.split(pattern)[0]))) >= 3


@pytest.mark.parametrize("parts", [("train", "val"), ("train",)])
def test_folders_of_classes_among_others_are_offered(tmp_path: Path, parts: Sequence[str]) -> None:
    """Agriculture-Vision: colour and infrared, a folder for each class, and other masks."""
    for part, n in product(parts, "abc"):
        for kind in ("rgb", "nir"):
            image(tmp_path / f"{part}/images/{kind}/{part}{n}.jpg")
        for k, name in enumerate(("weed", "cloud"), 1):
            mask(tmp_path / f"{part}/labels/{name}/{part}{n}.png", (8 * k, 0))
        mask(tmp_path / f"{part}/boundaries/{part}{n}.png", (16, 0))
    with pytest.raises(DataError) as raised:
        find_pairs(tmp_path)
    offered = [flags for line, flags in raised.value.choices.items() if "is a class" in line]
    assert len(offered) == 2
    for flags in offered:
        found = find_pairs(tmp_path, DataConfig(**flags))
        assert len(found) == 3 * len(parts)
        count = len(found)
        assert shares(found) == [count * (768 - 32), count * 16, count * 16]


def test_the_printed_pairs_name_all_folders(tmp_path: Path) -> None:
    for n, place in enumerate(("urban/street", "urban/park", "nature/sand")):
        image(tmp_path / f"images/ADE/{place}/{n}.jpg")
        mask(tmp_path / f"images/ADE/{place}/{n}_seg.png")
        mask(tmp_path / f"images/ADE/{place}/{n}_parts_1.png")
        mask(tmp_path / f"images/ADE/{place}/{n}/instance_000_{n}.png")
    with pytest.raises(DataError) as raised:
        find_pairs(tmp_path)
    problem = next(each for each in raised.value.parts if each.code == "several-masks")
    line = re.findall(r"--pairs '(.*?)'", str(problem))[0]
    assert line == "images/ADE/*/*/*.jpg:images/ADE/*/*/*_seg.png"
    assert len(find_pairs(tmp_path, DataConfig(pairs=line))) == 3


def test_another_mask_of_an_image_is_asked_about(tmp_path: Path) -> None:
    for n in range(3):
        image(tmp_path / f"images/{n}.png")
        mask(tmp_path / f"masks/{n}_mask.png")
    mask(tmp_path / "masks/1_mask_left.png")
    with pytest.raises(DataError) as raised:
        find_pairs(tmp_path)
    (problem,) = raised.value.parts
    assert problem.code == "several-masks"
    names = ["1_mask_left.png", "1.png", "1_mask.png"]
    assert [Path(str(file)).name for file in problem.files] == names


@pytest.mark.parametrize("where", ["", "set/a/"])
@pytest.mark.parametrize(("image_name", "mask_name"), [("{}", "{}"), ("{}_rgb", "{}")])
def test_endings_of_masks_may_be_classes(
    tmp_path: Path, where: str, image_name: str, mask_name: str
) -> None:
    """Some images lack one of the classes, even the most frequent one."""
    present = {"a_0": "disc square", "b_1": "disc bar square", "c_2": "disc bar", "d_3": "square"}
    for stem, names in present.items():
        image(tmp_path / where / "images" / f"{image_name.format(stem)}.png")
        for name in names.split():
            at = 8 * ["disc", "square", "bar"].index(name)
            mask(tmp_path / where / "masks" / f"{mask_name.format(stem)}_{name}.png", (at, 0))
    with pytest.raises(DataError) as raised:
        find_pairs(tmp_path)
    (problem,) = raised.value.parts
    by_class, *joined = (DataConfig(**flags) for flags in problem.choices.values())
    assert str(by_class.pairs).endswith("{disc,square,bar}.png")
    found = find_pairs(tmp_path, by_class)
    assert shares(found) == [4 * 768 - 8 * 16, 3 * 16, 3 * 16, 2 * 16]
    for config in joined:
        assert shares(find_pairs(tmp_path, config)) == [4 * 768 - 8 * 16, 8 * 16]


@pytest.mark.parametrize("ends", [("_obj1", "_obj2", "_obj3"), ("_a_cell", "_b_cell", "_c_cell")])
def test_endings_of_masks_may_be_objects(tmp_path: Path, ends: Sequence[str]) -> None:
    for n, objects in enumerate((1, 3, 2, 1)):
        image(tmp_path / f"images/s_{n}.png")
        for k, end in enumerate(ends[:objects]):
            mask(tmp_path / f"masks/s_{n}{end}.png", (5 * k, 0))
    heard = Collected()
    find_pairs(tmp_path, reporter=heard)
    (problem,) = heard.problems
    assert isinstance(problem, DataError)
    assert problem.files  # nothing of these is used without an answer
    flags = problem.choices["All are objects of one class"]
    assert shares(find_pairs(tmp_path, DataConfig(**flags))) == [4 * 768 - 7 * 16, 7 * 16]


@pytest.mark.parametrize("ends", [("_ids", "_shown"), ("", "_ids"), ("_ids", "_more_ids")])
@pytest.mark.parametrize(
    "where", [("images/{}", "masks/{}"), ("images/{}/{}", "masks/{}/{}"), ("{}", "{}")]
)
def test_one_of_several_endings_may_be_the_masks(
    tmp_path: Path, where: tuple[str, str], ends: Sequence[str]
) -> None:
    """Files of several values or colours are neither one class nor one object each."""
    for n in range(3):
        image(tmp_path / f"{where[0].format(n, n)}.jpg")
        for k, end in enumerate(ends):
            file = tmp_path / f"{where[1].format(n, n)}{end}.png"
            mask(file, (5 * k, 0))
            values = np.asarray(Image.open(file)).copy()
            values[16:, :4] = 2
            colors = np.stack([values, values, 100 * values], 2)
            save(file, colors if end == "_shown" else values)
    with pytest.raises(DataError) as raised:
        find_pairs(tmp_path)
    choices = (raised.value.choices or raised.value.parts[0].choices).values()
    found = [find_pairs(tmp_path, DataConfig(**flags)) for flags in choices]
    names = [sorted(path_of(pair.mask).name for pair in each) for each in found]
    assert sorted(names) == sorted([f"{n}{end}.png" for n in range(3)] for end in ends)


@pytest.mark.parametrize("known", ["mask", "masks", "labels"])
def test_a_known_name_does_not_beat_an_equal_candidate(tmp_path: Path, known: str) -> None:
    for n in range(21, 24):
        image(tmp_path / f"training/images/{n}_training.tif")
        mask(tmp_path / f"training/{known}/{n}_training_mask.gif", (0, 0), (8, 8))
        mask(tmp_path / f"training/1st_manual/{n}_manual1.gif")
        image(tmp_path / f"training/depth/{n}_training.tif")
        mask(tmp_path / f"training/masks_color/{n}_training.png")
    with pytest.raises(DataError) as raised:
        find_pairs(tmp_path)
    assert raised.value.code == "which-folder"
    assert f"--masks {known}\n" in str(raised.value)
    assert str(raised.value).endswith("--masks 1st_manual")
    found = find_pairs(tmp_path, DataConfig(masks="1st_manual"))
    assert shares(found) == [3 * (768 - 16), 3 * 16]


def test_only_answers_that_find_the_images_are_printed(tmp_path: Path) -> None:
    for n in range(3):
        image(tmp_path / f"a/rawimages/{n}.png")
        mask(tmp_path / f"a/groundtruth/{n}.png")
        mask(tmp_path / f"a/cell_groundtruth/{n}_1.png", (8, 0), (16, 0))
        image(tmp_path / f"a/visualized_groundtruth/{n}.png")
        for tile in ("tile/NIR", "tile/RGB"):
            image(tmp_path / f"b/{tile}/{n}.png")
        for name in ("groundtruth", "mask"):
            mask(tmp_path / f"b/{name}/{n}.png")
    for part, count in (("a", 2), ("b", 0)):
        with pytest.raises(DataError) as raised:
            find_pairs(tmp_path / part)
        names = re.findall(r"--masks (\w+_\w+|groundtruth|mask)$", str(raised.value), re.M)
        assert len(names) == count
        assert all(len(pairs_of(tmp_path / part, masks=name)) == 3 for name in names)


def test_results_next_to_the_folder_of_the_masks_are_no_images(tmp_path: Path) -> None:
    for n in range(3):
        image(tmp_path / f"{n}.png")
        mask(tmp_path / f"masks/{n}_cp_masks.png")
        image(tmp_path / f"flows/{n}_flows.png")
    heard = Collected()
    assert len(find_pairs(tmp_path, DataConfig(images=".", masks="masks"), heard)) == 3
    assert any("flows" in note for note in heard.notes)


def test_drive_as_it_is_packed(tmp_path: Path) -> None:
    for part, numbers in (("training", (21, 22)), ("test", (1, 2))):
        for n in numbers:
            image(tmp_path / f"DRIVE/{part}/images/{n:02}_{part}.tif")
            mask(tmp_path / f"DRIVE/{part}/mask/{n:02}_{part}_mask.gif")
            mask(tmp_path / f"DRIVE/{part}/1st_manual/{n:02}_manual1.gif")
            if part == "test":
                mask(tmp_path / f"DRIVE/{part}/2nd_manual/{n:02}_manual2.gif")
    with pytest.raises(DataError) as raised:
        find_pairs(tmp_path)
    assert str(raised.value).count("--masks") == 2  # the second opinion is in one split only
    found = pairs_of(tmp_path, masks="1st_manual")
    assert [(Path(row[1]).name, row[3]) for row in found] == [
        ("01_manual1.gif", "test"),
        ("02_manual1.gif", "test"),
        ("21_manual1.gif", "train"),
        ("22_manual1.gif", "train"),
    ]


@pytest.mark.parametrize("top", ["", "DRIVE/"])
def test_masks_of_the_training_images_alone_are_asked_about(tmp_path: Path, top: str) -> None:
    for part, numbers in (("training", (21, 22)), ("test", (1, 2))):
        for n in numbers:
            image(tmp_path / f"{top}{part}/images/{n:02}_{part}.tif")
            mask(tmp_path / f"{top}{part}/mask/{n:02}_{part}_mask.gif")
            if part == "training":
                mask(tmp_path / f"{top}{part}/1st_manual/{n:02}_manual1.gif")
    with pytest.raises(DataError) as raised:
        find_pairs(tmp_path)
    assert str(raised.value).endswith("--masks 1st_manual")
    found = pairs_of(tmp_path, masks="1st_manual")
    assert [Path(row[1]).name for row in found] == ["21_manual1.gif", "22_manual1.gif"]


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("Image", "GT_Edge GT_Instance GT_Object"),
        ("images", "edge_masks object_masks"),
        ("images", "fov_labels visible_labels"),
        ("images", "masks object_masks"),
        ("frames", "borders objects"),
        ("frames", "labels_outline labels"),
    ],
)
@pytest.mark.parametrize("part", ["", "Train/"])
def test_a_name_that_may_mean_the_masks_is_asked_about(
    tmp_path: Path, images: str, masks: str, part: str
) -> None:
    for n in range(3):
        image(tmp_path / f"{part}{images}/{n}.jpg")
        for name in masks.split():
            mask(tmp_path / f"{part}{name}/{n}.png")
    with pytest.raises(DataError) as raised:
        find_pairs(tmp_path)
    assert raised.value.code == "which-folder"
    assert all(name in str(raised.value) for name in masks.split())


def test_an_ending_that_may_mean_the_mask_is_asked_about(tmp_path: Path) -> None:
    for n in range(3):
        image(tmp_path / f"{n}.jpg")
        for end in ("object_gt", "edge_gt"):
            mask(tmp_path / f"{n}_{end}.png")
    with pytest.raises(DataError) as raised:
        find_pairs(tmp_path)
    patterns = ["*.jpg:*_edge_gt.png", "*.jpg:*_object_gt.png"]
    assert [flags["pairs"] for flags in raised.value.choices.values()] == patterns


def test_an_ending_with_several_numbers_is_one_choice(tmp_path: Path) -> None:
    for n in range(3):
        image(tmp_path / f"{n}.jpg")
        for k, end in enumerate(("mask", "mask_1", "edge_gt")):
            mask(tmp_path / f"{n}_{end}.png", (5 * k, 0), value=255)
    with pytest.raises(DataError) as raised:
        find_pairs(tmp_path)
    first, second = (DataConfig(**flags) for flags in raised.value.choices.values())
    assert [shares(find_pairs(tmp_path, each))[1] for each in (first, second)] == [48, 96]


@pytest.mark.parametrize(
    ("images", "masks", "others"),
    [
        ("images", "Semantic_masks", "Instance_masks"),
        ("frames", "semantic", "instance semantic_rgb"),
        ("images", "labels", "labels_visualization labelsColor labels-overlay labels_vis"),
        ("images", "labels", "labelcolor labelsrgb"),
        ("images", "masks", "colormasks maskviz visualize"),
        ("images", "masks", "outlines contours instances objects"),
    ],
)
def test_renderings_and_objects_are_no_rivals(
    tmp_path: Path, images: str, masks: str, others: str
) -> None:
    for n in range(3):
        image(tmp_path / f"{images}/{n}.jpg")
        for name in (masks, *others.split()):
            mask(tmp_path / f"{name}/{n}.png")
    assert {Path(row[1]).parts[0] for row in pairs_of(tmp_path)} == {masks}


def test_two_opinions_next_to_the_images_are_asked_about(tmp_path: Path) -> None:
    for n in range(3):
        image(tmp_path / f"Image_{n}L.jpg")
        mask(tmp_path / f"Image_{n}L_1stHO.png")
        mask(tmp_path / f"Image_{n}L_2ndHO.png")
    with pytest.raises(DataError) as raised:
        find_pairs(tmp_path)
    assert raised.value.code == "several-masks"
    patterns = ["*.jpg:*_1stHO.png", "*.jpg:*_2ndHO.png"]
    assert [flags["pairs"] for flags in raised.value.choices.values()] == patterns
    assert len(pairs_of(tmp_path, pairs=patterns[0])) == 3


def test_an_image_next_to_its_file_of_shapes_is_never_moved(tmp_path: Path) -> None:
    for name in "abc":
        image(tmp_path / f"{name}.jpg")
    for name in "ab":
        labelme(tmp_path / f"{name}.json", shape("cell", (0, 0), (9, 0), (9, 9)))
    with pytest.raises(DataError) as raised:
        find_pairs(tmp_path)
    assert raised.value.code == "no-mask"
    assert [part.fix for part in raised.value.parts] == [""]


@pytest.mark.parametrize(("one", "other"), [(".tif", ".png"), (".bmp", ".png")])
def test_either_suffix_may_be_the_images(tmp_path: Path, one: str, other: str) -> None:
    for n in range(3):
        image(tmp_path / f"{n}{one}")
        mask(tmp_path / f"{n}{other}")
    with pytest.raises(DataError) as raised:
        find_pairs(tmp_path)
    assert raised.value.code == "which-folder"
    assert f'"*{one}:*{other}"' in str(raised.value)
    assert pairs_of(tmp_path, pairs=f"*{one}:*{other}")[0][:2] == (f"0{one}", f"0{other}")


@pytest.mark.parametrize(("one", "other"), [(".jpg", ".jpeg"), (".PNG", ".png"), (".JPG", ".jpeg")])
def test_contents_tell_images_from_masks(tmp_path: Path, one: str, other: str) -> None:
    for n in range(3):
        image(tmp_path / f"{n}{one}")
        mask(tmp_path / f"{n}{other}", value=255)
    assert pairs_of(tmp_path)[0][:2] == (f"0{one}", f"0{other}")
    assert pairs_of(tmp_path, pairs=f"*{one}:*{other}")[0][:2] == (f"0{one}", f"0{other}")


def test_splits_without_masks_are_skipped(tmp_path: Path) -> None:
    for part, with_mask in (("train", True), ("valid", False), ("test", False)):
        for n in range(3):
            image(tmp_path / f"{part}/{part}{n}_sat.jpg")
            if with_mask:
                mask(tmp_path / f"{part}/{part}{n}_mask.png")
    heard = Collected()
    assert len(find_pairs(tmp_path, reporter=heard)) == 3
    assert sum(note.startswith("3 images ") for note in heard.notes) == 2
    assert heard.problems == []


@pytest.mark.parametrize("copy", [".rf.0a{0}1b{0}", "_aug{0}", "-rot{0}0", "_hflip{0}_aug"])
def test_augmented_copies_are_one_group(tmp_path: Path, copy: str) -> None:
    for n in range(2):
        for k in range(3):
            stem = f"img{n}_jpg{copy.format(k)}"
            image(tmp_path / f"train/{stem}.jpg")
            mask(tmp_path / f"train/{stem}_mask.png")
    found = pairs_of(tmp_path)
    assert [row[2] for row in found] == ["img0_jpg"] * 3 + ["img1_jpg"] * 3


@pytest.mark.parametrize("months", [("jul", "aug", "sep"), ("aug",)])
def test_august_is_a_month(tmp_path: Path, months: tuple[str, ...]) -> None:
    for month, day in product(months, range(1, 4)):
        image(tmp_path / f"images/2023_{month}_{day:02}.jpg")
        mask(tmp_path / f"masks/2023_{month}_{day:02}.png")
    found = pairs_of(tmp_path)
    assert len({row[2] for row in found}) == len(found) == 3 * len(months)


def tracked(root: Path, every: int) -> None:
    """The Cell Tracking Challenge: objects in SEG, for some frames; markers in TRA, for all."""
    for sequence, frame in product(("01", "02"), range(6)):
        image(root / f"{sequence}/t{frame:03}.tif")
        mask(root / f"{sequence}_GT/TRA/man_track{frame:03}.tif")
        if frame % every == 0:
            mask(root / f"{sequence}_GT/SEG/man_seg{frame:03}.tif")


def test_frames_of_a_tracking_challenge(tmp_path: Path) -> None:
    tracked(tmp_path / "whole", 1)
    data = SegmentationDataset.open(tmp_path / "whole")
    assert isinstance(data.coding, Instances)
    assert Counter(pair.group for pair in data.pairs) == {"01": 6, "02": 6}
    assert all(path_of(pair.mask).parent.name == "SEG" for pair in data.pairs)
    tracked(tmp_path / "some", 3)
    with pytest.raises(DataError) as caught:
        find_pairs(tmp_path / "some")
    assert caught.value.code == "no-mask"
    pairs = find_pairs(tmp_path / "some", DataConfig(skip_unlabelled=True))
    assert [path_of(pair.image).name for pair in pairs] == ["t000.tif", "t003.tif"] * 2
    for sequence in ("01", "02"):
        mask(tmp_path / f"some/{sequence}_ST/SEG/man_seg000.tif")
    notes = Collected()
    assert find_pairs(tmp_path / "some", DataConfig(skip_unlabelled=True), notes) == pairs
    (note,) = [note for note in notes.notes if "_ST" in note]
    assert note.count("/SEG,") == 1  # both sequences, in one note
    assert "01_ST" in note
    assert "02_ST" in note


def test_masks_of_two_splits_are_no_rivals(tmp_path: Path) -> None:
    """As in TN3K: the images of both splits have the same names."""
    for part, number in product(("trainval", "test"), range(3)):
        image(tmp_path / f"{part}-image/{number:04}.jpg")
        mask(tmp_path / f"{part}-mask/{number:04}.png")
    parts = Counter(pair.part for pair in find_pairs(tmp_path))
    assert parts == {"train": 3, "test": 3}


def test_splits_one_level_down(tmp_path: Path) -> None:
    """As in SegNet's CamVid: the images of different splits may have the same names."""
    for part, number in product(("train", "val", "test"), range(3)):
        image(tmp_path / f"CamVid/{part}/{number}.png")
        mask(tmp_path / f"CamVid/{part}annot/{number}.png")
    parts = Counter(pair.part for pair in find_pairs(tmp_path))
    assert parts == {"train": 3, "val": 3, "test": 3}


def labelme(file: Path, *shapes: dict[str, Any]) -> None:
    size = {"imageHeight": SIZE[0], "imageWidth": SIZE[1]}
    file.write_text(json.dumps({"shapes": shapes, "imagePath": "x.jpg", **size}))


def shape(label: str, *points: tuple[float, float], kind: str = "polygon") -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind}


def test_photos_named_alike_with_labelme_files(tmp_path: Path) -> None:
    """A camera's burst: 7_1.jpg is a photo of its own, not a mask of 7.jpg."""
    names = [f"{number}{end}" for number in range(4) for end in ("", "_1", "_2")]
    for at, name in enumerate(names):
        image(tmp_path / f"{name}.jpg")
        labelme(tmp_path / f"{name}.json", shape("cell", (0, 0), (9, 0), (at, 9)))
    found = {(pair.image.name, files_of(pair.mask)[0].name) for pair in find_pairs(tmp_path)}
    assert found == {(f"{name}.jpg", f"{name}.json") for name in names}


def test_labelme_files_next_to_the_images(tmp_path: Path) -> None:
    for name in "ab":
        image(tmp_path / f"{name}.jpg")
    square = shape("cell", (0, 0), (9, 0), (9, 9), (0, 9))
    hole = shape("_background_", (2, 2), (4, 4), kind="rectangle")
    labelme(tmp_path / "a.json", square, hole)
    labelme(tmp_path / "b.json", shape("dot", (16, 12), (19, 16), kind="circle"))
    found = find_pairs(tmp_path)
    assert [pair.image.name for pair in found] == ["a.jpg", "b.jpg"]
    assert all(parse_source(str(pair.mask)) == pair.mask for pair in found)
    pixels = shares(found)
    assert pixels[1] == 100 - 9
    assert pixels[2] == pytest.approx(np.pi * 5.5**2, rel=0.1)
    assert find_coding([pair.mask for pair in found], DataConfig())[0].names == (
        "background",
        "cell",
        "dot",
    )


def test_supervisely(tmp_path: Path) -> None:
    project = tmp_path / "project"
    points = {
        "exterior": [[0, 0], [9, 0], [9, 9], [0, 9]],
        "interior": [[[2, 2], [4, 2], [4, 4], [2, 4]]],
    }
    for name in "ab":
        image(project / f"ds/img/{name}.jpg")
        file = project / f"ds/ann/{name}.jpg.json"
        file.parent.mkdir(exist_ok=True)
        drawn = {"classTitle": "road", "geometryType": "polygon", "points": points}
        size = {"height": SIZE[0], "width": SIZE[1]}
        file.write_text(json.dumps({"size": size, "objects": [drawn] if name == "a" else []}))
    listed = {"classes": [{"title": "sky"}, {"title": "road"}]}
    (project / "meta.json").write_text(json.dumps(listed))
    found = find_pairs(tmp_path)
    assert len(found) == 2
    coding, pixels = find_coding([pair.mask for pair in found], DataConfig())
    assert coding.names == ("background", "sky", "road")
    assert pixels.tolist() == [2 * 768 - 91, 0, 91]


def test_patterns_with_folders_give_splits(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for name in "ab":
            image(tmp_path / f"{part}/x/{name}.jpg")
            mask(tmp_path / f"{part}/y/{name}_m.png")
    assert pairs_of(tmp_path, pairs="*/x/*.jpg:*/y/*_m.png") == [
        (f"{part}/x/{name}.jpg", f"{part}/y/{name}_m.png", f"{part}/{name}", part)
        for part in ("train", "val")
        for name in "ab"
    ]


def test_lists_of_windows_in_utf_16(tmp_path: Path) -> None:
    for name in ("ä", "b"):
        image(tmp_path / f"x/{name}.jpg")
        mask(tmp_path / f"y/{name}.png")
    text = "image\tmask\r\nx\\ä.jpg\ty\\ä.png\r\nx\\b.jpg\ty\\b.png\r\n"
    (tmp_path / "pairs.txt").write_bytes(text.encode("utf-16"))
    assert [row[:2] for row in pairs_of(tmp_path, pairs="pairs.txt")] == [
        ("x/b.jpg", "y/b.png"),
        ("x/ä.jpg", "y/ä.png"),
    ]


def test_unlisted_images_are_empty_on_request(tmp_path: Path) -> None:
    for n in range(4):
        image(tmp_path / f"train_images/{n}.jpg")
    lines = ["ImageId,ClassId,EncodedPixels", "0.jpg,3,1 5 25 5", "2.jpg,1,1 7"]
    (tmp_path / "train.csv").write_bytes("\r\n".join(lines).encode("utf-16"))
    with pytest.raises(ValueError, match="--unlisted empty"):
        find_pairs(tmp_path, DataConfig(rle="columns"))
    found = find_pairs(tmp_path, DataConfig(rle="columns", unlisted="empty"))
    assert len(found) == 4
    coding, pixels = find_coding([pair.mask for pair in found], DataConfig())
    assert coding.names == ("background", "1", "3")
    assert pixels.tolist() == [4 * 768 - 17, 7, 10]


def test_unsupported_files_are_noted(tmp_path: Path) -> None:
    for name in "ab":
        image(tmp_path / f"images/{name}.jpg")
        mask(tmp_path / f"masks/{name}.png")
    (tmp_path / "images/c.cr2").touch()
    heard = Collected()
    find_pairs(tmp_path, reporter=heard)
    assert any("c.cr2" in note for note in heard.notes)


@pytest.mark.parametrize("suffix", [".avif", ".jp2"])
def test_newer_formats_are_images(tmp_path: Path, suffix: str) -> None:
    for name in "ab":
        noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(noise).save(tmp_path / f"images/{name}{suffix}")
        mask(tmp_path / f"masks/{name}.png")
    assert len(pairs_of(tmp_path)) == 2


def test_heic_names_the_extra(tmp_path: Path) -> None:
    if find_spec("pillow_heif"):
        pytest.skip("it is read here")
    for name in "ab":
        image(tmp_path / f"images/{name}.jpg")
        mask(tmp_path / f"masks/{name}.png")
    mask(tmp_path / "masks/c.png")
    (tmp_path / "images/c.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    with pytest.raises(ValueError, match=r"c\.HEIC is HEIC.*pillow-heif"):
        SegmentationDataset.open(tmp_path)


def draw_pairs(root: Path, *couples: tuple[str, str]) -> None:
    """An image at the first path of each pair, a mask at the second."""
    for first, second in couples:
        image(root / first)
        if second:
            mask(root / second)


def each(first: str, second: str, parts: dict[str, int]) -> list[tuple[str, str]]:
    """Pairs of path templates: `count` numbers {n} for each split {p}, all different."""
    found = []
    for start, (part, count) in enumerate(parts.items()):
        for n in range(10 * start, 10 * start + count):
            found.append((first.format(p=part, n=n), second.format(p=part, n=n)))
    return found


@pytest.mark.parametrize(
    ("first", "second", "parts", "understood"),
    [
        ("X/{n}.png", "y/{n}.png", {"": 3}, [None]),
        ("Bilder/b{n}.png", "Masken/b{n}_m.png", {"": 3}, [None]),
        ("{n}.png", "masks/{n}.png", {"": 3}, [None]),
        ("JPEGImages/{n}.png", "SegmentationClassX/{n}.png", {"": 3}, [None]),
        ("a/JPEG/480p/{p}/{n}.png", "a/Ann/480p/{p}/{n}.png", {"bear": 2, "cat": 2}, [None]),
        ("{p}_images/{n}.png", "{p}_masks/{n}.png", {"train": 2, "val": 2}, ["train", "val"]),
        ("{p}A/{n}.png", "{p}B/{n}.png", {"train": 2, "test": 2}, ["test", "train"]),
        ("t/{p}/{n}.png", "t/{p}_labels/{n}.png", {"train": 2, "val": 2}, ["train", "val"]),
        ("{p}/{p}-org/{n}.png", "{p}/{p}-lab/{n}.png", {"train": 2, "val": 2}, ["train", "val"]),
        ("X-2_{p}_Input/{n}.png", "X_{p}_Truth/{n}_s.png", {"Training": 2, "Test": 2}, None),
        ("Slide_{p}/{n}.png", "GT_{p}/{n}.png", {"01": 2, "02": 2}, [None]),
        ("i/10k/{p}/{n}.png", "l/m/{p}/{n}.png", {"train": 2, "val": 2}, ["train", "val"]),
        (
            "{p} Set/Images/{n}.png",
            "{p} Set/Ground-truths/m_{n}.png",
            {"Train": 2, "Test": 1},
            None,
        ),
        ("{p}/images/{n}.png", "{p}/masks/{n}.png", {"trainval": 2, "test": 2}, ["test", "train"]),
        ("{p}/images/{n}.png", "{p}/masks/{n}.png", {"dev": 2, "eval": 2}, ["test", "val"]),
    ],
)
def test_folders_with_matching_file_names(
    tmp_path: Path, first: str, second: str, parts: dict[str, int], understood: list[str] | None
) -> None:
    couples = each(first, second, parts)
    draw_pairs(tmp_path, *couples)
    found = pairs_of(tmp_path)
    assert sorted(row[:2] for row in found) == sorted(couples)
    assert sorted({row[3] for row in found}, key=str) == (understood or ["test", "train"])


def test_folders_of_videos_take_linear_time(tmp_path: Path, count_calls: CountCalls) -> None:
    calls = {}
    for count in (20, 40):
        folder = tmp_path / str(count)
        for n in range(count):
            name = f"clip{chr(97 + n // 26)}{chr(97 + n % 26)}/0.png"
            draw_pairs(folder, (f"JPG/{name}", f"anno/{name}"))
        calls[count] = count_calls(lambda folder=folder: find_couples(folder, Collected()))
    assert calls[40] < 2.5 * calls[20]


def test_skipped_folders_are_noted(tmp_path: Path) -> None:
    draw_pairs(
        tmp_path,
        *each("training/image_2/{n}.png", "training/semantic/{n}.png", {"": 3}),
        *each("training/image_2/{n}.png", "training/semantic_rgb/{n}.png", {"": 3}),
        *each("testing/image_2/{n}.png", "", {"": 2}),
    )
    heard = Collected()
    assert len(find_pairs(tmp_path, reporter=heard)) == 3
    note = next(note for note in heard.notes if "semantic/" in note)
    assert "testing/image_2" in note
    assert "semantic_rgb" in note


@pytest.mark.parametrize(
    ("couples", "code", "counts"),
    [
        (
            [
                *each("CXR/{n}.png", "M/left/{n}.png", {"": 3}),
                *each("", "M/right/{n}.png", {"": 3}),
            ],
            "which-folder",
            [3, 3, 3],
        ),
        (
            [
                *each("test/{p}/{n}.png", "gt/{p}/{n}_m.png", {"broken": 2, "dirty": 2}),
                ("test/good/9.png", ""),
            ],
            "which-folder",
            [4],
        ),
        (
            [
                *each("{p}/t{n}.png", "{p}_ST/SEG/s{n}.png", {"01": 2, "02": 2}),
                *each("", "{p}_GT/TRA/k{n}.png", {"01": 2, "02": 2}),
            ],
            "which-folder",
            [4, 4],
        ),
        (
            [
                couple
                for part, count in (("a. Training Set", 3), ("b. Testing Set", 2))
                for n in range(count)
                for couple in (
                    (f"X/1. Photos/{part}/{n}.png", f"X/2. All/{part}/1. Dots/{n}_D.png"),
                    ("", f"X/2. All/{part}/2. Lines/{n}_L.png"),
                )
            ],
            "which-folder",
            [5, 5, 5],
        ),
        (
            [
                *each("A/p{n}_rgb.png", "A/p{n}_label.png", {"": 3}),
                *each("", "A/p{n}_fg.png", {"": 3}),
            ],
            "several-masks",
            [3, 3],
        ),
        (
            [
                *each("x{n}.jpg", "x{n}.jpg___fuse.png", {"": 3}),
                *each("", "x{n}.jpg___save.png", {"": 3}),
            ],
            "several-masks",
            [3, 3],
        ),
        (
            each("JPEGImages/{n}.png", "", {"": 3})
            + each("", "SegmentationClass/{n}.png", {"": 2})
            + each("", "SegmentationClassAug/{n}.png", {"": 3}),
            "which-folder",
            [],
        ),
    ],
)
def test_each_answer_reads_all_images(
    tmp_path: Path, couples: list[tuple[str, str]], code: str, counts: list[int]
) -> None:
    for first, second in couples:
        draw_pairs(tmp_path, *([(first, second)] if first else []))
        if second:
            mask(tmp_path / second)
    with pytest.raises(DataError) as raised:
        find_pairs(tmp_path)
    assert raised.value.code == code
    choices = raised.value.choices.values()
    assert [len(pairs_of(tmp_path, **flags)) for flags in choices] == counts


def test_one_of_several_files_holds_the_mask(tmp_path: Path) -> None:
    for n in range(3):
        draw_pairs(tmp_path, (f"{n}.png", f"{n}_mask.png"), (f"{n}_overlay.png", ""))
    heard = Collected()
    found = rows(find_pairs(tmp_path, reporter=heard), tmp_path)
    assert [row[:2] for row in found] == [(f"{n}.png", f"{n}_mask.png") for n in range(3)]
    assert any("*_overlay.png" in note for note in heard.notes)


def test_a_folder_next_to_the_splits_is_reported(tmp_path: Path) -> None:
    draw_pairs(tmp_path, *each("{p}/images/{n}.png", "{p}/masks/{n}.png", dict(train=2, extra=1)))
    heard = Collected()
    find_pairs(tmp_path, reporter=heard)
    (problem,) = heard.problems
    assert isinstance(problem, DataError)
    assert problem.code == "outside-of-parts"
    assert problem.fix == Change("rename", (tmp_path / "extra",), (tmp_path / "train_extra",))


def test_the_masks_of_all_splits_are_asked_about_at_once(tmp_path: Path) -> None:
    for masks in ("lung masks", "infection masks"):
        names = each(
            "{p}/Covid/images/{n}.png", f"{{p}}/Covid/{masks}/{{n}}.png", dict(Train=2, Val=1)
        )
        draw_pairs(tmp_path, *names)
    with pytest.raises(DataError) as raised:
        find_pairs(tmp_path)
    assert f'check {tmp_path} --masks "lung masks"' in str(raised.value)
    assert len(pairs_of(tmp_path, masks="lung masks")) == 3


def test_shifted_numbers_are_not_joined(tmp_path: Path) -> None:
    for n in range(4):
        image(tmp_path / f"images/{n}.png")
        mask(tmp_path / f"masks/{n + 1}.png")
    with pytest.raises(DataError) as raised:
        find_pairs(tmp_path, reporter=Collected())
    assert (raised.value.code, raised.value.fix) == ("no-mask", "")


@pytest.mark.parametrize(
    ("first", "second", "lists"),
    [
        ("images/{n}.png", "masks/{n}_m.png", {"train.txt": "0\n1\n", "val.txt": "2\n"}),
        ("images/{n}.png", "masks/{n}.png", {"valid.txt": "2.png\n"}),
        ("out/x{n}.png", "out/x{n}_m.png", {"train.txt": "x0\nx1", "val.txt": "x2", "a.txt": "b"}),
        (
            "J/s/{n}.png",
            "A/s/{n}.png",
            {"train.txt": "/a/J/s/0.png /a/A/s/0.png\n1", "dev.txt": "2"},
        ),
        (
            "JPEGImages/{n}.png",
            "S/{n}.png",
            {"ImageSets/trn.txt": "0\n1", "ImageSets/val.txt": "2"},
        ),
        (
            "images/{n}.png",
            "masks/{n}.png",
            {"splits/train.txt": "0\n1", "splits/val.txt": "2", "splits/train_2.txt": "2"},
        ),
        (
            "images/{n}.tif",
            "masks/{n}.png",
            {"meta/training.txt": "0.png\n1.png", "meta/validation.txt": "2.png"},
        ),
        (
            "set/r{n}/images/r_{n}.png",
            "set/r{n}/labels/r_{n}.png",
            {"set/train.txt": "r_0.png\nr_1.png", "set/val.txt": "r_2.png"},
        ),
        (
            "images/{n}.png",
            "masks/{n}.png",
            {"train.csv": "image,mask\n0.png,0.png\n1.png,1.png", "val.csv": "image,mask\n2.png,"},
        ),
        (
            "images/{n}.png",
            "masks/{n}.png",
            {"train.lst": "images/0.png masks/0.png\nimages/1.png masks/1.png", "val.lst": "2.png"},
        ),
        (
            "D/JPEGImages/480p/v{n}/0.png",
            "D/Annotations/480p/v{n}/0.png",
            {"D/ImageSets/train.txt": "v0\n480p/v1/", "D/ImageSets/val.txt": "v2"},
        ),
    ],
)
def test_lists_of_names_give_the_splits(
    tmp_path: Path, first: str, second: str, lists: dict[str, str]
) -> None:
    draw_pairs(tmp_path, *each(first, second, {"": 3}))
    for name, text in lists.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert [row[3] for row in pairs_of(tmp_path)] == ["train", "train", "val"]


def test_lists_of_several_folds_are_not_used(tmp_path: Path) -> None:
    draw_pairs(tmp_path, *each("images/{n}.png", "masks/{n}.png", {"": 3}))
    for fold, (val, *train) in enumerate(("012", "120")):
        for name, listed in (("train", train), ("val", [val])):
            touch(tmp_path, f"folds/{name}{fold}.txt")
            (tmp_path / f"folds/{name}{fold}.txt").write_text("\n".join(listed))
    heard = Collected()
    assert [pair.part for pair in find_pairs(tmp_path, reporter=heard)] == [None] * 3
    assert any("folds/train0.txt" in note for note in heard.notes)


@pytest.mark.parametrize(
    ("lists", "parts"),
    [
        ({"results/test_results.txt": "0 0.9\n1 0.8"}, [None] * 4),
        ({"docs/training_notes.txt": "0\n1\nand more"}, [None] * 4),
        ({"models/test.txt": "0"}, [None] * 4),
        ({"lists/trainval.txt": "0\n1", "lists/test.txt": "3"}, [None] * 4),
        ({"a/train.txt": "0\n1\n2", "a/val.txt": "3", "b/train.txt": "0"}, ["train"] * 3 + ["val"]),
        ({"old/val.txt": "0", "s/train.txt": "0\n1\n2", "s/val.txt": "3"}, ["train"] * 3 + ["val"]),
        (
            {
                "a/train.txt": "0\n1",
                "a/val.txt": "2\n3",
                "b/train.txt": "2\n3",
                "b/val.txt": "0\n1",
            },
            [None] * 4,
        ),
    ],
)
def test_lists_in_folders_give_the_split_if_one_folder_names_all_images(
    tmp_path: Path, lists: dict[str, str], parts: list[str | None]
) -> None:
    draw_pairs(tmp_path, *each("images/{n}.png", "masks/{n}.png", {"": 4}))
    for name, text in lists.items():
        touch(tmp_path, name)
        (tmp_path / name).write_text(text)
    heard = Collected()
    assert [pair.part for pair in find_pairs(tmp_path, reporter=heard)] == parts
    assert not heard.problems
    assert any(next(iter(lists)) in note for note in heard.notes) or parts[0]


def test_a_list_of_training_and_validation_next_to_that_of_the_test(tmp_path: Path) -> None:
    draw_pairs(tmp_path, *each("images/{n}.png", "masks/{n}.png", {"": 5}))
    (tmp_path / "trainval.txt").write_text("0\n1\n2")
    (tmp_path / "test.txt").write_text("3")
    assert [row[3] for row in pairs_of(tmp_path)] == ["train"] * 3 + ["test"]


@pytest.mark.usefixtures("file_modes")
def test_a_folder_of_lists_that_may_not_be_entered_is_left_out(tmp_path: Path) -> None:
    draw_pairs(tmp_path, *each("images/{n}.png", "masks/{n}.png", {"": 3}))
    touch(tmp_path, "meta/train.txt")
    (tmp_path / "meta").chmod(0o644)
    try:
        assert len(pairs_of(tmp_path)) == 3
    finally:
        (tmp_path / "meta").chmod(0o755)


def test_a_list_not_named_after_a_split_is_reported(tmp_path: Path) -> None:
    draw_pairs(tmp_path, *each("JPEGImages/{n}.png", "SegmentationClass/{n}.png", {"": 4}))
    (tmp_path / "ImageSets").mkdir()
    for name, text in (("train", "0\n1"), ("val", "2"), ("mine", "3")):
        (tmp_path / f"ImageSets/{name}.txt").write_text(text)
    heard = Collected()
    assert len(find_pairs(tmp_path, reporter=heard)) == 3
    assert [p.code for p in heard.problems if isinstance(p, DataError)] == ["outside-of-parts"]


@pytest.mark.parametrize(
    ("name", "lines", "parts"),
    [
        ("pairs.csv", ["image_path,mask_path", "p/0.png,g/7.png", "p/1.png,g/8.png"], [None] * 2),
        (
            "a.csv",
            ["image;mask", r"C:\Me\p\0.png;C:\Me\g\7.png", "/home/p/1.png;/g/8.png"],
            [None] * 2,
        ),
        ("train.txt", ["p/0.png g/7.png"], ["train", "val"]),
        ("train.csv", ["image,mask", "p/0.png,g/7.png"], ["train", "val"]),
    ],
)
def test_a_list_in_the_folder_is_suggested(
    tmp_path: Path, name: str, lines: list[str], parts: list[str | None]
) -> None:
    draw_pairs(tmp_path, ("p/0.png", "g/7.png"), ("p/1.png", "g/8.png"))
    (tmp_path / name).write_text("\n".join(lines))
    if name == "train.txt":
        (tmp_path / "val.txt").write_text("p/1.png g/8.png\n")
    if name == "train.csv":
        (tmp_path / "val.csv").write_text("image,mask\np/1.png,g/8.png\n")
    with pytest.raises(DataError) as raised:
        find_pairs(tmp_path)
    (flags,) = raised.value.choices.values()
    found = pairs_of(tmp_path, **flags)
    assert [row[:2] for row in found] == [("p/0.png", "g/7.png"), ("p/1.png", "g/8.png")]
    assert [row[3] for row in found] == parts


def test_formats_of_other_programs_are_noted(tmp_path: Path) -> None:
    for n in range(2):
        image(tmp_path / f"images/{n}.png")
        touch(tmp_path, f"annotations/{n}.json", f"{n}_ids.txt")
        v7 = {"item": {"name": f"{n}.png"}, "annotations": [{"polygon": {"paths": []}}]}
        (tmp_path / f"annotations/{n}.json").write_text(json.dumps(v7))
        (tmp_path / f"{n}_ids.txt").write_text("0\n1\n")  # no annotations
    heard = Collected()
    assert not find_pairs(tmp_path, reporter=heard, at_least=0)
    (note,) = heard.notes
    assert str(tmp_path / "annotations/1.json") in note
    assert "ids.txt" not in note
    (problem,) = heard.problems
    assert "--pairs" in str(problem)


def test_arrays_in_archives_are_noted(tmp_path: Path) -> None:
    np.savez(tmp_path / "train.npz", X=np.zeros((2, 8, 8)))
    heard = Collected()
    with pytest.raises(FileNotFoundError):
        find_pairs(tmp_path, reporter=heard)
    assert any("train.npz" in note for note in heard.notes)


@pytest.mark.parametrize("name", ["labels/0.txt labels/1.txt", "annotations.xml", "0_Seg.h5"])
def test_unsupported_annotations_are_noted(tmp_path: Path, name: str) -> None:
    for n in range(2):
        image(tmp_path / f"images/{n}.png")
    for file in name.split():
        touch(tmp_path, file)
    heard = Collected()
    with pytest.raises((FileNotFoundError, DataError)):
        find_pairs(tmp_path, reporter=heard)
    assert any(name.split()[0] in note for note in heard.notes)


@pytest.mark.parametrize("images", ["images", "blurred_image"])
@pytest.mark.parametrize("deeper", ["train", "validation"])
def test_a_split_may_be_one_folder_deeper(tmp_path: Path, images: str, deeper: str) -> None:
    for part in ("train", "validation"):
        top = f"{part}/ulm" if part == deeper else part
        draw_pairs(tmp_path, *each(f"{top}/{images}/{{n}}.png", f"{top}/mask/{{n}}.png", {part: 2}))
    found = pairs_of(tmp_path)
    assert [row[3] for row in found] == ["train"] * 2 + ["val"] * 2
    assert all(Path(row[0]).parts[:-2] == Path(row[1]).parts[:-2] for row in found)


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_split_of_unknown_folders_is_reported(tmp_path: Path, part: str) -> None:
    draw_pairs(
        tmp_path,
        *each("train/images/{n}.png", "train/masks/{n}.png", {"": 2}),
        *each(f"{part}/ulm/a/{{n}}.png", f"{part}/ulm/b/{{n}}.png", {"": 2}),
    )
    heard = Collected()
    assert len(find_pairs(tmp_path, reporter=heard)) == 2
    problems = [str(problem) for problem in heard.problems]
    assert any(
        str(tmp_path / part) in text for text in (problems if part == "val" else heard.notes)
    )
    assert bool(problems) is (part == "val")


def test_outputs_named_after_a_split_are_noted(tmp_path: Path) -> None:
    draw_pairs(tmp_path, *each("train/images/{n}.png", "train/masks/{n}.png", {"": 2}))
    mask(tmp_path / "val_predictions/0.png")
    heard = Collected()
    assert len(find_pairs(tmp_path, reporter=heard)) == 2
    assert not heard.problems
    assert any("val_predictions" in note for note in heard.notes)


@pytest.mark.parametrize("folder", ["HAM10000_images_part_{}", "images/batch{}"])
def test_two_folders_of_images_may_share_their_masks(tmp_path: Path, folder: str) -> None:
    names = [(f"{folder.format(1 + n // 3)}/I_{n}.jpg", f"masks/I_{n}_m.png") for n in range(6)]
    draw_pairs(tmp_path, *names)
    assert [row[:2] for row in pairs_of(tmp_path)] == names


def test_two_candidates_for_the_masks_of_two_folders(tmp_path: Path) -> None:
    for n in range(6):
        image(tmp_path / f"photos{n // 3}/{n}.jpg")
        for name in ("lesion", "attributes"):
            mask(tmp_path / f"{name}/{n}.png")
    with pytest.raises(DataError, match="one folder") as raised:
        find_pairs(tmp_path)
    assert not raised.value.choices
    assert raised.value.code == "which-folder"


def test_equal_names_in_numbered_folders_are_asked_about(tmp_path: Path) -> None:
    for n in range(3):
        for sensor in (1, 2):
            image(tmp_path / f"S{sensor}Hand/G_{n}_S{sensor}Hand.tif")
        mask(tmp_path / f"LabelHand/G_{n}_LabelHand.tif")
    with pytest.raises(DataError) as raised:
        find_pairs(tmp_path)
    choices = [*raised.value.choices.values()]
    assert [flags["images"] for flags in choices] == ["S1Hand", "S2Hand"]
    assert [len(pairs_of(tmp_path, **flags)) for flags in choices] == [3, 3]


def test_images_of_four_bands_are_a_choice(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 4), np.uint8)
    for n in range(3):
        image(tmp_path / f"top/image_RGB/{n}.tif")
        write_tiff(tmp_path / f"top/image_NirRGB/{n}.tif", noise, planarconfig="contig")
        mask(tmp_path / f"top/label_5classes/{n}_label.tif")
    with pytest.raises(DataError) as raised:
        find_pairs(tmp_path)
    assert {"images": "top/image_RGB", "masks": "top/label_5classes"} in [
        *raised.value.choices.values()
    ]


def test_the_only_other_folder_is_that_of_the_images(tmp_path: Path) -> None:
    names = each("R_frames-with-annotations/{p}/{n}.png", "R_annotations/{p}/{n}.png", {"creek": 3})
    draw_pairs(tmp_path, *names)
    assert [row[:2] for row in pairs_of(tmp_path)] == names
    assert [row[:2] for row in pairs_of(tmp_path, masks="R_annotations")] == names


def test_splits_may_be_glued_to_a_word(tmp_path: Path) -> None:
    parts = {"trainset": 3, "valset": 2, "testset": 1}
    draw_pairs(tmp_path, *each("{p}/images/{n}.jpg", "{p}/masks/{n}.png", parts))
    found = Counter(pair.part for pair in find_pairs(tmp_path))
    assert found == {"train": 3, "val": 2, "test": 1}


def test_archives_that_unpack_into_a_folder_of_their_name(tmp_path: Path) -> None:
    names = each("train_{p}/train_{p}/{n}.png", "train_masks/train_masks/{n}.png", {"images": 3})
    draw_pairs(tmp_path, *names, ("test_images/test_images/9.png", ""))
    assert [row[:2] for row in pairs_of(tmp_path)] == names


def test_numbered_folders_of_images_and_masks(tmp_path: Path) -> None:
    names = []
    for end, count in (("", 3), ("2", 2)):
        names += [(f"imgs{end}/{n}.png", f"masks{end}/{n}.png") for n in range(count)]
    draw_pairs(tmp_path, *names)
    assert sorted(row[:2] for row in pairs_of(tmp_path)) == sorted(names)


def test_unused_folders_are_named(tmp_path: Path) -> None:
    names = each("{p}images/{n}.png", "{p}masks/{n}.png", {"": 3, "batch2/": 2})
    draw_pairs(tmp_path, *names)
    heard = Collected()
    assert len(find_pairs(tmp_path, None, heard)) == 3
    assert f"plainunet check {tmp_path / 'batch2'}" in heard.notes[0]
    draw_pairs(tmp_path / "of", *each("{p}/image/{n}.png", "{p}/mask/{n}.png", {"P1": 2, "P2": 2}))
    draw_pairs(tmp_path / "of", ("P3/image/1.png", ""))
    heard = Collected()
    assert len(find_pairs(tmp_path / "of", None, heard)) == 4
    assert str(tmp_path / "of" / "P3" / "image") in heard.notes[0]


def test_each_folder_may_have_image_sets(tmp_path: Path) -> None:
    for year in ("VOC2007", "VOC2012"):
        top = tmp_path / year
        draw_pairs(top, *each("JPEGImages/{n}.jpg", "SegmentationClass/{n}.png", {"": 3}))
        (top / "ImageSets/Segmentation").mkdir(parents=True)
        for part, text in (("train", "0\n1\n"), ("val", "2\n")):
            (top / f"ImageSets/Segmentation/{part}.txt").write_text(text)
    assert Counter(pair.part for pair in find_pairs(tmp_path)) == {"train": 4, "val": 2}


def test_images_of_one_video_are_not_offered_with_masks_of_another(tmp_path: Path) -> None:
    for part, name, count in (("train", "a1f", 3), ("train", "b2e", 3), ("valid", "c3d", 1)):
        for n in range(count):
            names = (f"{part}/{kind}/{name}/{n}" for kind in ("JPEGImages", "Annotations"))
            draw_pairs(tmp_path, tuple(f"{each}.png" for each in names))  # type: ignore[arg-type]
    draw_pairs(tmp_path, ("valid/JPEGImages/c3d/1.png", ""), ("valid/JPEGImages/c3d/2.png", ""))
    try:
        couples = [Path(pair.image).parent.name for pair in find_pairs(tmp_path)]
        assert couples
    except DataError as error:
        for flags in error.choices.values():
            found = pairs_of(tmp_path, **flags)
            assert all(Path(row[0]).parent.name == Path(row[1]).parent.name for row in found)


def test_masks_of_several_annotators_are_a_question(tmp_path: Path) -> None:
    names = [
        (f"images/{n}.png", f"masks/annotator{who}/{n}.png") for n in range(3) for who in (1, 2)
    ]
    draw_pairs(tmp_path, *names)
    with pytest.raises(DataError, match="2 annotators") as raised:
        find_pairs(tmp_path)
    choices = raised.value.choices.values()
    assert [len(pairs_of(tmp_path, **flags)) for flags in choices] == [3, 3]


def test_folders_of_masks_are_no_images_of_each_other(tmp_path: Path) -> None:
    for n in range(3):
        for kind in ("left", "right"):
            mask(tmp_path / f"truth/{kind}_labels/{n}.png")
    with pytest.raises(DataError, match="no images of these masks"):
        find_pairs(tmp_path)


def test_the_printed_pairs_leave_out_a_split_without_masks(tmp_path: Path) -> None:
    parts = {"training": 2, "validation": 1}
    for masks in ("labels", "panoptic"):
        draw_pairs(tmp_path, *each("{p}/images/{n}.jpg", f"{{p}}/v1.2/{masks}/{{n}}.png", parts))
    draw_pairs(tmp_path, ("testing/images/9.jpg", ""))
    with pytest.raises(DataError) as raised:
        find_pairs(tmp_path)
    choices = raised.value.choices.values()
    assert [len(pairs_of(tmp_path, **flags)) for flags in choices] == [3, 3, 3]


def test_superpixels_next_to_the_images_are_no_masks(tmp_path: Path) -> None:
    for n, (part, version) in enumerate((("Training", ""), ("Validation", ""), ("Test", "_v2"))):
        for m in range(2):
            data, name = tmp_path / f"ISIC-2017_{part}{version}_Data", f"ISIC_{n}{m}"
            image(data / f"{name}.jpg")
            mask(data / f"{name}_superpixels.png")
            truth = f"ISIC-2017_{part}{version}_Part1_GroundTruth"
            mask(tmp_path / truth / f"{name}_segmentation.png")
    found = pairs_of(tmp_path)
    assert Counter(row[3] for row in found) == {"train": 2, "val": 2, "test": 2}
    assert all(row[1].endswith("_segmentation.png") for row in found)


@pytest.mark.parametrize("part", ["", "train/"])
def test_copies_in_another_format_are_asked_about(tmp_path: Path, part: str) -> None:
    for kind in ("png", "tif"):
        template = f"{kind.upper()}/{part}{{}}/{{{{n}}}}.{kind}"
        draw_pairs(
            tmp_path, *each(template.format("Original"), template.format("Ground Truth"), {"": 3})
        )
    with pytest.raises(DataError) as raised:
        find_pairs(tmp_path)
    assert f"check {tmp_path / 'PNG'}" in str(raised.value)
    assert len(pairs_of(tmp_path / "TIF")) == 3


def test_a_copy_as_jpeg_is_asked_about(tmp_path: Path) -> None:
    for n in range(3):
        noise = np.random.default_rng(n).integers(0, 256, (48, 64, 3), np.uint8)
        save(tmp_path / f"PNG/images/{n}.png", noise)
        (tmp_path / "JPG/images").mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).save(tmp_path / f"JPG/images/{n}.jpg", quality=80)
        for kind in ("PNG", "JPG"):
            mask(tmp_path / f"{kind}/masks/{n}.png")
    with pytest.raises(DataError, match="several formats"):
        find_pairs(tmp_path)


@pytest.mark.parametrize("part", ["", "train/"])
def test_other_images_of_the_same_names_are_no_copies(tmp_path: Path, part: str) -> None:
    for suffix in ("jpg", "png"):
        for n in range(3):
            noise = np.random.default_rng([len(part), n, suffix == "jpg"])
            pixels = noise.integers(0, 256, (*SIZE, 3), np.uint8)
            save(tmp_path / f"{part}{suffix}_site/images/{n}.{suffix}", pixels)
            mask(tmp_path / f"{part}{suffix}_site/masks/{n}.png")
    assert len(pairs_of(tmp_path)) == 6


def test_unreadable_masks_do_not_beat_their_renderings(tmp_path: Path) -> None:
    for n in range(3):
        image(tmp_path / f"RGB/{n}.png")
        labels = np.zeros((*SIZE, 3), np.uint16)
        labels[..., 0] = np.arange(SIZE[1]) * 300
        mask(tmp_path / f"GT/COLOR/{n}.png")
        (tmp_path / "GT/LABELS").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / f"GT/LABELS/{n}.png"), labels)
    with pytest.raises(DataError) as raised:
        find_pairs(tmp_path)
    assert {"images": "RGB", "masks": "GT/COLOR"} in [*raised.value.choices.values()]


def test_an_input_and_its_labels_in_one_folder(tmp_path: Path) -> None:
    image(tmp_path / "AC4/train-input.tif")
    mask(tmp_path / "AC4/train-labels.tif")
    found = rows(find_pairs(tmp_path, at_least=1), tmp_path)
    assert [row[:2] for row in found] == [("AC4/train-input.tif", "AC4/train-labels.tif")]


def test_folders_of_classes_whose_files_have_an_ending_each(tmp_path: Path) -> None:
    """As IDRiD has them; a class that is absent has no file."""
    classes = {"1. Microaneurysms": "MA", "2. Haemorrhages": "HE", "Hard Exudates": "EX"}
    for part, numbers in (("a. Training Set", range(1, 6)), ("b. Testing Set", range(6, 9))):
        for n in numbers:
            image(tmp_path / f"1. Original Images/{part}/IDRiD_0{n}.jpg")
            for k, (name, end) in enumerate(classes.items()):
                file = tmp_path / f"2. All Groundtruths/{part}/{name}/IDRiD_0{n}_{end}.png"
                if k != 1 or n % 3:
                    mask(file, (5 * k, n))
    with pytest.raises(DataError) as raised:
        find_pairs(tmp_path)
    answers = [each for name, each in raised.value.choices.items() if name.endswith("is a class")]
    (known,) = answers
    pairs = find_pairs(tmp_path, DataConfig(**known))
    assert Counter(pair.part for pair in pairs) == {"train": 5, "test": 3}
    coding, pixels = find_coding([pair.mask for pair in pairs])
    assert coding.names == ("background", *classes)
    assert pixels[1:].tolist() == [8 * 16, 6 * 16, 8 * 16]
    for n, pair in enumerate(pairs, start=1):
        found = coding.read(parse_source(str(pair.mask)))
        assert [int(found[5 * k, n]) for k in range(3)] == [1, 2 if n % 3 else 0, 3]
    # as in a run's list
    write_split(tmp_path / "list.csv", pairs, tmp_path)
    listed = find_pairs(tmp_path, DataConfig(pairs="list.csv"))
    assert find_coding([pair.mask for pair in listed])[1].tolist() == pixels.tolist()


def test_folders_next_to_the_images_are_not_offered_as_classes(tmp_path: Path) -> None:
    """As cellpose writes them: masks/ and outlines/ next to the images."""
    for n in range(4):
        image(tmp_path / f"img_{n}.png")
        image(tmp_path / f"flows/img_{n}_flows_cp_masks.png")
        mask(tmp_path / f"masks/img_{n}_cp_masks.png")
        mask(tmp_path / f"outlines/img_{n}_outlines_cp_masks.png")
    with pytest.raises(DataError) as raised:
        find_pairs(tmp_path)
    assert not any("is a class" in name for name in raised.value.choices)
    assert all(len(pairs_of(tmp_path, **flags)) == 4 for flags in raised.value.choices.values())


def test_a_table_of_measurements_is_no_split(tmp_path: Path) -> None:
    """HC18 names the images of both folders alike, so that the table of one alone would be left."""
    touch(
        tmp_path,
        *(f"training_set/{n}_HC{end}.png" for n in range(9) for end in ("", "_Annotation")),
    )
    touch(tmp_path, *(f"test_set/{n}_HC.png" for n in range(4)))
    for name, count in (("training_set_sizes", 9), ("test_set_sizes", 4)):
        rows = "".join(f"{n}_HC.png,0.1\n" for n in range(count))
        (tmp_path / f"{name}.csv").write_text(f"filename,pixel size(mm)\n{rows}")
    assert len(find_pairs(tmp_path, reporter=Collected())) == 9


def test_copies_that_browsers_and_file_managers_make_are_skipped(tmp_path: Path) -> None:
    for name in "ab":
        image(tmp_path / "images" / f"{name}.png")
        mask(tmp_path / "masks" / f"{name}.png")
    for folder, name in (("images", "a (1)"), ("masks", "b - Copy"), ("masks", "a copy")):
        original = tmp_path / folder / f"{name[0]}.png"
        (original.parent / f"{name}.png").write_bytes(original.read_bytes())
    # another image, whose mask is as empty as that of the first
    image(tmp_path / "images" / "c.png")
    image(tmp_path / "images" / "c (2).png")
    for name in ("c", "c (2)"):
        save(tmp_path / "masks" / f"{name}.png", np.zeros(SIZE, np.uint8))
    found = Collected()
    pairs = find_pairs(tmp_path, DataConfig(), found)
    assert [pair.image.stem for pair in pairs] == ["a", "b", "c (2)", "c"]
    assert sum("copies" in note for note in found.notes) == 2


@pytest.mark.parametrize("folder", ["data", "."])
def test_an_archive_that_holds_itself_again_counts_once(tmp_path: Path, folder: str) -> None:
    for top in ("data", "data/data"):
        for part in ("train", "val"):
            for n in range(2):
                image(tmp_path / top / part / "images" / f"{part}{n}.png")
                mask(tmp_path / top / part / "masks" / f"{part}{n}.png")
    pairs = find_pairs(tmp_path / folder)
    assert [pair.part for pair in pairs] == ["train", "train", "val", "val"]


def test_folders_with_decomposed_letters_are_those_with_composed_ones(tmp_path: Path) -> None:
    for city in ("Z\u00fcrich", "K\u00f6ln"):
        for n in range(2):
            image(tmp_path / "Bilder" / normalize("NFD", city) / f"{n}.png")
            mask(tmp_path / "Masken" / city / f"{n}.png")
    assert len(find_pairs(tmp_path)) == 4


def test_which_file_of_each_case_is_the_image_is_asked(tmp_path: Path) -> None:
    for n in range(3):
        for name in ("dwi", "adc"):
            image(tmp_path / f"case_{n}" / f"{name}.png")
        mask(tmp_path / f"case_{n}" / "mask.png")
    with pytest.raises(DataError, match=r"3 folders.*adc\.png, dwi\.png, mask\.png") as caught:
        find_pairs(tmp_path)
    assert caught.value.choices is not None
    (adc, dwi) = [each["pairs"] for each in caught.value.choices.values()]
    assert (adc, dwi) == ("*/adc.png:*/mask.png", "*/dwi.png:*/mask.png")
    assert len(pairs_of(tmp_path, pairs=dwi)) == 3


def test_folders_that_may_be_classes_are_asked_about(tmp_path: Path) -> None:
    for n, name in enumerate(("cat", "dog", "cat")):
        image(tmp_path / "images" / f"{n}.png")
        mask(tmp_path / "masks" / name / f"{n}.png", value=255)
    with pytest.raises(DataError, match="2 folders") as caught:
        find_pairs(tmp_path)
    assert caught.value.choices is not None
    (choice,) = caught.value.choices.values()
    found = find_pairs(tmp_path, DataConfig(pairs=choice["pairs"]))
    assert find_coding([pair.mask for pair in found], DataConfig())[0].num_classes == 3
