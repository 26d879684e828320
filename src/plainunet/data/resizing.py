"""Pictures and masks at another size.

In: arrays. Out: pictures reduced by averaging areas; masks as the share of area that each class
covers, since a reduced mask is no longer a class per pixel.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray


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
