"""Read windows of scenes with rasterio, and where scenes lie on the map (extra `geo`)."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from numpy.typing import NDArray

from plainunet.files import require_regular
from plainunet.formats.problems import DataError, command, how_to_restore
from plainunet.formats.sources import Window
from plainunet.reporter import drop_warnings

if TYPE_CHECKING:
    from rasterio import DatasetReader

# a small cache, since windows are read once: the default is a twentieth of the memory
_ENVIRONMENT = {"GDAL_CACHEMAX": 64 * 2**20, "GDAL_DISABLE_READDIR_ON_OPEN": True}


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
