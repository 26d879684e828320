from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from plainunet.formats.sources import Page
from plainunet.prediction.geo import find_geo

KEYS = (1, 1, 0, 2, 1025, 0, 1, 1, 3072, 0, 1, 32632)


def write(path: Path, *tags: tuple) -> Path:
    tifffile.imwrite(path, np.zeros((4, 5), np.uint8), extratags=list(tags))
    return path


def keys(values: tuple[int, ...]) -> tuple:
    return (34735, "H", len(values), values, True)


SCALE = (33550, "d", 3, (0.5, 0.25, 0.0), True)
TIEPOINT = (33922, "d", 6, (2.0, 1.0, 0.0, 400.0, 900.0, 0.0), True)


def test_scale_and_tie_point(tmp_path: Path) -> None:
    place = find_geo(write(tmp_path / "a.tif", SCALE, TIEPOINT, keys(KEYS)))
    assert place is not None
    assert place.epsg == 32632
    # pixel (2, 1) lies at (400, 900)
    assert place.transform == (0.5, 0.0, 399.0, 0.0, -0.25, 900.25)
    assert [tag[0] for tag in place.tags] == [33550, 33922, 34735]


def test_transformation(tmp_path: Path) -> None:
    matrix = (0.5, 0.1, 0, 7, 0.2, -0.5, 0, 9, 0, 0, 0, 0, 0, 0, 0, 1)
    place = find_geo(write(tmp_path / "a.tif", (34264, "d", 16, matrix, True), keys(KEYS)))
    assert place is not None
    assert place.transform == (0.5, 0.1, 7, 0.2, -0.5, 9)


def test_middles_of_pixels(tmp_path: Path) -> None:
    points = (1, 1, 0, 2, 1025, 0, 1, 2, 2048, 0, 1, 4326)
    place = find_geo(write(tmp_path / "a.tif", SCALE, TIEPOINT, keys(points)))
    assert place is not None
    assert place.epsg == 4326
    assert place.transform == (0.5, 0.0, 398.75, 0.0, -0.25, 900.375)


@pytest.mark.parametrize(
    "tags",
    [
        [keys(KEYS)],
        [SCALE, keys(KEYS)],
        [SCALE, (33922, "d", 12, (0.0,) * 12, True), keys(KEYS)],
    ],
)
def test_without_a_transform(tmp_path: Path, tags: list[tuple]) -> None:
    place = find_geo(write(tmp_path / "a.tif", *tags))
    assert place is not None
    assert place.transform is None


def test_a_system_of_its_own(tmp_path: Path) -> None:
    own = (1, 1, 0, 1, 3072, 0, 1, 32767)
    place = find_geo(write(tmp_path / "a.tif", SCALE, TIEPOINT, keys(own)))
    assert place is not None
    assert place.epsg is None


def test_other_files(tmp_path: Path) -> None:
    assert find_geo(write(tmp_path / "plain.tif")) is None
    assert find_geo(tmp_path / "a.png") is None
    assert find_geo(Page(tmp_path / "a.tif", 3)) is None
    Image.new("RGB", (5, 4)).save(tmp_path / "jpeg.tif", format="JPEG")
    assert find_geo(tmp_path / "jpeg.tif") is None


def test_as_rasterio_reads_it(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio", reason="pip install 'plainunet[geo]'")
    place = find_geo(write(tmp_path / "a.tif", SCALE, TIEPOINT, keys(KEYS)))
    assert place is not None
    with rasterio.open(tmp_path / "a.tif") as file:
        assert tuple(file.transform)[:6] == place.transform
        assert file.crs.to_epsg() == place.epsg
