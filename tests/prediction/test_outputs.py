"""Each output checked by an independent reader: run-length codes, COCO, tables, files."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO

from plainunet.config import Output
from plainunet.formats import coco as coco_reader
from plainunet.formats.masks import read_mask
from plainunet.network.card import Card
from plainunet.palette import default_colors
from plainunet.prediction.geo import Georeference
from plainunet.prediction.objects import find_objects
from plainunet.prediction.outputs import (
    Labelled,
    Outputs,
    coco_image,
    find_runs,
    tables,
    write_coco,
    write_runs,
    write_table,
)
from plainunet.prediction.record import RECORD

NAMES = ("ground", "leaf", "old stone/rock")
MASK = np.random.default_rng(0).integers(0, 3, (20, 30), np.uint8)
IMAGE = np.random.default_rng(1).integers(0, 256, (20, 30, 3), np.uint8)


def card(classes: int = 3, **masks: Any) -> Card:
    return Card(NAMES[:classes], default_colors(classes), size=None, masks=masks)


def paint(code: str, shape: tuple[int, int], by_columns: bool) -> NDArray[np.bool_]:
    """Decode a run-length code by Kaggle's rules, pixel by pixel."""
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


@pytest.mark.parametrize("by_columns", [False, True])
@given(data=st.data())
def test_decoded_runs_equal_the_mask(by_columns: bool, data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6))
    bits = data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    pixels = np.array(bits).reshape(height, width)
    code = write_runs(find_runs(pixels, by_columns=by_columns))
    assert np.array_equal(paint(code, pixels.shape, by_columns), pixels)
    runs = [int(word) for word in code.split()]
    ends = [start + length for start, length in zip(runs[::2], runs[1::2], strict=True)]
    assert all(end < start for end, start in zip(ends, runs[2::2], strict=False))


def labelled(name: str, mask: NDArray[np.uint8]) -> Labelled:
    return Labelled(name, Path(name).stem, mask, *find_objects(mask))


def noise(classes: int, shape: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, classes, shape, np.uint8)


def table(name: str, images: list[Labelled], classes: int, folder: Path) -> list[dict[str, str]]:
    (wanted,) = tables([name], card(classes))
    rows = [row for each in images for row in wanted.rows(each, card(classes))]
    write_table(folder / wanted.file, wanted.header, rows)
    with (folder / wanted.file).open(newline="") as file:
        return list(csv.DictReader(file))


def test_carvana_submission(tmp_path: Path) -> None:
    masks = [noise(2, (6, 9), seed) for seed in range(2)]
    masks.append(np.zeros((6, 9), np.uint8))
    images = [labelled(f"{n}.jpg", mask) for n, mask in enumerate(masks)]
    rows = table("rle-rows", images, 2, tmp_path)
    assert (tmp_path / "rle-rows.csv").read_text().splitlines()[0] == "img,rle_mask"
    assert [row["img"] for row in rows] == ["0.jpg", "1.jpg", "2.jpg"]
    for row, mask in zip(rows, masks, strict=True):
        assert np.array_equal(paint(row["rle_mask"], mask.shape, by_columns=False), mask == 1)
    assert rows[2]["rle_mask"] == ""


def test_data_science_bowl_submission(tmp_path: Path) -> None:
    first = np.zeros((5, 7), np.uint8)
    first[0, 0] = first[4, 6] = 1  # the first and the last pixel
    first[:, 3:5] = 1  # whole columns: one run
    second = np.zeros((5, 7), np.uint8)
    rows = table("rle-columns", [labelled("a.png", first), labelled("b.png", second)], 2, tmp_path)
    header = (tmp_path / "rle-columns.csv").read_text().splitlines()[0]
    assert header == "ImageId,EncodedPixels"
    assert [row["ImageId"] for row in rows] == ["a", "a", "a", "b"]
    codes = [row["EncodedPixels"] for row in rows]
    assert codes == ["1 1", "16 10", "35 1", ""]
    painted = sum(paint(code, (5, 7), by_columns=True).astype(int) for code in codes)
    assert np.array_equal(painted, first)


