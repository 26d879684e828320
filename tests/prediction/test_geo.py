"""GeoTIFF coordinates, and contours of objects in them."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from plainunet.formats.sources import Page
from plainunet.prediction.geo import Georeference, draw_contours, find_geo
from plainunet.prediction.objects import find_objects

KEYS = (1, 1, 0, 2, 1025, 0, 1, 1, 3072, 0, 1, 32632)


def write(path: Path, *tags: tuple) -> Path:
    tifffile.imwrite(path, np.zeros((4, 5), np.uint8), extratags=list(tags))
    return path


def keys(values: tuple[int, ...]) -> tuple:
    return (34735, "H", len(values), values, True)


SCALE = (33550, "d", 3, (0.5, 0.25, 0.0), True)
TIEPOINT = (33922, "d", 6, (2.0, 1.0, 0.0, 400.0, 900.0, 0.0), True)


MATRIX = (34264, "d", 16, (0.5, 0.1, 0, 7, 0.2, -0.5, 0, 9, *(0,) * 7, 1), True)
CENTRES = (1, 1, 0, 2, 1025, 0, 1, 2, 2048, 0, 1, 4326)
OWN = (1, 1, 0, 1, 3072, 0, 1, 32767)
UPRIGHT = (0.5, 0.0, 399.0, 0.0, -0.25, 900.25)  # pixel (2, 1) lies at (400, 900)


@pytest.mark.parametrize(
    ("tags", "transform", "epsg"),
    [
        ([SCALE, TIEPOINT, keys(KEYS)], UPRIGHT, 32632),
        ([MATRIX, keys(KEYS)], (0.5, 0.1, 7, 0.2, -0.5, 9), 32632),
        ([SCALE, TIEPOINT, keys(CENTRES)], (0.5, 0.0, 398.75, 0.0, -0.25, 900.375), 4326),
        ([SCALE, TIEPOINT, keys(OWN)], UPRIGHT, None),
        ([keys(KEYS)], None, 32632),
        ([SCALE, keys(KEYS)], None, 32632),
        ([SCALE, (33922, "d", 12, (0.0,) * 12, True), keys(KEYS)], None, 32632),
    ],
    ids=[
        *("scale and tie point", "transformation", "pixel centres", "user-defined system"),
        *("no transform", "scale only", "two tie points"),
    ],
)
def test_transforms(
    tmp_path: Path, tags: list[tuple], transform: tuple[float, ...] | None, epsg: int | None
) -> None:
    geo = find_geo(write(tmp_path / "a.tif", *tags))
    assert geo is not None
    assert (geo.transform, geo.epsg) == (transform, epsg)
    assert {tag[0] for tag in geo.tags} == {tag[0] for tag in tags}


def test_other_files(tmp_path: Path) -> None:
    assert find_geo(write(tmp_path / "plain.tif")) is None
    assert find_geo(tmp_path / "a.png") is None
    assert find_geo(Page(tmp_path / "a.tif", 3)) is None
    Image.new("RGB", (5, 4)).save(tmp_path / "jpeg.tif", format="JPEG")
    assert find_geo(tmp_path / "jpeg.tif") is None


def test_agrees_with_rasterio(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio", reason="pip install rasterio")
    geo = find_geo(write(tmp_path / "a.tif", SCALE, TIEPOINT, keys(KEYS)))
    assert geo is not None
    with rasterio.open(tmp_path / "a.tif") as file:
        assert tuple(file.transform)[:6] == geo.transform
        assert file.crs.to_epsg() == geo.epsg


NAMES = ("ground", "leaf", "stone")


def inside(rings: list[list[list[float]]], x: float, y: float) -> bool:
    """Whether a point is in a polygon with holes: an odd number of edges lies to its left."""
    crossed = 0
    for ring in rings:
        for (x0, y0), (x1, y1) in itertools.pairwise(ring):
            if (y0 > y) != (y1 > y) and x0 + (y - y0) * (x1 - x0) / (y1 - y0) < x:
                crossed += 1
    return crossed % 2 == 1


def polygons(geometry: dict) -> list[list[list[list[float]]]]:
    alone = geometry["type"] == "Polygon"
    return [geometry["coordinates"]] if alone else geometry["coordinates"]


def paint(collection: dict, shape: tuple[int, int]) -> NDArray[np.uint8]:
    mask = np.zeros(shape, np.uint8)
    for feature in collection["features"]:
        for rings in polygons(feature["geometry"]):
            for row, column in np.ndindex(shape):
                if inside(rings, column + 0.5, row + 0.5):
                    mask[row, column] = feature["properties"]["class_id"]
    return mask


def signed_area(ring: list[list[float]]) -> float:
    pairs = itertools.pairwise(ring)
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairs) / 2


@pytest.mark.parametrize("seed", range(4))
def test_polygons_enclose_exactly_the_pixels_of_objects(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.choice(3, (14, 17), p=[0.4, 0.4, 0.2]).astype(np.uint8)
    labels, objects = find_objects(mask)
    drawn = draw_contours(labels, objects, NAMES)
    assert np.array_equal(paint(drawn, mask.shape), mask)
    for feature, each in zip(drawn["features"], objects, strict=True):
        assert feature["properties"] == {
            "object": each.number,
            "class": NAMES[each.class_id],
            "class_id": each.class_id,
            "area": each.area,
        }
        area = 0.0
        for outer, *holes in polygons(feature["geometry"]):
            # rows count downwards, so counterclockwise outer rings have negative areas
            assert signed_area(outer) < 0
            assert all(signed_area(hole) > 0 for hole in holes)
            assert all(ring[0] == ring[-1] and len(ring) >= 5 for ring in (outer, *holes))
            area -= sum(signed_area(ring) for ring in (outer, *holes))
        assert area == each.area


def test_parts_that_touch_at_a_corner_are_separate_polygons() -> None:
    (feature,) = draw_contours(*find_objects(np.eye(3, dtype=np.uint8)), NAMES)["features"]
    assert feature["geometry"]["type"] == "MultiPolygon"
    assert len(feature["geometry"]["coordinates"]) == 3


def test_a_square_has_four_corners_in_the_geotiffs_coordinates() -> None:
    mask = np.zeros((9, 9), np.uint8)
    mask[2:6, 3:8] = 1
    (feature,) = draw_contours(*find_objects(mask), NAMES)["features"]
    (ring,) = feature["geometry"]["coordinates"]
    assert {tuple(point) for point in ring} == {(3, 2), (8, 2), (8, 6), (3, 6)}
    assert len(ring) == 5
    geo = Georeference([], (0.5, 0.0, 400000.0, 0.0, -0.5, 5000000.0), 32632)
    drawn = draw_contours(*find_objects(mask), NAMES, geo)
    assert drawn["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32632"
    (ring,) = drawn["features"][0]["geometry"]["coordinates"]
    assert [400001.5, 4999999.0] in ring
    assert signed_area(ring) == 20 / 4  # counterclockwise, 0.25 square metres per pixel
    assert "crs" not in draw_contours(*find_objects(mask), NAMES, geo._replace(epsg=4326))
