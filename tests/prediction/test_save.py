import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from plainunet.config import Output
from plainunet.formats.masks import read_mask
from plainunet.network.checkpoint import Card
from plainunet.palette import default_colors
from plainunet.prediction.geo import Place
from plainunet.prediction.objects import find_objects
from plainunet.prediction.outputs import Outputs

NAMES = ("ground", "leaf", "old stone/rock")
MASK = np.random.default_rng(0).integers(0, 3, (20, 30), np.uint8)
IMAGE = np.random.default_rng(1).integers(0, 256, (20, 30, 3), np.uint8)


def card(classes: int = 3, **masks: Any) -> Card:
    return Card(NAMES[:classes], default_colors(classes), size=None, masks=masks)


def write(
    out: Path,
    *saves: Output,
    mask: NDArray[np.uint8] = MASK,
    said: Card | None = None,
    probabilities: NDArray[np.float32] | None = None,
    suffix: str = ".png",
    place: Place | None = None,
) -> set[str]:
    outputs = Outputs(out, saves, said or card())
    asked = {} if probabilities is None else outputs.quantise(probabilities)
    path = out / "deep" / f"a{suffix}"
    finding = outputs.write(path, "a.jpg", IMAGE, mask, asked, place)
    outputs.finish([finding])
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
    with Image.open(tmp_path / "instances/deep/a.png") as picture:
        assert np.array_equal(np.asarray(picture), find_objects(MASK)[0])
    drawn = json.loads((tmp_path / "contours/deep/a.geojson").read_text())
    assert len(drawn["features"]) == find_objects(MASK)[0].max()
    with (tmp_path / "areas.csv").open(newline="") as file:
        assert sum(int(row["pixels"]) for row in csv.DictReader(file)) == MASK.size


def test_an_overlay_shows_picture_and_mask(tmp_path: Path) -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[5:15, 5:25] = 1
    write(tmp_path, "overlay", mask=mask)
    with Image.open(tmp_path / "overlay/deep/a.jpg") as picture:
        shown = np.asarray(picture).astype(float)
    color = np.array(default_colors(3)[1])
    mixed = 0.55 * IMAGE[8:12, 8:22] + 0.45 * color
    assert abs(shown[8:12, 8:22].mean(axis=(0, 1)) - mixed.mean(axis=(0, 1))).max() < 12
    assert abs(shown[:, 28:].mean() - IMAGE[:, 28:].mean()) < 12


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
def test_values_are_those_of_the_training_masks(
    tmp_path: Path, masks: dict[str, Any], wanted: NDArray[Any]
) -> None:
    write(tmp_path, "values", said=card(**masks))
    with Image.open(tmp_path / "values/deep/a.png") as picture:
        assert np.array_equal(np.asarray(picture), wanted)


def random_probabilities(classes: int) -> NDArray[np.float32]:
    drawn = np.random.default_rng(2).random((classes, 20, 30)).astype(np.float32)
    return drawn / drawn.sum(axis=0)


def test_probabilities_of_two_classes(tmp_path: Path) -> None:
    drawn = random_probabilities(2)
    for output, scale in (("probabilities", 255), ("probabilities-16", 65535)):
        out = tmp_path / output
        suffix = "png" if scale == 255 else "tif"
        files = write(out, output, said=card(2), mask=MASK % 2, probabilities=drawn)
        assert files == {"deep/a.png", f"{output}/deep/a.{suffix}"}
        path = out / output / f"deep/a.{suffix}"
        stored = np.asarray(Image.open(path)) if scale == 255 else tifffile.imread(path)
        assert stored.dtype == (np.uint8 if scale == 255 else np.uint16)
        assert np.abs(stored / scale - drawn[1]).max() < 0.51 / scale
    write(tmp_path, "probabilities-float", said=card(2), mask=MASK % 2, probabilities=drawn)
    assert np.array_equal(tifffile.imread(tmp_path / "probabilities-float/deep/a.tif"), drawn[1])


def test_several_forms_of_probabilities(tmp_path: Path) -> None:
    drawn = random_probabilities(3)
    write(tmp_path, "probabilities-16", "probabilities", "probabilities-float", probabilities=drawn)
    stored = tifffile.imread(tmp_path / "probabilities-16/deep/a.tif")
    assert np.abs(stored / 65535 - drawn).max() < 0.51 / 65535
    assert np.array_equal(tifffile.imread(tmp_path / "probabilities-float/deep/a.tif"), drawn)
    grey = np.asarray(Image.open(tmp_path / "probabilities/1-leaf/deep/a.png"))
    assert np.abs(grey / 255 - drawn[1]).max() < 0.51 / 255


def test_probabilities_of_more_classes(tmp_path: Path) -> None:
    drawn = random_probabilities(3)
    files = write(tmp_path, "probabilities", probabilities=drawn)
    folders = ["0-ground", "1-leaf", "2-old_stone_rock"]
    assert files == {"deep/a.png", *(f"probabilities/{name}/deep/a.png" for name in folders)}
    for number, name in enumerate(folders):
        stored = np.asarray(Image.open(tmp_path / f"probabilities/{name}/deep/a.png"))
        assert np.abs(stored / 255 - drawn[number]).max() < 0.51 / 255
    write(tmp_path / "2", "probabilities-float", probabilities=drawn)
    stored = tifffile.imread(tmp_path / "2/probabilities-float/deep/a.tif")
    assert np.array_equal(stored, drawn)


def test_a_mask_on_the_earth(tmp_path: Path) -> None:
    tags = [(33550, 12, 3, (0.5, 0.5, 0.0), True), (33922, 12, 6, (0.0,) * 6, True)]
    place = Place(tags, (0.5, 0, 0, 0, -0.5, 0), 32632)
    mask = MASK % 2
    files = write(
        tmp_path, "contours", "values", "instances", "probabilities", "probabilities-16",
        suffix=".tif", place=place, said=card(2), mask=mask,
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


def test_more_objects_than_a_png_can_number(tmp_path: Path) -> None:
    mask = np.zeros((600, 600), np.uint8)
    mask[::2, ::2] = 1
    outputs = Outputs(tmp_path, ["instances"], card())
    with pytest.raises(ValueError, match=r"90000 objects.*--min-object"):
        outputs.write(tmp_path / "a.png", "a.jpg", np.zeros((600, 600, 3)), mask, {}, None)
    assert not (tmp_path / "a.png").exists()
