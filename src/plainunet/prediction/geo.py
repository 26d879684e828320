"""GeoTIFF coordinates of an image; contours of objects as GeoJSON, and masks as GeoPackage."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from tifffile import TiffFile, TiffPage

from plainunet.errors import Error
from plainunet.files import write_whole
from plainunet.formats.colors import IGNORED
from plainunet.formats.geo import open_raster, quiet, require_geo
from plainunet.formats.image_files import decoding, open_encoded
from plainunet.formats.sources import ImageSource
from plainunet.prediction.objects import Object

Tag = tuple[int, int, int, Any, bool]
_SCALE, _TIEPOINT, _TRANSFORMATION, _KEYS = 33550, 33922, 34264, 34735
_CODES = (_SCALE, _TIEPOINT, _TRANSFORMATION, _KEYS, 34736, 34737)
_GEOGRAPHIC, _PROJECTED = 2048, 3072  # keys that hold an EPSG code
_RASTER_TYPE, _IS_POINT = 1025, 2
_USER_DEFINED = 32767  # a coordinate system without an EPSG code


def nodata_tag(value: int) -> Tag:
    """Make GDAL's nodata tag: the value of pixels that do not exist."""
    return 42113, 2, 0, str(value), True


class Georeference(NamedTuple):
    """The coordinates of an image."""

    tags: list[Tag]
    """Its TIFF tags, in tifffile's format."""
    transform: tuple[float, float, float, float, float, float] | None
    """a, b, c, d, e, f: a pixel's corner at column x, row y lies at (a x + b y + c,
    d x + e y + f); None if the tags hold no such transform."""
    epsg: int | None
    """EPSG code of the coordinate system, if it has one."""


def find_geo(path: ImageSource) -> Georeference | None:
    """Read the coordinates of a GeoTIFF; None for any other file."""
    if not isinstance(path, Path) or path.suffix.lower() not in (".tif", ".tiff"):
        return None
    with open_encoded(path) as (kind, file), decoding(path):
        if kind != "tiff":  # the suffix may be wrong
            return None
        with TiffFile(file) as tiff:
            return read_geo(tiff.pages.first)


def read_geo(page: TiffPage) -> Georeference | None:
    """Read the coordinates of a page of an open TIFF file; None without GeoTIFF tags."""
    found = {code: tag for code in _CODES if (tag := page.tags.get(code))}
    if not found:
        return None
    tags = [(tag.code, int(tag.dtype), tag.count, tag.value, True) for tag in found.values()]
    keys = _short_keys(found[_KEYS].value) if _KEYS in found else {}
    epsg = keys.get(_PROJECTED, keys.get(_GEOGRAPHIC))
    transform = None
    if _TRANSFORMATION in found:
        a, b, _, c, d, e, _, f = found[_TRANSFORMATION].value[:8]
        transform = (a, b, c, d, e, f)
    elif _SCALE in found and _TIEPOINT in found and len(found[_TIEPOINT].value) == 6:
        across, down, *_ = found[_SCALE].value
        column, row, _, x, y, _ = found[_TIEPOINT].value
        transform = (across, 0.0, x - column * across, 0.0, -down, y + row * down)
    if transform and keys.get(_RASTER_TYPE) == _IS_POINT:  # coordinates of pixel centres
        a, b, c, d, e, f = transform
        transform = (a, b, c - (a + b) / 2, d, e, f - (d + e) / 2)
    return Georeference(tags, transform, None if epsg == _USER_DEFINED else epsg)


def _short_keys(values: tuple[int, ...]) -> dict[int, int]:
    """The GeoKeys whose value is in the directory itself."""
    entries = (values[start : start + 4] for start in range(4, len(values) - 3, 4))
    return {key: value for key, location, _, value in entries if location == 0}


_NO_SYSTEM = 'LOCAL_CS["pixels"]'
_AT_ONCE = 20_000
"""Polygons in memory."""
_ROUNDS = 8
"""A polygon that is merged into a small one is merged again, at most this often."""


