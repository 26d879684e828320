"""Pictures of any size through any U-Net: what lies beyond their borders is mirrored.

"To predict the pixels in the border region of the image, the missing context is extrapolated by
mirroring the input image" (Ronneberger et al. 2015, section 2 and figure 2).
"""

import torch
from torch import Tensor

from plainunet.network.unet import UNet


def deep_logits(network: UNet, image: Tensor) -> list[Tensor]:
    """Run a network, and give logits of the picture's own size, also by valid convolutions.

    Args:
        network: The network.
        image: [N, C, H, W] float32, of any size.

    Returns:
        As `UNet.deep_logits`: the finest are [N, K, H, W], each further ones half as large.
    """
    height, width = image.shape[2:]
    levels = network.deep_logits(mirror(network, image))
    return [
        level[:, :, : -(-height // 2**number), : -(-width // 2**number)]
        for number, level in enumerate(levels)
    ]


def mirror(network: UNet, image: Tensor) -> Tensor:
    """Extend a picture so far that the network gives logits for each of its pixels.

    Args:
        network: The network.
        image: [N, C, H, W], of any size.

    Returns:
        [N, C, H', W'], mirrored beyond the borders without repeating their pixels; H' and W'
        are `network.input_size(H, W)`. The first logit is that of the first pixel.
    """
    places = mirrored_places(network, (image.shape[2], image.shape[3]))
    for axis, place in enumerate(places, 2):
        if len(place) != image.shape[axis]:
            image = image.index_select(axis, place.to(image.device))
    return image


def mirrored_places(network: UNet, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Say which pixels a mirrored picture has where.

    Args:
        network: The network.
        size: Height and width of the picture [pixels].

    Returns:
        For each row of the mirrored picture, and for each of its columns, the picture's own:
        [H'] and [W'] int64.
    """
    given = network.input_size(*size)
    kept = network.output_size(*given)
    rows, columns = (
        _mirrored(new, side, (new - inner) // 2)
        for new, side, inner in zip(given, size, kept, strict=True)
    )
    return rows, columns


def _mirrored(new: int, side: int, before: int) -> Tensor:
    """Which pixel stands at each of `new` places, the first of `side` at place `before`."""
    period = max(1, 2 * (side - 1))  # there and back again, for pictures smaller than the margin
    place = (torch.arange(new) - before) % period
    return torch.minimum(place, period - place)
