"""Class ids from polygons in GeoPackage, GeoJSON, Shapefile and FlatGeobuf files (extra `geo`).

Coordinates are converted to those of the scene. A pixel has the class of the polygon that its
centre lies in; later polygons, and those of later files, cover earlier ones.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from plainunet.files import require_regular
from plainunet.formats.problems import DataError, command
from plainunet.formats.rasters import Scene, quiet, read_scene, require_geo
from plainunet.formats.sources import Polygons, Window

POLYGON_SUFFIXES = (".gpkg", ".geojson", ".shp", ".fgb")
_IGNORED = 255
_COMPLEX = 1000  # points of a polygon from which on it is clipped first
_POLYGON_TYPES = (3, 6)  # of shapely: polygon and multipolygon
_Bounds = tuple[float, float, float, float]


class Layer(NamedTuple):
    """What a file of polygons holds."""

    columns: tuple[str, ...]
    crs: str | None
    """Coordinate reference system; None if unknown, then that of the scene."""
    bounds: _Bounds
    """Left, bottom, right and top in it."""


def read_layer(file: Path) -> Layer:
    """Read what a file of polygons holds, without the polygons.

    Raises:
        FileNotFoundError: There is no such file.
        DataError: It cannot be read, or has several layers.
    """
    return _layer(file, *_stamp(file))


@lru_cache(maxsize=256)
def _layer(file: Path, *_: int) -> Layer:
    import pyogrio

    try:
        layers = pyogrio.list_layers(file)
        names = [name for name, kind in layers if kind is not None]
        if len(names) != 1:
            one = file.with_name(f"{file.stem}-{names[0] if names else 'layer'}.gpkg")
            fix = command("ogr2ogr", one, file, *names[:1])
            raise DataError(
                f"{file} has {len(names)} layers of shapes ({', '.join(names)}); a file must have "
                f"one. Write each to a file of its own: {fix}",
                "not-a-mask",
                [file],
                fix if names else "",
            )
        found = pyogrio.read_info(file, force_total_bounds=True)
    except pyogrio.errors.DataSourceError as error:
        raise _damaged(file, error) from None
    bounds = found["total_bounds"] or (np.inf, np.inf, -np.inf, -np.inf)
    return Layer(tuple(found["fields"]), found["crs"], bounds)


def column_values(file: Path, column: str) -> list[str | None]:
    """Read the value of a column for each polygon, as text; None if it is empty."""
    import pyogrio

    _, _, _, (values,) = pyogrio.raw.read(file, columns=[column], read_geometry=False)
    return [_as_text(value) for value in values.tolist()]


def read_ids(source: Polygons) -> NDArray[np.uint8]:
    """Paint the polygons of a window: [H, W] uint8, 0 outside, 255 where the class is empty."""
    from rasterio.features import rasterize
    from rasterio.transform import Affine

    window, scene = source.window, read_scene(source.window.file)
    a, b, _, d, e, _ = scene.transform[:6]
    x, y = scene.locate(window.left, window.top)
    place = Affine(a, b, x, d, e, y)
    bounds = window_bounds(window, scene)
    size = window.height, window.width
    shapes = [shape for file in source.files for shape in _inside(file, source, bounds)]
    if not shapes:
        return np.zeros(size, np.uint8)
    with quiet():
        painted: NDArray[np.uint8] = rasterize(shapes, size, transform=place, dtype=np.uint8)
    return painted


def window_bounds(window: Window, scene: Scene) -> _Bounds:
    """Left, bottom, right and top of a window in the scene's coordinates."""
    across, down = (0, window.width), (0, window.height)
    corners = [scene.locate(window.left + x, window.top + y) for x in across for y in down]
    (left, right), (bottom, top) = ((min(each), max(each)) for each in zip(*corners, strict=True))
    return left, bottom, right, top


