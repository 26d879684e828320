"""Pictures larger than a tile: tiles that overlap.

A network of valid convolutions gives only those pixels of a tile whose whole context lies in
it. So tiles overlap by that context and their results meet without a seam (Ronneberger et al.
2015, section 2 and figure 2), if all tiles lie in phase with the pooling grid: their origins are
multiples of 2^depth. In the paper's network a tile of 572 pixels gives 388, of which 384 are a
step to the next.

A network that pads its convolutions sees zeros beyond a tile's edges, which the picture goes on
beyond. So the weight of what a tile gives falls to zero towards its edges, over the width by
which tiles overlap. Group and instance normalisation would see the tile instead of the picture;
with these a picture always goes through whole.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from plainunet.network.mirror import mirror
from plainunet.network.unet import UNet

TILE_OUTPUT = 388
"""A tile gives at least so many pixels along each side, as in the paper."""


WHOLE = 2**26
"""Values of the first level's features, channels times pixels, up to which a padded network takes
a picture whole."""
OVERLAP = 128
"""Width by which tiles of a padded network overlap [pixels]."""


def predict_tiles(network: UNet, image: Tensor) -> Tensor:
    """Give a picture's logits, in one pass or in tiles.

    Args:
        network: Any network, in eval mode.
        image: [N, C, H, W] float32; H and W are at least 2^depth.

    Returns:
        Logits [N, K, H, W].
    """
    if network.valid:
        return overlap_tile(network, image)
    known = network.architecture
    area = WHOLE // known["base_channels"]
    whole = image.shape[2] * image.shape[3] <= area
    if whole or known["normalisation"] in ("group", "instance"):
        result: Tensor = network(image)
        return result
    grid = 2**network.depth
    overlap = max(grid, OVERLAP // grid * grid)
    side = math.isqrt(area) // 2  # a quarter of it, so that the result has its room
    return blend_tiles(network, image, max(side // grid * grid, 2 * overlap), overlap)


def blend_tiles(network: UNet, image: Tensor, tile: int, overlap: int) -> Tensor:
    """Give the logits of a picture as a weighted mean of those of its tiles.

    Args:
        network: A network that pads its convolutions.
        image: [N, C, H, W] float32.
        tile: Height and width of a tile, a multiple of 2^depth [pixels].
        overlap: Width by which tiles overlap, the same, less than `tile` [pixels].

    Returns:
        Logits [N, K, H, W].
    """
    grid = 2**network.depth
    if tile % grid or overlap % grid or not 0 < overlap < tile:
        raise ValueError(f"Tiles of {tile} pixels that overlap by {overlap} are out of phase.")
    height, width = image.shape[2:]
    result = image.new_zeros(image.shape[0], network.num_classes, height, width)
    total = image.new_zeros(height, width)
    for top in range(0, max(1, height - overlap), tile - overlap):
        for left in range(0, max(1, width - overlap), tile - overlap):
            part = image[:, :, top : top + tile, left : left + tile]
            rows = _ramp(top, part.shape[2], height, overlap, image)
            columns = _ramp(left, part.shape[3], width, overlap, image)
            weight = rows[:, None] * columns
            place = slice(top, top + tile), slice(left, left + tile)
            result[:, :, *place] += network(part) * weight
            total[place] += weight
    return result / total


def _ramp(first: int, length: int, side: int, overlap: int, like: Tensor) -> Tensor:
    """Weights along a tile: falling to zero where the picture goes on, 1 elsewhere."""
    rising = (torch.arange(length, device=like.device, dtype=like.dtype) + 1) / (overlap + 1)
    weight = torch.ones_like(rising)
    if first > 0:
        weight = torch.minimum(weight, rising)
    if first + length < side:
        weight = torch.minimum(weight, rising.flip(0))
    return weight


def overlap_tile(network: UNet, image: Tensor, tile_output: int = TILE_OUTPUT) -> Tensor:
    """Give the logits that one pass over the whole mirrored picture would, tile by tile.

    Args:
        network: A network of valid convolutions.
        image: [N, C, H, W] float32, of any size.
        tile_output: Least height and width of what one tile gives [pixels].

    Returns:
        Logits [N, K, H, W].

    Raises:
        ValueError: The network pads its convolutions, so that tiles would have seams.
    """
    if not network.valid:
        raise ValueError("Tiles without seams need a network of valid convolutions.")
    height, width = image.shape[2:]
    mirrored = mirror(network, image)
    tile = network.input_size(tile_output, tile_output)
    tile = min(tile[0], mirrored.shape[2]), min(tile[1], mirrored.shape[3])
    given = network.output_size(*tile)
    result = torch.empty(0)
    for top in _origins(mirrored.shape[2], tile[0], given[0], 2**network.depth):
        for left in _origins(mirrored.shape[3], tile[1], given[1], 2**network.depth):
            logits = network(mirrored[:, :, top : top + tile[0], left : left + tile[1]])
            if not result.numel():
                whole = network.output_size(mirrored.shape[2], mirrored.shape[3])
                result = logits.new_empty((*logits.shape[:2], *whole))
            result[:, :, top : top + given[0], left : left + given[1]] = logits
    return result[:, :, :height, :width]


def _origins(side: int, tile: int, given: int, grid: int) -> Iterator[int]:
    """Where tiles begin along a side: in steps of whole grid cells, and one at the end."""
    yield from range(0, side - tile, given - given % grid)
    # sides that fit differ by whole grid cells, so the last tile is in phase as well
    yield side - tile
