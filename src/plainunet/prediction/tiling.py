"""Overlapping tiles for images larger than one tile.

A network of valid convolutions predicts only the pixels whose whole context lies in the tile. So
tiles overlap by that context and their outputs meet without a seam (Ronneberger et al. 2015,
section 2 and figure 2), if all tiles are aligned with the pooling grid: their origins are multiples
of 2^depth. In the paper's network a tile of 572 pixels gives 388, and tiles are 384 pixels apart.

Padded convolutions see zeros beyond a tile's edges, which distorts the logits near them. So
overlapping tiles are blended: the weight of a tile's logits falls to zero towards its edges, in the
middle quarter of the overlap. Tiles are as large as memory allows, since smaller ones compute more
pixels twice. Group and instance normalisation depend on the whole tile; with these an image is
never tiled.
"""

import math
import sys
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from plainunet.errors import Error
from plainunet.prediction.backends import Backend, Logits

TILE_OUTPUT = 388
"""Minimum output side of a tile of valid convolutions, as in the paper [pixels]."""
WHOLE = 2**26
"""Largest number of full-resolution feature values (base channels times pixels) that a padded
network computes in one pass if no memory is given; above it, the image is tiled."""
BYTES = 32
"""Bytes of memory that the network takes per value, in float32 (measured: 30 to 34)."""
OVERLAP = 128
"""Overlap of the tiles of a padded network [pixels]."""


class InputImage(Protocol):
    """A network's input image, read in parts; `size` is its height and width [pixels]."""

    size: tuple[int, int]

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[np.float32]:
        """Read a part [height, width, C] as network input."""


def values_for(memory: float | None) -> int:
    """Number of values, as in `WHOLE`, to compute at a time within the memory per image [bytes].

    The network takes two fifths of the memory; the rest is for bands of the image and the result.
    """
    return WHOLE if memory is None else max(1, int(0.4 * memory / BYTES))


def least_values(backend: Backend) -> int:
    """Number of values, as in `WHOLE`, of the smallest tile; `sys.maxsize` if it cannot tile."""
    if not backend.geometry.can_tile:
        return sys.maxsize
    if backend.geometry.valid:
        height, width = backend.geometry.input_size(TILE_OUTPUT, TILE_OUTPUT)
        return backend.geometry.base_channels * height * width
    return backend.geometry.base_channels * (2 * _overlap(backend)) ** 2