def write_polygons(
    path: Path,
    mask: NDArray[np.uint8] | Path,
    class_names: Sequence[str],
    geo: Georeference | None = None,
    min_area: int = 0,
) -> None:
    """Write the regions of a mask as polygons of a GeoPackage, which cover it without gaps.

    Each polygon has its `class`, `class_id` and `area` [pixels]; background is a class as well.
    Pixels without data are left out. Borders run along pixel edges, and neighbours share them.

    Args:
        path: The file.
        mask: [H, W] uint8 class ids; or the TIFF file of a large one, which has its coordinates.
        class_names: The name of each class.
        geo: Coordinates of an array; without them, they are columns and rows.
        min_area: Regions of fewer pixels become part of their largest neighbour.

    Raises:
        ValueError: `min_area` is not below the area of the mask, or the extra `geo` is missing.
    """
    require_geo(path)
    import pyogrio
    import shapely
    from rasterio.features import shapes

    with write_whole(path) as part, _as_bands(mask, geo, min_area) as (band, transform, crs):
        scale = abs(transform.a * transform.e - transform.b * transform.d)
        found = ((s, int(v)) for s, v in shapes(band, transform=transform) if v < len(class_names))
        append = False
        while (some := list(islice(found, _AT_ONCE))) or not append:
            geometry = np.array([shapely.geometry.shape(each) for each, _ in some], object)
            ids = np.array([number for _, number in some], np.int32)
            names = np.array([class_names[number] for number in ids], object)
            areas = np.round(shapely.area(geometry) / scale).astype(np.int64)
            pyogrio.raw.write(
                part,
                shapely.to_wkb(geometry),
                [names, ids, areas],
                ["class", "class_id", "area"],
                layer=path.stem,
                driver="GPKG",
                geometry_type="Polygon",
                crs=crs,
                append=append,
            )
            append = True


@contextmanager
def _as_bands(
    mask: NDArray[np.uint8] | Path, geo: Georeference | None, min_area: int
) -> Iterator[tuple[Any, Any, str]]:
    """What rasterio takes for a mask, its transform, and its coordinate system."""
    from rasterio import Affine, band

    if isinstance(mask, Path):
        with open_raster(mask) as raster:
            values = _merged(raster.read(1), min_area) if min_area > 1 else band(raster, 1)
            yield values, raster.transform, raster.crs.to_wkt() if raster.crs else _NO_SYSTEM
        return
    transform = Affine(*geo.transform) if geo and geo.transform else Affine.identity()
    system = f"EPSG:{geo.epsg}" if geo and geo.epsg else _NO_SYSTEM
    yield _merged(mask, min_area), transform, system


def _merged(mask: NDArray[np.uint8], min_area: int) -> NDArray[np.uint8]:
    """A mask whose small regions are parts of their neighbours."""
    from rasterio.features import sieve

    if min_area >= max(2, mask.size):
        raise Error(
            f"--min-area {min_area}: the mask has only {mask.size} pixels. Choose a smaller area."
        )
    for _ in range(_ROUNDS if min_area > 1 else 0):
        before = mask
        with quiet():
            mask = sieve(mask, min_area, mask=mask != IGNORED)
        if (before == mask).all():
            break
    return mask


Ring = list[list[float]]
_WGS84 = 4326


def draw_contours(
    labels: NDArray[np.int32],
    objects: Sequence[Object],
    class_names: Sequence[str],
    geo: Georeference | None = None,
) -> dict[str, Any]:
    """Contours of objects, as by `find_objects`, as a GeoJSON FeatureCollection.

    A feature's properties are `object` (its number), `class`, `class_id` and `area` [pixels].
    """
    transform = geo.transform if geo else None
    collection: dict[str, Any] = {"type": "FeatureCollection"}
    if geo and geo.transform and geo.epsg not in (None, _WGS84):
        name = f"urn:ogc:def:crs:EPSG::{geo.epsg}"
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
    """The polygons of an object, each an outer ring and its holes, closed."""
    left, top, width, height = each.box
    own = (labels[top : top + height, left : left + width] == each.number).astype(np.uint8)
    # parts that touch only at a corner are separate polygons
    count, parts, boxes, _ = cv2.connectedComponentsWithStats(own, connectivity=4)
    polygons = []
    for part in range(1, count):
        x, y, across, down = boxes[part, :4].tolist()
        inside = (parts[y : y + down, x : x + across] == part).astype(np.uint8)
        # at double resolution a contour passes through the quarter pixels along the edge
        double = np.repeat(np.repeat(inside, 2, axis=0), 2, axis=1)
        contours, _ = cv2.findContours(double, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        rings = [
            _ring(np.asarray(contour[:, 0, :], np.int32), left + x, top + y) for contour in contours
        ]
        rings.sort(key=_area, reverse=True)  # the outer ring comes first
        polygons.append([_oriented(ring, number == 0) for number, ring in enumerate(rings)])
    return polygons


def _ring(quarters: NDArray[np.int32], left: int, top: int) -> Ring:
    """Convert a contour of quarter pixels to the pixel corners where it bends."""
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


def _oriented(ring: Ring, is_outer: bool) -> Ring:
    """Orient a ring: outer rings counterclockwise, holes clockwise (RFC 7946, section 3.1.6)."""
    # rows count downwards, so a counterclockwise ring has a negative area
    return ring if (_signed_area(ring) < 0) == is_outer else ring[::-1]


def _at(point: list[float], transform: tuple[float, ...] | None) -> list[float]:
    if transform is None:
        return point
    a, b, c, d, e, f = transform
    x, y = point
    return [a * x + b * y + c, d * x + e * y + f]
