"""Missing pixels of an image: 255 in its mask, and absent from all other outputs."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from plainunet.config import DataConfig, TrainConfig
from plainunet.dataset.dataset import SegmentationDataset
from plainunet.evaluation.measure import measure
from plainunet.prediction.objects import fill_holes, remove_small
from plainunet.prediction.outputs import AREAS, COCO
from plainunet.prediction.predict import predict_files
from plainunet.training.train import train

from ..folders import draw_scenes, write_tiff
from ..models import as_predictor, make_card, make_network, make_predictor

HOLE = np.zeros((60, 80), np.bool_)
HOLE[:30, :40] = True
GEO = [(33550, "d", 3, (1, 1, 0), True), (33922, "d", 6, (0, 0, 0, 400, 900, 0), True)]


def scene() -> np.ndarray:
    image = np.random.default_rng(0).uniform(0, 1, (60, 80, 3)).astype(np.float32)
    image[HOLE] = np.nan
    return image


@pytest.mark.parametrize("size", [None, (32, 48)])
def test_nan_is_ignored(size: tuple[int, int] | None) -> None:
    predictor = make_predictor(size=size)
    mask = predictor.predict(scene())
    np.testing.assert_array_equal(mask == 255, HOLE)
    filled = scene()
    filled[HOLE] = scene()[~HOLE].mean(axis=0, dtype=np.float64)
    np.testing.assert_array_equal(mask[~HOLE], predictor.predict(filled)[~HOLE])


def test_nodata_that_nothing_marks_is_a_warning(tmp_path: Path) -> None:
    pixels = np.nan_to_num(scene(), nan=-9999)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb")
    with pytest.warns(UserWarning, match="--nodata=-9999"):
        make_predictor().predict(tmp_path / "a.tif")


@pytest.mark.parametrize("is_geo", [False, True])
def test_outputs(tmp_path: Path, is_geo: bool) -> None:
    masks = {"kind": "two values", "values": (0, 255), "ignore": None}
    predictor = make_predictor(2, masks=masks, min_object=9, fill_holes=9)
    image = tmp_path / "a.tif"
    tags = [(42113, "s", 0, "-9999", True), *(GEO if is_geo else [])]
    pixels = np.nan_to_num(scene(), nan=-9999)
    tifffile.imwrite(image, pixels, photometric="rgb", metadata=None, extratags=tags)
    saved = ("values", "overlay", "contours", "instances", "areas", "coco", "rle-rows")
    out = tmp_path / "out"
    predict_files(predictor, [image], out, saved)
    suffix = ".tif" if is_geo else ".png"
    for name, void in (("a", 255), ("values/a", 254), ("instances/a", 0)):
        if is_geo:
            with tifffile.TiffFile(out / f"{name}.tif") as file:
                values, tag = file.asarray(), file.pages.first.tags.valueof(42113)
            assert tag == (str(void) if void else None)
        else:
            values = np.asarray(Image.open(out / f"{name}.png"))
        assert (values[HOLE] == void).all()
        assert not void or not (values[~HOLE] == void).any()
    ids = np.asarray(Image.open(out / f"a{suffix}"))
    rows = list(csv.DictReader((out / AREAS).read_text().splitlines()))
    areas = [int((ids == k).sum()) for k in range(2)]
    assert [int(row["pixels"]) for row in rows] == areas
    assert sum(float(row["share"]) for row in rows) == pytest.approx(1, abs=1e-5)
    coco = json.loads((out / COCO).read_text())
    shapes = json.loads((out / "contours" / "a.geojson").read_text())["features"]
    for found in (
        sum(each["area"] for each in coco["annotations"]),
        sum(each["properties"]["area"] for each in shapes),
    ):
        assert found == areas[1]


@pytest.mark.parametrize(("dtype", "tag", "void"), [("float32", None, np.nan), ("uint8", "0", 0)])
def test_large_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, tag: str | None, void: float
) -> None:
    pixels = np.random.default_rng(0).integers(1, 255, (300, 400, 3)).astype(dtype)
    pixels[:100, :200] = void
    image = write_tiff(tmp_path / "a.tif", pixels, tag, tile=(64, 64))
    predictor = as_predictor(make_network(), make_card(factor=0.5))
    predict_files(predictor, [image], tmp_path / "whole")
    monkeypatch.setattr("plainunet.prediction.predict.LARGE", 5000)
    predict_files(predictor, [image], tmp_path / "parts", ["areas"])
    whole = np.asarray(Image.open(tmp_path / "whole" / "a.png"))
    parts = tifffile.imread(tmp_path / "parts" / "a.tif")
    corner = np.zeros(whole.shape, np.bool_)
    corner[:100, :200] = True
    np.testing.assert_array_equal(whole == 255, corner)
    np.testing.assert_array_equal(parts == 255, whole == 255)
    assert (parts == whole).mean() > 0.99
    rows = list(csv.DictReader((tmp_path / "parts" / AREAS).read_text().splitlines()))
    assert [int(row["pixels"]) for row in rows] == [int((parts == k).sum()) for k in range(3)]


def test_objects_in_missing_pixels_are_not_counted(tmp_path: Path) -> None:
    numbers = np.zeros((60, 80), np.uint16)
    numbers[5:20, 5:20], numbers[40:50, 50:70] = 1, 2
    for stem in "ab":
        write_tiff(tmp_path / "images" / f"{stem}.tif", scene())
        write_tiff(tmp_path / "masks" / f"{stem}.tif", numbers)
    dataset = SegmentationDataset.open(tmp_path, DataConfig(encoding="instances"))
    for found in measure(make_predictor(2), dataset, objects=True):
        assert found.counts.sum() == (~HOLE).sum()
        assert found.objects is not None
        assert found.objects[0].counts.true == 1


def test_missing_pixels_do_not_affect_postprocessing() -> None:
    mask = np.full((20, 20), 255, np.uint8)
    mask[8:12, 8:12] = 1
    mask[9, 9] = 0
    assert fill_holes(mask, 4)[9, 9] == 1
    small = remove_small(mask, 50)
    assert not small[8:12, 8:12].any()
    assert (small == 255).sum() == 400 - 16


@pytest.mark.slow
@pytest.mark.parametrize("value", [-1, -9999])
def test_training_with_a_missing_corner_reaches_a_good_dice(tmp_path: Path, value: float) -> None:
    folder = draw_scenes(tmp_path / "data", 24, tag="-9999", value=value)
    config = TrainConfig(epochs=30, base_channels=8, depth=3, workers=0)
    scores = train(folder, tmp_path / "run", config)
    assert scores.dice > 0.9
