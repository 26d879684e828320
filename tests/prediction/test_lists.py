import csv
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools.coco import COCO

from plainunet.formats import coco as coco_reader
from plainunet.network.checkpoint import Card
from plainunet.palette import default_colors
from plainunet.prediction.objects import find_objects
from plainunet.prediction.outputs import Labelled, coco_image, tables, write_coco, write_table

NAMES = ("ground", "leaf", "stone")


def card(classes: int) -> Card:
    return Card(NAMES[:classes], default_colors(classes), size=None)


def picture(name: str, mask: NDArray[np.uint8]) -> Labelled:
    return Labelled(name, Path(name).stem, mask, *find_objects(mask))


def noise(classes: int, shape: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, classes, shape, np.uint8)


def table(name: str, pictures: list[Labelled], classes: int, folder: Path) -> list[dict[str, str]]:
    (wanted,) = tables([name], card(classes))
    rows = [row for each in pictures for row in wanted.rows(each, card(classes))]
    write_table(folder / wanted.file, wanted.header, rows)
    with (folder / wanted.file).open(newline="") as file:
        return list(csv.DictReader(file))


def paint(code: str, shape: tuple[int, int], by_columns: bool) -> NDArray[np.bool_]:
    """Decode by the rule that Kaggle states, pixel after pixel."""
    height, width = shape
    painted = np.zeros(shape, bool)
    numbers = [int(word) for word in code.split()]
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        for number in range(start - 1, start - 1 + length):
            if by_columns:
                painted[number % height, number // height] = True
            else:
                painted[number // width, number % width] = True
    return painted


def test_carvanas_submission(tmp_path: Path) -> None:
    masks = [noise(2, (6, 9), seed) for seed in range(2)]
    masks.append(np.zeros((6, 9), np.uint8))
    pictures = [picture(f"{n}.jpg", mask) for n, mask in enumerate(masks)]
    rows = table("rle-rows", pictures, 2, tmp_path)
    assert (tmp_path / "rle-rows.csv").read_text().splitlines()[0] == "img,rle_mask"
    assert [row["img"] for row in rows] == ["0.jpg", "1.jpg", "2.jpg"]
    for row, mask in zip(rows, masks, strict=True):
        assert np.array_equal(paint(row["rle_mask"], mask.shape, by_columns=False), mask == 1)
    assert rows[2]["rle_mask"] == ""


def test_the_data_science_bowls_submission(tmp_path: Path) -> None:
    first = np.zeros((5, 7), np.uint8)
    first[0, 0] = first[4, 6] = 1  # the first and the last pixel
    first[:, 3:5] = 1  # whole columns: one run
    second = np.zeros((5, 7), np.uint8)
    rows = table("rle-columns", [picture("a.png", first), picture("b.png", second)], 2, tmp_path)
    header = (tmp_path / "rle-columns.csv").read_text().splitlines()[0]
    assert header == "ImageId,EncodedPixels"
    assert [row["ImageId"] for row in rows] == ["a", "a", "a", "b"]
    codes = [row["EncodedPixels"] for row in rows]
    assert codes == ["1 1", "16 10", "35 1", ""]
    together = sum(paint(code, (5, 7), by_columns=True).astype(int) for code in codes)
    assert np.array_equal(together, first)


@pytest.mark.parametrize("name", ["rle-rows", "rle-columns"])
def test_more_classes_have_a_column(name: str, tmp_path: Path) -> None:
    mask = noise(3, (8, 5))
    rows = table(name, [picture("a.png", mask)], 3, tmp_path)
    painted = np.zeros(mask.shape, np.uint8)
    key = "rle_mask" if name == "rle-rows" else "EncodedPixels"
    for row in rows:
        covered = paint(row[key], mask.shape, by_columns=name == "rle-columns")
        assert not painted[covered].any()
        painted[covered] = NAMES.index(row["class"])
    assert np.array_equal(painted, mask)


def test_areas(tmp_path: Path) -> None:
    mask = np.array([[0, 0, 1, 1], [0, 2, 1, 1]], np.uint8)
    rows = table("areas", [picture("a.png", mask)], 3, tmp_path)
    assert [(row["class"], row["pixels"], row["share"]) for row in rows] == [
        ("ground", "3", "0.375000"),
        ("leaf", "4", "0.500000"),
        ("stone", "1", "0.125000"),
    ]


def test_instances(tmp_path: Path) -> None:
    mask = np.array([[0, 0, 1, 1], [2, 0, 1, 1], [0, 2, 0, 0]], np.uint8)
    rows = table("instances", [picture("a.png", mask)], 3, tmp_path)
    assert [list(row.values()) for row in rows] == [
        ["a.png", "1", "leaf", "4", "2", "0", "2", "2", "2.50", "0.50"],
        ["a.png", "2", "stone", "2", "0", "1", "2", "2", "0.50", "1.50"],
    ]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_coco_is_read_by_others_and_by_ourselves(tmp_path: Path) -> None:
    masks = {"a.png": noise(3, (12, 9)), "b.png": np.zeros((4, 5), np.uint8)}
    pictures = [coco_image(picture(name, mask)) for name, mask in masks.items()]
    path = tmp_path / "coco.json"
    write_coco(path, pictures, card(3))
    known = COCO(path)
    assert {each["name"] for each in known.loadCats(known.getCatIds())} == {"leaf", "stone"}
    for number, (name, mask) in enumerate(masks.items(), 1):
        assert known.loadImgs(number)[0]["file_name"] == name
        painted = np.zeros(mask.shape, np.uint8)
        for each in known.loadAnns(known.getAnnIds(number)):
            covered = known.annToMask(each).astype(bool)
            assert covered.sum() == each["area"]
            rows, columns = np.nonzero(covered)
            left, top, width, height = each["bbox"]
            assert (columns.min(), rows.min()) == (left, top)
            assert (columns.max(), rows.max()) == (left + width - 1, top + height - 1)
            painted[covered] = each["category_id"]
        assert np.array_equal(painted, mask)
    ids = [each["id"] for each in json.loads(path.read_text())["annotations"]]
    assert len(set(ids)) == len(ids) > 3
    for name, image in coco_reader.listed_images(path).items():
        assert np.array_equal(coco_reader.read_ids(image), masks[name])