@pytest.mark.parametrize("name", ["rle-rows", "rle-columns"])
def test_more_than_two_classes_add_a_class_column(name: str, tmp_path: Path) -> None:
    mask = noise(3, (8, 5))
    rows = table(name, [labelled("a.png", mask)], 3, tmp_path)
    painted = np.zeros(mask.shape, np.uint8)
    key = "rle_mask" if name == "rle-rows" else "EncodedPixels"
    for row in rows:
        covered = paint(row[key], mask.shape, by_columns=name == "rle-columns")
        assert not painted[covered].any()
        painted[covered] = NAMES.index(row["class"])
    assert np.array_equal(painted, mask)


def test_areas(tmp_path: Path) -> None:
    mask = np.array([[0, 0, 1, 1], [0, 2, 1, 1]], np.uint8)
    rows = table("areas", [labelled("a.png", mask)], 3, tmp_path)
    assert [(row["class"], row["pixels"], row["share"]) for row in rows] == [
        ("ground", "3", "0.375000"),
        ("leaf", "4", "0.500000"),
        ("old stone/rock", "1", "0.125000"),
    ]


def test_instances(tmp_path: Path) -> None:
    mask = np.array([[0, 0, 1, 1], [2, 0, 1, 1], [0, 2, 0, 0]], np.uint8)
    rows = table("instances", [labelled("a.png", mask)], 3, tmp_path)
    assert [list(row.values()) for row in rows] == [
        ["a.png", "1", "leaf", "4", "2", "0", "2", "2", "2.50", "0.50"],
        ["a.png", "2", "old stone/rock", "2", "0", "1", "2", "2", "0.50", "1.50"],
    ]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_coco_is_read_by_pycocotools_and_plainunet(tmp_path: Path) -> None:
    masks = {"a.png": noise(3, (12, 9)), "b.png": np.zeros((4, 5), np.uint8)}
    images = [coco_image(labelled(name, mask)) for name, mask in masks.items()]
    path = tmp_path / "coco.json"
    write_coco(path, images, card(3))
    known = COCO(path)
    assert {each["name"] for each in known.loadCats(known.getCatIds())} == set(NAMES[1:])
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


def write(
    out: Path,
    *saves: Output,
    mask: NDArray[np.uint8] = MASK,
    model: Card | None = None,
    probabilities: NDArray[np.float32] | None = None,
    suffix: str = ".png",
    geo: Georeference | None = None,
    key: str = "",
) -> set[str]:
    outputs = Outputs(out, saves, model or card())
    quantised = {} if probabilities is None else outputs.quantise(probabilities)
    path = out / "deep" / f"a{suffix}"
    outputs.finish([outputs.write(path, "a.jpg", IMAGE, mask, quantised, geo, key)])
    files = {file for file in out.rglob("*") if file.is_file()}
    assert set(outputs.files(path)) <= files
    return {file.relative_to(out).as_posix() for file in files}


def test_the_mask_is_always_written(tmp_path: Path) -> None:
    assert write(tmp_path) == {"deep/a.png"}
    assert write(tmp_path / "2", "mask", "mask") == {"deep/a.png"}
    assert np.array_equal(read_mask(tmp_path / "deep" / "a.png"), MASK)


