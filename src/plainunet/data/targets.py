"""Masks as shares of area: what a reduced picture is taught by.

A reduced mask is no longer a class per pixel: a pixel on an outline is partly car, partly
street. `shares` keep that: [H, W, K] uint8, the share of the pixel's area that each class
covers, in 1/255. Area without a valid class (void, or outside the picture) is in none of
them, so that their sum is the valid share.
"""

from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def fit_size(size: tuple[int, int], box: tuple[int, int]) -> tuple[int, int]:
    """The size of a picture that is reduced to fit in a box; it is never enlarged.

    Args:
        size: Height and width of the picture [pixels].
        box: Height and width of the box [pixels].

    Returns:
        Height and width [pixels], each at least 1, in the picture's proportions.
    """
    scale = min(1.0, box[0] / size[0], box[1] / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def resize(image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Reduce a picture by averaging areas; enlarge it bilinearly.

    Args:
        image: [H, W, C], integers or floats.
        size: New height and width [pixels].

    Returns:
        [size[0], size[1], C], the same dtype.
    """
    if image.shape[:2] == size:
        return image
    height, width = size
    larger = height > image.shape[0] or width > image.shape[1]
    how = cv2.INTER_LINEAR if larger else cv2.INTER_AREA
    # OpenCV averages areas of at most four channels at a time
    parts = [
        cv2.resize(image[..., first : first + 4], (width, height), interpolation=how)
        for first in range(0, image.shape[2], 4)
    ]
    return np.concatenate([part.reshape(height, width, -1) for part in parts], axis=2)


def area_shares(
    mask: NDArray[np.uint8], num_classes: int, size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Bring a mask to another size as the share of area that each class covers.

    Args:
        mask: [H, W] uint8, class ids 0..K-1; any other value does not count.
        num_classes: K.
        size: New height and width [pixels].

    Returns:
        Shares [size[0], size[1], K] uint8, in 1/255.
    """
    planes = [
        resize(np.where(mask == k, np.uint8(255), np.uint8(0))[..., None], size)
        for k in range(num_classes)
    ]
    return np.concatenate(planes, axis=2)


def make_batch(images: Tensor, shares: Tensor, device: torch.device) -> tuple[Tensor, ...]:
    """Turn stacked samples into what the network and the losses take.

    Args:
        images: [N, H, W, C] uint8, or float32 as the network takes it.
        shares: [N, H', W', K] uint8, in 1/255; H' and W' a multiple of H and W.
        device: Where the batch shall lie.

    Returns:
        `image` [N, C, H, W] float32, channels last in memory; `target` [N, K, H', W'] float32,
        class fractions of the valid area (all zero where there is none); `weight`
        [N, H', W'] float32, the valid fraction in 0..1.
    """
    images = images.to(device, non_blocking=True)
    unit = images.float() / 255 if images.dtype == torch.uint8 else images
    areas = shares.to(device, non_blocking=True).permute(0, 3, 1, 2).float()
    valid = areas.sum(dim=1)
    # rounding of each plane to 1/255 lets the sum stray from 255 by a few units
    return unit.permute(0, 3, 1, 2), areas / valid[:, None].clamp(min=1), (valid / 255).clamp(max=1)
