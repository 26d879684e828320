"""Where on the earth a picture lies: the tags of a GeoTIFF.

In: a TIFF file. Out: the tags as they are, for a mask of the same size; the coordinates of pixels,
and the name of their system. After the GeoTIFF standard, OGC 19-008r4, sections 7.1 and B.6.
"""

from pathlib import Path
from typing import Any, NamedTuple

from tifffile import TiffFile, TiffPage

from plainunet.data.codecs.encoded import decoding, open_encoded
from plainunet.data.places import find_place

Tag = tuple[int, int, int, Any, bool]

_SCALE, _TIEPOINT, _TRANSFORMATION, _KEYS = 33550, 33922, 34264, 34735
_CODES = (_SCALE, _TIEPOINT, _TRANSFORMATION, _KEYS, 34736, 34737)
_GEOGRAPHIC, _PROJECTED = 2048, 3072  # keys that hold an EPSG code
_RASTER_TYPE, _IS_POINT = 1025, 2
_OWN = 32767  # a system that has no code


class Place(NamedTuple):
    """Where a picture lies."""

    tags: list[Tag]
    """The tags that say so, as tifffile takes them."""
    transform: tuple[float, float, float, float, float, float] | None
    """a, b, c, d, e, f: a pixel's corner at column x, row y lies at (a x + b y + c,
    d x + e y + f); None where the tags do not say so in this way."""
    epsg: int | None
    """The coordinate system's EPSG code, where it has one."""


def find_geo(path: Path) -> Place | None:
    """Read where a picture lies.

    Args:
        path: A picture file of any kind.

    Returns:
        What a GeoTIFF says; None for anything else.
    """
    if find_place(path) or path.suffix.lower() not in (".tif", ".tiff"):
        return None
    with open_encoded(path) as (kind, file), decoding(path):
        if kind != "tiff":  # whatever it is called
            return None
        with TiffFile(file) as tiff:
            return read_geo(tiff.pages.first)


def read_geo(page: TiffPage) -> Place | None:
    """Read where a page lies.

    Args:
        page: A page of an open TIFF file.

    Returns:
        What it says; None where it has no such tags.
    """
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
    if transform and keys.get(_RASTER_TYPE) == _IS_POINT:  # it speaks of pixels' middles
        a, b, c, d, e, f = transform
        transform = (a, b, c - (a + b) / 2, d, e, f - (d + e) / 2)
    return Place(tags, transform, None if epsg == _OWN else epsg)


def _short_keys(values: tuple[int, ...]) -> dict[int, int]:
    """The keys whose value stands in the directory itself."""
    entries = (values[start : start + 4] for start in range(4, len(values) - 3, 4))
    return {key: value for key, location, _, value in entries if location == 0}
