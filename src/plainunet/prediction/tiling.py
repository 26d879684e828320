"""Pictures larger than a tile, by the paper's overlap-tile strategy: no seams.

A network of valid convolutions gives only those pixels of a tile whose whole context lies in
it. So tiles overlap by that context and their results meet without a seam (Ronneberger et al.
2015, section 2 and figure 2), if all tiles lie in phase with the pooling grid: their origins are
multiples of 2^depth. In the paper's network a tile of 572 pixels gives 388, of which 384 are a
step to the next.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from plainunet.network.mirror import mirror
from plainunet.network.unet import UNet

TILE_OUTPUT = 388
"""A tile gives at least so many pixels along each side, as in the paper."""


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