def scene_bounds(file: Path, crs: Any = None) -> _Bounds:
    """Left, bottom, right and top of a scene, in its own or another system of coordinates."""
    from rasterio.warp import transform_bounds

    scene = read_scene(file)
    if scene.transform is None:
        fix = command(
            "gdal_translate", "-a_srs", "EPSG:N", "-a_ullr", *["LEFT", "TOP", "RIGHT", "BOTTOM"]
        )
        raise DataError(
            f"{file} has no coordinates, so polygons cannot be placed in it. Add them: {fix}",
            "unclear",
            [file],
        )
    bounds = window_bounds(Window(file, 0, 0, scene.height, scene.width), scene)
    if crs is None or scene.crs is None:
        return bounds
    converted: _Bounds = transform_bounds(scene.crs, crs, *bounds)
    return converted


def _inside(file: Path, source: Polygons, bounds: _Bounds) -> list[tuple[Any, int]]:
    """The polygons of a file in some bounds, and their class ids."""
    import shapely

    loaded = _load(file, source.column, source.window.file, *_stamp(file))
    ids = {name: number for number, name in enumerate(source.classes)}
    found = []
    for at in np.sort(loaded.tree.query(shapely.box(*bounds))).tolist():
        shape, name = loaded.shapes[at], loaded.names[at]
        if shapely.get_num_coordinates(shape) > _COMPLEX:
            shape = shapely.clip_by_rect(shape, *bounds)
        number = _IGNORED if name is None else ids.get(name, -1)
        if not source.column and len(ids) == 2:
            number = 1  # all files show one class
        if number < 0:
            raise DataError(
                f"{file} has a polygon of the unknown class '{name}'; the classes are "
                f"{', '.join(source.classes)}. Pair the scenes again.",
                "stray-value",
                [file],
            )
        if not shape.is_empty:
            found.append((shape, number))
    return found


class _Loaded(NamedTuple):
    shapes: NDArray[Any]  # in the scene's coordinates
    names: list[str | None]
    tree: Any  # finds them by bounds


@lru_cache(maxsize=8)
def _load(file: Path, column: str, scene_file: Path, *_: int) -> _Loaded:
    """Read the polygons that may lie in a scene."""
    import pyogrio
    import shapely
    from rasterio.crs import CRS
    from rasterio.warp import transform

    layer, scene = read_layer(file), read_scene(scene_file)
    bounds = scene_bounds(scene_file, layer.crs)
    columns = [column] if column else []
    try:
        _, _, raw, values = pyogrio.raw.read(file, columns=columns, bbox=bounds, force_2d=True)
    except pyogrio.errors.DataSourceError as error:
        raise _damaged(file, error) from None
    shapes = shapely.from_wkb(raw)
    kept = ~(shapely.is_missing(shapes) | shapely.is_empty(shapes))
    names = [_as_text(value) for value in values[0].tolist()] if column else [file.stem] * len(kept)
    shapes, names = shapes[kept], [name for name, there in zip(names, kept, strict=True) if there]
    others = ~np.isin(shapely.get_type_id(shapes), _POLYGON_TYPES)
    if others.any():
        wide = file.with_name(f"{file.stem}-wide.gpkg")
        query = f'SELECT ST_Buffer(geometry, 1) AS geometry, * FROM "{file.stem}"'
        fix = command("ogr2ogr", "-dialect", "SQLite", "-sql", query, wide, file)
        raise DataError(
            f"{file} has {int(others.sum())} shapes that are not polygons, such as "
            f"{shapes[others][0].geom_type}. Give them a width: {fix}",
            "not-a-mask",
            [file],
        )
    if layer.crs and scene.crs and CRS.from_user_input(layer.crs) != scene.crs:
        shapes = shapely.transform(
            shapes, lambda at: np.column_stack(transform(layer.crs, scene.crs, *at.T))
        )
    return _Loaded(shapes, names, shapely.STRtree(shapes))


def _as_text(value: Any) -> str | None:
    """The text of a value of a column; numbers without a fraction are written as integers."""
    if value is None or value != value:
        return None
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    return text.strip() or None


def _stamp(file: Path) -> tuple[int, int]:
    require_geo(file)
    require_regular(file)
    if not file.exists():
        raise FileNotFoundError(f"{file} does not exist. Check the path.")
    status = file.stat()
    return status.st_size, status.st_mtime_ns


def _damaged(file: Path, error: Exception) -> DataError:
    reason = str(error).rstrip(".")
    return DataError(f"{file} cannot be read: {reason}. Export it again.", "damaged", [file])
