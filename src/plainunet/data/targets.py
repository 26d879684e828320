"""Masks as shares of area: what a reduced picture is taught by.

A reduced mask is no longer a class per pixel: a pixel on an outline is partly car, partly
street. `shares` keep that: [H, W, K] uint8, the share of the pixel's area that each class
covers, in 1/255. Area without a valid class (void, or outside the picture) is in none of
them, so that their sum is the valid share.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def balanced_weights(class_shares: NDArray[np.float64]) -> Tensor:
    """Weights by which every class weighs the same in sum, however few its pixels.

    Args:
        class_shares: [K] float64, the share of the valid area that each class covers.

    Returns:
        [K] float32: 1 / (classes present * share), and 0 for a class that is absent; over
        the area that was measured their mean is 1.
    """
    present = class_shares > 0
    weights = np.zeros(len(class_shares), np.float32)
    weights[present] = 1 / (present.sum() * class_shares[present])
    return torch.from_numpy(weights)


def make_batch(
    batch: Sequence[Tensor], device: torch.device, class_weights: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Turn stacked samples into what the network and the losses take.

    Args:
        batch: Images [N, H, W, C] uint8, or float32 as the network takes it; shares
            [N, H', W', K] uint8, in 1/255, with H' and W' a multiple of H and W; and, where
            there are any, border weights [N, H', W'] float32.
        device: Where the batch shall lie.
        class_weights: [K] float32, or None for 1 each.

    Returns:
        `image` [N, C, H, W] float32, channels last in memory; `target` [N, K, H', W'] float32,
        class fractions of the valid area (all zero where there is none); `weight`
        [N, H', W'] float32, the valid fraction in 0..1, times the sum of the border weight and
        the class weights by their fractions.
    """
    images, shares, *borders = (part.to(device, non_blocking=True) for part in batch)
    unit = images.float() / 255 if images.dtype == torch.uint8 else images
    areas = shares.permute(0, 3, 1, 2).float()
    # rounding of each plane to 1/255 lets the sum stray from 255 by a few units
    total = areas.sum(dim=1)
    target, valid = areas / total[:, None].clamp(min=1), (total / 255).clamp(max=1)
    factor: Tensor | float = 1.0
    if class_weights is not None:
        factor = (target * class_weights.to(device)[:, None, None]).sum(dim=1)
    for border in borders:
        factor = factor + border
    return unit.permute(0, 3, 1, 2), target, valid * factor
