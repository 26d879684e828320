"""Pictures larger than a tile: tiles that overlap.

A network of valid convolutions gives only those pixels of a tile whose whole context lies in
it. So tiles overlap by that context and their results meet without a seam (Ronneberger et al.
2015, section 2 and figure 2), if all tiles lie in phase with the pooling grid: their origins are
multiples of 2^depth. In the paper's network a tile of 572 pixels gives 388, of which 384 are a
step to the next.

A network that pads its convolutions sees zeros beyond a tile's edges, which the picture goes on
beyond. So the weight of what a tile gives falls to zero towards its edges, in the middle quarter of
the width by which tiles overlap: what is nearest to an edge is furthest from what one pass would
give, and has no weight at all. Such a tile is as large as what may be computed at a time, for
several smaller ones overlap more, and the more of them, the more is computed twice. Group and
instance normalisation would see the tile instead of the picture; with these a picture always goes
through whole.
"""

import math
import sys
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from plainunet.network.unet import UNet, mirrored_places

TILE_OUTPUT = 388
"""A tile gives at least so many pixels along each side, as in the paper."""
WHOLE = 2**26
"""Values of the first level's features, channels times pixels, up to which a padded network takes
a picture whole."""
_BYTES = 32
"""What the network takes for one of them, in float32 (seen: 30 to 34)."""
OVERLAP = 128
"""Width by which tiles of a padded network overlap [pixels]."""

Run = Callable[[Tensor], Tensor]
"""Pictures [N, C, h, w] to logits [N, K, h', w'] (or, of two classes, their difference)."""


class Source(Protocol):
    """What a network sees, in parts.

    Attributes:
        size: Height and width [pixels].
    """

    size: tuple[int, int]

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        """Read a part.

        Args:
            top: Its first row.
            left: Its first column.
            height: Its rows.
            width: Its columns.

        Returns:
            [C, height, width] float32, as the network takes it, where it runs.
        """


def values_for(memory: float | None) -> int:
    """Say how much may be computed at a time.

    Args:
        memory: What the process may take for a picture [bytes]; None where it does not matter.

    Returns:
        As of `WHOLE`: the network takes two fifths of the memory then; the rest is for bands of
        the picture and of the result.
    """
    return WHOLE if memory is None else max(1, int(0.4 * memory / _BYTES))


def least_values(network: UNet) -> int:
    """Say below what `values` makes no difference any more.

    Args:
        network: The network.

    Returns:
        What the smallest tile takes, as of `WHOLE`; beyond all bounds where there are no tiles.
    """
    if not _has_tiles(network):
        return sys.maxsize
    if network.valid:
        length, width = network.input_size(TILE_OUTPUT, TILE_OUTPUT)
        return network.base_channels * length * width
    return network.base_channels * (2 * _overlap(network)) ** 2


def _has_tiles(network: UNet) -> bool:
    return network.valid or network.architecture["normalisation"] not in ("group", "instance")


