"""The outlines of a mask's objects, as GeoJSON.

In: a mask's objects. Out: polygons along the edges of pixels, so that they enclose just the
object's pixels. Coordinates are columns and rows, the picture's upper left corner being (0, 0), or
those of the earth where the picture says where it lies. After RFC 7946, which has no other system
than WGS 84: another is named in `crs`, as its predecessor had it and GDAL reads it.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from plainunet.prediction.geo import Place
from plainunet.prediction.objects import Object

Ring = list[list[float]]
_WGS84 = 4326


def draw_outlines(
    labels: NDArray[np.int32],
    objects: Sequence[Object],
    class_names: Sequence[str],
    place: Place | None = None,
) -> dict[str, Any]:
    """Draw the outline of each object.

    Args:
        labels: [H, W] int32, as by `find_objects`.
        objects: The objects.
        class_names: K names, the background's first.
        place: Where the picture lies.

    Returns:
        A GeoJSON FeatureCollection. A feature's properties are `object` (its number), `class`,
        `class_id` and `area` [pixels].
    """
    transform = place.transform if place else None
    collection: dict[str, Any] = {"type": "FeatureCollection"}
    if place and place.transform and place.epsg not in (None, _WGS84):
        name = f"urn:ogc:def:crs:EPSG::{place.epsg}"
        collection["crs"] = {"type": "name", "properties": {"name": name}}
    features = []
    for each in objects:
        polygons = [
            [[_at(point, transform) for point in ring] for ring in polygon]
            for polygon in _polygons(labels, each)
        ]
        alone = len(polygons) == 1
        features.append(
            {
                "type": "Feature",
                "properties": {
                    "object": each.number,
                    "class": class_names[each.class_id],
                    "class_id": each.class_id,
                    "area": each.area,
                },
                "geometry": {
                    "type": "Polygon" if alone else "MultiPolygon",
                    "coordinates": polygons[0] if alone else polygons,
                },
            }
        )
    return {**collection, "features": features}


def _polygons(labels: NDArray[np.int32], each: Object) -> list[list[Ring]]:
    """An object's parts, each its outer ring and its holes, closed."""
    left, top, width, height = each.box
    own = (labels[top : top + height, left : left + width] == each.number).astype(np.uint8)
    # parts that touch at a corner alone are polygons of their own
    count, parts = cv2.connectedComponents(own, connectivity=4)
    polygons = []
    for part in range(1, count):
        # of a pixel's four quarters, a contour passes through those that lie at the edge
        double = np.repeat(np.repeat((parts == part).astype(np.uint8), 2, axis=0), 2, axis=1)
        contours, _ = cv2.findContours(double, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        rings = [_ring(np.asarray(contour[:, 0, :], np.int32), left, top) for contour in contours]
        rings.sort(key=_area, reverse=True)  # the outer one encloses all others
        polygons.append([_turned(ring, number == 0) for number, ring in enumerate(rings)])
    return polygons


def _ring(quarters: NDArray[np.int32], left: int, top: int) -> Ring:
    """Turn the quarters that a contour passes through into the corners where it bends."""
    corners = (quarters + 1) // 2
    corners = corners[(corners != np.roll(corners, 1, axis=0)).any(axis=1)]
    before = corners - np.roll(corners, 1, axis=0)
    after = np.roll(corners, -1, axis=0) - corners
    points = (corners[(before != after).any(axis=1)] + (left, top)).tolist()
    return [*points, points[0]]


def _area(ring: Ring) -> float:
    return abs(_signed_area(ring))


def _signed_area(ring: Ring) -> float:
    x, y = np.array(ring, np.float64).T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)


def _turned(ring: Ring, is_outer: bool) -> Ring:
    """Outer rings go one way round and holes the other (RFC 7946, section 3.1.6)."""
    # rows count downwards: seen upright, what goes counterclockwise has a negative area
    return ring if (_signed_area(ring) < 0) == is_outer else ring[::-1]


def _at(point: list[float], transform: tuple[float, ...] | None) -> list[float]:
    if transform is None:
        return point
    a, b, c, d, e, f = transform
    x, y = point
    return [a * x + b * y + c, d * x + e * y + f]
