import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from plainunet.prediction.geo import Place, draw_outlines
from plainunet.prediction.objects import find_objects

NAMES = ("ground", "leaf", "stone")


def inside(rings: list[list[list[float]]], x: float, y: float) -> bool:
    """Whether a point lies in a polygon with holes: edges to its left are crossed an odd time."""
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
def test_polygons_enclose_just_the_objects_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.choice(3, (14, 17), p=[0.4, 0.4, 0.2]).astype(np.uint8)
    labels, objects = find_objects(mask)
    drawn = draw_outlines(labels, objects, NAMES)
    assert np.array_equal(paint(drawn, mask.shape), mask)
    for feature, each in zip(drawn["features"], objects, strict=True):
        said = feature["properties"]
        assert said == {
            "object": each.number,
            "class": NAMES[each.class_id],
            "class_id": each.class_id,
            "area": each.area,
        }
        area = 0.0
        for outer, *holes in polygons(feature["geometry"]):
            # upright, outer rings go counterclockwise: rows count downwards
            assert signed_area(outer) < 0
            assert all(signed_area(hole) > 0 for hole in holes)
            assert all(ring[0] == ring[-1] and len(ring) >= 5 for ring in (outer, *holes))
            area -= sum(signed_area(ring) for ring in (outer, *holes))
        assert area == each.area


def test_a_square_has_four_corners() -> None:
    mask = np.zeros((9, 9), np.uint8)
    mask[2:6, 3:8] = 1
    (feature,) = draw_outlines(*find_objects(mask), NAMES)["features"]
    (ring,) = feature["geometry"]["coordinates"]
    assert {tuple(point) for point in ring} == {(3, 2), (8, 2), (8, 6), (3, 6)}
    assert len(ring) == 5


def test_a_single_pixel_has_an_area() -> None:
    mask = np.zeros((3, 3), np.uint8)
    mask[2, 2] = 2
    (feature,) = draw_outlines(*find_objects(mask), NAMES)["features"]
    assert abs(signed_area(feature["geometry"]["coordinates"][0])) == 1


def test_parts_that_touch_at_a_corner() -> None:
    (feature,) = draw_outlines(*find_objects(np.eye(3, dtype=np.uint8)), NAMES)["features"]
    assert feature["geometry"]["type"] == "MultiPolygon"
    assert len(feature["geometry"]["coordinates"]) == 3


def test_on_the_earth() -> None:
    mask = np.zeros((9, 9), np.uint8)
    mask[2:6, 3:8] = 1
    place = Place([], (0.5, 0.0, 400000.0, 0.0, -0.5, 5000000.0), 32632)
    drawn = draw_outlines(*find_objects(mask), NAMES, place)
    assert drawn["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32632"
    (ring,) = drawn["features"][0]["geometry"]["coordinates"]
    assert [400001.5, 4999999.0] in ring
    assert signed_area(ring) == 20 / 4  # counterclockwise, and a quarter of a metre a pixel
    assert "crs" not in draw_outlines(*find_objects(mask), NAMES, place._replace(epsg=4326))