def _overlap(network: UNet) -> int:
    grid: int = 2**network.depth
    return max(grid, OVERLAP // grid * grid)


def logit_bands(
    network: UNet,
    source: Source,
    values: int = WHOLE,
    run: Run | None = None,
    first: int = 0,
    channels: int | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Give a picture's logits, in one pass or in tiles, from top to bottom.

    Args:
        network: The network, in eval mode.
        source: The picture; its sides are at least 2^depth.
        values: As of `WHOLE`: up to so many are computed at a time.
        run: What gives logits instead of the network itself.
        first: Rows before it are not needed: what would give them alone is left out.
        channels: Channels of what `run` gives, left out as many as there are classes.

    Yields:
        Number of the first row, and logits [K, n, W] (or what `run` gives); together all rows
        from `first` on.
    """
    run = run or network
    base, grid = network.base_channels, 2**network.depth
    height, width = source.size
    area = values // base
    if network.valid:
        yield from overlap_bands(network, source, TILE_OUTPUT, area, run, first)
    elif height * width <= area or not _has_tiles(network):
        yield 0, run(source.read(0, 0, height, width)[None])[0]
    else:
        overlap = _overlap(network)
        side = max(math.isqrt(area) // grid * grid, 2 * overlap)
        # a band has the picture's whole width: it may take a quarter of what the network takes
        each = 4 * (channels or network.num_classes) * width
        rows = values * _BYTES // 4 // each // grid * grid
        length = min(max(rows, 2 * overlap), side)
        tile = length, side * side // length // grid * grid
        yield from blend_bands(network, source, tile, overlap, run, first)


def blend_bands(
    network: UNet,
    source: Source,
    tile: tuple[int, int],
    overlap: int,
    run: Run | None = None,
    first: int = 0,
) -> Iterator[tuple[int, Tensor]]:
    """Give logits as a weighted mean of those of tiles.

    Args:
        network: A network that pads its convolutions.
        source: The picture.
        tile: Height and width of a tile, multiples of 2^depth [pixels].
        overlap: Width by which tiles overlap, the same, at most half of a side [pixels].
        run: What gives logits instead of the network itself.
        first: As of `logit_bands`.

    Yields:
        Number of the first row, and logits [K, n, W]; together all rows from `first` on.

    Raises:
        ValueError: Tiles would not lie on the grid of pooling.
    """
    grid, run = 2**network.depth, run or network
    length, across = tile
    if any(side % grid for side in (*tile, overlap)) or not 0 < 2 * overlap <= min(tile):
        raise ValueError(
            f"Tiles of {length} x {across} pixels that overlap by {overlap} are out of phase."
        )
    height, width = source.size
    lefts = _begin(width, across, overlap)
    below = torch.empty(0)  # what the tiles above give of rows that those beneath give as well
    tops = _begin(height, length, overlap)
    # a tile gives its first rows together with those above, which are left out
    start = max((top for top in tops if top + overlap <= first), default=0)
    for top in tops[tops.index(start) :]:
        rows = min(length, height - top)
        band = torch.empty(0)
        for left in lefts:
            n = min(across, width - left)
            logits = run(source.read(top, left, rows, n)[None])[0]
            if not band.numel():
                band = logits.new_zeros(len(logits), rows, width, dtype=torch.float32)
            band[..., left : left + n] += logits * _ramp(left, n, width, overlap, logits)
        band *= _ramp(top, rows, height, overlap, band)[:, None]
        if below.numel():
            band[:, : below.shape[1]] += below
        final = rows if top + rows == height else rows - overlap
        yield top, band[:, :final]
        below = band[:, final:]


def overlap_bands(
    network: UNet,
    source: Source,
    tile_output: int,
    area: int,
    run: Run | None = None,
    first: int = 0,
) -> Iterator[tuple[int, Tensor]]:
    """Give the logits that one pass over the whole mirrored picture would, tile by tile.

    Args:
        network: A network of valid convolutions.
        source: The picture.
        tile_output: Least height and width of what one tile gives [pixels].
        area: Pixels that go through the network at a time, in one tile or several.
        run: What gives logits instead of the network itself.
        first: As of `logit_bands`.

    Yields:
        Number of the first row, and logits [K, n, W]; together all rows from `first` on.

    Raises:
        ValueError: The network pads its convolutions, so that tiles would have seams.
    """
    if not network.valid:
        raise ValueError("Tiles without seams need a network of valid convolutions.")
    run, grid = run or network, 2**network.depth
    rows, columns = mirrored_places(network, source.size)
    length, width = (
        min(side, len(places))
        for side, places in zip(
            network.input_size(tile_output, tile_output), (rows, columns), strict=True
        )
    )
    given = network.output_size(length, width)
    lefts = list(_origins(len(columns), width, given[1], grid))
    done = 0
    for top in _origins(len(rows), length, given[0], grid):
        if min(top + given[0], source.size[0]) <= first:
            done = top + given[0]
            continue
        band = torch.empty(0)
        several = max(1, area // (length * width))
        for group in (lefts[n : n + several] for n in range(0, len(lefts), several)):
            parts = [
                _gather(source, rows[top : top + length], columns[left : left + width])
                for left in group
            ]
            for left, logits in zip(group, run(torch.stack(parts)), strict=True):
                if not band.numel():
                    whole = network.output_size(len(rows), len(columns))
                    band = logits.new_empty(len(logits), given[0], whole[1])
                band[..., left : left + given[1]] = logits
        # the last tiles begin where they end with the picture, and give rows again
        end = min(top + given[0], source.size[0])
        yield done, band[:, done - top : end - top, : source.size[1]]
        done = end


def _gather(source: Source, rows: Tensor, columns: Tensor) -> Tensor:
    """Read pixels whose rows and columns are mirrored."""
    top, left = int(rows.min()), int(columns.min())
    part = source.read(top, left, int(rows.max()) + 1 - top, int(columns.max()) + 1 - left)
    across = (columns - left).to(part.device)
    return part[:, (rows - top).to(part.device)][:, :, across]


def _begin(side: int, tile: int, overlap: int) -> range:
    """Where tiles begin along a side; the last one ends with it and may be smaller."""
    return range(0, max(1, side - overlap), tile - overlap)


def _ramp(first: int, length: int, side: int, overlap: int, like: Tensor) -> Tensor:
    """Weights along a tile: zero and then rising where the picture goes on, 1 elsewhere."""
    margin = overlap * 3 // 8
    steps = torch.arange(length, device=like.device, dtype=torch.float32) + 1
    rising = ((steps - margin) / (overlap + 1 - 2 * margin)).clamp(0, 1)
    weight = torch.ones_like(rising)
    if first > 0:
        weight = torch.minimum(weight, rising)
    if first + length < side:
        weight = torch.minimum(weight, rising.flip(0))
    return weight


def _origins(side: int, tile: int, given: int, grid: int) -> Iterator[int]:
    """Where tiles begin along a side: in steps of whole grid cells, and one at the end."""
    yield from range(0, side - tile, given - given % grid)
    # sides that fit differ by whole grid cells, so the last tile is in phase as well
    yield side - tile