def test_each_output_has_a_folder_of_its_own(tmp_path: Path) -> None:
    saves: tuple[Output, ...] = ("overlay", "values", "contours", "instances", "areas", "coco")
    assert write(tmp_path, *saves) == {
        "deep/a.png",
        "overlay/deep/a.jpg",
        "values/deep/a.png",
        "contours/deep/a.geojson",
        "instances/deep/a.png",
        "instances.csv",
        "areas.csv",
        "coco.json",
    }
    with Image.open(tmp_path / "instances/deep/a.png") as file:
        assert np.array_equal(np.asarray(file), find_objects(MASK)[0])
    drawn = json.loads((tmp_path / "contours/deep/a.geojson").read_text())
    assert len(drawn["features"]) == find_objects(MASK)[0].max()
    with (tmp_path / "areas.csv").open(newline="") as file:
        assert sum(int(row["pixels"]) for row in csv.DictReader(file)) == MASK.size


def test_outputs_of_another_mask_do_not_stay(tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text('{"outputs": ["overlay", "contours"]}')
    write(tmp_path, "overlay", "contours", key="model 10 abc")
    kept = {RECORD, "contours/deep/b.geojson", "instances/deep/a.png", "values/deep/a.png"}
    for name in kept - {RECORD}:  # of another mask, and of outputs that no run wrote
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert "overlay/deep/a.jpg" in write(tmp_path, key="model 10 abc")
    assert write(tmp_path, "contours", key="other 10 abc") == {
        *("deep/a.png", "contours/deep/a.geojson", *kept)
    }
    # the image has become a GeoTIFF
    assert write(tmp_path, suffix=".tif", key="other 11 def") == {"deep/a.tif", *kept}
    (tmp_path / "overlay" / "deep" / "c.jpg").touch()
    made_by_hand = tmp_path / "deep" / "c.png"
    Image.new("L", (8, 8)).save(made_by_hand)
    Outputs(tmp_path, (), card()).remove_stale(made_by_hand, "other 10 abc")
    assert (tmp_path / "overlay" / "deep" / "c.jpg").exists()


def test_an_overlay_shows_image_and_mask(tmp_path: Path) -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[5:15, 5:25] = 1
    write(tmp_path, "overlay", mask=mask)
    with Image.open(tmp_path / "overlay/deep/a.jpg") as file:
        shown = np.asarray(file).astype(float)
    color = np.array(default_colors(3)[1])
    mixed = 0.55 * IMAGE[8:12, 8:22] + 0.45 * color
    assert abs(shown[8:12, 8:22].mean(axis=(0, 1)) - mixed.mean(axis=(0, 1))).max() < 12
    assert abs(shown[:, 28:].mean() - IMAGE[:, 28:].mean()) < 12


@pytest.mark.parametrize("size", [(2, 66_000), (65_501, 2)])
def test_the_overlay_of_an_image_too_long_for_jpeg_is_reduced(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    outputs, file = Outputs(tmp_path, ["overlay"], card()), tmp_path / "a.png"
    image, mask = np.full((*size, 3), 90, np.uint8), np.zeros(size, np.uint8)
    outputs.write(file, "a.jpg", image, mask, {}, None)
    with Image.open(tmp_path / "overlay" / "a.jpg") as shown:
        assert (max(shown.size), min(shown.size)) == (65_500, 2)
        assert abs(np.asarray(shown).astype(int) - 90).max() < 3


@pytest.mark.parametrize(
    ("masks", "wanted"),
    [
        ({}, MASK),
        ({"kind": "values", "values": (3, 9, 255)}, np.array([3, 9, 255])[MASK]),
        ({"kind": "values", "values": (3, 900, 255)}, np.array([3, 900, 255])[MASK]),
        (
            {"kind": "colors", "values": (0, 1, 2), "colors": ((1, 2, 3), (4, 5, 6), (7, 8, 9))},
            np.array([(1, 2, 3), (4, 5, 6), (7, 8, 9)])[MASK],
        ),
        ({"kind": "instances", "values": (0, 1)}, find_objects(MASK)[0]),
    ],
)
def test_values_are_in_the_encoding_of_the_training_masks(
    tmp_path: Path, masks: dict[str, Any], wanted: NDArray[Any]
) -> None:
    write(tmp_path, "values", model=card(**masks))
    with Image.open(tmp_path / "values/deep/a.png") as file:
        assert np.array_equal(np.asarray(file), wanted)


def random_probabilities(classes: int) -> NDArray[np.float32]:
    drawn = np.random.default_rng(2).random((classes, 20, 30)).astype(np.float32)
    return drawn / drawn.sum(axis=0)


@pytest.mark.parametrize(
    ("classes", "folders"),
    [(2, [""]), (3, ["/0-ground", "/1-leaf", "/2-old_stone_rock"])],
)
def test_probabilities(tmp_path: Path, classes: int, folders: list[str]) -> None:
    """Of two classes, only the second is written."""
    drawn = random_probabilities(classes)
    forms: list[Output] = ["probabilities-16", "probabilities", "probabilities-float"]
    files = write(tmp_path, *forms, model=card(classes), mask=MASK % classes, probabilities=drawn)
    images = [f"probabilities{folder}/deep/a.png" for folder in folders]
    assert files == {"deep/a.png", *images, *(f"{form}/deep/a.tif" for form in forms[::2])}
    wanted = drawn[-len(folders) :]
    for name, each in zip(images, wanted, strict=True):
        stored = np.asarray(Image.open(tmp_path / name))
        assert stored.dtype == np.uint8
        assert np.abs(stored / 255 - each).max() < 0.51 / 255
    stored = tifffile.imread(tmp_path / "probabilities-16/deep/a.tif")
    assert stored.dtype == np.uint16
    assert np.abs(stored / 65535 - wanted.squeeze()).max() < 0.51 / 65535
    stored = tifffile.imread(tmp_path / "probabilities-float/deep/a.tif")
    assert np.array_equal(stored, wanted.squeeze())


def test_outputs_of_a_geotiff(tmp_path: Path) -> None:
    tags = [(33550, 12, 3, (0.5, 0.5, 0.0), True), (33922, 12, 6, (0.0,) * 6, True)]
    geo = Georeference(tags, (0.5, 0, 0, 0, -0.5, 0), 32632)
    mask = MASK % 2
    files = write(
        tmp_path, "contours", "values", "instances", "probabilities", "probabilities-16",
        suffix=".tif", geo=geo, model=card(2), mask=mask,
        probabilities=random_probabilities(2),
    )  # fmt: skip
    assert files == {
        "deep/a.tif", "contours/deep/a.geojson", "values/deep/a.tif", "instances/deep/a.tif",
        "instances.csv", "probabilities/deep/a.tif", "probabilities-16/deep/a.tif",
    }  # fmt: skip
    stored = tifffile.imread(tmp_path / "probabilities-16/deep/a.tif")
    assert stored.dtype == np.uint16
    assert np.array_equal(tifffile.imread(tmp_path / "instances/deep/a.tif"), find_objects(mask)[0])
    for name in ("values", "instances", "probabilities"):
        with tifffile.TiffFile(tmp_path / name / "deep/a.tif") as file:
            assert file.pages.first.tags[33550].value == (0.5, 0.5, 0.0)
    assert np.array_equal(read_mask(tmp_path / "deep/a.tif"), mask)
    with tifffile.TiffFile(tmp_path / "deep/a.tif") as file:
        assert file.pages.first.tags[33550].value == (0.5, 0.5, 0.0)
    drawn = json.loads((tmp_path / "contours/deep/a.geojson").read_text())
    assert drawn["crs"]["properties"]["name"].endswith("32632")


def test_more_objects_than_16_bits_can_number(tmp_path: Path) -> None:
    mask = np.zeros((600, 600), np.uint8)
    mask[::2, ::2] = 1
    outputs = Outputs(tmp_path, ["instances"], card())
    with pytest.raises(ValueError, match=r"90000 .*--min-object"):
        outputs.write(tmp_path / "a.png", "a.jpg", np.zeros((600, 600, 3)), mask, {}, None)
    assert not (tmp_path / "a.png").exists()
