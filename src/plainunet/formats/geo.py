"""Geographic files (extra `geo`): windows of scenes, where scenes lie on the map, and polygons.

Polygons of GeoPackage, GeoJSON, Shapefile and FlatGeobuf files give class ids. Their coordinates
are converted to those of the scene. A pixel has the class of the polygon that its centre lies in;
later polygons, and those of later files, cover earlier ones.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from plainunet.files import require_regular
from plainunet.formats.problems import DataError, command, how_to_restore
from plainunet.formats.sources import Polygons, Window
from plainunet.reporter import drop_warnings

if TYPE_CHECKING:
    from rasterio import DatasetReader

# a small cache, since windows are read once: the default is a twentieth of the memory
_ENVIRONMENT = {"GDAL_CACHEMAX": 64 * 2**20, "GDAL_DISABLE_READDIR_ON_OPEN": True}
POLYGON_SUFFIXES = (".gpkg", ".geojson", ".shp", ".fgb")
_IGNORED = 255
_COMPLEX = 1000  # points of a polygon from which on it is clipped first
_POLYGON_TYPES = (3, 6)  # of shapely: polygon and multipolygon
_Bounds = tuple[float, float, float, float]


def require_geo(path: Path) -> None:
    """Refuse a file that needs the extra `geo` if it is not installed."""
    if missing := missing_packages():
        fix = command("pip", "install", *missing)
        raise DataError(
            f"{path} needs {', '.join(missing)} to be read in windows. Install: {fix}",
            "not-an-image",
            [path],
            fix,
        )


@cache
def missing_packages() -> list[str]:
    """The packages of the extra `geo` that are not installed."""
    return [name for name in ("rasterio", "pyogrio", "shapely") if not find_spec(name)]


@contextmanager
def quiet() -> Iterator[None]:
    """Drop rasterio's warning of images without coordinates."""
    from rasterio.errors import NotGeoreferencedWarning

    with drop_warnings(NotGeoreferencedWarning):
        yield


@contextmanager
def open_raster(path: Path) -> Iterator["DatasetReader"]:
    """Open a scene with rasterio."""
    require_geo(path)
    require_regular(path)
    import rasterio

    with rasterio.Env(**_ENVIRONMENT):
        try:
            with quiet():
                raster = rasterio.open(path)
            with raster:
                yield raster
        except rasterio.errors.RasterioError as error:
            raise DataError(
                f"{path} cannot be read: {error}. {how_to_restore(path)}",
                "damaged",
                [path],
            ) from None


class Scene(NamedTuple):
    """The size of a scene, and where it lies."""

    height: int
    width: int
    transform: Any
    """The affine transform from pixels to coordinates; None if it has no coordinates."""
    crs: Any
    """Its coordinate reference system; None if unknown."""
    has_mask: bool
    """Whether pixels may have no data, by a nodata value or an alpha channel."""

    def locate(self, column: float, row: float) -> tuple[float, float]:
        """The coordinates of a pixel's corner."""
        a, b, c, d, e, f = self.transform[:6]  # as operators of affine warn by its version
        return a * column + b * row + c, d * column + e * row + f


def read_scene(path: Path) -> Scene:
    """Read the header of a scene."""
    require_regular(path)
    status = path.stat()
    return _scene(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _scene(path: Path, _size: int, _time: int) -> Scene:
    from rasterio.enums import MaskFlags

    with open_raster(path) as raster:
        transform = None if raster.transform.is_identity else raster.transform
        whole = all(MaskFlags.all_valid in flags for flags in raster.mask_flag_enums)
        return Scene(raster.height, raster.width, transform, raster.crs, not whole)


def has_data(window: Window) -> bool:
    """Whether any pixel of a window has data."""
    with open_raster(window.file) as raster:
        return bool(raster.dataset_mask(window=_place(window)).any())


def cut_window(window: Window) -> bytes:
    """Copy a window of a scene, with its bands, palette and nodata value, into a TIFF file."""
    from rasterio import Affine
    from rasterio.io import MemoryFile

    with open_raster(window.file) as raster:
        if window.top + window.height > raster.height or window.left + window.width > raster.width:
            raise DataError(
                f"{window} does not exist: {window.file} has {raster.height} rows and "
                f"{raster.width} columns. Read the folder again.",
                "size-mismatch",
                [window.file],
            )
        values: NDArray[Any] = raster.read(window=_place(window))
        shown = [each.name for each in raster.colorinterp]
        with MemoryFile() as memory:
            with memory.open(
                driver="GTiff",
                height=window.height,
                width=window.width,
                count=len(values),
                dtype=values.dtype,
                nodata=raster.nodata,
                interleave="pixel",
                photometric="RGB" if "red" in shown else "MINISBLACK",
                transform=Affine.scale(2),  # any, as rasterio warns of none
            ) as copy:
                if shown[0] == "palette":
                    copy.write_colormap(1, raster.colormap(1))
                else:
                    copy.colorinterp = raster.colorinterp
                copy.write(values)
            return bytes(memory.getbuffer())


def _place(window: Window) -> Any:
    from rasterio.windows import Window as Place

    return Place(window.left, window.top, window.width, window.height)


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