def _overlap(backend: Backend) -> int:
    grid: int = 2**backend.geometry.depth
    return max(grid, OVERLAP // grid * grid)


def logit_bands(
    backend: Backend, image: InputImage, values: int = WHOLE, first: int = 0
) -> Iterator[tuple[int, Logits]]:
    """Yield an image's logits, in one pass or in tiles, from top to bottom.

    The image's sides are at least 2^depth. Up to `values`, as in `WHOLE`, are computed at a time.
    Yields the number of the first row and logits [K, n, W], together all rows from `first` on.
    Tiles that give only rows before `first` are skipped.
    """
    height, width = image.size
    area, grid = values // backend.geometry.base_channels, 2**backend.geometry.depth
    if backend.geometry.valid:
        yield from overlap_bands(backend, image, TILE_OUTPUT, area, first)
    elif height * width <= area or not backend.geometry.can_tile:
        yield 0, backend.run(image.read(0, 0, height, width)[None])[0]
    else:
        overlap = _overlap(backend)
        side = max(math.isqrt(area) // grid * grid, 2 * overlap)
        # a band spans the image's width; it may take a quarter of the network's memory
        rows = values * BYTES // 4 // (4 * backend.geometry.logit_channels * width) // grid * grid
        length = min(max(rows, 2 * overlap), side)
        tile = length, side * side // length // grid * grid
        yield from blend_bands(backend, image, tile, overlap, first)


def blend_bands(
    backend: Backend, image: InputImage, tile: tuple[int, int], overlap: int, first: int = 0
) -> Iterator[tuple[int, Logits]]:
    """Yield logits as the weighted mean of overlapping tiles, as `logit_bands` does.

    For padded convolutions. The height, width and overlap of the tiles [pixels] are multiples of
    2^depth, to align tiles with the pooling grid; the overlap is at most half of a side.
    """
    grid = 2**backend.geometry.depth
    length, across = tile
    if any(side % grid for side in (*tile, overlap)) or not 0 < 2 * overlap <= min(tile):
        raise Error(
            f"Tiles of {length} x {across} pixels with overlap {overlap}: all three must be "
            f"multiples of {grid}, and the overlap at most half of a side."
        )
    height, width = image.size
    lefts, tops = (
        range(0, max(1, side - overlap), step - overlap)
        for side, step in ((width, across), (height, length))
    )
    shared = None  # rows shared by the tiles above and below
    # start at a tile whose first rows, shared with skipped tiles, are not needed
    start = max((top for top in tops if top + overlap <= first), default=0)
    for top in tops[tops.index(start) :]:
        rows = min(length, height - top)
        band = backend.zeros(rows, width)
        for left in lefts:
            columns = min(across, width - left)
            logits = backend.run(image.read(top, left, rows, columns)[None])[0]
            weight = backend.move(_ramp(left, columns, width, overlap))
            band[..., left : left + columns] += logits * weight
        band *= backend.move(_ramp(top, rows, height, overlap))[:, None]
        if shared is not None:
            band[:, : shared.shape[1]] += shared
        final = rows if top + rows == height else rows - overlap
        yield top, band[:, :final]
        shared = band[:, final:]


def overlap_bands(
    backend: Backend, image: InputImage, tile_output: int, area: int, first: int = 0
) -> Iterator[tuple[int, Logits]]:
    """Yield the logits of one pass over the whole mirrored image, tile by tile.

    Only for valid convolutions: with padding, tiles would have seams. `tile_output` is the minimum
    output height and width of a tile [pixels]; `area` is the number of input pixels per pass, in
    one tile or several.
    """
    if not backend.geometry.valid:
        raise Error("Seamless tiles need a network of valid convolutions (valid=True).")
    grid = 2**backend.geometry.depth
    rows, columns = backend.geometry.reflection_indices(image.size)
    whole = backend.geometry.output_size(len(rows), len(columns))
    length, width = (
        min(side, len(places))
        for side, places in zip(
            backend.geometry.input_size(tile_output, tile_output), (rows, columns), strict=True
        )
    )
    output = backend.geometry.output_size(length, width)
    lefts = list(_origins(len(columns), width, output[1], grid))
    several = max(1, area // (length * width))
    done = 0
    for top in _origins(len(rows), length, output[0], grid):
        # the last tiles end with the image, so they repeat some rows
        end = min(top + output[0], image.size[0])
        if end <= first:
            done = top + output[0]
            continue
        band = backend.zeros(output[0], whole[1])
        for group in (lefts[n : n + several] for n in range(0, len(lefts), several)):
            parts = [
                _gather(image, rows[top : top + length], columns[left : left + width])
                for left in group
            ]
            for left, logits in zip(group, backend.run(np.stack(parts)), strict=True):
                band[..., left : left + output[1]] = logits
        yield done, band[:, done - top : end - top, : image.size[1]]
        done = end


def _gather(
    image: InputImage, rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Read pixels at mirrored rows and columns."""
    top, left = int(rows.min()), int(columns.min())
    part = image.read(top, left, int(rows.max()) + 1 - top, int(columns.max()) + 1 - left)
    return part[np.ix_(rows - top, columns - left)]


def _ramp(first: int, length: int, side: int, overlap: int) -> NDArray[np.float32]:
    """Weights along a tile: rising from zero at sides with a neighbour, 1 elsewhere."""
    margin = overlap * 3 // 8
    steps = np.arange(1, length + 1, dtype=np.float32)
    rising = ((steps - margin) / np.float32(overlap + 1 - 2 * margin)).clip(0, 1)
    weight = np.ones_like(rising)
    if first > 0:
        weight = np.minimum(weight, rising)
    if first + length < side:
        weight = np.minimum(weight, rising[::-1])
    return weight


def _origins(side: int, tile: int, output: int, grid: int) -> Iterator[int]:
    """First pixels of tiles along a side: steps of whole grid cells, and one tile at the end."""
    yield from range(0, side - tile, output - output % grid)
    # valid input sides differ by whole grid cells, so the last tile is aligned too
    yield side - tile
